//! What a write or a read answers instead of a result.

use super::outcome::Refusal;
use super::ports::BufferError;
use crate::error::StoreError;
use thiserror::Error;

/// Why a write was not accepted. Nothing was acknowledged.
#[derive(Debug, Error)]
pub enum WriteError {
    /// No such entity, or it is another's.
    #[error("no such entity")]
    NotFound,
    /// The entity is not at the version that `If-Match` names.
    #[error("the entity is at version {current}")]
    VersionMismatch {
        /// The version it is at.
        current: u64,
    },
    /// The `Idempotency-Key` was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// What the write wants is not allowed, as things are now.
    #[error("not allowed: {}", .0.as_str())]
    NotAllowed(Refusal),
    /// The request asks for a commit, and Postgres cannot give one now.
    #[error("the write cannot be committed now")]
    NotCommittable,
    /// Postgres is away, and what the write needs to know of the entity is not known here.
    #[error("what the write needs to know is not known now")]
    Unknown,
    /// Postgres refused the operation itself.
    #[error(transparent)]
    Refused(StoreError),
    /// The write buffer did not take it.
    #[error(transparent)]
    Buffer(#[from] BufferError),
}

/// Why a read has no answer.
#[derive(Debug, Error)]
pub enum ReadError {
    /// No such entity, or it is another's.
    #[error("no such entity")]
    NotFound,
    /// Postgres is away, and nothing known can stand in.
    #[error("the last known value is gone and there is no way to get another")]
    Unknown,
    /// A store failed in a way that is no outage.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The write buffer cannot tell what is pending.
    #[error(transparent)]
    Buffer(#[from] BufferError),
}
