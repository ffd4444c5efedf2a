//! Why a chat call has no result.

use gravity_domain::auth::RateDecision;
use gravity_domain::error::FieldError;
use gravity_domain::sync::{BufferError, ReadError, WriteError};
use thiserror::Error;

/// Why a chat call failed.
#[derive(Debug, Error)]
pub enum ChatError {
    /// It takes two: the username is the caller's own.
    #[error("the username is the caller's own")]
    Oneself,
    /// A field is not as it must be.
    #[error("{}", .0.message)]
    Invalid(FieldError),
    /// Too many calls.
    #[error("too many calls ({})", .0.quota.name)]
    RateLimited(RateDecision),
    /// Something could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The write was not accepted.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl From<BufferError> for ChatError {
    fn from(error: BufferError) -> Self {
        Self::Read(error.into())
    }
}
