//! Read one task.

use crate::sync::{EntityReader, Read, Warmer};
use gravity_domain::id::{TaskId, UserId};
use gravity_domain::sync::ReadError;
use gravity_domain::task::Task;
use std::sync::Arc;

/// `GET /api/v1/tasks/{id}`.
pub struct GetTask {
    reader: Arc<EntityReader<Task>>,
    warmer: Arc<Warmer>,
}

impl GetTask {
    /// Over the read path.
    pub fn new(reader: Arc<EntityReader<Task>>, warmer: Arc<Warmer>) -> Self {
        Self { reader, warmer }
    }

    /// The task with the user's own pending writes in it.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn run(&self, user: UserId, id: TaskId) -> Result<Read<Task>, ReadError> {
        self.warmer.touch(user);
        self.reader.get(user, id.0).await
    }
}
