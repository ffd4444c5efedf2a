//! What became of an operation, for the client that was told 202.

use super::overlay::fall_back;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::ports::WritePorts;
use gravity_domain::sync::{AppliedRecord, Operation, OperationReport, OperationState, Pending, ReadError};

/// `GET /api/v1/operations/{id}`.
pub struct GetOperation {
    ports: WritePorts,
}

impl GetOperation {
    /// Over these ports.
    pub fn new(ports: WritePorts) -> Self {
        Self { ports }
    }

    /// The operation, if `user` is its owner. The buffer is asked before Postgres: an operation leaves the one only after
    /// it is in the other.
    ///
    /// # Errors
    /// [`ReadError::NotFound`], or [`ReadError::Unknown`] when it is not here and Postgres cannot be asked.
    pub async fn run(&self, user: UserId, id: OperationId) -> Result<OperationReport, ReadError> {
        if let Some(held) = self.held(id).await? {
            return owned(user, held);
        }
        if self.ports.breaker.allows_reads() {
            match self.ports.store.find(user, id).await {
                Ok(Some(record)) => return Ok(applied(&record)),
                Ok(None) => return Err(ReadError::NotFound),
                Err(error) => fall_back(self.ports.breaker.as_ref(), error)?,
            }
        }
        Err(ReadError::Unknown)
    }

    /// What the buffer holds of it. An admin's retry moves it from the dead letters to those that wait: who found it in
    /// neither may have looked in each at the wrong moment, and looks once more.
    async fn held(&self, id: OperationId) -> Result<Option<(UserId, OperationReport)>, ReadError> {
        let buffer = &self.ports.buffer;
        let pending = |found: Pending| report(&found.operation, OperationState::Pending, None);
        if let Some(found) = buffer.find(id).await? {
            return Ok(Some(pending(found)));
        }
        if let Some(letter) = buffer.find_dead(id).await? {
            let operation = letter.operation.as_ref().ok_or(ReadError::NotFound)?;
            return Ok(Some(report(operation, OperationState::Dead, Some(letter.reason))));
        }
        Ok(buffer.find(id).await?.map(pending))
    }
}

fn owned(user: UserId, (owner, report): (UserId, OperationReport)) -> Result<OperationReport, ReadError> {
    if owner == user {
        Ok(report)
    } else {
        Err(ReadError::NotFound)
    }
}

fn report(operation: &Operation, state: OperationState, reason: Option<String>) -> (UserId, OperationReport) {
    let report = OperationReport {
        id: operation.id,
        entity: operation.entity(),
        entity_id: operation.entity_id(),
        kind: operation.kind(),
        state,
        accepted_at: operation.accepted_at.timestamp(),
        applied_at: None,
        attempts: operation.attempts,
        reason,
    };
    (operation.user_id, report)
}

fn applied(record: &AppliedRecord) -> OperationReport {
    OperationReport {
        id: record.id,
        entity: record.entity,
        entity_id: record.entity_id,
        kind: record.kind,
        state: if record.superseded {
            OperationState::Superseded
        } else {
            OperationState::Applied
        },
        accepted_at: record.accepted_at.timestamp(),
        applied_at: Some(record.applied_at),
        attempts: record.attempts,
        reason: None,
    }
}
