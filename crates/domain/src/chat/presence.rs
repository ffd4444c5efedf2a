//! Who is there.

use crate::clock::Timestamp;
use crate::id::UserId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One socket, anywhere: presence is counted per connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(pub Uuid);

/// Whether somebody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PresenceStatus {
    /// At least one socket.
    Online,
    /// None for a while.
    Offline,
    /// It cannot be told now.
    Unknown,
}

/// Whether a user is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Presence {
    /// Who.
    pub user_id: UserId,
    /// Which.
    pub status: PresenceStatus,
    /// When last here, if it is known and they are not.
    pub last_seen: Option<Timestamp>,
}
