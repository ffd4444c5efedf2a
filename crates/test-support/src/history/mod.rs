//! What clients did and saw during a run, what was found in the stores afterwards, and whether the promises were kept.
//!
//! - This module is the record: [`History`] holds the [`Event`]s in any order and the [`Facts`] read at the end.
//! - [`check`] is pure: a history in, violations out. It judges by real-time order only: of two writes, one is later
//!   when it began after the other's answer. A write without an answer may take effect at any later time, or never.
//! - [`shrink`] finds the shortest history that still shows a violation; [`show`] prints it.
//!
//! Every title and description written in a run must be unique, so that a value names its writer. The flags of items of a
//! stream have two values only: each must have a writer that no later one had to follow.

mod check;
mod entity;
mod reads;
mod show;
mod shrink;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use check::check;
pub use show::show;
pub use shrink::{about, shrink};

/// Microseconds since the run began.
pub type Time = u64;

/// Field name to value; `None` is null.
pub type Fields = BTreeMap<String, Option<String>>;

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Makes an entity.
    Create,
    /// Sets fields.
    Update,
    /// Deletes it.
    Delete,
}

impl Kind {
    /// The name in the API and in Postgres.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// Why there was no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// The connection failed or was cut.
    Cut,
    /// The client gave up.
    GaveUp,
    /// The client's patience, far beyond any deadline of the server, ran out.
    TimedOut,
}

/// Any answer but success, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A status that is no success.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The problem's `code`.
        code: String,
        /// Whether `Retry-After` was there.
        retry_after: bool,
    },
    /// No answer.
    Silent(Silence),
}

impl Failure {
    /// Whether the write may have taken effect, or may yet.
    #[must_use]
    pub fn leaves_open(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status >= 500,
            Self::Silent(_) => true,
        }
    }
}

/// A success of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The HTTP status.
    pub status: u16,
    /// `Operation-Id`.
    pub operation: String,
    /// `data.version`, when there was a body.
    pub version: Option<u64>,
    /// The body, for comparison with replays.
    pub body: String,
}

/// One request of a write; retries with the same `Idempotency-Key` are attempts of one write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The node it went to.
    pub node: usize,
    /// When it was sent.
    pub start: Time,
    /// When it was answered or given up.
    pub end: Time,
    /// What came.
    pub outcome: Result<Ack, Failure>,
}

/// A write with all its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Whose.
    pub user: String,
    /// The entity's id; unknown for a create that was never answered.
    pub entity: Option<String>,
    /// What it does.
    pub kind: Kind,
    /// The fields it sets.
    pub fields: Fields,
    /// In order, and not overlapping.
    pub attempts: Vec<Attempt>,
}

/// An entity as an answer showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its id.
    pub entity: String,
    /// Its version.
    pub version: u64,
    /// Its fields.
    pub fields: Fields,
}

/// What a read answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// 200 for one entity.
    One(Shown),
    /// 404.
    Absent,
    /// 200 for a list of all the user's tasks.
    All(Vec<Shown>),
    /// Anything else.
    Failed(Failure),
}

/// A read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Whose.
    pub user: String,
    /// The entity asked for; `None` for the list.
    pub entity: Option<String>,
    /// The node.
    pub node: usize,
    /// When it was sent.
    pub start: Time,
    /// When it was answered.
    pub end: Time,
    /// What came.
    pub seen: Seen,
}

/// Something a client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A write.
    Write(Write),
    /// A read.
    Read(Read),
}

impl Event {
    /// When it began.
    #[must_use]
    pub fn start(&self) -> Time {
        match self {
            Self::Write(write) => write.attempts.first().map_or(0, |attempt| attempt.start),
            Self::Read(read) => read.start,
        }
    }
}

/// A row in Postgres after the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its owner.
    pub user: String,
    /// Whether it is a tombstone.
    pub deleted: bool,
    /// The rest.
    pub shown: Shown,
}

/// A row of `applied_operations` after the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedRow {
    /// The operation's id.
    pub operation: String,
    /// The entity.
    pub entity: String,
    /// What it did.
    pub kind: String,
    /// Whether a newer write had won.
    pub superseded: bool,
}

