//! One message.

use super::known::ask;
use super::overlay::waiting;
use crate::sync::Read;
use gravity_domain::chat::{ChatStore, Message};
use gravity_domain::id::{ChatMessageId, UserId};
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{EntityKind, Freshness, ReadError};
use std::sync::Arc;

/// `GET /api/chat/messages/{id}`.
pub struct GetMessage {
    store: Arc<dyn ChatStore>,
    breaker: Arc<dyn Breaker>,
    buffer: Arc<dyn WriteBuffer>,
}

impl GetMessage {
    /// Over these ports.
    pub fn new(store: Arc<dyn ChatStore>, breaker: Arc<dyn Breaker>, buffer: Arc<dyn WriteBuffer>) -> Self {
        Self {
            store,
            breaker,
            buffer,
        }
    }

    /// A message of one of the user's conversations, their own that wait included.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] for none, and for those of others' conversations; [`ReadError::Unknown`] when Postgres is away,
    /// unless the message waits here.
    pub async fn run(&self, user: UserId, id: ChatMessageId) -> Result<Read<Message>, ReadError> {
        let pending = self.buffer.pending_on(user, EntityKind::Message, id.0).await?;
        let stored = match ask(self.breaker.as_ref(), self.store.message(user, id)).await {
            Ok(stored) => stored.ok_or(ReadError::NotFound),
            Err(error) => Err(error),
        };
        match (stored, pending.first().and_then(waiting)) {
            (Ok(value), _) => Ok(Read {
                value,
                freshness: Freshness::Current,
            }),
            (Err(ReadError::NotFound | ReadError::Unknown), Some(waiting)) => Ok(Read {
                value: waiting.message,
                freshness: Freshness::Pending,
            }),
            (Err(error), _) => Err(error),
        }
    }
}
