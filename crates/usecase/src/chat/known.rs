//! What is known to a user: what the cache holds, with the user's pending operations folded in.
//!
//! Pending operations are always read *before* the base, as in [`crate::sync::overlay`].

use super::error::ChatError;
use super::overlay::PendingChat;
use crate::sync::Read;
use crate::sync::overlay::fall_back;
use gravity_domain::auth::Username;
use gravity_domain::chat::{Blocked, ChatCache, Conversation, Inbox, Known, Person};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{BufferError, ReadError};
use std::sync::Arc;

/// The cache, under what waits in the buffer.
pub(super) struct Knowledge {
    pub(super) cache: Arc<dyn ChatCache>,
    pub(super) buffer: Arc<dyn WriteBuffer>,
}

impl Knowledge {
    /// What waits for `user`.
    pub(super) async fn pending(&self, user: UserId) -> Result<PendingChat, BufferError> {
        PendingChat::of(self.buffer.as_ref(), user).await
    }

    /// What waits, and the inbox, as it is without that.
    pub(super) async fn inbox(&self, user: UserId) -> Result<(PendingChat, Known<Arc<Inbox>>), ReadError> {
        let pending = self.pending(user).await?;
        let inbox = self.cache.inbox(user).await.map_err(unread)?;
        Ok((pending, inbox))
    }

    /// A conversation with what waits folded in.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] when it is not the user's.
    pub(super) async fn conversation(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Read<Conversation>, ReadError> {
        let pending = self.pending(user).await?;
        let known = self.cache.conversation(user, id).await.map_err(unread)?;
        let base = known.value.ok_or(ReadError::NotFound)?;
        Ok(pending.read(&base, known.freshness))
    }

    /// Who has this username; when Postgres is away, as far as the user's conversations and blocks tell.
    ///
    /// # Errors
    /// [`ChatError::Oneself`]; [`ReadError::NotFound`] for nobody, [`ReadError::Unknown`] when it cannot be told.
    pub(super) async fn person(&self, user: UserId, username: &Username) -> Result<Person, ChatError> {
        let person = match self.cache.person(username).await {
            Ok(found) => found.ok_or(ReadError::NotFound)?,
            Err(error) => {
                let failure = unread(error);
                let found = match failure {
                    ReadError::Unknown => self.acquaintance(user, username).await,
                    _ => None,
                };
                found.ok_or(failure)?
            }
        };
        if person.id == user {
            return Err(ChatError::Oneself);
        }
        Ok(person)
    }

    async fn acquaintance(&self, user: UserId, username: &Username) -> Option<Person> {
        if let Ok(inbox) = self.cache.inbox(user).await {
            let mut others = inbox.value.conversations.iter().map(|held| &held.other);
            if let Some(other) = others.find(|other| other.username.as_ref() == Some(username)) {
                return Some(other.clone());
            }
        }
        let blocks = self.cache.blocks(user).await.ok()?;
        let mut blocked = blocks.value.iter();
        blocked
            .find(|blocked| blocked.username.as_ref() == Some(username))
            .map(person_of)
    }
}

fn person_of(blocked: &Blocked) -> Person {
    Person {
        id: blocked.user_id,
        username: blocked.username.clone(),
        name: blocked.name.clone(),
        avatar_url: blocked.avatar_url.clone(),
    }
}

/// What a read answers when the cache fails: an outage is nothing known.
pub(super) fn unread(error: StoreError) -> ReadError {
    if error.is_transient() {
        tracing::debug!(reason = %error, "nothing known can stand in");
        ReadError::Unknown
    } else {
        ReadError::Store(error)
    }
}

/// Asks Postgres, if it is worth trying.
///
/// # Errors
/// [`ReadError::Unknown`] when it is away, which the breaker is told.
pub(super) async fn ask<T>(
    breaker: &dyn Breaker,
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, ReadError> {
    if !breaker.allows_reads() {
        return Err(ReadError::Unknown);
    }
    match question.await {
        Ok(answer) => Ok(answer),
        Err(error) => {
            fall_back(breaker, error)?;
            Err(ReadError::Unknown)
        }
    }
}
