//! Whom a user blocks, and who of two blocks whom.

use super::error::ChatError;
use super::known::{Knowledge, ask, unread};
use super::overlay::PendingChat;
use crate::sync::Read;
use gravity_domain::auth::Username;
use gravity_domain::chat::{BlockStatus, Blocked, ChatCache, ChatStore};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{Change, Freshness, Operation, ReadError};
use std::sync::Arc;

/// `GET /api/chat/blocks`.
pub struct ListBlocks {
    known: Knowledge,
}

/// `GET /api/chat/blocks/status/{username}`.
pub struct GetBlockStatus {
    known: Knowledge,
    store: Arc<dyn ChatStore>,
    breaker: Arc<dyn Breaker>,
}

impl ListBlocks {
    /// Over these ports.
    pub fn new(cache: Arc<dyn ChatCache>, buffer: Arc<dyn WriteBuffer>) -> Self {
        Self {
            known: Knowledge { cache, buffer },
        }
    }

    /// Whom `user` blocks, latest first.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn run(&self, user: UserId) -> Result<Read<Vec<Blocked>>, ReadError> {
        let pending = self.known.pending(user).await?;
        let known = self.known.cache.blocks(user).await.map_err(unread)?;
        let mut blocks = known.value.as_ref().clone();
        let operations = pending.block_operations();
        for operation in operations {
            self.fold(user, &pending, &mut blocks, operation).await;
        }
        Ok(Read {
            value: blocks,
            freshness: if operations.is_empty() {
                known.freshness
            } else {
                Freshness::Pending
            },
        })
    }

    async fn fold(
        &self,
        user: UserId,
        pending: &PendingChat,
        blocks: &mut Vec<Blocked>,
        operation: &Operation,
    ) {
        let Change::Block(change) = &operation.change else {
            return;
        };
        let other = change.blocked;
        if pending.blocks(other) != Some(true) {
            blocks.retain(|blocked| blocked.user_id != other);
        } else if change.is_blocked && !blocks.iter().any(|blocked| blocked.user_id == other) {
            let mut blocked = self.described(user, other).await;
            blocked.created_at = operation.accepted_at.timestamp();
            blocks.insert(0, blocked);
        }
    }

    /// Somebody as the user's conversations show them, as far as is known.
    async fn described(&self, user: UserId, other: UserId) -> Blocked {
        let id = ConversationId::of(user, other);
        let known = self.known.cache.conversation(user, id).await.ok();
        let person = known.and_then(|known| known.value);
        let person = person.as_ref().map(|conversation| &conversation.other);
        Blocked {
            user_id: other,
            username: person.and_then(|person| person.username.clone()),
            name: person.and_then(|person| person.name.clone()),
            avatar_url: person.and_then(|person| person.avatar_url.clone()),
            created_at: Timestamp::EPOCH,
        }
    }
}

impl GetBlockStatus {
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

    /// Who of `user` and whoever has this username blocks the other.
    ///
    /// # Errors
    /// [`ChatError::Oneself`]; [`ReadError::NotFound`] for nobody; [`ReadError::Unknown`] when Postgres is away and they have no
    /// conversation that is known.
    pub async fn run(&self, user: UserId, username: &Username) -> Result<Read<BlockStatus>, ChatError> {
        let other = self.known.person(user, username).await?;
        let pending = self.known.pending(user).await?.blocks(other.id);
        let question = self.store.block_status(user, other.id);
        let (mut value, freshness) = match ask(self.breaker.as_ref(), question).await {
            Ok(status) => (status, Freshness::Current),
            Err(ReadError::Unknown) => self.last_known(user, other.id).await?,
            Err(error) => return Err(error.into()),
        };
        value.blocked_by_me = pending.unwrap_or(value.blocked_by_me);
        Ok(Read {
            value,
            freshness: pending.map_or(freshness, |_| Freshness::Pending),
        })
    }

    async fn last_known(&self, user: UserId, other: UserId) -> Result<(BlockStatus, Freshness), ReadError> {
        let id = ConversationId::of(user, other);
        let known = self.known.cache.conversation(user, id).await.map_err(unread)?;
        let conversation = known.value.ok_or(ReadError::Unknown)?;
        Ok((conversation.blocks, known.freshness))
    }
}
