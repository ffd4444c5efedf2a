//! Error kinds that every feature shares.
//!
//! A failure is either about the store (it may well work later: [`StoreError::is_transient`]) or about the
//! operation itself. The two never mix: the first leads to the buffer or to a retry, the second to the caller
//! or to the dead letters. `Display` never prints a source; the chain is logged once, at the boundary.

use std::borrow::Cow;
use thiserror::Error;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why a store could not answer.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The store cannot be reached, timed out, is shutting down, is read-only, or dropped the connection. The effect of a
    /// write that got this answer is unknown.
    #[error("the store is unavailable: {reason}")]
    Unavailable {
        /// A stable word for logs and metrics: `connect`, `timeout`, `closed`, `read_only`, `shutdown`, `breaker_open`.
        reason: &'static str,
        /// What the driver said.
        #[source]
        source: Option<Source>,
    },
    /// The store is up but could not take this now: pool exhausted, too many connections, deadlock,
    /// serialization failure, lock timeout. Not a reason to open the breaker.
    #[error("the store is busy: {reason}")]
    Busy {
        /// A stable word for logs and metrics: `pool`, `connections`, `serialization`, `lock`, `resources`,
        /// `deadline` (the request had little time left, so that a missing answer says nothing), `recorded` (the operation
        /// is committed, by another try of it, and its record cannot be read now).
        reason: &'static str,
        /// What the driver said.
        #[source]
        source: Option<Source>,
    },
    /// The store refused the operation itself (a constraint, a value it cannot hold).
    #[error("the store refused the operation: {reason}")]
    Rejected {
        /// A stable, public word or SQLSTATE-derived phrase such as `check_violation (tasks_title_check)`.
        reason: String,
        /// What the driver said.
        #[source]
        source: Option<Source>,
    },
}

impl StoreError {
    /// Unavailable, without a source.
    pub fn unavailable(reason: &'static str) -> Self {
        Self::Unavailable { reason, source: None }
    }

    /// The same without its source, for each of several callers that it is about.
    #[must_use]
    pub fn shared(&self) -> Self {
        match self {
            Self::Unavailable { reason, .. } => Self::Unavailable { reason, source: None },
            Self::Busy { reason, .. } => Self::Busy { reason, source: None },
            Self::Rejected { reason, .. } => Self::Rejected {
                reason: reason.clone(),
                source: None,
            },
        }
    }

    /// True when the same operation may succeed later; such a failure never counts as an attempt.
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Rejected { .. })
    }

    /// True when the failure says that the store is down: evidence for the connection monitor.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// One field of a body that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field's JSON name.
    pub field: Cow<'static, str>,
    /// Stable code: `required`, `too_short`, `too_long`, `invalid_character`, `invalid_format`, `invalid_value`.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl FieldError {
    /// A field error from its parts.
    pub fn new(field: impl Into<Cow<'static, str>>, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            code,
            message: message.into(),
        }
    }
}
