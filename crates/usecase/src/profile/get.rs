//! Read one's profile.

use crate::sync::{EntityReader, Read};
use gravity_domain::id::UserId;
use gravity_domain::profile::Profile;
use gravity_domain::sync::ReadError;
use std::sync::Arc;

/// `GET /api/v1/profile`.
pub struct GetProfile {
    reader: Arc<EntityReader<Profile>>,
}

impl GetProfile {
    /// Over the read path.
    pub fn new(reader: Arc<EntityReader<Profile>>) -> Self {
        Self { reader }
    }

    /// The profile with the user's own pending writes in it.
    ///
    /// # Errors
    /// See [`ReadError`]; a machine account has no profile.
    pub async fn run(&self, user: UserId) -> Result<Read<Profile>, ReadError> {
        self.reader.get(user, user.0).await
    }
}
