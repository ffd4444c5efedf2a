//! One item with its newest messages, with the user's own pending actions in it.

use super::overlay::{PendingActions, unread};
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{ItemDetail, StreamCache};
use gravity_domain::sync::ports::WriteBuffer;
use gravity_domain::sync::{Freshness, ReadError};
use std::sync::{Arc, OnceLock};

/// `GET /v2/stream/{itemId}`.
pub struct GetItem {
    cache: Arc<dyn StreamCache>,
    buffer: Arc<dyn WriteBuffer>,
}

/// An item and how fresh it is.
#[derive(Debug, Clone)]
pub struct ItemRead {
    /// The item: shared with the cache, unless pending actions are folded in ([`Freshness::Pending`]).
    pub detail: Arc<ItemDetail>,
    /// How fresh.
    pub freshness: Freshness,
    /// How old what was known is, in seconds; 0 unless it is stale.
    pub age_seconds: u64,
}

impl GetItem {
    /// Over these ports.
    pub fn new(cache: Arc<dyn StreamCache>, buffer: Arc<dyn WriteBuffer>) -> Self {
        Self { cache, buffer }
    }

    /// The item, at version `at_least` of the user or later (0: any).
    ///
    /// # Errors
    /// [`ReadError::NotFound`] for none or another's; else see [`ReadError`].
    pub async fn run(&self, user: UserId, id: ItemId, at_least: u64) -> Result<ItemRead, ReadError> {
        let pending = PendingActions::of(self.buffer.as_ref(), user).await?;
        let found = self.cache.detail(user, id, at_least).await.map_err(unread)?;
        let read = ItemRead {
            detail: found.value.ok_or(ReadError::NotFound)?,
            freshness: found.freshness,
            age_seconds: found.age_seconds,
        };
        if !pending.touch(id) {
            return Ok(read);
        }
        let base = &read.detail;
        let folded = pending.fold(&Arc::new(base.item.clone()));
        let detail = ItemDetail {
            item: Arc::unwrap_or_clone(folded),
            messages: base.messages.clone(),
            next: base.next,
            as_of: base.as_of,
            rendered: OnceLock::new(),
        };
        Ok(ItemRead {
            detail: Arc::new(detail),
            freshness: Freshness::Pending,
            age_seconds: read.age_seconds,
        })
    }
}
