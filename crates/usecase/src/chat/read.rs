//! Mark as read.
//!
//! A mark says up to which message, and at least up to which place. In the dark the place is what is known here: exact for a
//! message that is known; the newest known place for one that is known to be newer than all of those; else none, and the message
//! itself takes effect when the mark is applied. So nothing is marked that was not read.

use super::known::unread;
use super::overlay::{Waiting, waiting};
use crate::sync::{EntityReader, WriteRequest, Writer, Written};
use gravity_domain::chat::{ChatCache, Conversation, MessagePage, ReadMark, ReadMarker};
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{BufferError, Change, EntityKind, ReadError, WriteError};
use std::sync::Arc;

/// `POST /api/chat/conversations/{id}/read`, and `message.read` of a socket.
pub struct MarkRead {
    writer: Arc<Writer>,
    reader: Arc<EntityReader<ReadMarker>>,
    cache: Arc<dyn ChatCache>,
    breaker: Arc<dyn Breaker>,
    buffer: Arc<dyn WriteBuffer>,
}

impl MarkRead {
    /// Over these ports.
    pub fn new(
        writer: Arc<Writer>,
        reader: Arc<EntityReader<ReadMarker>>,
        cache: Arc<dyn ChatCache>,
        breaker: Arc<dyn Breaker>,
        buffer: Arc<dyn WriteBuffer>,
    ) -> Self {
        Self {
            writer,
            reader,
            cache,
            breaker,
            buffer,
        }
    }

    /// Marks up to and including the message, without one up to the newest. Never backwards.
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::NotFound`] for a conversation that is not the user's, or that has no such message.
    pub async fn run(
        &self,
        request: WriteRequest,
        id: ConversationId,
        message_id: Option<ChatMessageId>,
    ) -> Result<Written<ReadMarker>, WriteError> {
        let up_to = match self.reach(request.user, id, message_id).await {
            Ok(up_to) => up_to,
            // Postgres may be back for the write itself, and knows better.
            Err(WriteError::Unknown) if self.breaker.allows_writes() => 0,
            Err(error) => return Err(error),
        };
        let mark = ReadMark {
            conversation_id: id,
            message_id,
            up_to,
        };
        self.writer
            .write(request, &self.reader, |_| Change::ReadMark(mark))
            .await
    }

    /// Up to which place the mark reaches, as far as is known.
    async fn reach(
        &self,
        user: UserId,
        id: ConversationId,
        message_id: Option<ChatMessageId>,
    ) -> Result<u64, WriteError> {
        let conversation = self.conversation(user, id).await?;
        let Some(message_id) = message_id else {
            return Ok(conversation.last_seq);
        };
        if let Some(last) = conversation.last_message.as_ref()
            && last.id == message_id
        {
            return Ok(last.seq.unwrap_or(conversation.last_seq));
        }
        if self.is_waiting(user, &conversation, message_id).await? {
            return Ok(conversation.last_seq);
        }
        let newest = self.cache.newest_messages(user, id).await;
        Ok(match newest.map_err(unread) {
            Ok(known) => known.value.map_or(0, |page| place(&page, message_id)),
            Err(ReadError::Unknown) => 0,
            Err(error) => return Err(unmarked(error)),
        })
    }

    async fn conversation(&self, user: UserId, id: ConversationId) -> Result<Arc<Conversation>, WriteError> {
        let known = self.cache.conversation(user, id).await;
        let known = known.map_err(|error| unmarked(unread(error)))?;
        known.value.ok_or(WriteError::NotFound)
    }

    /// Whether it waits here: it is newer than whatever is stored.
    async fn is_waiting(
        &self,
        user: UserId,
        conversation: &Conversation,
        message_id: ChatMessageId,
    ) -> Result<bool, BufferError> {
        for sender in [user, conversation.other.id] {
            let pending = self
                .buffer
                .pending_on(sender, EntityKind::Message, message_id.0)
                .await?;
            let is_here = |waiting: &Waiting| waiting.message.conversation_id == conversation.id;
            if pending
                .iter()
                .filter_map(waiting)
                .any(|waiting| is_here(&waiting))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn place(page: &MessagePage, id: ChatMessageId) -> u64 {
    let newest = page.messages.first().and_then(|message| message.seq);
    let found = page.messages.iter().find(|message| message.id == id);
    match found {
        Some(message) => message.seq.unwrap_or(0),
        // All that are older are known, and it is none of them.
        None if !page.has_more => newest.unwrap_or(0),
        None => 0,
    }
}

fn unmarked(error: ReadError) -> WriteError {
    match error {
        ReadError::NotFound => WriteError::NotFound,
        ReadError::Unknown => WriteError::Unknown,
        ReadError::Store(error) => WriteError::Refused(error),
        ReadError::Buffer(error) => WriteError::Buffer(error),
    }
}
