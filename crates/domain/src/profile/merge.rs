//! What an operation does to a profile: the definition that SQL, overlay and drain share.

use super::model::Profile;
use crate::clock::{Hlc, Timestamp};
use crate::id::UserId;
use crate::sync::entity::{Entity, EntityKind, EntityState};
use crate::sync::merge::Effect;
use crate::sync::operation::{Change, Operation};
use uuid::Uuid;

impl Entity for Profile {
    const KIND: EntityKind = EntityKind::Profile;

    fn id(&self) -> Uuid {
        self.id.0
    }

    fn owner(&self) -> UserId {
        self.id
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn is_deleted(&self) -> bool {
        false
    }

    fn newest_stamp(&self) -> Hlc {
        self.newest()
    }

    fn updated_at(&self) -> Timestamp {
        self.updated_at
    }

    fn apply(current: &mut Option<Self>, operation: &Operation) -> Effect {
        let Change::Profile(patch) = &operation.change else {
            return Effect::Missing;
        };
        let Some(profile) = current.as_mut().filter(|profile| profile.id == operation.user_id) else {
            return Effect::Missing;
        };
        if operation
            .precondition
            .is_some_and(|version| version != profile.version)
        {
            return Effect::PreconditionFailed;
        }
        let stamp = operation.accepted_at;
        let mut changed = false;
        if let Some(name) = &patch.name {
            changed |= profile.name.set(name.clone(), stamp);
        }
        if let Some(avatar_url) = &patch.avatar_url {
            changed |= profile.avatar_url.set(avatar_url.clone(), stamp);
        }
        if !changed {
            return Effect::Superseded;
        }
        profile.version += 1;
        profile.updated_at = profile.updated_at.max(stamp.timestamp());
        Effect::Applied
    }

    fn into_state(self) -> EntityState {
        EntityState::Profile(self)
    }

    fn from_state(state: EntityState) -> Option<Self> {
        match state {
            EntityState::Profile(profile) => Some(profile),
            _ => None,
        }
    }
}
