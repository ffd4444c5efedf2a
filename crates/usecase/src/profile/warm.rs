//! A user's profile, known before Postgres goes away.

use crate::sync::Loader;
use async_trait::async_trait;
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::profile::Profile;
use gravity_domain::sync::Found;
use gravity_domain::sync::ports::{EntityCache, EntityStore};
use std::sync::Arc;

/// Loads a user's profile into the cache.
pub struct ProfileLoader {
    store: Arc<dyn EntityStore<Profile>>,
    cache: Arc<dyn EntityCache<Profile>>,
}

impl ProfileLoader {
    /// From `store` into `cache`.
    pub fn new(store: Arc<dyn EntityStore<Profile>>, cache: Arc<dyn EntityCache<Profile>>) -> Self {
        Self { store, cache }
    }
}

#[async_trait]
impl Loader for ProfileLoader {
    fn is_warm(&self, user: UserId) -> bool {
        !matches!(self.cache.find(user, user.0), Found::Unknown)
    }

    async fn load(&self, user: UserId) -> Result<(), StoreError> {
        let mark = self.cache.mark(user);
        if let Some(profile) = self.store.find(user, user.0).await? {
            self.cache.learn_read(profile, mark);
        }
        Ok(())
    }
}
