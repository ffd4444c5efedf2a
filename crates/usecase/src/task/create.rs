//! Create a task.

use crate::sync::{EntityReader, Warmer, WriteRequest, Writer, Written};
use gravity_domain::id::TaskId;
use gravity_domain::sync::{Change, WriteError};
use gravity_domain::task::{NewTask, Task, TaskChange};
use std::sync::Arc;

/// `POST /api/v1/tasks`.
pub struct CreateTask {
    writer: Arc<Writer>,
    reader: Arc<EntityReader<Task>>,
    warmer: Arc<Warmer>,
}

impl CreateTask {
    /// Over the write path.
    pub fn new(writer: Arc<Writer>, reader: Arc<EntityReader<Task>>, warmer: Arc<Warmer>) -> Self {
        Self {
            writer,
            reader,
            warmer,
        }
    }

    /// Creates it; its id derives from the operation's.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn run(&self, request: WriteRequest, new: NewTask) -> Result<Written<Task>, WriteError> {
        let user = request.user;
        let change = |operation: gravity_domain::id::OperationId| Change::Task {
            id: TaskId(operation.created_entity()),
            change: TaskChange::Create(new),
        };
        let written = self.writer.write(request, &self.reader, change).await?;
        self.warmer.touch(user);
        Ok(written)
    }
}
