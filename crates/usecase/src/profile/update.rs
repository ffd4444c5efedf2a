//! Change one's profile.

use crate::sync::{EntityReader, WriteRequest, Writer, Written};
use gravity_domain::profile::{Profile, ProfilePatch};
use gravity_domain::sync::{Change, WriteError};
use std::sync::Arc;

/// `PUT /api/v1/profile`.
pub struct UpdateProfile {
    writer: Arc<Writer>,
    reader: Arc<EntityReader<Profile>>,
}

impl UpdateProfile {
    /// Over the write path.
    pub fn new(writer: Arc<Writer>, reader: Arc<EntityReader<Profile>>) -> Self {
        Self { writer, reader }
    }

    /// Sets the fields that `patch` gives.
    ///
    /// # Errors
    /// See [`WriteError`].
    pub async fn run(
        &self,
        request: WriteRequest,
        patch: ProfilePatch,
    ) -> Result<Written<Profile>, WriteError> {
        self.writer
            .write(request, &self.reader, |_| Change::Profile(patch))
            .await
    }
}
