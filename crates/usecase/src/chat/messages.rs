//! The messages of a conversation.
//!
//! Newest first: the user's own messages that wait, latest accepted first, then the stored ones. The first pages come from the
//! cache, later ones from Postgres. Oldest first, for catching up: what is stored, and on the last page what waits.
//!
//! A message that waits has no place yet. A page that ends within them is led on from by its order of acceptance, in numbers
//! that no conversation reaches; when they are stored meanwhile, the next page begins with the newest stored one: something
//! may then be seen twice, and nothing is left out.

use super::known::{ask, unread};
use super::overlay::{Waiting, messages_of};
use crate::sync::Read;
use gravity_domain::chat::{ChatCache, ChatStore, Message, MessageCursor, MessagePage};
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::page::PageLimit;
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{BufferError, Freshness, ReadError};
use std::sync::Arc;

/// Cursors from here on tell the order of acceptance of a message that waits.
const WAITING: u64 = 1 << 47;

/// `GET /api/chat/conversations/{id}/messages`.
pub struct ListMessages {
    store: Arc<dyn ChatStore>,
    cache: Arc<dyn ChatCache>,
    breaker: Arc<dyn Breaker>,
    buffer: Arc<dyn WriteBuffer>,
}

/// Which messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Before this position, from the end when `None`: newest first.
    Before(Option<MessageCursor>),
    /// After this place: oldest first.
    After(u64),
}

/// A page of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageList {
    /// In the order asked for. The last page of [`Which::After`] has all messages that wait, over the limit too.
    pub messages: Vec<Message>,
    /// Newest first: where the next page starts.
    pub next: Option<MessageCursor>,
    /// There are more in that direction.
    pub has_more: bool,
}

