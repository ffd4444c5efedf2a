//! Somebody is typing.

use super::known::Knowledge;
use gravity_domain::chat::{ChatCache, Conversation, Live, Signal};
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::sync::ReadError;
use gravity_domain::sync::ports::WriteBuffer;
use std::sync::Arc;

/// `typing` of a socket.
pub struct TellTyping {
    known: Knowledge,
    live: Arc<dyn Live>,
}

impl TellTyping {
    /// Over these ports.
    pub fn new(cache: Arc<dyn ChatCache>, buffer: Arc<dyn WriteBuffer>, live: Arc<dyn Live>) -> Self {
        Self {
            known: Knowledge { cache, buffer },
            live,
        }
    }

    /// Tells the other of the conversation; across a block nobody is told.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] for a conversation that is not the user's; else see [`ReadError`].
    pub async fn run(&self, user: UserId, id: ConversationId) -> Result<(), ReadError> {
        let conversation = self.conversation(user, id).await?;
        if !conversation.blocks.is_blocked() {
            let signal = Signal::Typing {
                conversation_id: id,
                user_id: user,
            };
            self.live.signal(conversation.other.id, signal);
        }
        Ok(())
    }

    /// The conversation. One that is older than what the user was last told will do: its two people are still the same.
    async fn conversation(&self, user: UserId, id: ConversationId) -> Result<Conversation, ReadError> {
        match self.known.conversation(user, id).await {
            Err(ReadError::Unknown) => {
                let pending = self.known.pending(user).await?;
                match self.known.cache.known_conversation(user, id) {
                    Some(Some(base)) => Ok(pending.fold(&base)),
                    _ => Err(ReadError::Unknown),
                }
            }
            other => other.map(|read| read.value),
        }
    }
}
