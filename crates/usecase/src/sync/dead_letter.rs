//! The operators' calls on dead letters. Retry and discard leave an audit line.

use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::ports::DeadLetters;
use gravity_domain::sync::{BufferError, DeadLetter};
use std::sync::Arc;

/// `GET /api/v1/admin/dead-letters`.
pub struct ListDeadLetters(Arc<dyn DeadLetters>);

impl ListDeadLetters {
    /// Over this port.
    pub fn new(letters: Arc<dyn DeadLetters>) -> Self {
        Self(letters)
    }

    /// Up to `limit` letters of this node, by id, after `after`.
    ///
    /// # Errors
    /// [`BufferError::Unavailable`].
    pub async fn run(
        &self,
        after: Option<OperationId>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, BufferError> {
        self.0.list(after, limit).await
    }
}

/// `POST /api/v1/admin/dead-letters/{id}/retry`.
pub struct RetryDeadLetter(Arc<dyn DeadLetters>);

impl RetryDeadLetter {
    /// Over this port.
    pub fn new(letters: Arc<dyn DeadLetters>) -> Self {
        Self(letters)
    }

    /// Puts the operation back at the end of its lane.
    ///
    /// # Errors
    /// See [`DeadLetters::retry`].
    pub async fn run(&self, admin: UserId, id: OperationId) -> Result<DeadLetter, BufferError> {
        let letter = self.0.retry(id).await?;
        audit("dead_letter.retry", admin, &letter);
        Ok(letter)
    }
}

/// `DELETE /api/v1/admin/dead-letters/{id}`.
pub struct DiscardDeadLetter(Arc<dyn DeadLetters>);

impl DiscardDeadLetter {
    /// Over this port.
    pub fn new(letters: Arc<dyn DeadLetters>) -> Self {
        Self(letters)
    }

    /// Throws the letter away.
    ///
    /// # Errors
    /// See [`DeadLetters::discard`].
    pub async fn run(&self, admin: UserId, id: OperationId) -> Result<DeadLetter, BufferError> {
        let letter = self.0.discard(id).await?;
        audit("dead_letter.discard", admin, &letter);
        Ok(letter)
    }
}

fn audit(action: &'static str, admin: UserId, letter: &DeadLetter) {
    let owner = letter.user_id.map(|user| user.to_string());
    tracing::info!(target: "audit", action, admin = %admin, operation = %letter.id, owner, reason = %letter.reason);
}
