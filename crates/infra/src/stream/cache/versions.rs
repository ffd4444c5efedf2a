//! What is known of users' versions.
//!
//! A version only grows. It may be believed without asking while it is *clean*: looked up while the tracking connection was up
//! (in the same epoch), and not named by an invalidation since. A look-up takes a ticket first; an invalidation gives the entry a
//! new generation, and a look-up with an older ticket then teaches the version but not that it is clean. Generations come from
//! one counter, so an entry that was dropped and made anew has another one too.

use crate::cache::per_user::PerUser;
use gravity_domain::id::UserId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The longest a version is believed without asking.
pub(super) const CLEAN: Duration = Duration::from_secs(60);
/// How long after a doubt what caused it may still be committed.
pub(super) const DOUBT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
struct Entry {
    version: u64,
    /// The greatest that this node has told of.
    raised: u64,
    /// What a stale answer must not be older than; `None`: nobody knows.
    floor: Option<u64>,
    clean: Option<Clean>,
    generation: u64,
    doubted: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Clean {
    epoch: u64,
    until: Instant,
}

/// Taken before a look-up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticket {
    pub(super) generation: u64,
    /// The epoch of the tracking connection; `None` while it is down.
    pub(super) epoch: Option<u64>,
    /// Something may have been committed that only Postgres knows of.
    pub(super) doubted: bool,
    at: Instant,
}

/// Who told a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Teller {
    /// Redis, which will forget it after so long.
    Redis(Duration),
    /// Postgres; whether Redis was well is for the caller to say.
    Store { redis_answered: bool },
}

/// The table.
pub(super) struct Versions {
    users: PerUser<Entry>,
    ticks: AtomicU64,
}

impl Versions {
    /// For at most about `users` users.
    pub(super) fn new(users: usize) -> Self {
        Self {
            users: PerUser::new(users),
            ticks: AtomicU64::new(1),
        }
    }

    /// The version, if it may be believed in this epoch without asking.
    pub(super) fn trusted(&self, user: UserId, epoch: Option<u64>) -> Option<u64> {
        let epoch = epoch?;
        let trusted = self.users.find(user, |entry| {
            let clean = entry.clean?;
            (clean.epoch == epoch && Instant::now() < clean.until).then_some(entry.version)
        });
        trusted.flatten()
    }

    /// Before a look-up.
    pub(super) fn begin(&self, user: UserId, epoch: Option<u64>) -> Ticket {
        self.with(user, |entry| Ticket {
            generation: entry.generation,
            epoch,
            doubted: entry.doubted.is_some(),
            at: Instant::now(),
        })
    }

    /// After a look-up. The greatest version known.
    pub(super) fn learnt(&self, user: UserId, version: u64, ticket: Ticket, teller: Teller) -> u64 {
        self.with(user, |entry| {
            entry.version = entry.version.max(version);
            let mut good = CLEAN;
            let mut sure = true;
            match teller {
                Teller::Redis(ttl) => good = good.min(ttl),
                Teller::Store { redis_answered } => {
                    sure = redis_answered;
                    let past = entry.doubted.is_some_and(|since| ticket.at >= since + DOUBT);
                    if past && entry.generation == ticket.generation {
                        entry.doubted = None;
                    }
                    entry.settle();
                }
            }
            if let Some(epoch) = ticket.epoch
                && sure
                && entry.generation == ticket.generation
                && entry.doubted.is_none()
            {
                let until = ticket.at + good;
                entry.clean = Some(Clean { epoch, until });
            }
            entry.version
        })
    }

    /// A load from Postgres met this version.
    pub(super) fn saw(&self, user: UserId, version: u64) -> u64 {
        self.with(user, |entry| {
            entry.version = entry.version.max(version);
            entry.settle();
            entry.version
        })
    }

    /// The greater of `version` and what is known.
    pub(super) fn at_least(&self, user: UserId, version: u64) -> u64 {
        let known = self.users.find(user, |entry| entry.version);
        known.map_or(version, |known| known.max(version))
    }

    /// This node tells that the version is committed. What was clean stays so: another node's raise, earlier or later, has
    /// an invalidation of its own.
    pub(super) fn raised(&self, user: UserId, version: u64) {
        self.with(user, |entry| {
            entry.version = entry.version.max(version);
            entry.raised = entry.raised.max(version);
        });
    }

    /// The user was answered by this version, and what is older cannot be made to fit.
    pub(super) fn told(&self, user: UserId, version: u64) {
        self.with(user, |entry| {
            entry.floor = entry.floor.map(|floor| floor.max(version));
        });
    }

    /// An invalidation. An entry that is not there has no look-up under way that could make it clean.
    pub(super) fn changed(&self, user: UserId) {
        let tick = self.tick();
        self.users.find(user, |entry| {
            entry.generation = tick;
            entry.clean = None;
        });
    }

    /// Something may be committed unseen. True when it was not in doubt yet.
    pub(super) fn stir(&self, user: UserId) -> bool {
        let tick = self.tick();
        self.with(user, |entry| {
            entry.generation = tick;
            entry.clean = None;
            entry.doubted.replace(Instant::now()).is_none()
        })
    }

    /// As [`Self::stir`], of what the user did: nobody knows what a stale answer must not be older than.
    pub(super) fn doubt(&self, user: UserId) -> bool {
        self.with(user, |entry| entry.floor = None);
        self.stir(user)
    }