/// A dead letter after the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The operation's id.
    pub operation: String,
    /// The entity, when the record told.
    pub entity: Option<String>,
    /// Why.
    pub reason: String,
}

/// What one node answered after everything was healed and drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The node.
    pub node: usize,
    /// The entity asked for.
    pub entity: String,
    /// What came; never [`Seen::All`].
    pub seen: Seen,
}

/// What was found after the run, when every buffer was empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Entities that were there before the run.
    pub initial: Vec<Row>,
    /// All rows.
    pub rows: Vec<Row>,
    /// All applied operations.
    pub applied: Vec<AppliedRow>,
    /// The dead letters of all nodes.
    pub letters: Vec<Letter>,
    /// Every entity on every node.
    pub views: Vec<View>,
    /// Whether a node said, in its metrics, that buffered records were lost.
    pub announced: bool,
}

/// What the run allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How many nodes served it.
    pub nodes: usize,
    /// Buffer files were damaged: losses that are announced are no violation.
    pub damaged: bool,
    /// Postgres was never touched: no write may be buffered.
    pub postgres_untouched: bool,
    /// The longest that a request may take.
    pub request_limit: Time,
}

/// A node's process ended, in whatever way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// The node.
    pub node: usize,
    /// When.
    pub at: Time,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// What it allows.
    pub rules: Rules,
    /// In any order.
    pub restarts: Vec<Restart>,
    /// What clients did, in any order.
    pub events: Vec<Event>,
    /// What was found afterwards.
    pub facts: Facts,
}

impl History {
    /// Whether the node's process ended between these times.
    fn restarted(&self, node: usize, from: Time, to: Time) -> bool {
        self.restarts
            .iter()
            .any(|restart| restart.node == node && restart.at >= from && restart.at <= to)
    }
}

/// How a promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// R1: a committed write is gone.
    Lost,
    /// R2: a write took effect twice.
    Doubled,
    /// R2: a replay was answered otherwise than the first time.
    ReplayChanged,
    /// R3: an older write won.
    Reordered,
    /// R3: a later answer showed a lower version.
    WentBack,
    /// R4: a read did not show an earlier write.
    StaleRead,
    /// R4, R9: what was deleted is back.
    Resurrected,
    /// R5: a buffered write was neither applied nor put into the dead letters.
    Dropped,
    /// R5: a dead letter that nothing explains.
    NeedlessLetter,
    /// R6 and the HTTP contract: an answer that is not allowed here.
    WrongStatus,
    /// R7: a request took too long.
    Slow,
    /// R9: a node shows something else than Postgres.
    Diverged,
    /// A value or row that nobody wrote.
    Invented,
    /// Redis or nothing at all was down, and a write was buffered.
    NeedlessBuffering,
}

impl Broken {
    /// The promise, in words.
    #[must_use]
    pub fn promise(self) -> &'static str {
        match self {
            Self::Lost => "R1 durable: a committed write is gone",
            Self::Doubled => "R2 exactly once: a write took effect twice",
            Self::ReplayChanged => "R2 exactly once: a replay was answered otherwise than the first request",
            Self::Reordered => "R3 in order: an older write won over an acknowledged newer one",
            Self::WentBack => "R3 in order: a later answer shows a lower version",
            Self::StaleRead => "R4 read your writes: a read does not show an acknowledged write",
            Self::Resurrected => "R4 read your writes: what was deleted is back",
            Self::Dropped => {
                "R5 nothing dropped: a buffered write is neither applied nor in the dead letters"
            }
            Self::NeedlessLetter => "R5 nothing dropped: a dead letter that nothing explains",
            Self::WrongStatus => "R6 bounded: an answer that the contract does not allow here",
            Self::Slow => "R7 fast in the dark: a request waited too long",
            Self::Diverged => "R9 convergent: a node shows something else than Postgres after the drain",
            Self::Invented => "R2 exactly once: a value or row that nobody wrote",
            Self::NeedlessBuffering => "a write was buffered although Postgres was never touched",
        }
    }
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// How.
    pub broken: Broken,
    /// The entity, when it lies in one.
    pub entity: Option<String>,
    /// What was seen.
    pub message: String,
}
