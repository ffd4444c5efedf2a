//! Access tokens, before signing and after verification.

use super::{Role, Secret, Username};
use crate::clock::Timestamp;
use crate::id::{SessionId, UserId};
use crate::profile::Name;
use std::time::Duration;

/// What an own access token is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessClaims {
    /// `sub`.
    pub user_id: UserId,
    /// `role`.
    pub role: Role,
    /// `sid`.
    pub session_id: SessionId,
}

/// A signed access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// The JWT.
    pub token: Secret,
    /// How long it is valid from now.
    pub expires_in: Duration,
}

/// Who signed a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issuer {
    /// This service, or a machine that holds `JWT_SECRET`.
    Own,
    /// An outside identity provider, with what it tells of the user.
    Outside(OutsideClaims),
}

/// What an outside provider tells of a user; fields that are not valid here are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutsideClaims {
    /// `preferred_username`.
    pub username: Option<Username>,
    /// `name`.
    pub name: Option<Name>,
}

/// A token whose signature, times, issuer and audience are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedToken {
    /// Who signed it.
    pub issuer: Issuer,
    /// The user it speaks for.
    pub user_id: UserId,
    /// The role it claims; for outside tokens the one that the settings give it.
    pub role: Role,
    /// `sid`, of own login tokens.
    pub session_id: Option<SessionId>,
    /// `exp`.
    pub expires_at: Timestamp,
}