    /// Postgres says that the version known was never reached: what this node has told stands, the rest is forgotten.
    pub(super) fn mistrust(&self, user: UserId, version: u64) {
        let tick = self.tick();
        self.with(user, |entry| {
            entry.version = version.max(entry.raised);
            entry.generation = tick;
            entry.clean = None;
        });
    }

    /// What a stale answer must not be older than; `None`: nobody knows any more.
    pub(super) fn floor(&self, user: UserId) -> Option<u64> {
        self.with(user, |entry| entry.floor)
    }

    fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn with<T>(&self, user: UserId, act: impl FnOnce(&mut Entry) -> T) -> T {
        let matters = |entry: &Entry| entry.floor != Some(0);
        let fresh = |is_lossy: bool| Entry {
            version: 0,
            raised: 0,
            floor: (!is_lossy).then_some(0),
            clean: None,
            generation: self.tick(),
            doubted: None,
        };
        self.users.with(user, matters, fresh, act)
    }
}

impl Entry {
    /// Postgres told a version: unless something may be committed since, all that this node has told is in it.
    fn settle(&mut self) {
        if self.doubted.is_none() {
            self.floor = Some(self.floor.unwrap_or(self.version));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const USER: UserId = UserId(Uuid::from_u128(7));
    const UP: Option<u64> = Some(1);
    const REDIS: Teller = Teller::Redis(CLEAN);
    const STORE: Teller = Teller::Store { redis_answered: true };

    #[tokio::test(start_paused = true)]
    async fn a_version_is_trusted_for_a_minute_in_its_epoch_only() {
        let versions = Versions::new(100);
        assert_eq!(versions.trusted(USER, UP), None);
        let ticket = versions.begin(USER, UP);
        assert_eq!(versions.learnt(USER, 3, ticket, REDIS), 3);
        assert_eq!(versions.trusted(USER, UP), Some(3));
        assert_eq!(versions.trusted(USER, None), None);
        assert_eq!(versions.trusted(USER, Some(3)), None);
        tokio::time::advance(CLEAN).await;
        assert_eq!(versions.trusted(USER, UP), None);
    }

    #[test]
    fn a_look_up_that_began_before_an_invalidation_does_not_make_clean() {
        let versions = Versions::new(100);
        let before = versions.begin(USER, UP);
        versions.changed(USER);
        assert_eq!(versions.learnt(USER, 3, before, REDIS), 3);
        assert_eq!(versions.trusted(USER, UP), None);
        let after = versions.begin(USER, UP);
        versions.learnt(USER, 2, after, STORE);
        assert_eq!(versions.trusted(USER, UP), Some(3));
    }

    #[test]
    fn an_entry_that_was_dropped_meanwhile_is_not_made_clean() {
        let versions = Versions::new(1);
        let other = |n: u128| UserId(Uuid::from_u128(n << 8 | 7));
        let before = versions.begin(USER, UP);
        for n in 1..4 {
            versions.begin(other(n), UP);
        }
        versions.learnt(USER, 3, before, REDIS);
        assert_eq!(versions.trusted(USER, UP), None);
    }

    #[test]
    fn a_floor_that_was_dropped_is_unknown_until_postgres_tells_one() {
        let versions = Versions::new(1);
        let other = |n: u128| UserId(Uuid::from_u128(n << 8 | 7));
        assert_eq!(versions.floor(USER), Some(0));
        versions.raised(USER, 9);
        assert_eq!(versions.floor(USER), Some(0));
        versions.told(USER, 9);
        assert_eq!(versions.floor(USER), Some(9));
        for n in 1..4 {
            versions.begin(other(n), UP);
        }
        assert_eq!(versions.floor(USER), None);
        let ticket = versions.begin(USER, UP);
        versions.learnt(USER, 9, ticket, REDIS);
        assert_eq!(versions.floor(USER), None);
        versions.learnt(USER, 9, ticket, STORE);
        assert_eq!(versions.floor(USER), Some(9));
    }

    #[test]
    fn a_doubt_of_what_others_did_leaves_the_floor() {
        let versions = Versions::new(100);
        let ticket = versions.begin(USER, UP);
        versions.learnt(USER, 3, ticket, STORE);
        versions.told(USER, 3);
        assert!(versions.stir(USER));
        assert_eq!(
            (versions.trusted(USER, UP), versions.floor(USER)),
            (None, Some(3))
        );
        assert!(!versions.doubt(USER));
        assert_eq!(versions.floor(USER), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_ends_with_what_postgres_says_after_it() {
        let versions = Versions::new(100);
        assert!(versions.doubt(USER));
        assert!(!versions.doubt(USER));
        let early = versions.begin(USER, UP);
        assert!(early.doubted);
        versions.learnt(USER, 1, early, STORE);
        versions.saw(USER, 1);
        assert_eq!(versions.trusted(USER, UP), None);
        assert_eq!(versions.floor(USER), None);
        tokio::time::advance(DOUBT).await;
        let late = versions.begin(USER, UP);
        versions.learnt(USER, 2, late, STORE);
        assert_eq!(versions.trusted(USER, UP), Some(2));
        assert_eq!(versions.floor(USER), Some(2));
    }
}
