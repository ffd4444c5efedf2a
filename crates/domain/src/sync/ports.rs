//! The ports of the write path.

use super::entity::{Entity, EntityKind, EntityState};
use super::error::WriteError;
use super::operation::Operation;
use super::outcome::{AppliedRecord, Verdict};
use crate::chat::UserEvent;
use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::id::{OperationId, UserId};
use async_trait::async_trait;
use std::sync::Arc;
use thiserror::Error;
use uuid::Uuid;

/// Applies operations to Postgres and remembers them.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait OperationStore: Send + Sync {
    /// Applies a fresh operation in one statement, its id in the same transaction. Never records anything unless the
    /// verdict is [`Verdict::Applied`]. Bounded by the write deadline.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] leaves open whether it was committed: the caller buffers the very same operation.
    async fn apply(&self, operation: &Operation) -> Result<Verdict, StoreError>;

    /// What is remembered of a committed operation of `user`; `None` when there is none.
    async fn find(&self, user: UserId, id: OperationId) -> Result<Option<AppliedRecord>, StoreError>;
}

/// Why a batch was rolled back as a whole.
#[derive(Debug, Error)]
pub enum BatchError {
    /// A reason that may pass (connection, timeout, serialization, shutdown), or an unknown one. No operation is to blame.
    #[error(transparent)]
    Transient(StoreError),
    /// Postgres refused the operation at this index of the batch.
    #[error("operation {index} of the batch was refused: {reason}")]
    Operation {
        /// Index in the batch.
        index: usize,
        /// Stable word first, as in [`DeadLetter::reason`].
        reason: String,
    },
}

/// Applies batches of buffered operations to Postgres, for the drain.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait ReplayStore: Send + Sync {
    /// Applies all in one transaction, in order, with pipelined statements, each operation's id with its effect. One
    /// verdict each; [`Verdict::Missing`] and [`Verdict::PreconditionFailed`] leave the others alone.
    /// [`Verdict::Late`] is never given: an operation that newer writes have overtaken is applied and superseded.
    ///
    /// # Errors
    /// [`BatchError`]: the transaction was rolled back, or its fate is unknown; replaying it is safe either way.
    async fn replay(&self, operations: &[Operation]) -> Result<Vec<Verdict>, BatchError>;
}

/// Hears of rows that the drain has committed, before the buffer lets their operations go: so that what this node
/// remembers never falls behind what it has acknowledged.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait AppliedListener: Send + Sync {
    /// `state` is in Postgres.
    fn applied(&self, state: EntityState);

    /// `operation` turned out to be in Postgres already ([`Verdict::Duplicate`]), so the row it left was not seen. What is
    /// known of its entity may be older than the operation, and must be forgotten (for a task, the user's known list too)
    /// before the buffer lets the operation go: later reads in the dark then answer 503 instead of an old value.
    fn already_applied(&self, operation: &Operation);

    /// An operation was set aside for good, for `reason` ([`DeadLetter::reason`]): what it promised will not be. `events` were
    /// committed to users' logs when Postgres refused it; none when it never got there.
    fn set_aside(&self, operation: &Operation, reason: &str, events: &[UserEvent]);
}

/// Says whether Postgres is worth trying, and is told when it was not.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait Breaker: Send + Sync {
    /// False while the breaker is open, or Postgres takes no writes (read-only after a failover).
    fn allows_writes(&self) -> bool;
    /// False while the breaker is open.
    fn allows_reads(&self) -> bool;
    /// A request failed. An outage opens the breaker at once; anything else changes nothing.
    fn failed(&self, error: &StoreError);
}

/// Finds rows of one kind of entity in Postgres.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait EntityStore<E: Entity>: Send + Sync {
    /// The entity with this id, if `user` owns it; tombstones included. `None`: there is none, or it is another's.
    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<E>, StoreError>;
}

/// What this node remembers of an entity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<E> {
    /// Its last known value, possibly a tombstone.
    Known(E),
    /// It is known that there is none.
    Absent,
    /// Nothing is known.
    Unknown,
}

/// The last known values of one kind of entity, in this process. Bounded; forgetting is allowed, going backwards is not.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait EntityCache<E: Entity>: Send + Sync {
    /// What is known of the entity.
    fn find(&self, user: UserId, id: Uuid) -> Found<E>;
    /// Remembers a row that this node has just written to Postgres, unless a newer version is known.
    fn learn(&self, entity: E);
    /// A mark to take before rows are read: see [`Self::learn_read`].
    fn mark(&self, user: UserId) -> u64;
    /// Remembers a row read from Postgres after `mark` was taken, unless a newer version is known, or what is known of the
    /// entity may have been forgotten since: the row could be older than that.
    fn learn_read(&self, entity: E, mark: u64);
}

