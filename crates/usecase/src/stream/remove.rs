//! Take items out of streams.

use super::ingest::{failed, last_of_each, to_its_end};
use gravity_domain::error::StoreError;
use gravity_domain::stream::{ItemKey, Removed, StreamCache, StreamStore};
use gravity_domain::sync::ports::Breaker;
use std::collections::HashMap;
use std::sync::Arc;

/// `DELETE /v2/ingest/items`.
#[derive(Clone)]
pub struct RemoveItems {
    store: Arc<dyn StreamStore>,
    cache: Arc<dyn StreamCache>,
    breaker: Arc<dyn Breaker>,
}

impl RemoveItems {
    /// Over these ports.
    pub fn new(store: Arc<dyn StreamStore>, cache: Arc<dyn StreamCache>, breaker: Arc<dyn Breaker>) -> Self {
        Self {
            store,
            cache,
            breaker,
        }
    }

    /// Removes the items. The answer says of each key given, in order, whether there was such an item. It goes on when the
    /// caller goes away.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is buffered: the service that feeds sends again.
    pub async fn run(&self, keys: Vec<ItemKey>) -> Result<Removed, StoreError> {
        let remove = self.clone();
        to_its_end(async move { remove.remove(keys).await }).await
    }

    async fn remove(&self, keys: Vec<ItemKey>) -> Result<Removed, StoreError> {
        if keys.is_empty() {
            return Ok(Removed::default());
        }
        if !self.breaker.allows_writes() {
            return Err(StoreError::unavailable("breaker_open"));
        }
        let distinct = last_of_each(keys.clone(), ItemKey::clone);
        let done = match self.store.remove(&distinct).await {
            Ok(done) => done,
            Err(error) => {
                let users = distinct.iter().map(|key| key.user_id);
                return Err(failed(self.breaker.as_ref(), self.cache.as_ref(), users, error));
            }
        };
        self.cache.raised(&done.versions);
        let was_there: HashMap<&ItemKey, bool> = distinct.iter().zip(done.removed).collect();
        let removed = keys
            .iter()
            .map(|key| was_there.get(key).copied().unwrap_or(false));
        Ok(Removed {
            removed: removed.collect(),
            versions: done.versions,
        })
    }
}
