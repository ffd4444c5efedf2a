//! Feed items into streams.

use gravity_domain::clock::HybridClock;
use gravity_domain::deadline;
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{Ingested, ItemChange, NewItem, StreamCache, StreamStore};
use gravity_domain::sync::ports::Breaker;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// `POST /v2/ingest/items`.
#[derive(Clone)]
pub struct IngestItems {
    store: Arc<dyn StreamStore>,
    cache: Arc<dyn StreamCache>,
    breaker: Arc<dyn Breaker>,
    clock: Arc<HybridClock>,
}

impl IngestItems {
    /// Over these ports.
    pub fn new(
        store: Arc<dyn StreamStore>,
        cache: Arc<dyn StreamCache>,
        breaker: Arc<dyn Breaker>,
        clock: Arc<HybridClock>,
    ) -> Self {
        Self {
            store,
            cache,
            breaker,
            clock,
        }
    }

    /// Upserts the items. The answer has a change for each of them, in order; of items with one key the last counts, and
    /// its change is told for each of them. It goes on when the caller goes away, so that what is committed is told.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is buffered: the service that feeds sends again.
    pub async fn run(&self, items: Vec<NewItem>) -> Result<Ingested, StoreError> {
        let feed = self.clone();
        to_its_end(async move { feed.feed(items).await }).await
    }

    async fn feed(&self, items: Vec<NewItem>) -> Result<Ingested, StoreError> {
        if items.is_empty() {
            return Ok(Ingested::default());
        }
        if !self.breaker.allows_writes() {
            return Err(StoreError::unavailable("breaker_open"));
        }
        let given: Vec<ItemId> = items.iter().map(|item| item.key.item_id()).collect();
        let distinct = last_of_each(items, |item| item.key.clone());
        let ingested = match self.store.ingest(&distinct, self.clock.stamp()).await {
            Ok(ingested) => ingested,
            Err(error) => {
                let users = distinct.iter().map(|item| item.key.user_id);
                return Err(failed(self.breaker.as_ref(), self.cache.as_ref(), users, error));
            }
        };
        self.cache.raised(&ingested.versions);
        let changes: HashMap<ItemId, ItemChange> = ingested.changes.into_iter().collect();
        let changes = given
            .into_iter()
            .filter_map(|id| changes.get(&id).map(|change| (id, *change)));
        Ok(Ingested {
            changes: changes.collect(),
            versions: ingested.versions,
        })
    }
}

/// Runs `work` in a task of its own, under the same deadline.
pub(super) async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, StoreError> {
    let task = match deadline::current() {
        Some(deadline) => tokio::spawn(deadline::within(deadline, work)),
        None => tokio::spawn(work),
    };
    match task.await {
        Ok(done) => done,
        Err(failure) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
        Err(_) => Err(StoreError::unavailable("closed")),
    }
}

/// The last value of each key, in order.
pub(super) fn last_of_each<T, K: Hash + Eq>(values: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let last: HashMap<K, usize> = values.iter().map(&key).zip(0..).collect();
    let numbered = values.into_iter().enumerate();
    let kept = numbered.filter(|(index, value)| last.get(&key(value)) == Some(index));
    kept.map(|(_, value)| value).collect()
}

/// Tells the breaker of a failed change, and the cache of the users of whom something may have been committed all the same: not
/// when no connection was to be had, nor when the store refused.
pub(super) fn failed(
    breaker: &dyn Breaker,
    cache: &dyn StreamCache,
    users: impl Iterator<Item = UserId>,
    error: StoreError,
) -> StoreError {
    breaker.failed(&error);
    let may_be_committed = match &error {
        StoreError::Unavailable { reason, .. } => *reason != "connect",
        StoreError::Busy { reason, .. } => *reason == "deadline",
        StoreError::Rejected { .. } => false,
    };
    if may_be_committed {
        users
            .collect::<BTreeSet<_>>()
            .into_iter()
            .for_each(|user| cache.stirred(user));
    }
    error
}
