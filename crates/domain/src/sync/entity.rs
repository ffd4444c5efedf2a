//! What the write path needs to know of an entity, whatever the feature.

use super::merge::Effect;
use super::operation::Operation;
use crate::chat::{BlockState, Message, ReadMarker};
use crate::clock::{Hlc, Timestamp};
use crate::id::UserId;
use crate::profile::Profile;
use crate::stream::ActionReceipt;
use crate::task::Task;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The kinds of entities that operations change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityKind {
    /// A user's profile; its id is the user's.
    Profile,
    /// A task.
    Task,
    /// An action on items of the user's stream; its id is the operation's.
    StreamAction,
    /// A message of a conversation, owned by its sender.
    Message,
    /// How far a user has read a conversation; its id is the conversation's.
    ReadMarker,
    /// Whether a user blocks another.
    Block,
}

impl EntityKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Profile,
        Self::Task,
        Self::StreamAction,
        Self::Message,
        Self::ReadMarker,
        Self::Block,
    ];

    /// The name in the API, in metrics and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Profile => "profile",
            Self::Task => "task",
            Self::StreamAction => "stream_action",
            Self::Message => "message",
            Self::ReadMarker => "read_marker",
            Self::Block => "block",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// One byte for the write buffer's index keys. Never renumber.
    pub fn code(self) -> u8 {
        match self {
            Self::Profile => 1,
            Self::Task => 2,
            Self::StreamAction => 3,
            Self::Message => 4,
            Self::ReadMarker => 5,
            Self::Block => 6,
        }
    }
}

/// An entity with per-field stamps, a version and a tombstone.
pub trait Entity: Clone + Send + Sync + std::fmt::Debug + 'static {
    /// Which kind it is.
    const KIND: EntityKind;

    /// Its id.
    fn id(&self) -> Uuid;
    /// Its owner.
    fn owner(&self) -> UserId;
    /// Raised by one by every operation that takes effect.
    fn version(&self) -> u64;
    /// True for a tombstone.
    fn is_deleted(&self) -> bool;
    /// The latest stamp on any of its fields.
    fn newest_stamp(&self) -> Hlc;
    /// The wall time of its newest effect.
    fn updated_at(&self) -> Timestamp;
    /// Folds `operation` into `current`. The one definition of what an operation does: never changes `current` unless
    /// the effect is [`Effect::Applied`].
    fn apply(current: &mut Option<Self>, operation: &Operation) -> Effect;
    /// The same entity, tagged with its kind.
    fn into_state(self) -> EntityState;
    /// Back from the tagged form; `None` for another kind.
    fn from_state(state: EntityState) -> Option<Self>;
}

/// Any entity, tagged with its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum EntityState {
    /// A profile.
    Profile(Profile),
    /// A task.
    Task(Task),
    /// What became of an action.
    StreamAction(ActionReceipt),
    /// A message.
    Message(Message),
    /// A read marker.
    ReadMarker(ReadMarker),
    /// A block.
    Block(BlockState),
}

impl EntityState {
    /// The owner.
    pub fn owner(&self) -> UserId {
        match self {
            Self::Profile(profile) => profile.owner(),
            Self::Task(task) => task.owner(),
            Self::StreamAction(receipt) => receipt.owner(),
            Self::Message(message) => message.owner(),
            Self::ReadMarker(marker) => marker.owner(),
            Self::Block(state) => state.owner(),
        }
    }

    /// Roughly its bytes in memory, for bounded caches.
    pub fn weight(&self) -> usize {
        const FIXED: usize = 512;
        FIXED
            + match self {
                Self::Profile(profile) => {
                    profile.name.value.as_ref().map_or(0, |name| name.as_str().len())
                        + profile
                            .avatar_url
                            .value
                            .as_ref()
                            .map_or(0, |url| url.as_str().len())
                }
                Self::Task(task) => {
                    task.title.value.as_str().len()
                        + task
                            .description
                            .value
                            .as_ref()
                            .map_or(0, |text| text.as_str().len())
                }
                Self::StreamAction(receipt) => size_of_val(receipt.results.as_slice()),
                Self::Message(message) => message.content.as_str().len(),
                Self::ReadMarker(_) | Self::Block(_) => 0,
            }
    }
}
