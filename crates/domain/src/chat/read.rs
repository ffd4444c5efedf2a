//! How far somebody has read: a marker that only moves forward.

use super::event::UserEvent;
use crate::clock::{Hlc, Timestamp};
use crate::id::{ChatMessageId, ConversationId, UserId};
use crate::sync::entity::{Entity, EntityKind, EntityState};
use crate::sync::merge::Effect;
use crate::sync::operation::{Change, Operation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Reads up to and including a message: what an operation carries. Marks merge by the greatest, so stamps have no say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadMark {
    /// In which conversation.
    pub conversation_id: ConversationId,
    /// Up to this message; absent: up to the newest that is stored when a direct write is applied.
    pub message_id: Option<ChatMessageId>,
    /// At least up to this place: what was known of the message when the mark was made. A buffered mark whose message is not
    /// stored yet when it is applied takes effect up to here, and for the message itself as soon as it is stored.
    pub up_to: u64,
}

/// How far a participant has read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadMarker {
    /// In which conversation: the entity's id.
    pub conversation_id: ConversationId,
    /// Who.
    pub user_id: UserId,
    /// Up to and including this place.
    pub read_seq: u64,
    /// Messages of the other after it.
    pub unread: u64,
    /// The newest place of the conversation when `unread` was counted.
    pub last_seq: u64,
    /// The latest stamp of a mark that took effect.
    pub marked: Hlc,
    /// What its commit appended to the users' logs.
    #[serde(skip)]
    pub events: Vec<UserEvent>,
}

impl Entity for ReadMarker {
    const KIND: EntityKind = EntityKind::ReadMarker;

    fn id(&self) -> Uuid {
        self.conversation_id.0
    }

    fn owner(&self) -> UserId {
        self.user_id
    }

    fn version(&self) -> u64 {
        self.read_seq
    }

    fn is_deleted(&self) -> bool {
        false
    }

    fn newest_stamp(&self) -> Hlc {
        self.marked
    }

    fn updated_at(&self) -> Timestamp {
        self.marked.timestamp()
    }

    /// `unread` is exact only once the mark is committed: folded, it is 0 when all that is known has been read, else what it was.
    fn apply(current: &mut Option<Self>, operation: &Operation) -> Effect {
        let (Change::ReadMark(mark), Some(marker)) = (&operation.change, current.as_mut()) else {
            return Effect::Missing;
        };
        if mark.up_to <= marker.read_seq {
            return Effect::Superseded;
        }
        marker.read_seq = mark.up_to;
        marker.marked = marker.marked.max(operation.accepted_at);
        if marker.read_seq >= marker.last_seq {
            marker.unread = 0;
        }
        Effect::Applied
    }

    fn into_state(self) -> EntityState {
        EntityState::ReadMarker(self)
    }

    fn from_state(state: EntityState) -> Option<Self> {
        match state {
            EntityState::ReadMarker(marker) => Some(marker),
            _ => None,
        }
    }
}
