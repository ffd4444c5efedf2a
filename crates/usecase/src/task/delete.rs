//! Delete a task.

use crate::sync::{EntityReader, Warmer, WriteRequest, Writer, Written};
use gravity_domain::id::TaskId;
use gravity_domain::sync::{Change, WriteError};
use gravity_domain::task::{Task, TaskChange};
use std::sync::Arc;

/// `DELETE /api/v1/tasks/{id}`.
pub struct DeleteTask {
    writer: Arc<Writer>,
    reader: Arc<EntityReader<Task>>,
    warmer: Arc<Warmer>,
}

impl DeleteTask {
    /// Over the write path.
    pub fn new(writer: Arc<Writer>, reader: Arc<EntityReader<Task>>, warmer: Arc<Warmer>) -> Self {
        Self {
            writer,
            reader,
            warmer,
        }
    }

    /// Leaves a tombstone, and answers it.
    ///
    /// # Errors
    /// See [`WriteError`]; a second delete is [`WriteError::NotFound`].
    pub async fn run(&self, request: WriteRequest, id: TaskId) -> Result<Written<Task>, WriteError> {
        self.warmer.touch(request.user);
        let change = |_| Change::Task {
            id,
            change: TaskChange::Delete,
        };
        self.writer.write(request, &self.reader, change).await
    }
}
