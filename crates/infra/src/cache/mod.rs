//! What this node remembers of entities, for the time when Postgres is away. In process, bounded, never shared.

mod known_tasks;
mod profiles;
mod tasks;

use gravity_domain::sync::ports::{AppliedListener, EntityCache};
use gravity_domain::sync::{EntityKind, EntityState, Operation};
use std::sync::Arc;

pub use profiles::KnownProfiles;
pub use tasks::{CachedTasks, TaskCacheLimits};

/// Puts what the drain has committed into the caches.
#[derive(Debug)]
pub struct KnownEntities {
    tasks: Arc<CachedTasks>,
    profiles: Arc<KnownProfiles>,
}

impl KnownEntities {
    /// Over these caches.
    pub fn new(tasks: Arc<CachedTasks>, profiles: Arc<KnownProfiles>) -> Self {
        Self { tasks, profiles }
    }
}

impl AppliedListener for KnownEntities {
    fn applied(&self, state: EntityState) {
        match state {
            EntityState::Profile(profile) => self.profiles.learn(profile),
            EntityState::Task(task) => self.tasks.learn(task),
        }
    }

    fn already_applied(&self, operation: &Operation) {
        match operation.entity() {
            EntityKind::Profile => self.profiles.forget(operation.user_id),
            EntityKind::Task => self.tasks.forget(operation.user_id),
        }
    }
}
