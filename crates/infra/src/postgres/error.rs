//! What a failure means: one table from SQLSTATE to "away", "busy", or "about the operation".
//!
//! | SQLSTATE | meaning | class |
//! |---|---|---|
//! | 08…, 40003, 25P03, 57P05 | connection lost or closed | outage `closed` |
//! | 57P01, 57P02, 57P03, 57P04 | shutting down, starting up, gone | outage `shutdown` |
//! | 25006 | read-only after a failover | outage `read_only` |
//! | 28…, 3D000 | it does not let us in | outage `connect` |
//! | 53300 | too many connections | busy `connections` |
//! | 53… | out of disk or memory | busy `resources` |
//! | 40… | deadlock, serialization | busy `serialization` |
//! | 55… | lock timeout, object in use | busy `lock` |
//! | 57014 | statement timeout | busy `statement_timeout` |
//! | 0A000, 26000 | a prepared statement is out of date | busy `plan` |
//! | 42…, 3F000 | our schema is not there, or not ours to use | busy `schema` |
//! | 22…, 23…, 44…, 54…, P0… | this value, this constraint, this trigger | the operation |
//! | all else | unknown | no operation is to blame |
//!
//! Reasons hold condition and constraint names, never values: Postgres puts those in messages and details.

use gravity_domain::error::StoreError;
use gravity_domain::sync::BatchError;
use std::io;
use thiserror::Error;
use tokio_postgres::Error as DriverError;
use tokio_postgres::error::{DbError, SqlState};

