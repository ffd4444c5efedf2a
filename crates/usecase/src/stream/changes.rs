//! What has changed in a stream since a version, the user's own pending actions included.

use super::overlay::PendingActions;
use crate::sync::Read;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{Changes, StreamCache, StreamStore};
use gravity_domain::sync::ports::{Breaker, BufferError, WriteBuffer};
use gravity_domain::sync::{Freshness, ReadError};
use std::collections::HashSet;
use std::sync::Arc;
use thiserror::Error;

/// `GET /v2/stream/changes`.
pub struct GetChanges {
    store: Arc<dyn StreamStore>,
    cache: Arc<dyn StreamCache>,
    breaker: Arc<dyn Breaker>,
    buffer: Arc<dyn WriteBuffer>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ChangesError {
    /// The user's version is not there yet.
    #[error("the user is at version {current}")]
    FutureVersion {
        /// The version the user is at.
        current: u64,
    },
    /// It is too long ago, or too much: the first page is to be loaded again.
    #[error("the changes cannot be calculated")]
    CannotCalculate,
    /// As every read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<BufferError> for ChangesError {
    fn from(error: BufferError) -> Self {
        Self::Read(error.into())
    }
}

impl GetChanges {
    /// Over these ports.
    pub fn new(
        store: Arc<dyn StreamStore>,
        cache: Arc<dyn StreamCache>,
        breaker: Arc<dyn Breaker>,
        buffer: Arc<dyn WriteBuffer>,
    ) -> Self {
        Self {
            store,
            cache,
            breaker,
            buffer,
        }
    }

    /// What has changed after version `since`. Postgres is not asked when that is known to be the user's version; while it is
    /// away, nobody knows what has changed since ([`Freshness::Stale`]).
    ///
    /// # Errors
    /// See [`ChangesError`].
    pub async fn run(&self, user: UserId, since: u64) -> Result<Read<Changes>, ChangesError> {
        let pending = PendingActions::of(self.buffer.as_ref(), user).await?;
        let mut freshness = Freshness::Current;
        let mut changes = if self.cache.version(user, 0).await == Some(since) {
            if !self.breaker.allows_reads() {
                freshness = Freshness::Stale;
            }
            Changes {
                changed: Vec::new(),
                removed: Vec::new(),
                version: since,
                has_more: false,
            }
        } else {
            self.stored(user, since).await?
        };
        let told: HashSet<ItemId> = changes.changed.iter().chain(&changes.removed).copied().collect();
        changes
            .changed
            .extend(pending.ids().filter(|id| !told.contains(id)));
        if !pending.is_empty() {
            freshness = Freshness::Pending;
        }
        Ok(Read {
            value: changes,
            freshness,
        })
    }

    async fn stored(&self, user: UserId, since: u64) -> Result<Changes, ChangesError> {
        if !self.breaker.allows_reads() {
            return Err(ReadError::Unknown.into());
        }
        let found = match self.store.changes(user, since).await {
            Ok(found) => found,
            Err(error) => {
                self.breaker.failed(&error);
                return Err(super::overlay::unread(error).into());
            }
        };
        if since > found.version {
            return Err(ChangesError::FutureVersion {
                current: found.version,
            });
        }
        found.value.ok_or(ChangesError::CannotCalculate)
    }
}
