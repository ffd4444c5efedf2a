//! Conversations as one of the two sees them.

use super::block::BlockStatus;
use super::event::UserEvent;
use super::message::Message;
use super::read::ReadMarker;
use crate::auth::Username;
use crate::clock::{Hlc, Timestamp};
use crate::id::{ConversationId, UserId};
use crate::page::PageKey;
use serde::{Deserialize, Serialize};

/// The other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Who.
    pub id: UserId,
    /// Absent for a user of an outside provider without one.
    pub username: Option<Username>,
    /// As the profile says.
    pub name: Option<String>,
    /// As the profile says.
    pub avatar_url: Option<String>,
}

/// A conversation of two, as one of them sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    /// [`ConversationId::of`] the two.
    pub id: ConversationId,
    /// Who sees it so.
    pub user_id: UserId,
    /// The other.
    pub other: Person,
    /// The newest message.
    pub last_message: Option<Message>,
    /// Messages of the other after `read_seq`.
    pub unread: u64,
    /// The place of the newest message; 0 while there is none.
    pub last_seq: u64,
    /// How far the user has read.
    pub read_seq: u64,
    /// The latest stamp of a mark.
    pub marked: Hlc,
    /// Who blocks whom.
    pub blocks: BlockStatus,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When it changed last: its newest message, or its opening.
    pub updated_at: Timestamp,
}

impl Conversation {
    /// Its place in the list, newest activity first.
    pub fn key(&self) -> PageKey {
        PageKey {
            at: self.updated_at,
            id: self.id.0,
        }
    }

    /// How far the user has read, as the write path sees it.
    pub fn marker(&self) -> ReadMarker {
        ReadMarker {
            conversation_id: self.id,
            user_id: self.user_id,
            read_seq: self.read_seq,
            unread: self.unread,
            last_seq: self.last_seq,
            marked: self.marked,
            events: Vec::new(),
        }
    }
}

/// What there is to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnreadTotals {
    /// Messages.
    pub total: u64,
    /// Conversations with at least one.
    pub conversations: u64,
}

/// What a user sees first: one snapshot, at one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inbox {
    /// The newest offset of the user's log in the same snapshot: it grows with every change of the rest.
    pub version: u64,
    /// Of all conversations.
    pub unread: UnreadTotals,
    /// The newest [`Inbox::SIZE`], newest activity first.
    pub conversations: Vec<Conversation>,
    /// There are older ones.
    pub has_more: bool,
}

impl Inbox {
    /// How many conversations a snapshot holds.
    pub const SIZE: usize = 200;

    /// The conversation, if it is one of those held.
    pub fn find(&self, id: ConversationId) -> Option<&Conversation> {
        self.conversations.iter().find(|held| held.id == id)
    }
}

/// A conversation that was asked for by the other's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// It.
    pub conversation: Conversation,
    /// It was not there before.
    pub is_new: bool,
    /// What making it appended to the logs of the two; empty when it was there.
    pub events: Vec<UserEvent>,
}