/// A buffered operation and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its sequence number in the buffer: the order of acceptance on this node.
    pub sequence: u64,
    /// The operation.
    pub operation: Operation,
}

/// A record taken from the buffer for the drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Names the record to [`DrainBuffer`]; opaque outside the buffer's adapter.
    pub parcel: Parcel,
    /// The operation, or why its record cannot be read (`checksum_mismatch`, `undecodable: …`).
    pub operation: Result<Operation, String>,
}

/// Where a record lies: the drain's handle on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Parcel {
    /// 5 minus the effective priority: first part of the drain order.
    pub rank: u8,
    /// The sequence number: second part of the drain order.
    pub sequence: u64,
}

/// Why the buffer did not take or give something.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BufferError {
    /// At its limit of operations or bytes, of operations of one user or on one entity, or the disk is full. What was
    /// acknowledged is safe. Nothing was written, except perhaps by the append that met the end of the disk.
    #[error("the write buffer is full")]
    Full,
    /// Not open: locked by another process, damaged beyond opening, or failed and being reopened; or a record that the
    /// answer depends on cannot be read. Whether an append that got this answer survives is unknown.
    #[error("the write buffer is unavailable: {0}")]
    Unavailable(String),
    /// The operation is larger than the buffer takes.
    #[error("the operation is too large to buffer")]
    TooLarge,
    /// There is no such dead letter.
    #[error("no such dead letter")]
    NotFound,
    /// The dead letter's record cannot be decoded, so it cannot be retried.
    #[error("the dead letter cannot be decoded")]
    Undecodable,
}

/// An operation set aside, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The operation's id; for an undecodable record the one its index entry told, else derived from its bytes.
    pub id: OperationId,
    /// The operation; absent when its record cannot be decoded.
    pub operation: Option<Operation>,
    /// Whose it was, as far as is known.
    pub user_id: Option<UserId>,
    /// Stable word first: `not_found`, `version_mismatch`, `idempotency_key_reused`, `rejected: …`, `expired`,
    /// `checksum_mismatch`, `undecodable: …`.
    pub reason: String,
    /// When it was set aside.
    pub died_at: Timestamp,
    /// The first 4 KiB of the record, when it cannot be decoded. The buffer keeps the whole of it, for a retry.
    pub raw: Option<Vec<u8>>,
}

/// The buffer's condition, as `/ready` and `/health` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BufferState {
    /// Nothing waits.
    Empty,
    /// Something waits or drains.
    Processing,
    /// Takes no more.
    Full,
    /// Not open.
    Unavailable,
}

impl BufferState {
    /// The name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Processing => "processing",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A snapshot of the buffer, from atomics: no store is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferStatus {
    /// Its condition.
    pub state: BufferState,
    /// Operations waiting.
    pub size: u64,
    /// The most it takes (`BUFFER_MAX_SIZE`).
    pub max_size: u64,
    /// Bytes of the operations waiting.
    pub bytes: u64,
    /// When the oldest waiting operation was accepted.
    pub oldest: Option<Timestamp>,
    /// Dead letters kept.
    pub dead_letters: u64,
    /// Operations appended since the start.
    pub appended: u64,
    /// Operations removed after their commit since the start.
    pub drained: u64,
    /// True while it is not open but may hold operations: nobody knows then what a write would overtake or a read would
    /// miss, so neither is served.
    pub blocks_writes: bool,
}

