//! The ports of tasks.

use super::model::{Task, TaskFilter};
use crate::error::StoreError;
use crate::id::{TaskId, UserId};
use crate::page::PageKey;
use crate::sync::ports::{EntityCache, EntityStore};
use async_trait::async_trait;

/// Tasks in Postgres.
#[async_trait]
pub trait TaskStore: EntityStore<Task> {
    /// Those of `ids` that `user` owns, tombstones included, in any order.
    async fn find_many(&self, user: UserId, ids: &[TaskId]) -> Result<Vec<Task>, StoreError>;

    /// The first `limit` tasks that `filter` shows, newest first by (creation, id), after the position `after`.
    async fn list(
        &self,
        user: UserId,
        filter: TaskFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError>;
}

/// A stretch of a user's whole list, as Postgres had it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPage {
    /// The position it was read after; `None` for the top.
    pub after: Option<PageKey>,
    /// The live tasks of any status, newest first, without a gap.
    pub tasks: Vec<Task>,
    /// True when there is nothing after the last of them.
    pub is_last: bool,
}

/// The last known tasks of each user, in this process: enough of the list to go on serving it when Postgres is away.
pub trait TaskCache: EntityCache<Task> {
    /// Remembers a stretch of the user's unfiltered list, read after `mark` was taken ([`EntityCache::mark`]). What was learnt
    /// after the mark wins over the page.
    fn learn_page(&self, user: UserId, mark: u64, page: KnownPage);

    /// The same answer as [`TaskStore::list`], from what is known; `None` when not all of it is known.
    fn list(
        &self,
        user: UserId,
        filter: TaskFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Option<Vec<Task>>;

    /// True when the first `rows` tasks of the user's unfiltered list are known, or all of it. Cheap: asked on every request.
    fn knows_list(&self, user: UserId, rows: usize) -> bool;
}
