//! List tasks, with the user's own pending writes in the list.
//!
//! A base page comes from Postgres, or from the cache when it is away. Each task with pending operations is folded from
//! its base row; then the page is filtered, ordered and cut again. The base page is read longer by the number of tasks
//! that pending operations may take out of it, so that no shorter page is answered than there are tasks for. No query of
//! Postgres grows with the lane: tasks are looked up in batches, and a user with too many changes pending gets no list
//! until some have drained.

use crate::sync::overlay::{by_entity, fall_back, fold, is_created_here};
use crate::sync::{Read, Warmer};
use gravity_domain::id::{TaskId, UserId};
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{BufferError, EntityKind, Found, Freshness, Operation, ReadError};
use gravity_domain::task::{KnownPage, Task, TaskCache, TaskFilter, TaskStore};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// Tasks that Postgres is asked about at once.
const BATCH: usize = 500;
/// Stored tasks with pending operations up to which Postgres is asked for a list: the base page is longer by as many.
const MAX_TOUCHED: usize = 5_000;

type Pending = BTreeMap<Uuid, Vec<Operation>>;

/// `GET /api/v1/tasks`.
pub struct ListTasks {
    store: Arc<dyn TaskStore>,
    cache: Arc<dyn TaskCache>,
    breaker: Arc<dyn Breaker>,
    buffer: Arc<dyn WriteBuffer>,
    warmer: Arc<Warmer>,
}

/// A task in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The task.
    pub task: Task,
    /// True when a pending operation of the user is folded into it.
    pub is_pending: bool,
}

/// What a request asks for, and what is pending on it.
struct Wanted<'a> {
    user: UserId,
    filter: TaskFilter,
    after: Option<PageKey>,
    /// One more than the page, and as many as pending operations may take out of it.
    count: usize,
    /// How many that are.
    removable: usize,
    pending: &'a Pending,
}

/// A base page, and the base rows of the tasks that have pending operations.
struct Base {
    rows: Vec<Task>,
    touched: HashMap<Uuid, Found<Task>>,
    freshness: Freshness,
}

impl ListTasks {
    /// Over these ports.
    pub fn new(
        store: Arc<dyn TaskStore>,
        cache: Arc<dyn TaskCache>,
        breaker: Arc<dyn Breaker>,
        buffer: Arc<dyn WriteBuffer>,
        warmer: Arc<Warmer>,
    ) -> Self {
        Self {
            store,
            cache,
            breaker,
            buffer,
            warmer,
        }
    }

    /// One page, newest first, after the position `after`.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn run(
        &self,
        user: UserId,
        filter: TaskFilter,
        after: Option<PageKey>,
        limit: PageLimit,
    ) -> Result<Read<Page<Listed>>, ReadError> {
        self.warmer.touch(user);
        let pending = by_entity(self.buffer.pending_of(user, EntityKind::Task).await?);
        let removable = pending
            .values()
            .filter(|operations| !is_created_here(operations))
            .count();
        let wanted = Wanted {
            user,
            filter,
            after,
            count: limit.get() + 1 + removable,
            removable,
            pending: &pending,
        };
        let base = match self.stored(&wanted).await? {
            Some(base) => base,
            None => self.known(&wanted).ok_or(ReadError::Unknown)?,
        };
        let freshness = if pending.is_empty() {
            base.freshness
        } else {
            Freshness::Pending
        };
        Ok(Read {
            value: cut(overlaid(base, &wanted)?, &pending, limit),
            freshness,
        })
    }

    /// The base from Postgres; `None` when it is away.
    async fn stored(&self, wanted: &Wanted<'_>) -> Result<Option<Base>, ReadError> {
        if !self.breaker.allows_reads() {
            return Ok(None);
        }
        if wanted.removable > MAX_TOUCHED {
            return Err(BufferError::Unavailable("too many tasks have pending changes".into()).into());
        }
        let mark = self.cache.mark(wanted.user);
        let rows = match self
            .store
            .list(wanted.user, wanted.filter, wanted.after, wanted.count)
            .await
        {
            Ok(rows) => rows,
            Err(error) => return fall_back(self.breaker.as_ref(), error).map(|()| None),
        };
        self.learn(mark, wanted, &rows);
        let ids: Vec<_> = wanted.pending.keys().map(|id| TaskId(*id)).collect();
        let mut touched: HashMap<_, _> = wanted.pending.keys().map(|id| (*id, Found::Absent)).collect();
        for ids in ids.chunks(BATCH) {
            match self.store.find_many(wanted.user, ids).await {
                Ok(found) => touched.extend(found.into_iter().map(|task| (task.id.0, Found::Known(task)))),
                Err(error) => return fall_back(self.breaker.as_ref(), error).map(|()| None),
            }
        }
        Ok(Some(Base {
            rows,
            touched,
            freshness: Freshness::Current,
        }))
    }

    fn learn(&self, mark: u64, wanted: &Wanted<'_>, rows: &[Task]) {
        if wanted.filter == TaskFilter::default() {
            let page = KnownPage {
                after: wanted.after,
                tasks: rows.to_vec(),
                is_last: rows.len() < wanted.count,
            };
            self.cache.learn_page(wanted.user, mark, page);
        } else {
            rows.iter()
                .for_each(|task| self.cache.learn_read(task.clone(), mark));
        }
    }

    /// The base from what is known; `None` when not all of it is.
    fn known(&self, wanted: &Wanted<'_>) -> Option<Base> {
        let rows = self
            .cache
            .list(wanted.user, wanted.filter, wanted.after, wanted.count)?;
        let touched = wanted
            .pending
            .keys()
            .map(|id| (*id, self.cache.find(wanted.user, *id)))
            .collect();
        Some(Base {
            rows,
            touched,
            freshness: Freshness::Stale,
        })
    }
}

/// The base page with pending operations folded in, in order, longer than asked for.
fn overlaid(base: Base, wanted: &Wanted<'_>) -> Result<Vec<Task>, ReadError> {
    let Base {
        mut rows,
        mut touched,
        ..
    } = base;
    if wanted.pending.is_empty() {
        return Ok(rows);
    }
    rows.retain(|row| match touched.get_mut(&row.id.0) {
        Some(found) => {
            *found = Found::Known(row.clone());
            false
        }
        None => true,
    });
    for (id, operations) in wanted.pending {
        match fold(touched.remove(id).unwrap_or(Found::Unknown), operations.iter()) {
            Found::Known(task) => {
                if wanted.filter.shows(&task) && wanted.after.is_none_or(|after| task.page_key() < after) {
                    rows.push(task);
                }
            }
            Found::Absent => {}
            Found::Unknown => return Err(ReadError::Unknown),
        }
    }
    rows.sort_unstable_by_key(|task| std::cmp::Reverse(task.page_key()));
    Ok(rows)
}

fn cut(mut rows: Vec<Task>, pending: &Pending, limit: PageLimit) -> Page<Listed> {
    let has_more = rows.len() > limit.get();
    rows.truncate(limit.get());
    let next = if has_more {
        rows.last().map(Task::page_key)
    } else {
        None
    };
    let listed = |task: Task| Listed {
        is_pending: pending.contains_key(&task.id.0),
        task,
    };
    Page {
        items: rows.into_iter().map(listed).collect(),
        next,
    }
}
