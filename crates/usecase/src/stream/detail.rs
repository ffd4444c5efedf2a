//! One item with its newest messages, with the user's own pending actions in it.

use super::overlay::{PendingActions, renew, unread};
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
    /// The item: shared with the cache, unless pending actions are folded in ([`Freshness::Pending`]), or what a stale one
    /// lacked.
    pub detail: Arc<ItemDetail>,
    /// How fresh.
    pub freshness: Freshness,
    /// How old what was known is, in seconds; 0 unless it is stale.
    pub age_seconds: u64,
    /// Whether it is not the item of its version, but has more in it.
    pub is_folded: bool,
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
            is_folded: false,
        };
        let is_pending = pending.touch(id);
        let is_stale = read.freshness == Freshness::Stale;
        if !is_pending && !is_stale {
            return Ok(read);
        }
        let base = &read.detail;
        let mut items = [Arc::new(base.item.clone())];
        let mut pending = pending;
        if is_stale {
            renew(self.cache.as_ref(), user, &mut items);
            pending = pending.with(self.cache.acted_since(user, 0));
        }
        let folded = pending.fold(&items[0]);
        if !is_pending && *folded == base.item {
            return Ok(read);
        }
        let detail = ItemDetail {
            item: Arc::unwrap_or_clone(folded),
            messages: base.messages.clone(),
            next: base.next,
            as_of: base.as_of,
            rendered: OnceLock::new(),
        };
        Ok(ItemRead {
            detail: Arc::new(detail),
            freshness: if is_pending {
                Freshness::Pending
            } else {
                Freshness::Stale
            },
            age_seconds: read.age_seconds,
            is_folded: true,
        })
    }
}