/// Why a query gave no answer. Becomes a [`StoreError`] unless the caller, knowing the intent, makes more of it.
#[derive(Debug, Error)]
pub enum QueryError {
    /// The deadline passed; the connection was dropped.
    #[error("the deadline passed")]
    Deadline,
    /// As [`Self::Deadline`], when the request had so little time left that it says nothing of the server.
    #[error("the request had too little time left")]
    Hurried,
    /// Others found the server gone meanwhile; the connection was dropped.
    #[error("the breaker opened meanwhile")]
    GivenUp,
    /// All connections were in use for too long.
    #[error("no connection was free in time")]
    Exhausted,
    /// No connection could be made (in time, when there is no source).
    #[error("no connection could be made")]
    Connect(#[source] Option<DriverError>),
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
    /// The driver's or the server's error.
    #[error("the query failed")]
    Driver(#[from] DriverError),
    /// A row holds what the domain cannot read; names the column.
    #[error("a row cannot be read: {0}")]
    Row(&'static str),
}

/// What a SQLSTATE says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Class {
    /// The server cannot be used now; the word is that of [`StoreError::Unavailable`].
    Outage(&'static str),
    /// The server is up but could not do this now; the word is that of [`StoreError::Busy`].
    Busy(&'static str),
    /// The operation itself is at fault; the condition's name.
    Operation(&'static str),
    /// Not foreseen.
    Unknown,
}

pub(super) fn class(state: &SqlState) -> Class {
    let code = state.code();
    match code {
        "40003" | "25P03" | "57P05" => return Class::Outage("closed"),
        "57P01" | "57P02" | "57P03" | "57P04" => return Class::Outage("shutdown"),
        "25006" => return Class::Outage("read_only"),
        "3D000" => return Class::Outage("connect"),
        "53300" => return Class::Busy("connections"),
        "57014" => return Class::Busy("statement_timeout"),
        "0A000" | "26000" => return Class::Busy("plan"),
        "3F000" => return Class::Busy("schema"),
        _ => {}
    }
    match code.get(..2).unwrap_or_default() {
        "08" => Class::Outage("closed"),
        "28" => Class::Outage("connect"),
        "53" => Class::Busy("resources"),
        "40" => Class::Busy("serialization"),
        "55" => Class::Busy("lock"),
        "42" => Class::Busy("schema"),
        "22" | "23" | "44" | "54" | "P0" => Class::Operation(condition(code)),
        _ => Class::Unknown,
    }
}

fn condition(code: &str) -> &'static str {
    match code {
        "22001" => "value_too_long",
        "22003" => "numeric_value_out_of_range",
        "22021" => "character_not_in_repertoire",
        "22P05" => "untranslatable_character",
        "23502" => "not_null_violation",
        "23503" => "foreign_key_violation",
        "23505" => "unique_violation",
        "23514" => "check_violation",
        "23P01" => "exclusion_violation",
        "P0001" => "raise_exception",
        code if code.starts_with("22") => "data_exception",
        code if code.starts_with("23") => "integrity_constraint_violation",
        code if code.starts_with("44") => "with_check_option_violation",
        code if code.starts_with("54") => "program_limit_exceeded",
        _ => "trigger_exception",
    }
}

/// A condition of class 22, 23, 44, 54 or P0: the operation itself is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal<'a> {
    /// The condition's name, such as `unique_violation`.
    pub condition: &'static str,
    /// The constraint, when one is named.
    pub constraint: Option<&'a str>,
}

/// What the server refused about the operation itself, for callers who know the intent (a taken username, for one).
pub fn refusal(error: &QueryError) -> Option<Refusal<'_>> {
    let db = error.db()?;
    match class(db.code()) {
        Class::Operation(condition) => Some(Refusal {
            condition,
            constraint: db.constraint(),
        }),
        _ => None,
    }
}

impl QueryError {
    fn db(&self) -> Option<&DbError> {
        match self {
            Self::Driver(error) | Self::Connect(Some(error)) => error.as_db_error(),
            _ => None,
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::Deadline => Class::Outage("timeout"),
            Self::Hurried => Class::Busy("deadline"),
            Self::GivenUp => Class::Outage("breaker_open"),
            Self::Exhausted => Class::Busy("pool"),
            Self::Closed => Class::Outage("shutdown"),
            Self::Connect(cause) => match cause.as_ref().map(class_of) {
                Some(Class::Busy(word)) => Class::Busy(word),
                Some(Class::Outage(word @ ("shutdown" | "read_only"))) => Class::Outage(word),
                _ => Class::Outage("connect"),
            },
            Self::Driver(cause) => class_of(cause),
            Self::Row(_) => Class::Unknown,
        }
    }

    /// The word for metrics.
    pub(super) fn word(&self) -> &'static str {
        match self.class() {
            Class::Outage(word) | Class::Busy(word) | Class::Operation(word) => word,
            Class::Unknown => "unknown",
        }
    }

    /// True for a unique violation of this constraint.
    pub fn is_duplicate_of(&self, constraint: &str) -> bool {
        refusal(self).is_some_and(|refusal| {
            refusal.condition == "unique_violation" && refusal.constraint == Some(constraint)
        })
    }

    /// True when the session can be used again: the server answered with an error that ended the statement only.
    pub(super) fn leaves_session_usable(&self) -> bool {
        match self {
            Self::Row(_) => true,
            Self::Driver(error) => error.as_db_error().is_some_and(|db| {
                let fatal = matches!(
                    db.parsed_severity(),
                    Some(tokio_postgres::error::Severity::Fatal | tokio_postgres::error::Severity::Panic)
                );
                !fatal && !matches!(class(db.code()), Class::Outage(_) | Class::Busy("plan"))
            }),
            _ => false,
        }
    }

    /// True when statements prepared earlier no longer fit the schema.
    pub(super) fn outdates_statements(&self) -> bool {
        self.db()
            .is_some_and(|db| class(db.code()) == Class::Busy("plan"))
    }

    /// For the drain: was it the operation at `index`?
    pub(crate) fn in_batch(self, index: usize) -> BatchError {
        let reason = refusal(&self).map(|refusal| format!("rejected: {}", worded(refusal)));
        match reason {
            Some(reason) => BatchError::Operation { index, reason },
            None => BatchError::Transient(self.into()),
        }
    }
}

fn worded(refusal: Refusal<'_>) -> String {
    match refusal.constraint {
        Some(constraint) => format!("{} ({constraint})", refusal.condition),
        None => refusal.condition.to_owned(),
    }
}

impl From<QueryError> for StoreError {
    fn from(error: QueryError) -> Self {
        let class = error.class();
        let reason = match &error {
            QueryError::Row(column) => format!("unreadable_row ({column})"),
            other => match (refusal(other), other.db()) {
                (Some(refusal), _) => worded(refusal),
                (None, Some(db)) => format!("sqlstate_{}", db.code().code()),
                (None, None) => "unexpected_answer".to_owned(),
            },
        };
        let source: Option<Box<dyn std::error::Error + Send + Sync>> = Some(Box::new(error));
        match class {
            Class::Outage(reason) => Self::Unavailable { reason, source },
            Class::Busy(reason) => Self::Busy { reason, source },
            Class::Operation(_) | Class::Unknown => Self::Rejected { reason, source },
        }
    }
}

pub(super) fn class_of(error: &DriverError) -> Class {
    if let Some(db) = error.as_db_error() {
        return class(db.code());
    }
    if error.is_closed() {
        return Class::Outage("closed");
    }
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    match io.map(io::Error::kind) {
        // The driver's own words for a server that does not match `target_session_attrs`.
        Some(io::ErrorKind::PermissionDenied) => Class::Outage("read_only"),
        Some(io::ErrorKind::TimedOut) => Class::Outage("timeout"),
        Some(_) => Class::Outage("closed"),
        None => Class::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_has_its_meaning() {
        let cases = [
            ("08006", Class::Outage("closed")),
            ("57P01", Class::Outage("shutdown")),
            ("57P03", Class::Outage("shutdown")),
            ("25006", Class::Outage("read_only")),
            ("28P01", Class::Outage("connect")),
            ("53300", Class::Busy("connections")),
            ("53100", Class::Busy("resources")),
            ("40001", Class::Busy("serialization")),
            ("40P01", Class::Busy("serialization")),
            ("55P03", Class::Busy("lock")),
            ("57014", Class::Busy("statement_timeout")),
            ("0A000", Class::Busy("plan")),
            ("42P01", Class::Busy("schema")),
            ("23514", Class::Operation("check_violation")),
            ("22021", Class::Operation("character_not_in_repertoire")),
            ("P0001", Class::Operation("raise_exception")),
            ("XX000", Class::Unknown),
        ];
        for (code, meaning) in cases {
            assert_eq!(class(&SqlState::from_code(code)), meaning, "{code}");
        }
    }

    #[test]
    fn what_never_reached_the_server_is_an_outage_except_for_lack_of_connections_or_time() {
        assert!(StoreError::from(QueryError::Deadline).is_outage());
        assert!(StoreError::from(QueryError::Connect(None)).is_outage());
        assert!(!StoreError::from(QueryError::Exhausted).is_outage());
        assert!(StoreError::from(QueryError::Exhausted).is_transient());
        assert!(!StoreError::from(QueryError::Hurried).is_outage());
        assert!(StoreError::from(QueryError::Hurried).is_transient());
    }
}
