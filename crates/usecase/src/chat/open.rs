//! The conversation with somebody, made when there is none.

use super::error::ChatError;
use super::known::{Knowledge, ask, unread};
use crate::sync::Read;
use gravity_domain::auth::{Quota, RateDecision, RateLimiter, Username};
use gravity_domain::chat::{ChatCache, ChatStore, Conversation, Live, Person};
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{Freshness, ReadError};
use std::sync::Arc;
use std::time::Duration;

/// `GET /api/chat/conversations/with/{username}`.
pub struct OpenConversation {
    known: Knowledge,
    store: Arc<dyn ChatStore>,
    breaker: Arc<dyn Breaker>,
    live: Arc<dyn Live>,
    limiter: Arc<dyn RateLimiter>,
    quota: Quota,
}

/// A conversation that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedConversation {
    /// It.
    pub read: Read<Conversation>,
    /// It was made now.
    pub is_new: bool,
    /// What the limiter said, if it was asked: finding one is free.
    pub rate: Option<RateDecision>,
}

impl OpenConversation {
    /// Over these ports.
    pub fn new(
        store: Arc<dyn ChatStore>,
        cache: Arc<dyn ChatCache>,
        breaker: Arc<dyn Breaker>,
        buffer: Arc<dyn WriteBuffer>,
        live: Arc<dyn Live>,
        limiter: Arc<dyn RateLimiter>,
        quota: Quota,
    ) -> Self {
        Self {
            known: Knowledge { cache, buffer },
            store,
            breaker,
            live,
            limiter,
            quota,
        }
    }

    /// The quota: so many conversations made by one user in any minute.
    pub fn per_minute(conversations: u32) -> Quota {
        Quota {
            name: "chat_conversations",
            limit: conversations,
            window: Duration::from_secs(60),
        }
    }

    /// The conversation of `user` with whoever has this username. That one of them blocks the other is no hindrance.
    ///
    /// # Errors
    /// [`ChatError::Oneself`], [`ChatError::RateLimited`]; [`ReadError::NotFound`] for nobody; [`ReadError::Unknown`] when
    /// Postgres is away and the conversation is not known.
    pub async fn run(&self, user: UserId, username: &Username) -> Result<OpenedConversation, ChatError> {
        let other = self.known.person(user, username).await?;
        let pending = self.known.pending(user).await?;
        let id = ConversationId::of(user, other.id);
        let known = self.known.cache.conversation(user, id).await;
        let known = known.map_err(unread)?;
        match known.value {
            Some(base) => Ok(OpenedConversation {
                read: pending.read(&base, known.freshness),
                is_new: false,
                rate: None,
            }),
            None if known.freshness == Freshness::Current => self.make(user, &other).await,
            None => Err(ReadError::Unknown.into()),
        }
    }

    async fn make(&self, user: UserId, other: &Person) -> Result<OpenedConversation, ChatError> {
        if !self.breaker.allows_writes() {
            return Err(ReadError::Unknown.into());
        }
        let key = user.to_string();
        let mut rate = self.limiter.check(&self.quota, &key).await;
        if !rate.allowed {
            return Err(ChatError::RateLimited(rate));
        }
        let opened = ask(self.breaker.as_ref(), self.store.open(user, other.id)).await;
        if !matches!(&opened, Ok(opened) if opened.is_new) {
            self.limiter.give_back(&self.quota, &key).await;
            rate.remaining = rate.remaining.saturating_add(1);
        }
        let opened = opened.inspect_err(|_| self.known.cache.doubted(user))?;
        if opened.is_new {
            self.known.cache.raised(&opened.events);
            self.live.committed(&opened.events);
        } else {
            self.known.cache.doubted(user);
        }
        let pending = self.known.pending(user).await?;
        Ok(OpenedConversation {
            read: pending.read(&opened.conversation, Freshness::Current),
            is_new: opened.is_new,
            rate: Some(rate),
        })
    }
}
