//! Reads of whole lanes, each of which may be long: a few at once, and one of each user.
//!
//! A user with a long lane who asks again and again thus waits for himself. Whoever waits waits no longer than until the
//! request must be answered. A turn belongs to the reading, not to the one who asked for it: it goes on until the store is
//! let go, even when nobody waits for the answer any more.

use gravity_domain::deadline;
use gravity_domain::id::UserId;
use gravity_domain::sync::BufferError;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// The most bytes of records that one read takes into memory.
const MAX_BYTES: usize = 64 << 20;

/// Until when, and how much, may be read at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) until: Option<Instant>,
    pub(super) bytes: usize,
}

impl Bounds {
    /// Those of the request that is being worked on.
    pub(super) fn current() -> Self {
        Self {
            until: deadline::current().map(deadline::Deadline::for_answer),
            bytes: MAX_BYTES,
        }
    }

    /// Whether a read that has come so far may go on.
    pub(super) fn allow(&self, bytes: usize) -> Result<(), BufferError> {
        if bytes > self.bytes {
            return Err(BufferError::Unavailable("more waits than is read at once".into()));
        }
        match self.until {
            Some(until) if Instant::now() >= until => Err(late()),
            _ => Ok(()),
        }
    }
}

fn late() -> BufferError {
    BufferError::Unavailable("not read by the deadline".into())
}

/// Waits for the store no longer than the request may; without a request, as long as it takes.
pub(super) async fn by_deadline<T>(waiting: impl Future<Output = T>) -> Result<T, BufferError> {
    match deadline::current() {
        Some(deadline) => tokio::time::timeout_at(deadline.for_answer().into(), waiting)
            .await
            .map_err(|_| late()),
        None => Ok(waiting.await),
    }
}

type UserTurns = Mutex<HashMap<UserId, Arc<tokio::sync::Mutex<()>>>>;

/// The turns of one buffer.
pub(super) struct WideReads {
    places: Arc<Semaphore>,
    users: Arc<UserTurns>,
}

impl WideReads {
    /// So many at once.
    pub(super) fn of(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            users: Arc::default(),
        }
    }

    /// Waits for the user's turn, then for a place.
    pub(super) async fn enter(&self, user: UserId) -> Result<Turn, BufferError> {
        let waiting = async {
            let user = UserTurn::wait(&self.users, user).await;
            let place = self.places.clone().acquire_owned().await.ok();
            Turn {
                _user: user,
                _place: place,
            }
        };
        by_deadline(waiting).await
    }

    #[cfg(test)]
    pub(super) fn known_users(&self) -> usize {
        self.users.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// The right to read one lane.
pub(super) struct Turn {
    _place: Option<OwnedSemaphorePermit>,
    _user: UserTurn,
}

/// The turn of a user, or the wait for it. The last one out takes the user off the list.
struct UserTurn {
    users: Arc<UserTurns>,
    user: UserId,
    own: Option<Arc<tokio::sync::Mutex<()>>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl UserTurn {
    async fn wait(users: &Arc<UserTurns>, user: UserId) -> Self {
        let own = users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(user)
            .or_default()
            .clone();
        let mut turn = Self {
            users: users.clone(),
            user,
            own: Some(own.clone()),
            guard: None,
        };
        turn.guard = Some(own.lock_owned().await);
        turn
    }
}

impl Drop for UserTurn {
    fn drop(&mut self) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard = None;
        // Ours and that of the list: nobody else has it, and nobody gets it or lets it go while the list is locked.
        let own = self.own.take();
        if own.is_some_and(|own| Arc::strong_count(&own) == 2) {
            users.remove(&self.user);
        }
    }
}
