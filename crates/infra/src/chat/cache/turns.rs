//! One load at a time per key: whoever comes meanwhile waits its turn, and then looks whether the load has answered it too.

use gravity_domain::deadline;
use gravity_domain::error::StoreError;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

type Queue = Arc<AsyncMutex<()>>;

/// The keys that are being loaded, or waited for.
pub(super) struct Turns<K: Eq + Hash> {
    queues: Mutex<HashMap<K, Queue>>,
}

/// A place in the queue of a key, and its turn once `guard` is there. Ends when dropped.
pub(super) struct Turn<'a, K: Eq + Hash> {
    turns: &'a Turns<K>,
    key: K,
    queue: Queue,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K: Eq + Hash> Default for Turns<K> {
    fn default() -> Self {
        Self {
            queues: Mutex::default(),
        }
    }
}

impl<K: Eq + Hash + Clone> Turns<K> {
    /// Waits its turn, no longer than the request's stores may take.
    pub(super) async fn take(&self, key: K) -> Result<Turn<'_, K>, StoreError> {
        let queue = self.queues().entry(key.clone()).or_default().clone();
        let mut turn = Turn {
            turns: self,
            key,
            queue: queue.clone(),
            guard: None,
        };
        let guard = queue.lock_owned();
        turn.guard = Some(match deadline::current() {
            None => guard.await,
            Some(request) => tokio::time::timeout_at(request.for_stores().into(), guard)
                .await
                .map_err(|_| StoreError::Busy {
                    reason: "deadline",
                    source: None,
                })?,
        });
        Ok(turn)
    }
}

impl<K: Eq + Hash> Turns<K> {
    fn queues(&self) -> MutexGuard<'_, HashMap<K, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        let mut queues = self.turns.queues();
        self.guard = None;
        // Held by the table and by this place only: nobody waits, and nobody can begin to while the table is locked.
        if Arc::strong_count(&self.queue) == 2 {
            queues.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_of_a_key_come_one_after_another_and_leave_nothing_behind() {
        let turns: Turns<u8> = Turns::default();
        let first = turns.take(1).await.unwrap();
        let mut second = Box::pin(turns.take(1));
        assert!(futures_util::poll!(&mut second).is_pending());
        let other = turns.take(2).await.unwrap();
        let given_up = Box::pin(turns.take(1));
        drop(first);
        let second = second.await.unwrap();
        drop((second, other, given_up));
        assert!(turns.queues().is_empty());
    }

    #[tokio::test]
    async fn one_that_stops_waiting_last_leaves_nothing_behind() {
        let turns: Turns<u8> = Turns::default();
        let first = turns.take(1).await.unwrap();
        let mut second = Box::pin(turns.take(1));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second);
        assert!(turns.queues().is_empty());
    }
}
