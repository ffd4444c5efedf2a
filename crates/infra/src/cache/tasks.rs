//! The last known tasks of each user.
//!
//! Everything that changes or forgets what is known of a user goes through the cache's one entry operation (`compute`), which
//! takes turns per user. What is put back is therefore never older than what another has learnt or forgotten meanwhile, as it
//! would be beside a plain removal or a plain "get or insert", which take no turn.
//!
//! A forgotten user leaves no trace but the ticks, which go on: whoever marked before it finds a later tick of birth, and
//! what was read is not taken. Own writes need no mark: a user's writes take turns on a node, the last of them until
//! its row is learnt, and the drain learns and forgets in one task. So none that is older comes after the forgetting.

use super::known_tasks::{KnownTasks, RowLimits};
use gravity_domain::id::UserId;
use gravity_domain::page::PageKey;
use gravity_domain::sync::Found;
use gravity_domain::sync::ports::EntityCache;
use gravity_domain::task::{KnownPage, Task, TaskCache, TaskFilter};
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// Bounds of [`CachedTasks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskCacheLimits {
    /// Bytes of all users together, roughly; users seen longest ago are forgotten first.
    pub bytes: u64,
    /// Rows of one user; the oldest tasks are forgotten first.
    pub rows_per_user: usize,
    /// Bytes of one user's rows, likewise.
    pub bytes_per_user: usize,
}

impl Default for TaskCacheLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            rows_per_user: 500,
            bytes_per_user: 1 << 20,
        }
    }
}

type Known = Arc<Mutex<KnownTasks>>;

/// Remembers the tasks of the users seen last.
pub struct CachedTasks {
    users: Cache<UserId, Known>,
    /// Orders marks and what is learnt, across all users, so that it goes on when a user is forgotten.
    ticks: AtomicU64,
    limits: RowLimits,
}

impl std::fmt::Debug for CachedTasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedTasks")
            .field("users", &self.users.entry_count())
            .field("bytes", &self.users.weighted_size())
            .finish_non_exhaustive()
    }
}

fn locked(known: &Known) -> MutexGuard<'_, KnownTasks> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CachedTasks {
    /// Within these limits.
    pub fn new(limits: TaskCacheLimits) -> Self {
        const FIXED: usize = 256;
        let users = Cache::builder()
            .max_capacity(limits.bytes)
            .weigher(|_, known: &Known| u32::try_from(FIXED + locked(known).bytes()).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self {
            users,
            ticks: AtomicU64::new(0),
            limits: RowLimits {
                rows: limits.rows_per_user,
                bytes: limits.bytes_per_user,
            },
        }
    }

    /// Forgets all that is known of a user's tasks. Pages that are being read meanwhile will not be taken.
    pub fn forget(&self, user: UserId) {
        self.users.entry(user).and_compute_with(|_| Op::Remove);
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn fresh(&self) -> Known {
        Arc::new(Mutex::new(KnownTasks::new(self.tick(), self.limits)))
    }

    /// Changes what is known of a user, in the one place that weighs it anew.
    fn change(&self, user: UserId, change: impl FnOnce(&mut KnownTasks, u64)) {
        self.users.entry(user).and_upsert_with(|known| {
            let known = known.map_or_else(|| self.fresh(), moka::Entry::into_value);
            change(&mut locked(&known), self.tick());
            known
        });
    }
}

impl EntityCache<Task> for CachedTasks {
    fn find(&self, user: UserId, id: Uuid) -> Found<Task> {
        self.users
            .get(&user)
            .map_or(Found::Unknown, |known| locked(&known).find(id))
    }

    fn learn(&self, task: Task) {
        self.change(task.user_id, |known, tick| known.learn(task, tick));
    }

    fn mark(&self, user: UserId) -> u64 {
        // From here on, what is learnt of the user is kept, or its loss shows in the horizon.
        if !self.users.contains_key(&user) {
            self.users
                .entry(user)
                .and_upsert_with(|known| known.map_or_else(|| self.fresh(), moka::Entry::into_value));
        }
        self.ticks.load(Ordering::SeqCst)
    }

    fn learn_read(&self, task: Task, mark: u64) {
        self.change(task.user_id, |known, _| known.learn_read(task, mark));
    }
}

impl TaskCache for CachedTasks {
    fn learn_page(&self, user: UserId, mark: u64, page: KnownPage) {
        self.change(user, |known, _| known.learn_page(page, mark));
    }

    fn list(
        &self,
        user: UserId,
        filter: TaskFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Option<Vec<Task>> {
        locked(&self.users.get(&user)?).list(filter, after, limit)
    }

    fn knows_list(&self, user: UserId, rows: usize) -> bool {
        self.users
            .get(&user)
            .is_some_and(|known| locked(&known).knows_list(rows))
    }
}

#[cfg(test)]
#[path = "tasks_tests.rs"]
mod tests;
