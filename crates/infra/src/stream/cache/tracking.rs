//! Whether what is clean may be believed, and what is still to be told.
//!
//! Versions lie in Redis under the id of the server's life, so that a server that came back with old data, or another that took
//! its place, is never believed. An epoch is one unbroken time of the tracking connection; odd ones are those it is up in.

use super::metrics::Hits;
use super::versions::Versions;
use crate::redis::{KeyListener, PREFIX};
use gravity_domain::id::UserId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The key of a user's version in the life `run_id` of the server.
pub(super) fn version_key(run_id: &str, user: UserId) -> String {
    format!("{PREFIX}stream:{run_id}:version:{user}")
}

/// The tracking connection, as look-ups see it.
#[derive(Default)]
pub(super) struct Trust {
    epoch: AtomicU64,
    run_id: Mutex<Option<Arc<str>>>,
}

impl Trust {
    /// The epoch, while the connection is up.
    pub(super) fn epoch(&self) -> Option<u64> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        (epoch % 2 == 1).then_some(epoch)
    }

    /// The server's life, as last known.
    pub(super) fn run_id(&self) -> Option<Arc<str>> {
        locked(&self.run_id).clone()
    }

    fn rise(&self, run_id: &str) {
        *locked(&self.run_id) = Some(run_id.into());
        self.step(|epoch| epoch + if epoch % 2 == 1 { 2 } else { 1 });
    }

    fn fall(&self) {
        self.step(|epoch| epoch + epoch % 2);
    }

    fn renew(&self) {
        self.step(|epoch| epoch + 2 * (epoch % 2));
    }

    fn step(&self, next: impl Fn(u64) -> u64) {
        let _ = self
            .epoch
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |epoch| Some(next(epoch)));
    }
}

/// Hears of versions that were raised anywhere.
pub(super) struct Listener {
    pub(super) trust: Arc<Trust>,
    pub(super) versions: Arc<Versions>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) hits: Arc<Hits>,
}

impl KeyListener for Listener {
    fn prefix(&self, run_id: &str) -> String {
        format!("{PREFIX}stream:{run_id}:version:")
    }

    fn up(&self, run_id: &str) {
        self.trust.rise(run_id);
        self.outbox.wake();
        metrics::gauge!("gravity_stream_cache_tracking_up").set(1.0);
    }

    fn changed(&self, key: &str) {
        self.hits.invalidations.increment(1);
        let user = key.rsplit(':').next().and_then(|id| Uuid::try_parse(id).ok());
        if let Some(user) = user {
            self.versions.changed(UserId(user));
        }
    }

    fn flushed(&self) {
        self.trust.renew();
    }

    fn down(&self) {
        self.trust.fall();
        metrics::gauge!("gravity_stream_cache_tracking_up").set(0.0);
    }
}

/// Versions that Redis is still to be told. Bounded: when one is dropped, what Redis holds of versions is not believed until
/// all of it must be newer. It begins so, too: the process before this one may have been killed before it could tell.
pub(super) struct Outbox {
    waiting: Mutex<HashMap<UserId, Waiting>>,
    most: usize,
    untold: Mutex<Instant>,
    woken: Notify,
}

#[derive(Clone, Copy)]
struct Waiting {
    version: u64,
    since: Instant,
}

impl Outbox {
    pub(super) fn new(most: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            most,
            untold: Mutex::new(Instant::now()),
            woken: Notify::new(),
        }
    }

    pub(super) fn put(&self, user: UserId, version: u64) {
        let mut waiting = locked(&self.waiting);
        if waiting.len() >= self.most && !waiting.contains_key(&user) {
            *locked(&self.untold) = Instant::now();
            return;
        }
        let new = Waiting {
            version,
            since: Instant::now(),
        };
        let kept = waiting.entry(user).or_insert(new);
        if version > kept.version {
            *kept = new;
        }
        drop(waiting);
        self.wake();
    }

    pub(super) fn of(&self, user: UserId) -> u64 {
        locked(&self.waiting).get(&user).map_or(0, |kept| kept.version)
    }

    /// Some of those that wait, in no order.
    pub(super) fn some(&self, most: usize) -> Vec<(UserId, u64)> {
        let waiting = locked(&self.waiting);
        waiting
            .iter()
            .take(most)
            .map(|(user, kept)| (*user, kept.version))
            .collect()
    }

    /// Of these, those that have waited for so long.
    pub(super) fn late(&self, versions: &[(UserId, u64)], limit: Duration) -> Vec<(UserId, u64)> {
        let waiting = locked(&self.waiting);
        let is_late = |(user, _): &&(UserId, u64)| {
            waiting
                .get(user)
                .is_some_and(|kept| kept.since.elapsed() >= limit)
        };
        versions.iter().filter(is_late).copied().collect()
    }

    pub(super) fn told(&self, versions: &[(UserId, u64)]) {
        let mut waiting = locked(&self.waiting);
        for (user, version) in versions {
            if waiting.get(user).is_some_and(|kept| kept.version <= *version) {
                waiting.remove(user);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        locked(&self.waiting).is_empty()
    }

    /// Whether Redis may still hold a version that is older than one that it was not told.
    pub(super) fn lacks(&self, life: Duration) -> bool {
        locked(&self.untold).elapsed() < life
    }

    pub(super) fn wake(&self) {
        self.woken.notify_one();
    }

    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_late_after_a_while_unless_a_newer_version_came() {
        const LIMIT: Duration = Duration::from_secs(5);
        let outbox = Outbox::new(10);
        let (first, second) = (UserId(Uuid::from_u128(1)), UserId(Uuid::from_u128(2)));
        outbox.put(first, 7);
        outbox.put(second, 7);
        tokio::time::advance(LIMIT).await;
        outbox.put(first, 6);
        outbox.put(second, 8);
        let some = outbox.some(10);
        assert_eq!(outbox.late(&some, LIMIT), [(first, 7)]);
        outbox.told(&[(first, 7), (second, 7)]);
        assert_eq!(outbox.some(10), [(second, 8)]);
    }
}
