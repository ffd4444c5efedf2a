//! What sockets need of a user's log.

use gravity_domain::chat::{ChatCache, EventCursor, EventLog, LogHead, LogReplay};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::sync::ports::Breaker;
use std::sync::Arc;

/// A socket opens.
pub struct Connect {
    cache: Arc<dyn ChatCache>,
    log: Arc<dyn EventLog>,
    breaker: Arc<dyn Breaker>,
}

impl Connect {
    /// Over these ports.
    pub fn new(cache: Arc<dyn ChatCache>, log: Arc<dyn EventLog>, breaker: Arc<dyn Breaker>) -> Self {
        Self { cache, log, breaker }
    }

    /// The end of the user's log. What the user will ask for next is loaded meanwhile, by nobody's waiting for it.
    ///
    /// # Errors
    /// Postgres could not answer.
    pub async fn run(&self, user: UserId) -> Result<LogHead, StoreError> {
        let cache = Arc::clone(&self.cache);
        tokio::spawn(async move { cache.warm(user).await });
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

    /// The newest offsets of these users.
    ///
    /// # Errors
    /// Postgres could not answer.
    pub async fn heads(&self, users: &[UserId]) -> Result<Vec<(UserId, u64)>, StoreError> {
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
