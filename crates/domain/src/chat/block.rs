//! Blocks: who does not want to hear from whom. Neither side can send while there is one in either direction.

use super::event::UserEvent;
use crate::auth::Username;
use crate::clock::{Hlc, Timestamp};
use crate::id::{UserId, block_id};
use crate::sync::entity::{Entity, EntityKind, EntityState};
use crate::sync::merge::{Effect, Lww};
use crate::sync::operation::{Change, Operation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Blocks or unblocks: what an operation carries. The last writer wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockChange {
    /// Whom.
    pub blocked: UserId,
    /// True blocks, false takes it back.
    pub is_blocked: bool,
}

/// Whether `blocker` blocks `blocked`. One that was taken back stays as a tombstone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// Who blocks.
    pub blocker: UserId,
    /// Whom.
    pub blocked: UserId,
    /// Whether.
    pub is_blocked: Lww<bool>,
    /// What its commit appended to the users' logs.
    #[serde(skip)]
    pub events: Vec<UserEvent>,
}

impl Entity for BlockState {
    const KIND: EntityKind = EntityKind::Block;

    fn id(&self) -> Uuid {
        block_id(self.blocker, self.blocked)
    }

    fn owner(&self) -> UserId {
        self.blocker
    }

    fn version(&self) -> u64 {
        1
    }

    /// Never: what was taken back can be set again.
    fn is_deleted(&self) -> bool {
        false
    }

    fn newest_stamp(&self) -> Hlc {
        self.is_blocked.stamp
    }

    fn updated_at(&self) -> Timestamp {
        self.is_blocked.stamp.timestamp()
    }

    fn apply(current: &mut Option<Self>, operation: &Operation) -> Effect {
        let Change::Block(change) = &operation.change else {
            return Effect::Missing;
        };
        let value = Lww {
            value: change.is_blocked,
            stamp: operation.accepted_at,
        };
        match current {
            None => {
                *current = Some(Self {
                    blocker: operation.user_id,
                    blocked: change.blocked,
                    is_blocked: value,
                    events: Vec::new(),
                });
                Effect::Applied
            }
            Some(state) => {
                if state.is_blocked.set(value.value, value.stamp) {
                    Effect::Applied
                } else {
                    Effect::Superseded
                }
            }
        }
    }

    fn into_state(self) -> EntityState {
        EntityState::Block(self)
    }

    fn from_state(state: EntityState) -> Option<Self> {
        match state {
            EntityState::Block(state) => Some(state),
            _ => None,
        }
    }
}

/// Between oneself and another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockStatus {
    /// I block them.
    pub blocked_by_me: bool,
    /// They block me.
    pub blocked_by_them: bool,
}

impl BlockStatus {
    /// Whether nothing may pass.
    pub fn is_blocked(self) -> bool {
        self.blocked_by_me || self.blocked_by_them
    }
}

/// Somebody whom the user blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Whom.
    pub user_id: UserId,
    /// The name to unblock them by; absent for a user without one.
    pub username: Option<Username>,
    /// As the profile says.
    pub name: Option<String>,
    /// As the profile says.
    pub avatar_url: Option<String>,
    /// Since when.
    pub created_at: Timestamp,
}
