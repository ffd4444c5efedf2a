//! A user's conversations, newest activity first.
//!
//! The cache holds the newest; Postgres has the rest. A pending message moves its conversation up, wherever it was; nothing else
//! that waits changes the order. So the list is what is held, folded and in its new order, then the older ones of Postgres
//! without those that moved up.

use super::known::{Knowledge, ask, unread};
use super::overlay::PendingChat;
use crate::sync::Read;
use gravity_domain::chat::{ChatCache, ChatStore, Conversation, Inbox};
use gravity_domain::id::UserId;
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::sync::ReadError;
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::sync::Arc;

/// `GET /api/chat/conversations`.
pub struct ListConversations {
    known: Knowledge,
    store: Arc<dyn ChatStore>,
    breaker: Arc<dyn Breaker>,
}

impl ListConversations {
    /// Over these ports.
    pub fn new(
        store: Arc<dyn ChatStore>,
        cache: Arc<dyn ChatCache>,
        breaker: Arc<dyn Breaker>,
        buffer: Arc<dyn WriteBuffer>,
    ) -> Self {
        Self {
            known: Knowledge { cache, buffer },
            store,
            breaker,
        }
    }

    /// One page after the position `after`.
    ///
    /// # Errors
    /// See [`ReadError`]; [`ReadError::Unknown`] for older ones than are known while Postgres is away.
    pub async fn run(
        &self,
        user: UserId,
        after: Option<PageKey>,
        limit: PageLimit,
    ) -> Result<Read<Page<Conversation>>, ReadError> {
        let (pending, inbox) = self.known.inbox(user).await?;
        let (inbox, freshness) = (inbox.value, pending.over(inbox.freshness));
        let mut rest = self.held(user, &pending, &inbox).await?;
        rest.retain(|held| after.is_none_or(|after| held.key() < after));
        let value = if rest.len() >= limit.get() || !inbox.has_more {
            cut(rest, limit, inbox.has_more)
        } else {
            self.with_older(user, &pending, &inbox, (after, limit), rest)
                .await?
        };
        Ok(Read { value, freshness })
    }

    /// What the cache holds and what has moved up, folded, in order.
    async fn held<'a>(
        &self,
        user: UserId,
        pending: &PendingChat,
        inbox: &'a Inbox,
    ) -> Result<Vec<Cow<'a, Conversation>>, ReadError> {
        let mut held: Vec<_> = inbox
            .conversations
            .iter()
            .map(|base| {
                if pending.touch(base) {
                    Cow::Owned(pending.fold(base))
                } else {
                    Cow::Borrowed(base)
                }
            })
            .collect();
        for id in pending.written() {
            if inbox.find(id).is_some() {
                continue;
            }
            let found = self.known.cache.conversation(user, id).await;
            if let Some(base) = found.map_err(unread)?.value {
                held.push(Cow::Owned(pending.fold(&base)));
            }
        }
        held.sort_by_key(|held| Reverse(held.key()));
        Ok(held)
    }

    /// `rest` and what of Postgres' older ones follows it.
    async fn with_older(
        &self,
        user: UserId,
        pending: &PendingChat,
        inbox: &Inbox,
        (after, limit): (Option<PageKey>, PageLimit),
        mut rest: Vec<Cow<'_, Conversation>>,
    ) -> Result<Page<Conversation>, ReadError> {
        let edge = inbox.conversations.last().map(Conversation::key);
        let from = edge.into_iter().chain(after).min();
        let older = ask(self.breaker.as_ref(), self.store.conversations(user, from, limit)).await?;
        let moved_up = pending.written();
        let staying = older
            .items
            .into_iter()
            .filter(|base| !moved_up.contains(&base.id));
        rest.extend(staying.map(|base| Cow::Owned(pending.fold(&base))));
        if rest.len() > limit.get() {
            return Ok(cut(rest, limit, true));
        }
        Ok(Page {
            items: rest.into_iter().map(Cow::into_owned).collect(),
            next: older.next,
        })
    }
}

fn cut(rest: Vec<Cow<'_, Conversation>>, limit: PageLimit, is_more_behind: bool) -> Page<Conversation> {
    let has_more = is_more_behind || rest.len() > limit.get();
    let shown = rest.into_iter().take(limit.get());
    let items: Vec<_> = shown.map(Cow::into_owned).collect();
    let next = items.last().filter(|_| has_more).map(Conversation::key);
    Page { items, next }
}
