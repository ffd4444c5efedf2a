//! What a user does to items: an operation, merged field by field.

use super::item::Item;
use crate::clock::{Hlc, Timestamp};
use crate::id::{ItemId, UserId};
use crate::sync::entity::{Entity, EntityKind, EntityState};
use crate::sync::merge::Effect;
use crate::sync::operation::{Change, Operation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Marks as read.
    Read,
    /// Marks as unread.
    Unread,
    /// Puts away.
    Archive,
    /// Takes back.
    Unarchive,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 4] = [Self::Read, Self::Unread, Self::Archive, Self::Unarchive];

    /// The name in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Unread => "unread",
            Self::Archive => "archive",
            Self::Unarchive => "unarchive",
        }
    }

    /// The action of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == name)
    }

    /// True for the actions on `unread`, false for those on `archived`.
    pub fn is_about_reading(self) -> bool {
        matches!(self, Self::Read | Self::Unread)
    }

    /// The value that the action gives to its flag.
    pub fn value(self) -> bool {
        matches!(self, Self::Unread | Self::Archive)
    }
}

/// What became of one item in an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemOutcome {
    /// Its flag is as wanted (it may have been so before), or will be when the operation is committed.
    Applied,
    /// It is newer than `asOf`.
    Skipped,
    /// The user has no such item.
    NotFound,
}

impl ItemOutcome {
    /// The name in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Skipped => "skipped",
            Self::NotFound => "not_found",
        }
    }

    /// The outcome of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Applied, Self::Skipped, Self::NotFound]
            .into_iter()
            .find(|outcome| outcome.as_str() == name)
    }
}

/// An action on items of one user: what an operation carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamAction {
    /// What is done.
    pub action: Action,
    /// To which items, each once; at most [`StreamAction::MAX_ITEMS`].
    pub ids: Vec<ItemId>,
    /// Items whose timestamp or arrival is later are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// What was known of the items, in the order of `ids`, when the operation was buffered; empty for a direct write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judged: Vec<ItemOutcome>,
}

impl StreamAction {
    /// The most ids a client may name.
    pub const MAX_IDS: usize = 200;
    /// The most items that one operation may carry, when a filter has found them.
    pub const MAX_ITEMS: usize = 2_000;

    /// Whether it leaves `item` alone because it is newer.
    pub fn skips(&self, item: &Item) -> bool {
        self.as_of
            .is_some_and(|as_of| item.timestamp > as_of || item.arrived_at > as_of)
    }

    /// Folds the action, stamped `stamp`, into one item. True when a flag took its value. The one definition of what an
    /// action does to an item it names; the drain's SQL does the same.
    pub fn fold(&self, stamp: Hlc, item: &mut Item) -> bool {
        if self.skips(item) {
            return false;
        }
        let flag = if self.action.is_about_reading() {
            &mut item.unread
        } else {
            &mut item.archived
        };
        flag.set(self.action.value(), stamp)
    }
}

/// The answer to an action. To the write path it is an entity that the operation creates, with the operation's id: nothing
/// else ever changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionReceipt {
    /// The operation's id.
    pub id: Uuid,
    /// Whose items.
    pub user_id: UserId,
    /// The operation's stamp.
    pub stamp: Hlc,
    /// Each item with what became of it, in the order of the request.
    pub results: Vec<(ItemId, ItemOutcome)>,
    /// The user's version after it; `None` while it is buffered.
    pub version: Option<u64>,
}

impl Entity for ActionReceipt {
    const KIND: EntityKind = EntityKind::StreamAction;

    fn id(&self) -> Uuid {
        self.id
    }

    fn owner(&self) -> UserId {
        self.user_id
    }

    fn version(&self) -> u64 {
        1
    }

    fn is_deleted(&self) -> bool {
        false
    }

    fn newest_stamp(&self) -> Hlc {
        self.stamp
    }

    fn updated_at(&self) -> Timestamp {
        self.stamp.timestamp()
    }

    fn apply(current: &mut Option<Self>, operation: &Operation) -> Effect {
        let Change::StreamAction(action) = &operation.change else {
            return Effect::Missing;
        };
        if current.is_some() {
            return Effect::Superseded;
        }
        let judged = action.judged.iter().copied();
        let outcomes = judged.chain(std::iter::repeat(ItemOutcome::Applied));
        *current = Some(Self {
            id: operation.id.0,
            user_id: operation.user_id,
            stamp: operation.accepted_at,
            results: action.ids.iter().copied().zip(outcomes).collect(),
            version: None,
        });
        Effect::Applied
    }

    fn into_state(self) -> EntityState {
        EntityState::StreamAction(self)
    }

    fn from_state(state: EntityState) -> Option<Self> {
        match state {
            EntityState::StreamAction(receipt) => Some(receipt),
            _ => None,
        }
    }
}
