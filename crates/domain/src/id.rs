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
