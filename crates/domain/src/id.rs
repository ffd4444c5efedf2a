//! Typed ids.
//!
//! Ids made here are UUIDv7. Ids that a retry must find again are derived (UUIDv5): an operation's from
//! (user, `Idempotency-Key`), a created entity's from its operation. Two nodes that accept the same retry
//! therefore converge on one row.

use serde::{Deserialize, Serialize};
use std::fmt;
use uuid::Uuid;

const OPERATION_NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a01);
const ENTITY_NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a02);
const SUBJECT_NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a03);
const ITEM_NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a04);
const PERSON_NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a05);
const CONVERSATION_NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a07);
const CHAT_MESSAGE_NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a08);
const BLOCK_NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a09);
const MESSAGE_NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a06);

macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

typed_id!(
    /// A user: the owner of a lane, of tasks and of a profile.
    UserId
);
typed_id!(
    /// A task.
    TaskId
);
typed_id!(
    /// One intended write.
    OperationId
);
typed_id!(
    /// A login session: one refresh-token family.
    SessionId
);
typed_id!(
    /// An item of a stream.
    ItemId
);
typed_id!(
    /// Somebody who takes part in an item.
    PersonId
);
typed_id!(
    /// A message of an item.
    MessageId
);

typed_id!(
    /// A conversation.
    ConversationId
);
typed_id!(
    /// A message of a conversation.
    ChatMessageId
);

/// A UUIDv5 of `parts`, kept apart by NULs, which no text of ours holds.
fn derived(namespace: &Uuid, owner: Uuid, parts: &[&str]) -> Uuid {
    let mut name = owner.as_bytes().to_vec();
    for part in parts {
        name.extend_from_slice(part.as_bytes());
        name.push(0);
    }
    Uuid::new_v5(namespace, &name)
}

impl ItemId {
    /// The id that an item of this name has, whoever ingests it.
    pub fn of(user: UserId, source: &str, external_id: &str) -> Self {
        Self(derived(&ITEM_NAMESPACE, user.0, &[source, external_id]))
    }
}

impl PersonId {
    /// The id of a person whom the source of a user's items names.
    pub fn of(user: UserId, source: &str, external_id: &str) -> Self {
        Self(derived(&PERSON_NAMESPACE, user.0, &[source, "id", external_id]))
    }

    /// The id of a person of whom the source tells the name only.
    pub fn of_name(user: UserId, source: &str, name: &str) -> Self {
        Self(derived(&PERSON_NAMESPACE, user.0, &[source, "name", name]))
    }
}

impl MessageId {
    /// The id that a message of this name has in its item.
    pub fn of(item: ItemId, external_id: &str) -> Self {
        Self(derived(&MESSAGE_NAMESPACE, item.0, &[external_id]))
    }
}

impl ConversationId {
    /// The conversation of these two, in either order.
    pub fn of(one: UserId, other: UserId) -> Self {
        Self(pair(&CONVERSATION_NAMESPACE, one.min(other).0, one.max(other).0))
    }
}

impl ChatMessageId {
    /// The id of the message that `sender` calls `client_message_id`, whichever node accepts it, and however often.
    pub fn of(sender: UserId, client_message_id: Uuid) -> Self {
        Self(pair(&CHAT_MESSAGE_NAMESPACE, sender.0, client_message_id))
    }
}

/// The id of the block of `blocked` by `blocker`.
pub fn block_id(blocker: UserId, blocked: UserId) -> Uuid {
    pair(&BLOCK_NAMESPACE, blocker.0, blocked.0)
}

fn pair(namespace: &Uuid, first: Uuid, second: Uuid) -> Uuid {
    let mut name = [0u8; 32];
    name[..16].copy_from_slice(first.as_bytes());
    name[16..].copy_from_slice(second.as_bytes());
    Uuid::new_v5(namespace, &name)
}

impl UserId {
    /// A new random, time-ordered id.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }

    /// The user an outside provider's `subject` stands for: the subject itself when it is a UUID, else a
    /// UUIDv5 of (issuer, subject).
    pub fn of_subject(issuer: &str, subject: &str) -> Self {
        if let Ok(id) = Uuid::try_parse(subject) {
            return Self(id);
        }
        let mut name = Vec::with_capacity(issuer.len() + subject.len() + 1);
        name.extend_from_slice(issuer.as_bytes());
        name.push(0);
        name.extend_from_slice(subject.as_bytes());
        Self(Uuid::new_v5(&SUBJECT_NAMESPACE, &name))
    }
}

impl SessionId {
    /// A new random, time-ordered id.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }
}

impl OperationId {
    /// A new random, time-ordered id, for a request without an `Idempotency-Key`.
    pub fn random() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id that every retry with this `key` by this `user` gets.
    pub fn for_key(user: UserId, key: &str) -> Self {
        let mut name = Vec::with_capacity(16 + key.len());
        name.extend_from_slice(user.0.as_bytes());
        name.extend_from_slice(key.as_bytes());
        Self(Uuid::new_v5(&OPERATION_NAMESPACE, &name))
    }

    /// The id of the entity this operation creates.
    pub fn created_entity(self) -> Uuid {
        Uuid::new_v5(&ENTITY_NAMESPACE, self.0.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_user_and_key_always_name_the_same_operation() {
        let user = UserId::random();
        assert_eq!(OperationId::for_key(user, "k"), OperationId::for_key(user, "k"));
        assert_ne!(OperationId::for_key(user, "k"), OperationId::for_key(user, "l"));
        assert_ne!(
            OperationId::for_key(user, "k"),
            OperationId::for_key(UserId::random(), "k")
        );
    }

    #[test]
    fn two_people_have_one_conversation_and_a_block_has_a_direction() {
        let (a, b) = (UserId::random(), UserId::random());
        assert_eq!(ConversationId::of(a, b), ConversationId::of(b, a));
        assert_ne!(ConversationId::of(a, b), ConversationId::of(a, a));
        assert_ne!(block_id(a, b), block_id(b, a));
        assert_ne!(ChatMessageId::of(a, b.0), ChatMessageId::of(b, a.0));
    }

    #[test]
    fn names_that_only_look_alike_when_joined_name_different_items() {
        let user = UserId::random();
        assert_eq!(ItemId::of(user, "a", "bc"), ItemId::of(user, "a", "bc"));
        assert_ne!(ItemId::of(user, "a", "bc"), ItemId::of(user, "ab", "c"));
        assert_ne!(PersonId::of(user, "a", "b"), PersonId::of_name(user, "a", "b"));
    }

    #[test]
    fn a_subject_that_is_a_uuid_is_kept_and_any_other_is_mapped_by_issuer() {
        let id = Uuid::now_v7();
        assert_eq!(UserId::of_subject("https://a", &id.to_string()), UserId(id));
        assert_eq!(
            UserId::of_subject("https://a", "x"),
            UserId::of_subject("https://a", "x")
        );
        assert_ne!(
            UserId::of_subject("https://a", "x"),
            UserId::of_subject("https://b", "x")
        );
    }
}
