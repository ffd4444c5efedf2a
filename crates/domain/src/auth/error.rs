//! Why somebody was not let in.

use super::RateDecision;
use crate::error::StoreError;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Why an authentication call failed. `Display` is safe to log, never shown to the caller.
#[derive(Debug, Clone, Error)]
pub enum AuthError {
    /// No token, or one that is not good: 401 `unauthenticated`.
    #[error("not authenticated: {why}")]
    Unauthenticated {
        /// A stable word for logs and metrics only: `missing`, `malformed`, `expired`, `signature`…
        why: &'static str,
    },
    /// Wrong username or password; which of them is not told: 401 `invalid_credentials`.
    #[error("wrong username or password")]
    InvalidCredentials,
    /// 409 `username_taken`.
    #[error("the username is taken")]
    UsernameTaken,
    /// Too many calls: 429 `rate_limited`.
    #[error("too many calls ({})", .0.quota.name)]
    RateLimited(RateDecision),
    /// The caller may not do this, or the call is switched off: 403 `forbidden`.
    #[error("forbidden: {why}")]
    Forbidden {
        /// A stable word for logs.
        why: &'static str,
    },
    /// There is no such session of this user: 404 `not_found`.
    #[error("no such session")]
    SessionNotFound,
    /// Something needed is down: 503 `unavailable`, with `Retry-After`.
    #[error("{what} unavailable")]
    Unavailable {
        /// What: `accounts`, `sessions`, `keys`, `hashing`.
        what: &'static str,
        /// When to try again.
        retry_after: Duration,
        /// What the store said.
        #[source]
        source: Option<Arc<StoreError>>,
    },
    /// A defect or a wrong setting: 500, logged.
    #[error("internal: {0}")]
    Internal(String),
}

impl AuthError {
    /// Not authenticated, for this reason.
    pub fn unauthenticated(why: &'static str) -> Self {
        Self::Unauthenticated { why }
    }

    /// `what` did not answer; 1 s is suggested for the retry.
    pub fn unavailable(what: &'static str, source: StoreError) -> Self {
        Self::Unavailable {
            what,
            retry_after: Duration::from_secs(1),
            source: Some(Arc::new(source)),
        }
    }
}
