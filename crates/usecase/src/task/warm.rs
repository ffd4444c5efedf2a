//! The top of a user's list, known before Postgres goes away.

use crate::sync::Loader;
use async_trait::async_trait;
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::task::{KnownPage, TaskCache, TaskFilter, TaskStore};
use std::sync::Arc;

/// How many of the newest tasks are loaded.
const ROWS: usize = 200;

/// Loads the newest tasks of a user into the cache.
pub struct TaskLoader {
    store: Arc<dyn TaskStore>,
    cache: Arc<dyn TaskCache>,
}

impl TaskLoader {
    /// From `store` into `cache`.
    pub fn new(store: Arc<dyn TaskStore>, cache: Arc<dyn TaskCache>) -> Self {
        Self { store, cache }
    }
}

#[async_trait]
impl Loader for TaskLoader {
    fn is_warm(&self, user: UserId) -> bool {
        self.cache.knows_list(user, ROWS)
    }

    async fn load(&self, user: UserId) -> Result<(), StoreError> {
        let mark = self.cache.mark(user);
        let tasks = self.store.list(user, TaskFilter::default(), None, ROWS).await?;
        let is_last = tasks.len() < ROWS;
        self.cache.learn_page(
            user,
            mark,
            KnownPage {
                after: None,
                tasks,
                is_last,
            },
        );
        Ok(())
    }
}
