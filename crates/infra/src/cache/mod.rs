//! What this node remembers of entities, for the time when Postgres is away. In process, bounded, never shared.

mod known_tasks;
mod profiles;
mod tasks;

use crate::chat::ChatEntities;
use gravity_domain::chat::UserEvent;
use gravity_domain::stream::StreamCache;
use gravity_domain::sync::ports::{AppliedListener, EntityCache};
use gravity_domain::sync::{EntityKind, EntityState, Operation};
use std::sync::Arc;

pub use profiles::KnownProfiles;
pub use tasks::{CachedTasks, TaskCacheLimits};

/// Puts what the drain has committed into the caches.
pub struct KnownEntities {
    tasks: Arc<CachedTasks>,
    profiles: Arc<KnownProfiles>,
    stream: Arc<dyn StreamCache>,
    chat: Option<ChatEntities>,
}

impl KnownEntities {
    /// Over these caches.
    pub fn new(tasks: Arc<CachedTasks>, profiles: Arc<KnownProfiles>, stream: Arc<dyn StreamCache>) -> Self {
        Self {
            tasks,
            profiles,
            stream,
            chat: None,
        }
    }

    /// Tells these of chat, too.
    #[must_use]
    pub fn with_chat(self, chat: ChatEntities) -> Self {
        Self {
            chat: Some(chat),
            ..self
        }
    }
}

impl AppliedListener for KnownEntities {
    fn applied(&self, state: EntityState) {
        match state {
            EntityState::Profile(profile) => self.profiles.learn(profile),
            EntityState::Task(task) => self.tasks.learn(task),
            EntityState::StreamAction(receipt) => match receipt.version {
                Some(version) => self.stream.raised(&[(receipt.user_id, version)]),
                None => self.stream.doubted(receipt.user_id),
            },
            EntityState::Message(_) | EntityState::ReadMarker(_) | EntityState::Block(_) => {
                if let Some(chat) = &self.chat {
                    chat.applied(&state);
                }
            }
        }
    }

    fn already_applied(&self, operation: &Operation) {
        match operation.entity() {
            EntityKind::Profile => self.profiles.forget(operation.user_id),
            EntityKind::Task => self.tasks.forget(operation.user_id),
            EntityKind::StreamAction => self.stream.doubted(operation.user_id),
            EntityKind::Message | EntityKind::ReadMarker | EntityKind::Block => {
                if let Some(chat) = &self.chat {
                    chat.already_applied(operation);
                }
            }
        }
    }

    fn set_aside(&self, operation: &Operation, reason: &str, events: &[UserEvent]) {
        if let Some(chat) = &self.chat {
            chat.set_aside(operation, reason, events);
        }
    }
}
