//! What is kept, by name.

use super::Place;
use gravity_domain::auth::Username;
use gravity_domain::id::{ConversationId, UserId};

/// What is loaded one at a time.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Inbox(UserId),
    Messages(Place),
    Conversation(Place),
    Blocks(UserId),
    Person(Username),
}

impl Name {
    /// For metrics.
    fn kind(&self) -> &'static str {
        match self {
            Self::Inbox(_) => "inbox",
            Self::Messages(_) => "messages",
            Self::Conversation(_) => "conversation",
            Self::Blocks(_) => "blocks",
            Self::Person(_) => "person",
        }
    }

    /// Of one conversation.
    pub(super) fn conversation(&self) -> Option<ConversationId> {
        match self {
            Self::Messages((_, id)) | Self::Conversation((_, id)) => Some(*id),
            Self::Inbox(_) | Self::Blocks(_) | Self::Person(_) => None,
        }
    }

    pub(super) fn count(&self, result: &'static str) {
        metrics::counter!("gravity_chat_cache_total", "kind" => self.kind(), "result" => result).increment(1);
    }
}
