//! An operation: one intended write. Its id and stamp are fixed once, when it is built.

use super::entity::EntityKind;
use super::fingerprint::Fingerprint;
use crate::chat::{BlockChange, NewMessage, ReadMark};
use crate::clock::Hlc;
use crate::id::{ChatMessageId, OperationId, TaskId, UserId, block_id};
use crate::profile::ProfilePatch;
use crate::stream::StreamAction;
use crate::task::TaskChange;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One intended write, as it is applied, buffered and replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// UUIDv7, or UUIDv5 of (user, `Idempotency-Key`).
    pub id: OperationId,
    /// Whose write it is: the lane.
    pub user_id: UserId,
    /// What it changes; an update carries only the fields it sets.
    pub change: Change,
    /// When it was accepted.
    pub accepted_at: Hlc,
    /// Lanes whose head has a higher priority drain first.
    #[serde(default)]
    pub priority: Priority,
    /// The version the entity must have when it is applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precondition: Option<u64>,
    /// What a retry with the same `Idempotency-Key` needs; absent without a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// Failures of the operation itself so far.
    #[serde(default)]
    pub attempts: u32,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// An admin put it back from the dead letters: it is not parked for its age again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retried: bool,
}

impl Operation {
    /// One that is new: without a key or a precondition, of the usual priority, and not tried yet.
    pub fn new(id: OperationId, user_id: UserId, change: Change, accepted_at: Hlc) -> Self {
        Self {
            id,
            user_id,
            change,
            accepted_at,
            priority: Priority::default(),
            precondition: None,
            replay: None,
            attempts: 0,
            last_error: None,
            retried: false,
        }
    }

    /// Whether both are tries of one request. They share the id, but so do requests that share an `Idempotency-Key`.
    pub fn is_retry_of(&self, first: &Self) -> bool {
        self.id == first.id
            && self.user_id == first.user_id
            && match (&self.replay, &first.replay) {
                (Some(again), Some(first)) => again.fingerprint == first.fingerprint,
                (None, None) => self.change == first.change,
                _ => false,
            }
    }

    /// The kind of entity it changes.
    pub fn entity(&self) -> EntityKind {
        match self.change {
            Change::Profile(_) => EntityKind::Profile,
            Change::Task { .. } => EntityKind::Task,
            Change::StreamAction(_) => EntityKind::StreamAction,
            Change::Message { .. } => EntityKind::Message,
            Change::ReadMark(_) => EntityKind::ReadMarker,
            Change::Block(_) => EntityKind::Block,
        }
    }

    /// The id of the entity it changes.
    pub fn entity_id(&self) -> Uuid {
        match &self.change {
            Change::Profile(_) => self.user_id.0,
            Change::Task { id, .. } => id.0,
            Change::StreamAction(_) => self.id.0,
            Change::Message { id, .. } => id.0,
            Change::ReadMark(mark) => mark.conversation_id.0,
            Change::Block(change) => block_id(self.user_id, change.blocked),
        }
    }

    /// What it does to the entity.
    pub fn kind(&self) -> OperationKind {
        match &self.change {
            Change::Profile(_) => OperationKind::Update,
            Change::Task { change, .. } => match change {
                TaskChange::Create(_) => OperationKind::Create,
                TaskChange::Update(_) => OperationKind::Update,
                TaskChange::Delete => OperationKind::Delete,
            },
            Change::StreamAction(_) | Change::Message { .. } => OperationKind::Create,
            Change::ReadMark(_) | Change::Block(_) => OperationKind::Update,
        }
    }
}

/// The payload, by entity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entity", rename_all = "snake_case")]
pub enum Change {
    /// Sets fields of the user's own profile.
    Profile(ProfilePatch),
    /// Creates, updates or deletes a task.
    Task {
        /// The task.
        id: TaskId,
        /// What happens to it.
        change: TaskChange,
    },
    /// Marks or puts away items of the user's stream.
    StreamAction(StreamAction),
    /// Sends a message.
    Message {
        /// The message.
        id: ChatMessageId,
        /// What is sent, and where to.
        message: NewMessage,
    },
    /// Moves the user's own read marker of a conversation.
    ReadMark(ReadMark),
    /// Blocks or unblocks somebody.
    Block(BlockChange),
}

/// What an operation does to its entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Makes it.
    Create,
    /// Sets fields.
    Update,
    /// Leaves a tombstone.
    Delete,
}

impl OperationKind {
    /// The name in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Create, Self::Update, Self::Delete]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// 1 (last) to 5 (first); 3 is usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// The first to drain.
    pub const HIGHEST: Self = Self(5);
    /// The last to drain.
    pub const LOWEST: Self = Self(1);

    /// `level` when it is 1..=5.
    pub fn new(level: u8) -> Option<Self> {
        (1..=5).contains(&level).then_some(Self(level))
    }

    /// 1..=5.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(3)
    }
}

impl TryFrom<u8> for Priority {
    type Error = &'static str;
    fn try_from(level: u8) -> Result<Self, Self::Error> {
        Self::new(level).ok_or("a priority is 1 to 5")
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

/// What a retry with the same `Idempotency-Key` is compared with and answered from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Of method, path and body.
    pub fingerprint: Fingerprint,
    /// Set when the operation was buffered: the entity as the first answer (202) showed it, as JSON of an
    /// [`EntityState`](super::EntityState).
    /// Absent for a direct write, whose answer is the row it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<serde_json::Value>,
}
