//! Operations, the buffer and dead letters as JSON.

use crate::health::HealthReport;
use gravity_domain::clock::Timestamp;
use gravity_domain::sync::{DeadLetter, OperationReport};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// An operation: one intended write.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationView<'a> {
    /// As in `Operation-Id`.
    pub id: Uuid,
    /// What it changes: `task` or `profile`.
    #[schema(example = "task")]
    pub entity: &'static str,
    /// Which one.
    pub entity_id: Uuid,
    /// `create`, `update` or `delete`.
    #[schema(example = "update")]
    pub kind: &'static str,
    /// `pending`, `applied`, `superseded` (a newer write won) or `dead`.
    #[schema(example = "applied")]
    pub state: &'static str,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub accepted_at: Timestamp,
    /// When it was committed.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub applied_at: Option<Timestamp>,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it is dead: a stable word first.
    #[schema(required = true)]
    pub reason: Option<&'a str>,
}

impl<'a> OperationView<'a> {
    /// `report` for its owner.
    pub fn of(report: &'a OperationReport) -> Self {
        Self {
            id: report.id.0,
            entity: report.entity.as_str(),
            entity_id: report.entity_id,
            kind: report.kind.as_str(),
            state: report.state.as_str(),
            accepted_at: report.accepted_at,
            applied_at: report.applied_at,
            attempts: report.attempts,
            reason: report.reason.as_deref(),
        }
    }
}

/// The condition of this node's write buffer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BufferReportView {
    /// `empty`, `processing`, `full` or `unavailable`.
    #[schema(example = "processing")]
    pub state: &'static str,
    /// Operations waiting.
    pub size: u64,
    /// The most it takes.
    pub max_size: u64,
    /// Bytes of the operations waiting.
    pub bytes: u64,
    /// The age of the oldest one; 0 when none waits.
    pub oldest_age_seconds: f64,
    /// Operations drained per second, of late.
    pub drain_rate_per_second: f64,
    /// Dead letters kept.
    pub dead_letters: u64,
}

impl From<&HealthReport> for BufferReportView {
    fn from(report: &HealthReport) -> Self {
        Self {
            state: report.buffer.state.as_str(),
            size: report.buffer.size,
            max_size: report.buffer.max_size,
            bytes: report.buffer.bytes,
            oldest_age_seconds: report.oldest_age_seconds(),
            drain_rate_per_second: report.drain_rate_per_second,
            dead_letters: report.buffer.dead_letters,
        }
    }
}

/// An operation set aside. What it would have written is its owner's, and not shown.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterView<'a> {
    /// The operation's id.
    pub id: Uuid,
    /// Why: a stable word first.
    #[schema(example = "not_found")]
    pub reason: &'a str,
    /// When it was set aside.
    #[schema(value_type = String, format = DateTime)]
    pub died_at: Timestamp,
    /// Whose it was, as far as is known.
    #[schema(required = true)]
    pub user_id: Option<Uuid>,
    /// What it changes; `null` like all below when its record cannot be decoded.
    #[schema(required = true, example = "task")]
    pub entity: Option<&'static str>,
    /// Which one.
    #[schema(required = true)]
    pub entity_id: Option<Uuid>,
    /// `create`, `update` or `delete`.
    #[schema(required = true, example = "update")]
    pub kind: Option<&'static str>,
    /// When it was accepted.
    #[schema(value_type = Option<String>, format = DateTime, required = true)]
    pub accepted_at: Option<Timestamp>,
    /// How often it was tried.
    #[schema(required = true)]
    pub attempts: Option<u32>,
    /// What went wrong the last time.
    #[schema(required = true)]
    pub last_error: Option<&'a str>,
}

impl<'a> DeadLetterView<'a> {
    /// `letter` for an operator.
    pub fn of(letter: &'a DeadLetter) -> Self {
        let operation = letter.operation.as_ref();
        Self {
            id: letter.id.0,
            reason: &letter.reason,
            died_at: letter.died_at,
            user_id: letter.user_id.map(|user| user.0),
            entity: operation.map(|operation| operation.entity().as_str()),
            entity_id: operation.map(|operation| operation.entity_id()),
            kind: operation.map(|operation| operation.kind().as_str()),
            accepted_at: operation.map(|operation| operation.accepted_at.timestamp()),
            attempts: operation.map(|operation| operation.attempts),
            last_error: operation.and_then(|operation| operation.last_error.as_deref()),
        }
    }
}
