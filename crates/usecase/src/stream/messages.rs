//! The older messages of an item.

use super::overlay::unread;
use crate::sync::overlay::fall_back;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::stream::{ItemDetail, Message, StreamCache, StreamStore};
use gravity_domain::sync::ports::Breaker;
use gravity_domain::sync::{Freshness, ReadError};
use std::sync::Arc;

/// `GET /v2/stream/{itemId}/messages`.
pub struct ListMessages {
    store: Arc<dyn StreamStore>,
    cache: Arc<dyn StreamCache>,
    breaker: Arc<dyn Breaker>,
}

/// A page of messages and how fresh it is.
#[derive(Debug, Clone, PartialEq)]
pub struct MessagesRead {
    /// The page.
    pub page: Page<Message>,
    /// How fresh.
    pub freshness: Freshness,
    /// How old what was known is, in seconds; 0 unless it is stale.
    pub age_seconds: u64,
}

impl ListMessages {
    /// Over these ports.
    pub fn new(store: Arc<dyn StreamStore>, cache: Arc<dyn StreamCache>, breaker: Arc<dyn Breaker>) -> Self {
        Self {
            store,
            cache,
            breaker,
        }
    }

    /// One page, newest first, after the position `after`: from Postgres, or, when it is away, from the newest messages
    /// that are cached with the item, as far as they reach.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] for no such item or another's; else see [`ReadError`].
    pub async fn run(
        &self,
        user: UserId,
        id: ItemId,
        after: Option<PageKey>,
        limit: PageLimit,
    ) -> Result<MessagesRead, ReadError> {
        if self.breaker.allows_reads() {
            match self.store.messages(user, id, after, limit).await {
                Ok(found) => {
                    return Ok(MessagesRead {
                        page: found.ok_or(ReadError::NotFound)?,
                        freshness: Freshness::Current,
                        age_seconds: 0,
                    });
                }
                Err(error) => fall_back(self.breaker.as_ref(), error)?,
            }
        }
        let known = self.cache.detail(user, id, 0).await.map_err(unread)?;
        let detail = known.value.ok_or(ReadError::NotFound)?;
        Ok(MessagesRead {
            page: covered(&detail, after, limit).ok_or(ReadError::Unknown)?,
            freshness: known.freshness,
            age_seconds: known.age_seconds,
        })
    }
}

/// The page, if the newest messages reach to its end.
fn covered(detail: &ItemDetail, after: Option<PageKey>, limit: PageLimit) -> Option<Page<Message>> {
    let rest = detail.messages.iter();
    let rest: Vec<_> = rest
        .filter(|message| after.is_none_or(|after| message.page_key() < after))
        .collect();
    if rest.len() < limit.get() && detail.next.is_some() {
        return None;
    }
    let has_more = rest.len() > limit.get() || detail.next.is_some();
    let items: Vec<_> = rest.into_iter().take(limit.get()).cloned().collect();
    let next = items.last().filter(|_| has_more).map(Message::page_key);
    Some(Page { items, next })
}
