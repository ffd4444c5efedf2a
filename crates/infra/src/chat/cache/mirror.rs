//! The conversations that either of their two has been seen to have: enough to judge what the other sends while Postgres is away,
//! also on a node that has not served the other before. Participants never change, and who blocks whom is one fact that
//! both see, from their own side.

use gravity_domain::chat::{BlockStatus, Conversation, Person};
use gravity_domain::clock::Hlc;
use gravity_domain::id::{ConversationId, UserId};
use moka::sync::Cache;
use std::sync::Arc;

/// See the module. Bounded.
pub(super) struct Mirror {
    seen: Cache<ConversationId, Arc<Conversation>>,
}

impl Mirror {
    /// Of at most so many conversations.
    pub(super) fn new(conversations: u64) -> Self {
        Self {
            seen: Cache::new(conversations),
        }
    }

    /// Remembers how one of the two sees it.
    pub(super) fn saw(&self, conversation: &Conversation) {
        let mut seen = conversation.clone();
        seen.last_message = None;
        self.seen.insert(seen.id, Arc::new(seen));
    }

    /// How `user` sees it, as far as the other's view tells; nothing is read in it.
    pub(super) fn of(&self, user: UserId, id: ConversationId) -> Option<Arc<Conversation>> {
        let seen = self.seen.get(&id)?;
        if seen.user_id == user {
            return Some(seen);
        }
        if seen.other.id != user {
            return None;
        }
        Some(Arc::new(Conversation {
            user_id: user,
            other: Person {
                id: seen.user_id,
                username: None,
                name: None,
                avatar_url: None,
            },
            unread: 0,
            read_seq: 0,
            marked: Hlc::ZERO,
            blocks: BlockStatus {
                blocked_by_me: seen.blocks.blocked_by_them,
                blocked_by_them: seen.blocks.blocked_by_me,
            },
            ..seen.as_ref().clone()
        }))
    }
}
