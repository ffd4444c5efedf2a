//! A message of a conversation.

use super::event::UserEvent;
use crate::clock::{Hlc, NodeId, Timestamp};
use crate::id::{ChatMessageId, ConversationId, UserId};
use crate::page::{InvalidCursor, PageKey};
use crate::sync::entity::{Entity, EntityKind, EntityState};
use crate::sync::merge::Effect;
use crate::sync::operation::{Change, Operation};
use crate::text::{TextError, long_text, text_type};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

text_type!(
    /// What a message says: text of 1..=4,000 code points.
    Content,
    |raw| {
        let text = long_text(raw, 4_000)?;
        if text.is_empty() { Err(TextError::TooShort { min: 1 }) } else { Ok(text) }
    }
);

/// A message to send: what an operation carries. Its id derives from sender and `client_message_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewMessage {
    /// Where to.
    pub conversation_id: ConversationId,
    /// The message's identity, chosen by the client: safe to send again for the life of the message.
    pub client_message_id: Uuid,
    /// What it says.
    pub content: Content,
    /// Who receives it, as known when the operation was buffered; absent for a direct write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<UserId>,
}

/// A message. To the write path it is an entity that its operation creates and nothing ever changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// [`ChatMessageId::of`] sender and `client_message_id`.
    pub id: ChatMessageId,
    /// Of which conversation.
    pub conversation_id: ConversationId,
    /// Its place in the conversation, from 1, without gaps; `None` while it is buffered.
    pub seq: Option<u64>,
    /// By whom.
    pub sender_id: UserId,
    /// The client's id for it.
    pub client_message_id: Uuid,
    /// What it says.
    pub content: Content,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// Who receives it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<UserId>,
    /// What its commit appended to the users' logs; empty while it is buffered, and when it is read back.
    #[serde(skip)]
    pub events: Vec<UserEvent>,
    /// It was there already: another operation, or an earlier life of this one, had stored the same message.
    #[serde(skip)]
    pub is_repeat: bool,
}

impl Message {
    /// `stored` once it has its place, else `accepted`.
    pub fn durability(&self) -> &'static str {
        if self.seq.is_some() { "stored" } else { "accepted" }
    }
}

impl Entity for Message {
    const KIND: EntityKind = EntityKind::Message;

    fn id(&self) -> Uuid {
        self.id.0
    }

    fn owner(&self) -> UserId {
        self.sender_id
    }

    fn version(&self) -> u64 {
        1
    }

    fn is_deleted(&self) -> bool {
        false
    }

    fn newest_stamp(&self) -> Hlc {
        Hlc {
            wall_ms: u64::try_from(self.created_at.millis()).unwrap_or(0),
            counter: 0,
            node: NodeId(0),
        }
    }

    fn updated_at(&self) -> Timestamp {
        self.created_at
    }

    fn apply(current: &mut Option<Self>, operation: &Operation) -> Effect {
        let Change::Message { id, message } = &operation.change else {
            return Effect::Missing;
        };
        if current.is_some() {
            return Effect::Superseded;
        }
        *current = Some(Self {
            id: *id,
            conversation_id: message.conversation_id,
            seq: None,
            sender_id: operation.user_id,
            client_message_id: message.client_message_id,
            content: message.content.clone(),
            created_at: operation.accepted_at.timestamp(),
            recipient: message.recipient,
            events: Vec::new(),
            is_repeat: false,
        });
        Effect::Applied
    }

    fn into_state(self) -> EntityState {
        EntityState::Message(self)
    }

    fn from_state(state: EntityState) -> Option<Self> {
        match state {
            EntityState::Message(message) => Some(message),
            _ => None,
        }
    }
}

/// Where a page of messages, newest first, ends. Good in its conversation only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageCursor {
    /// Whose.
    pub conversation_id: ConversationId,
    /// The place of the last message seen.
    pub seq: u64,
}

impl MessageCursor {
    /// Opaque to clients.
    pub fn encode(self) -> String {
        let at = Timestamp::from_millis(i64::try_from(self.seq).unwrap_or(i64::MAX));
        PageKey {
            at,
            id: self.conversation_id.0,
        }
        .encode()
    }

    /// The place that `cursor` names in this conversation.
    ///
    /// # Errors
    /// [`InvalidCursor`]: not one of ours, or of another conversation.
    pub fn decode(conversation_id: ConversationId, cursor: &str) -> Result<Self, InvalidCursor> {
        let key = PageKey::decode(cursor)?;
        if key.id != conversation_id.0 {
            return Err(InvalidCursor);
        }
        let seq = u64::try_from(key.at.millis()).map_err(|_| InvalidCursor)?;
        Ok(Self { conversation_id, seq })
    }
}

/// Messages of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagePage {
    /// Newest first, or for catching up oldest first.
    pub messages: Vec<Message>,
    /// There are more in that direction.
    pub has_more: bool,
}