impl ListMessages {
    /// Over these ports.
    pub fn new(
        store: Arc<dyn ChatStore>,
        cache: Arc<dyn ChatCache>,
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

    /// One page.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] for a conversation that is not the user's; [`ReadError::Unknown`] when Postgres is away and what
    /// is known does not reach that far.
    pub async fn run(
        &self,
        user: UserId,
        id: ConversationId,
        which: Which,
        limit: PageLimit,
    ) -> Result<Read<MessageList>, ReadError> {
        match which {
            Which::Before(None) => self.newest(user, id, None, limit).await,
            Which::Before(Some(cursor)) => match cursor.seq.checked_sub(WAITING) {
                Some(sequence) => self.newest(user, id, Some(sequence), limit).await,
                None => self.older(user, id, cursor.seq, limit).await,
            },
            Which::After(seq) => self.later(user, id, seq, limit).await,
        }
    }

    /// What waits, of those accepted before `sequence`, then the newest stored.
    async fn newest(
        &self,
        user: UserId,
        id: ConversationId,
        sequence: Option<u64>,
        limit: PageLimit,
    ) -> Result<Read<MessageList>, ReadError> {
        let mut waiting = self.waiting(user, id).await?;
        let (newest, freshness) = self.known(user, id).await?;
        drop_stored(&mut waiting, &newest.messages);
        waiting.retain(|waiting| sequence.is_none_or(|before| waiting.sequence < before));
        let is_whole = waiting.is_empty();
        let total = waiting.len() + newest.messages.len();
        let has_more = newest.has_more || total > limit.get();
        let accepted = waiting
            .into_iter()
            .rev()
            .map(|waiting| (WAITING + waiting.sequence, waiting.message));
        let stored = newest.messages.iter();
        let stored = stored.map(|message| (message.seq.unwrap_or(0), message.clone()));
        let shown: Vec<_> = accepted.chain(stored).take(limit.get()).collect();
        let last = shown.last().filter(|_| has_more).map(|(place, _)| *place);
        Ok(Read {
            value: MessageList {
                next: last.map(|seq| MessageCursor {
                    conversation_id: id,
                    seq,
                }),
                messages: shown.into_iter().map(|(_, message)| message).collect(),
                has_more,
            },
            freshness: if is_whole { freshness } else { Freshness::Pending },
        })
    }

    async fn older(
        &self,
        user: UserId,
        id: ConversationId,
        before: u64,
        limit: PageLimit,
    ) -> Result<Read<MessageList>, ReadError> {
        let question = self.store.messages(user, id, Some(before), limit);
        let (page, freshness) = match ask(self.breaker.as_ref(), question).await {
            Ok(page) => (page.ok_or(ReadError::NotFound)?, Freshness::Current),
            Err(ReadError::Unknown) => {
                let (newest, freshness) = self.known(user, id).await?;
                (
                    reach_back(&newest, before, limit).ok_or(ReadError::Unknown)?,
                    freshness,
                )
            }
            Err(error) => return Err(error),
        };
        let last = page.messages.last().filter(|_| page.has_more);
        let next = last.and_then(|message| message.seq).map(|seq| MessageCursor {
            conversation_id: id,
            seq,
        });
        Ok(Read {
            value: MessageList {
                messages: page.messages,
                next,
                has_more: page.has_more,
            },
            freshness,
        })
    }

    async fn later(
        &self,
        user: UserId,
        id: ConversationId,
        after: u64,
        limit: PageLimit,
    ) -> Result<Read<MessageList>, ReadError> {
        let mut waiting = self.waiting(user, id).await?;
        let question = self.store.messages_after(user, id, after, limit);
        let (page, mut freshness) = match ask(self.breaker.as_ref(), question).await {
            Ok(page) => (page.ok_or(ReadError::NotFound)?, Freshness::Current),
            Err(ReadError::Unknown) => {
                let (newest, freshness) = self.known(user, id).await?;
                (
                    reach_on(&newest, after, limit).ok_or(ReadError::Unknown)?,
                    freshness,
                )
            }
            Err(error) => return Err(error),
        };
        let MessagePage {
            mut messages,
            has_more,
        } = page;
        if !has_more {
            drop_stored(&mut waiting, &messages);
            if !waiting.is_empty() {
                freshness = Freshness::Pending;
            }
            messages.extend(waiting.into_iter().map(|waiting| waiting.message));
        }
        Ok(Read {
            value: MessageList {
                messages,
                next: None,
                has_more,
            },
            freshness,
        })
    }

    /// The user's own messages of the conversation that wait, in order of acceptance.
    async fn waiting(&self, user: UserId, id: ConversationId) -> Result<Vec<Waiting>, BufferError> {
        let mut waiting = messages_of(self.buffer.as_ref(), user).await?;
        waiting.retain(|waiting| waiting.message.conversation_id == id);
        Ok(waiting)
    }

    async fn known(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<(Arc<MessagePage>, Freshness), ReadError> {
        let known = self.cache.newest_messages(user, id).await.map_err(unread)?;
        Ok((known.value.ok_or(ReadError::NotFound)?, known.freshness))
    }
}

/// Leaves out those that were stored after the buffer was looked into, and what stood before them: a lane drains in order. One
/// that was sent again after it had been stored, by a client that never heard so, says nothing about what stands before it;
/// it is known by its time.
fn drop_stored(waiting: &mut Vec<Waiting>, stored: &[Message]) {
    let twin = |waiting: &Waiting| stored.iter().find(|message| message.id == waiting.message.id);
    let has_drained =
        |waiting: &Waiting| twin(waiting).is_some_and(|twin| twin.created_at == waiting.message.created_at);
    if let Some(last) = waiting.iter().rposition(has_drained) {
        waiting.drain(..=last);
    }
    waiting.retain(|waiting| twin(waiting).is_none());
}

/// The page before a place, if the newest messages reach to its end.
fn reach_back(newest: &MessagePage, before: u64, limit: PageLimit) -> Option<MessagePage> {
    let earlier = |message: &&Message| message.seq.is_some_and(|seq| seq < before);
    let rest: Vec<_> = newest.messages.iter().filter(earlier).collect();
    if rest.len() < limit.get() && newest.has_more {
        return None;
    }
    Some(MessagePage {
        has_more: rest.len() > limit.get() || newest.has_more,
        messages: rest.into_iter().take(limit.get()).cloned().collect(),
    })
}

/// The page after a place, if the newest messages reach back to it.
fn reach_on(newest: &MessagePage, after: u64, limit: PageLimit) -> Option<MessagePage> {
    let oldest = newest.messages.last().and_then(|message| message.seq);
    let reaches = !newest.has_more || oldest.is_some_and(|oldest| oldest <= after.saturating_add(1));
    if !reaches {
        return None;
    }
    let later = |message: &&Message| message.seq.is_some_and(|seq| seq > after);
    let rest: Vec<_> = newest.messages.iter().rev().filter(later).collect();
    Some(MessagePage {
        has_more: rest.len() > limit.get(),
        messages: rest.into_iter().take(limit.get()).cloned().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_domain::chat::Content;
    use gravity_domain::clock::Timestamp;
    use gravity_domain::id::ChatMessageId;
    use uuid::Uuid;

    fn message(n: u128, at: i64, seq: Option<u64>) -> Message {
        Message {
            id: ChatMessageId(Uuid::from_u128(n)),
            conversation_id: ConversationId(Uuid::nil()),
            seq,
            sender_id: UserId(Uuid::nil()),
            client_message_id: Uuid::from_u128(n),
            content: Content::parse("x").unwrap(),
            created_at: Timestamp::from_millis(at),
            recipient: None,
            events: Vec::new(),
            is_repeat: false,
        }
    }

    fn left(waiting: &[(u128, i64)], stored: &[Message]) -> Vec<u128> {
        let waiting = waiting.iter().enumerate().map(|(place, (n, at))| Waiting {
            sequence: place as u64,
            message: message(*n, *at, None),
        });
        let mut waiting: Vec<_> = waiting.collect();
        drop_stored(&mut waiting, stored);
        waiting.iter().map(|left| left.message.id.0.as_u128()).collect()
    }

    #[test]
    fn what_has_drained_meanwhile_is_not_shown_as_waiting_nor_what_stood_before_it() {
        let stored = [message(2, 20, Some(7))];
        assert_eq!(left(&[(1, 10), (2, 20), (3, 30)], &stored), [3]);
    }

    #[test]
    fn a_stored_message_that_was_sent_again_hides_nothing_that_waits_before_it() {
        let stored = [message(1, 5, Some(1))];
        assert_eq!(left(&[(2, 20), (3, 30), (1, 40)], &stored), [2, 3]);
    }
}
