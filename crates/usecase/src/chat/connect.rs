//! What sockets need of a user's log.

use gravity_domain::chat::{ChatCache, EventCursor, EventLog, LogReplay};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::sync::ports::Breaker;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Users who may wait for their turn to be warmed up; beyond them, what they ask for is loaded when they ask.
const WARMING: usize = 10_000;

/// A socket opens.
pub struct Connect {
    cache: Arc<dyn ChatCache>,
    log: Arc<dyn EventLog>,
    breaker: Arc<dyn Breaker>,
    warming: Arc<Warming>,
}

/// Warming up is for idle times: one user after the other, so that in a storm of connections nobody waits for it.
struct Warming {
    turn: Semaphore,
    places: Semaphore,
}

impl Warming {
    async fn run(&self, cache: &dyn ChatCache, user: UserId) {
        let Ok(_place) = self.places.try_acquire() else {
            return;
        };
        if let Ok(_turn) = self.turn.acquire().await {
            cache.warm(user).await;
        }
    }
}

impl Connect {
    /// Over these ports.
    pub fn new(cache: Arc<dyn ChatCache>, log: Arc<dyn EventLog>, breaker: Arc<dyn Breaker>) -> Self {
        let warming = Arc::new(Warming {
            turn: Semaphore::new(1),
            places: Semaphore::new(WARMING),
        });
        Self {
            cache,
            log,
            breaker,
            warming,
        }
    }

    /// The end of the user's log. What the user will ask for next is loaded meanwhile, by nobody's waiting for it.
    ///
    /// # Errors
    /// Postgres could not answer.
    pub async fn run(&self, user: UserId) -> Result<EventCursor, StoreError> {
        let (cache, warming) = (Arc::clone(&self.cache), Arc::clone(&self.warming));
        tokio::spawn(async move { warming.run(cache.as_ref(), user).await });
        asked(self.breaker.as_ref(), self.log.head(user)).await
    }
}

/// A socket, or all of them, catch up.
pub struct ReplayLog {
    log: Arc<dyn EventLog>,
    breaker: Arc<dyn Breaker>,
}

impl ReplayLog {
    /// The most entries that are replayed; a client that has missed more begins anew.
    pub const MOST: usize = 1_000;

    /// Over these ports.
    pub fn new(log: Arc<dyn EventLog>, breaker: Arc<dyn Breaker>) -> Self {
        Self { log, breaker }
    }

    /// What follows `cursor`, whole or not at all.
    ///
    /// # Errors
    /// Postgres could not answer.
    pub async fn run(&self, user: UserId, cursor: EventCursor) -> Result<LogReplay, StoreError> {
        asked(self.breaker.as_ref(), self.log.since(user, cursor, Self::MOST)).await
    }

    /// The ends of these users' logs.
    ///
    /// # Errors
    /// Postgres could not answer.
    pub async fn heads(&self, users: &[UserId]) -> Result<Vec<(UserId, EventCursor)>, StoreError> {
        asked(self.breaker.as_ref(), self.log.heads(users)).await
    }
}

async fn asked<T>(
    breaker: &dyn Breaker,
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    if !breaker.allows_reads() {
        return Err(StoreError::unavailable("breaker_open"));
    }
    let answer = question.await;
    if let Err(error) = &answer {
        breaker.failed(error);
    }
    answer
}
