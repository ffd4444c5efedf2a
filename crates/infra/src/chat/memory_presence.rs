//! Who is there, on a node that has no Redis and so is the only one. No leases: what is connected here is known here.

use async_trait::async_trait;
use gravity_domain::chat::{ConnectionId, Presence, PresenceBoard, PresenceStatus};
use gravity_domain::clock::{Timestamp, WallClock};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The board of a node without Redis.
pub struct MemoryPresence {
    clock: Arc<dyn WallClock>,
    /// How long a connection has been gone when its leaving is told.
    grace: Duration,
    /// People of whom it is remembered when they were last here.
    most: usize,
    board: Mutex<Board>,
}

#[derive(Default)]
struct Board {
    here: HashMap<UserId, HashSet<ConnectionId>>,
    seen: HashMap<UserId, Timestamp>,
}

impl std::fmt::Debug for MemoryPresence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryPresence").finish_non_exhaustive()
    }
}

impl MemoryPresence {
    /// Told of leavings after `grace`; remembers the last visits of `most` people.
    pub fn new(clock: Arc<dyn WallClock>, grace: Duration, most: usize) -> Self {
        Self {
            clock,
            grace,
            most: most.max(1),
            board: Mutex::default(),
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl PresenceBoard for MemoryPresence {
    async fn arrived(&self, user: UserId, connection: ConnectionId) -> Result<bool, StoreError> {
        let mut board = self.board();
        let connections = board.here.entry(user).or_default();
        let is_first = connections.is_empty();
        connections.insert(connection);
        Ok(is_first)
    }

    async fn left(&self, user: UserId, connection: ConnectionId) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let mut board = self.board();
        let Some(connections) = board.here.get_mut(&user) else {
            return Ok(false);
        };
        let is_last = connections.remove(&connection) && connections.is_empty();
        if is_last {
            board.here.remove(&user);
            if board.seen.len() >= self.most && !board.seen.contains_key(&user) {
                board.seen.clear();
            }
            let grace = i64::try_from(self.grace.as_millis()).unwrap_or(0);
            board.seen.insert(user, now.plus_millis(-grace));
        }
        Ok(is_last)
    }

    async fn renew(&self, _: &[(UserId, ConnectionId)]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn look_up(&self, users: &[UserId]) -> Result<Vec<Presence>, StoreError> {
        let board = self.board();
        let presence = |user: &UserId| {
            let is_here = board.here.contains_key(user);
            Presence {
                user_id: *user,
                status: if is_here {
                    PresenceStatus::Online
                } else {
                    PresenceStatus::Offline
                },
                last_seen: board.seen.get(user).copied().filter(|_| !is_here),
            }
        };
        Ok(users.iter().map(presence).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_domain::clock::SystemClock;
    use uuid::Uuid;

    #[tokio::test]
    async fn somebody_is_there_from_the_first_connection_to_the_last() {
        let board = MemoryPresence::new(Arc::new(SystemClock), Duration::from_secs(15), 10);
        let (user, one, two) = (
            UserId::random(),
            ConnectionId(Uuid::from_u128(1)),
            ConnectionId(Uuid::from_u128(2)),
        );
        let status = async || board.look_up(&[user]).await.unwrap().remove(0);
        assert_eq!(
            (status().await.status, status().await.last_seen),
            (PresenceStatus::Offline, None)
        );
        assert!(board.arrived(user, one).await.unwrap());
        assert!(!board.arrived(user, two).await.unwrap());
        assert!(!board.left(user, one).await.unwrap());
        assert!(!board.left(user, one).await.unwrap());
        assert_eq!(status().await.status, PresenceStatus::Online);
        assert!(board.left(user, two).await.unwrap());
        assert_eq!(status().await.status, PresenceStatus::Offline);
        assert!(status().await.last_seen.is_some());
    }
}