/// The durable local queue, as the write and read paths use it. Reads after a returned [`Self::append`] see the operation
/// until it was removed or buried. Reads are answered from memory while nothing waits in the lane; else the store is read
/// on a thread for blocking work, never on the caller's. What waits is bounded, per lane and per entity.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait WriteBuffer: Send + Sync {
    /// Appends to the user's lane. When it returns `Ok`, the operation is on disk (group-committed: one sync for all
    /// that wait). Appending an id that is pending already is a no-op.
    ///
    /// It sets no deadline of its own, and may be given up (dropped) at any moment. What was not yet taken up by then is
    /// left out; what was, is committed whole: a write that takes effect though nobody was promised it. The same
    /// operation, or a retry with its `Idempotency-Key`, finds it by its id and does not add another.
    ///
    /// # Errors
    /// [`BufferError::Full`], [`BufferError::TooLarge`] and [`BufferError::Unavailable`]; the last one also when the id is
    /// pending, but its record cannot be read: what became of it is not known until it is a dead letter.
    async fn append(&self, operation: Operation) -> Result<(), BufferError>;

    /// How many operations wait in the user's lane: kept, not counted.
    ///
    /// # Errors
    /// [`BufferError::Unavailable`] when the buffer is not open and operations may be in it.
    async fn lane_length(&self, user: UserId) -> Result<u64, BufferError>;

    /// The pending operations on one entity, in order of acceptance.
    ///
    /// # Errors
    /// As [`Self::lane_length`], and when one of them cannot be read: until it is a dead letter, nobody knows what the
    /// entity looks like.
    async fn pending_on(
        &self,
        user: UserId,
        entity: EntityKind,
        id: Uuid,
    ) -> Result<Vec<Pending>, BufferError>;

    /// The pending operations on all entities of one kind, in order of acceptance.
    ///
    /// # Errors
    /// As [`Self::pending_on`].
    async fn pending_of(&self, user: UserId, entity: EntityKind) -> Result<Vec<Pending>, BufferError>;

    /// A pending operation by id, whoever's it is.
    ///
    /// # Errors
    /// As [`Self::pending_on`].
    async fn find(&self, id: OperationId) -> Result<Option<Pending>, BufferError>;

    /// A dead letter by operation id.
    ///
    /// # Errors
    /// As [`Self::lane_length`].
    async fn find_dead(&self, id: OperationId) -> Result<Option<DeadLetter>, BufferError>;

    /// Counts, sizes and condition, from atomics.
    fn status(&self) -> BufferStatus;
}

/// The durable local queue, as the drain uses it.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait DrainBuffer: Send + Sync {
    /// Up to `limit` records in drain order after `after` (from the start when `None`), each with its checksum verified.
    ///
    /// # Errors
    /// [`BufferError::Unavailable`].
    async fn peek(&self, after: Option<Parcel>, limit: usize) -> Result<Vec<Entry>, BufferError>;

    /// Lets go of records whose transaction is known to be committed. Durable on return.
    ///
    /// # Errors
    /// [`BufferError::Unavailable`]: they may come again, and are then duplicates.
    async fn remove(&self, parcels: Vec<Parcel>) -> Result<(), BufferError>;

    /// Moves a record to the dead letters, in one durable step.
    ///
    /// # Errors
    /// [`BufferError::Unavailable`].
    async fn bury(&self, parcel: Parcel, attempts: u32, reason: String) -> Result<(), BufferError>;

    /// Resolves when something was appended since the last call.
    async fn appended(&self);
}

/// The dead letters, as the admin calls use them.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Up to `limit` letters in order of id, after `after`.
    ///
    /// # Errors
    /// [`BufferError::Unavailable`].
    async fn list(&self, after: Option<OperationId>, limit: usize) -> Result<Vec<DeadLetter>, BufferError>;

    /// Puts the operation back at the end of its lane, with no attempts counted. Durable on return. An operation dead
    /// for its age is not parked for its age again. A record that could not be decoded is decoded anew.
    ///
    /// # Errors
    /// [`BufferError::NotFound`], [`BufferError::Undecodable`], [`BufferError::Full`], [`BufferError::Unavailable`].
    async fn retry(&self, id: OperationId) -> Result<DeadLetter, BufferError>;

    /// Throws the letter away. Durable on return.
    ///
    /// # Errors
    /// [`BufferError::NotFound`], [`BufferError::Unavailable`].
    async fn discard(&self, id: OperationId) -> Result<DeadLetter, BufferError>;
}

/// Judges an operation that is to be buffered by what is known, where its own pending effects do not tell.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Judge: Send + Sync {
    /// Writes what is known of the operation's subjects into it. `may_ask_store`: Postgres has not just failed this request.
    ///
    /// # Errors
    /// [`WriteError::Unknown`] when something it needs is not known: it is then refused, never accepted blindly.
    async fn judge(&self, operation: &mut Operation, may_ask_store: bool) -> Result<(), WriteError>;
}

/// Everything the write path hangs on, built in one place.
#[derive(Clone)]
pub struct WritePorts {
    /// Postgres.
    pub store: Arc<dyn OperationStore>,
    /// The breaker before it.
    pub breaker: Arc<dyn Breaker>,
    /// The durable local queue.
    pub buffer: Arc<dyn WriteBuffer>,
    /// Hears of writes that another process, or this one before, has committed.
    pub known: Arc<dyn AppliedListener>,
}
