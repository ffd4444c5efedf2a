//! Block somebody, and take it back.

use super::error::ChatError;
use super::known::Knowledge;
use crate::sync::{EntityReader, WriteRequest, Writer, Written};
use gravity_domain::auth::Username;
use gravity_domain::chat::{BlockChange, BlockState, ChatCache, Person};
use gravity_domain::id::UserId;
use gravity_domain::sync::ports::WriteBuffer;
use gravity_domain::sync::{Change, Freshness, WriteError};
use std::sync::Arc;

/// `POST /api/chat/blocks`.
pub struct BlockUser {
    blocker: Blocker,
}

/// `DELETE /api/chat/blocks/{username}`.
pub struct UnblockUser {
    blocker: Blocker,
}

struct Blocker {
    writer: Arc<Writer>,
    reader: Arc<EntityReader<BlockState>>,
    known: Knowledge,
}

/// Somebody was blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedUser {
    /// The block.
    pub written: Written<BlockState>,
    /// Whom.
    pub person: Person,
    /// They were not blocked before, as far as is known; true in the answer to a retry.
    pub is_new: bool,
}

/// Somebody is not blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnblockedUser {
    /// The block as it was taken back; absent when there was none.
    pub written: Option<Written<BlockState>>,
    /// Whom.
    pub person: Person,
}

impl BlockUser {
    /// Over these ports.
    pub fn new(
        writer: Arc<Writer>,
        reader: Arc<EntityReader<BlockState>>,
        cache: Arc<dyn ChatCache>,
        buffer: Arc<dyn WriteBuffer>,
    ) -> Self {
        let blocker = Blocker::new(writer, reader, cache, buffer);
        Self { blocker }
    }

    /// Blocks whoever has this username.
    ///
    /// # Errors
    /// [`ChatError::Oneself`]; [`ChatError::Read`] when nobody has it or it cannot be told who; else [`ChatError::Write`].
    pub async fn run(&self, request: WriteRequest, username: &Username) -> Result<BlockedUser, ChatError> {
        let user = request.user;
        let person = self.blocker.known.person(user, username).await?;
        let was_blocked = matches!(self.blocker.is_blocked(user, person.id).await, Some((true, _)));
        let written = self.blocker.write(request, person.id, true).await?;
        Ok(BlockedUser {
            is_new: written.replayed || !was_blocked,
            written,
            person,
        })
    }
}

impl UnblockUser {
    /// Over these ports.
    pub fn new(
        writer: Arc<Writer>,
        reader: Arc<EntityReader<BlockState>>,
        cache: Arc<dyn ChatCache>,
        buffer: Arc<dyn WriteBuffer>,
    ) -> Self {
        let blocker = Blocker::new(writer, reader, cache, buffer);
        Self { blocker }
    }

    /// Takes the block back of whoever has this username. When Postgres says that there is none, nothing is written, unless a key
    /// may name an earlier request.
    ///
    /// # Errors
    /// As [`BlockUser::run`].
    pub async fn run(&self, request: WriteRequest, username: &Username) -> Result<UnblockedUser, ChatError> {
        let user = request.user;
        let person = self.blocker.known.person(user, username).await?;
        let has_key = request.key.is_some();
        let known = self.blocker.is_blocked(user, person.id).await;
        let written = if !has_key && matches!(known, Some((false, Freshness::Current))) {
            None
        } else {
            Some(self.blocker.write(request, person.id, false).await?)
        };
        Ok(UnblockedUser { written, person })
    }
}

impl Blocker {
    fn new(
        writer: Arc<Writer>,
        reader: Arc<EntityReader<BlockState>>,
        cache: Arc<dyn ChatCache>,
        buffer: Arc<dyn WriteBuffer>,
    ) -> Self {
        Self {
            writer,
            reader,
            known: Knowledge { cache, buffer },
        }
    }

    /// Whether `user` blocks `other`, as far as is known.
    async fn is_blocked(&self, user: UserId, other: UserId) -> Option<(bool, Freshness)> {
        let pending = self.known.pending(user).await.ok()?;
        if let Some(is_blocked) = pending.blocks(other) {
            return Some((is_blocked, Freshness::Pending));
        }
        let blocks = self.known.cache.blocks(user).await.ok()?;
        let is_blocked = blocks.value.iter().any(|blocked| blocked.user_id == other);
        Some((is_blocked, blocks.freshness))
    }

    async fn write(
        &self,
        request: WriteRequest,
        blocked: UserId,
        is_blocked: bool,
    ) -> Result<Written<BlockState>, WriteError> {
        let change = BlockChange { blocked, is_blocked };
        self.writer
            .write(request, &self.reader, |_| Change::Block(change))
            .await
    }
}
