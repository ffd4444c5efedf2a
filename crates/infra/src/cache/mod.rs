//! What this node remembers of entities, for the time when Postgres is away. In process, bounded, never shared.

mod known_tasks;
pub(crate) mod per_user;
mod profiles;
mod tasks;

use crate::chat::ChatEntities;
use gravity_domain::chat::UserEvent;
use gravity_domain::stream::{ActionReceipt, StreamCache};
use gravity_domain::sync::ports::{AppliedListener, EntityCache};
use gravity_domain::sync::{Change, Entity as _, EntityKind, EntityState, Operation};
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
            EntityState::StreamAction(receipt) => self.stream.acted(&receipt),
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
            EntityKind::StreamAction => match as_buffered(operation) {
                Some(receipt) => self.stream.acted(&receipt),
                None => self.stream.doubted(operation.user_id),
            },
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

/// What an action that waited in the buffer does, as its user was told. Another try of it may have been resolved otherwise.
fn as_buffered(operation: &Operation) -> Option<ActionReceipt> {
    let Change::StreamAction(action) = &operation.change else {
        return None;
    };
    let mut receipt = None;
    if action.judged.len() == action.ids.len() {
        ActionReceipt::apply(&mut receipt, operation);
    }
    receipt
}
