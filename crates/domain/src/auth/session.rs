//! Login sessions: one family of refresh tokens each.
//!
//! A session is at a *generation*. Refreshing with the token of that generation spends it and moves the session to
//! the next. The token just spent may come again for a short grace (two tabs) and gets the pair of the present generation once
//! more; any other spent token means that somebody has a copy, and ends the session.

use super::refresh_token::RefreshHash;
use crate::auth::Role;
use crate::clock::Timestamp;
use crate::id::{SessionId, UserId};
use std::time::Duration;

/// A session to be stored, at generation 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// The user's role at login, for access tokens made while Postgres is down.
    pub role: Role,
    /// What logged in (`User-Agent`, at most 255 characters).
    pub client: Option<String>,
    /// The hash of its refresh token.
    pub refresh_hash: RefreshHash,
    /// When it began.
    pub created_at: Timestamp,
    /// When it ends unless refreshed.
    pub expires_at: Timestamp,
}

/// A stored session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// The user's role at login.
    pub role: Role,
    /// What logged in.
    pub client: Option<String>,
    /// How often it was refreshed.
    pub generation: u32,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was last refreshed, or began.
    pub last_used_at: Timestamp,
    /// When it ends unless refreshed.
    pub expires_at: Timestamp,
}

/// A refresh token presented, and what it is to be exchanged for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spend {
    /// The session it is of.
    pub session_id: SessionId,
    /// Whose the session is.
    pub user_id: UserId,
    /// The generation of the token presented.
    pub generation: u32,
    /// Its hash.
    pub presented: RefreshHash,
    /// The hash of the token of the next generation.
    pub successor: RefreshHash,
    /// The time.
    pub now: Timestamp,
    /// For how long after it was spent a token may come again.
    pub grace: Duration,
    /// When the session ends unless refreshed again.
    pub expires_at: Timestamp,
}

/// What became of a [`Spend`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// The token was the present one: the session moved to the next generation.
    Rotated(Session),
    /// The token was spent a moment ago: the session stays at its present generation, whose pair is given again.
    Replayed(Session),
    /// A spent token: the session is revoked.
    Revoked,
    /// There is no such session, or the token never was one of it.
    Unknown,
}
