//! What becomes of an operation, and how fresh an answer is.

use super::entity::{EntityKind, EntityState};
use super::fingerprint::Fingerprint;
use super::operation::OperationKind;
use crate::chat::UserEvent;
use crate::clock::{Hlc, Timestamp};
use crate::id::{OperationId, UserId};
use uuid::Uuid;

/// What an adapter says of applying one operation, direct or replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Committed with its id, and it had an effect (or, replayed, was superseded: see [`Applied::superseded`]).
    Applied(Applied),
    /// Its id was committed before: nothing was done.
    Duplicate(AppliedRecord),
    /// No such entity of this owner, or (direct only) a tombstone. Nothing was recorded.
    Missing,
    /// The entity is at another version. Nothing was recorded.
    PreconditionFailed {
        /// The version it is at.
        current: u64,
    },
    /// Direct only: the row carries a stamp that is not earlier. Nothing was recorded; the caller moves its clock past
    /// `newest`, stamps again and tries again.
    Late {
        /// The newest stamp on the row.
        newest: Hlc,
    },
    /// What it wants is not allowed, as things are now. Nothing was recorded.
    Refused(Refused),
}

/// An operation that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// Replayed only: what was appended to the logs of users so that they learn of it; empty for a direct write, whose answer
    /// says it.
    pub events: Vec<UserEvent>,
}

/// Why an operation is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// One of the two blocks the other.
    Blocked,
    /// The sender has used the message's id for another message.
    MessageIdReused,
}

impl Refusal {
    /// The code in the API, and the reason of a dead letter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::MessageIdReused => "message_id_reused",
        }
    }

    /// The refusal of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Blocked, Self::MessageIdReused]
            .into_iter()
            .find(|refusal| refusal.as_str() == name)
    }
}

/// A committed operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// True when newer writes had won already, so that it changed nothing (replayed operations only).
    pub superseded: bool,
    /// The row it left (a tombstone after a delete).
    pub state: EntityState,
}

/// What Postgres remembers of a committed operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedRecord {
    /// The operation.
    pub id: OperationId,
    /// Whose it was.
    pub user_id: UserId,
    /// What it changed.
    pub entity: EntityKind,
    /// The entity it changed.
    pub entity_id: Uuid,
    /// What it did.
    pub kind: OperationKind,
    /// Its stamp.
    pub accepted_at: Hlc,
    /// When its transaction ran.
    pub applied_at: Timestamp,
    /// How often it was tried, the successful time included.
    pub attempts: u32,
    /// True when a newer write had won.
    pub superseded: bool,
    /// Absent when it had no `Idempotency-Key`.
    pub fingerprint: Option<Fingerprint>,
    /// True when its first answer was 202.
    pub buffered: bool,
    /// What its first answer showed: the JSON of an [`EntityState`]; absent without a key.
    pub answer: Option<serde_json::Value>,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOutcome<T> {
    /// In Postgres.
    Committed(T),
    /// Synced to this node's disk; it will be in Postgres.
    Buffered(T),
}

impl<T> WriteOutcome<T> {
    /// The entity, wherever it is.
    pub fn into_inner(self) -> T {
        match self {
            Self::Committed(inner) | Self::Buffered(inner) => inner,
        }
    }
}

/// How fresh an answer is. Ordered: a page is as fresh as its least fresh part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// From Postgres.
    Current,
    /// From the cache: the last value this node knew.
    Stale,
    /// With the user's own buffered operations folded in.
    Pending,
}

/// Where an operation is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationState {
    /// In the write buffer.
    Pending,
    /// Committed.
    Applied,
    /// Committed, but a newer write had won.
    Superseded,
    /// Set aside with a reason.
    Dead,
}

impl OperationState {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Applied => "applied",
            Self::Superseded => "superseded",
            Self::Dead => "dead",
        }
    }
}

/// The answer of `GET /api/v1/operations/{id}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationReport {
    /// The operation.
    pub id: OperationId,
    /// What it changes.
    pub entity: EntityKind,
    /// Which one.
    pub entity_id: Uuid,
    /// How.
    pub kind: OperationKind,
    /// Where it is.
    pub state: OperationState,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it was committed.
    pub applied_at: Option<Timestamp>,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it is dead.
    pub reason: Option<String>,
}
