//! How much there is to read.

use super::known::{Knowledge, unread};
use crate::sync::Read;
use gravity_domain::chat::{ChatCache, UnreadTotals};
use gravity_domain::id::UserId;
use gravity_domain::sync::ports::WriteBuffer;
use gravity_domain::sync::{Freshness, ReadError};
use std::sync::Arc;

/// `GET /api/chat/conversations/unread-count`.
pub struct CountUnread {
    known: Knowledge,
}

impl CountUnread {
    /// Over these ports.
    pub fn new(cache: Arc<dyn ChatCache>, buffer: Arc<dyn WriteBuffer>) -> Self {
        Self {
            known: Knowledge { cache, buffer },
        }
    }

    /// The totals, with what waits to be marked as read taken off.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn run(&self, user: UserId) -> Result<Read<UnreadTotals>, ReadError> {
        let (pending, inbox) = self.known.inbox(user).await?;
        let mut totals = inbox.value.unread;
        let counted = pending.counted();
        for id in &counted {
            let base = match inbox.value.find(*id) {
                Some(held) => Some(Arc::new(held.clone())),
                None => {
                    let found = self.known.cache.conversation(user, *id).await;
                    found.map_err(unread)?.value
                }
            };
            let Some(base) = base else { continue };
            let left = pending.fold(&base).unread;
            totals.total = totals.total.saturating_sub(base.unread.saturating_sub(left));
            if base.unread > 0 && left == 0 {
                totals.conversations = totals.conversations.saturating_sub(1);
            }
        }
        Ok(Read {
            value: totals,
            freshness: if counted.is_empty() {
                inbox.freshness
            } else {
                Freshness::Pending
            },
        })
    }
}
