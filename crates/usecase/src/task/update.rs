//! Change a task.

use crate::sync::{EntityReader, Warmer, WriteRequest, Writer, Written};
use gravity_domain::id::TaskId;
use gravity_domain::sync::{Change, WriteError};
use gravity_domain::task::{Task, TaskChange, TaskPatch};
use std::sync::Arc;

/// `PUT /api/v1/tasks/{id}`.
pub struct UpdateTask {
    writer: Arc<Writer>,
    reader: Arc<EntityReader<Task>>,
    warmer: Arc<Warmer>,
}

impl UpdateTask {
    /// Over the write path.
    pub fn new(writer: Arc<Writer>, reader: Arc<EntityReader<Task>>, warmer: Arc<Warmer>) -> Self {
        Self {
            writer,
            reader,
            warmer,
        }
    }

    /// Sets the fields that `patch` gives.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn run(
        &self,
        request: WriteRequest,
        id: TaskId,
        patch: TaskPatch,
    ) -> Result<Written<Task>, WriteError> {
        self.warmer.touch(request.user);
        let change = |_| Change::Task {
            id,
            change: TaskChange::Update(patch),
        };
        self.writer.write(request, &self.reader, change).await
    }
}
