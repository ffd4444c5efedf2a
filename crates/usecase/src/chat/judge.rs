//! Whether a message may be sent that is to be buffered.

use super::overlay::{blocked_by_me, blocks_of};
use async_trait::async_trait;
use gravity_domain::chat::{ChatCache, Conversation};
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::sync::ports::{Breaker, Judge, WriteBuffer};
use gravity_domain::sync::{Change, Operation, Refusal, WriteError};
use std::sync::Arc;

/// Judges by the last known conversation and the sender's own blocks that wait. What is not known is refused.
pub struct MessageJudge {
    cache: Arc<dyn ChatCache>,
    breaker: Arc<dyn Breaker>,
    buffer: Arc<dyn WriteBuffer>,
}

impl MessageJudge {
    /// Over these ports.
    pub fn new(cache: Arc<dyn ChatCache>, breaker: Arc<dyn Breaker>, buffer: Arc<dyn WriteBuffer>) -> Self {
        Self {
            cache,
            breaker,
            buffer,
        }
    }

    /// Who would receive a message of `user` in this conversation.
    ///
    /// # Errors
    /// [`WriteError::NotFound`] when the conversation is not the user's; [`WriteError::NotAllowed`] across a block;
    /// [`WriteError::Unknown`] when it cannot be told.
    pub(super) async fn recipient(
        &self,
        user: UserId,
        id: ConversationId,
        may_ask_store: bool,
    ) -> Result<UserId, WriteError> {
        let blocks = blocks_of(self.buffer.as_ref(), user).await?;
        let known = self.conversation(user, id, may_ask_store).await;
        let conversation = known.ok_or(WriteError::Unknown)?.ok_or(WriteError::NotFound)?;
        let other = conversation.other.id;
        let mut status = conversation.blocks;
        status.blocked_by_me = blocked_by_me(&blocks, other).unwrap_or(status.blocked_by_me);
        if status.is_blocked() {
            return Err(WriteError::NotAllowed(Refusal::Blocked));
        }
        Ok(other)
    }

    /// The outer `None`: nothing is known.
    async fn conversation(
        &self,
        user: UserId,
        id: ConversationId,
        may_ask_store: bool,
    ) -> Option<Option<Arc<Conversation>>> {
        if may_ask_store && self.breaker.allows_reads() {
            match self.cache.conversation(user, id).await {
                Ok(known) => return Some(known.value),
                Err(error) => tracing::debug!(reason = %error, "judging by what is remembered"),
            }
        }
        self.cache.known_conversation(user, id)
    }
}

#[async_trait]
impl Judge for MessageJudge {
    async fn judge(&self, operation: &mut Operation, may_ask_store: bool) -> Result<(), WriteError> {
        let user = operation.user_id;
        if let Change::Message { message, .. } = &mut operation.change {
            let recipient = self.recipient(user, message.conversation_id, may_ask_store);
            message.recipient = Some(recipient.await?);
        }
        Ok(())
    }
}
