//! Users as the authentication sees them.

use crate::id::{SessionId, UserId};
use crate::text::{TextError, single_line, text_type};
use serde::{Deserialize, Serialize};

text_type!(
    /// A username: `[a-z0-9_.]{3,32}` after case folding.
    Username,
    |raw| {
        let text = single_line(raw, 3, 32)?.to_lowercase();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.');
        if text.chars().all(allowed) { Ok(text) } else { Err(TextError::Malformed("may have a-z, 0-9, _ and . only")) }
    }
);

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// One's own data.
    #[default]
    User,
    /// The operators' calls too.
    Admin,
    /// Ingest: machines.
    Service,
}

impl Role {
    /// The name in tokens, in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
            Self::Service => "service",
        }
    }

    /// The role of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::User, Self::Admin, Self::Service]
            .into_iter()
            .find(|role| role.as_str() == name)
    }
}

/// Whether a user may do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserStatus {
    /// Yes.
    #[default]
    Active,
    /// No: every token is refused.
    Suspended,
}

impl UserStatus {
    /// The name in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }

    /// The status of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Active, Self::Suspended]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

/// Who a request is from, after its token was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub user_id: UserId,
    /// What the user may do.
    pub role: Role,
    /// The login session, for own access tokens that carry `sid`.
    pub session_id: Option<SessionId>,
}
