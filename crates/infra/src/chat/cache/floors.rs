//! What a stale answer must not be older than: the newest offset that this node has acknowledged to each user.
//!
//! Unknown while something may be committed unseen (a doubt), or when an offset was forgotten to make room; known again once
//! Postgres was asked.

use crate::cache::per_user::PerUser;
use gravity_domain::chat::LogHead;
use gravity_domain::id::UserId;
use std::time::Duration;
use tokio::time::Instant;

/// How long after a doubt what caused it may still be committed.
pub(super) const DOUBT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// `None`: unknown.
    raised: Option<u64>,
    epoch: Option<u64>,
    is_doubted: bool,
    /// The latest doubt, also when it is over.
    doubted: Option<Instant>,
}

/// What is known of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor {
    pub(super) offset: u64,
    /// Of which life of the log, if Postgres was ever asked.
    pub(super) epoch: Option<u64>,
}

/// The table.
pub(super) struct Floors {
    users: PerUser<Entry>,
}

impl Floors {
    /// For at most about `users` users.
    pub(super) fn new(users: usize) -> Self {
        Self {
            users: PerUser::new(users),
        }
    }

    /// This node acknowledged what is at this offset.
    pub(super) fn raised(&self, user: UserId, offset: u64) {
        self.with(user, |entry| {
            entry.raised = entry.raised.map(|raised| raised.max(offset));
        });
    }

    /// Something may be committed unseen.
    pub(super) fn doubted(&self, user: UserId) {
        self.with(user, |entry| {
            entry.raised = None;
            entry.is_doubted = true;
            entry.doubted = Some(Instant::now());
        });
    }

    /// Postgres said so when asked at `began`.
    pub(super) fn asked(&self, user: UserId, head: LogHead, began: Instant) {
        self.with(user, |entry| {
            if entry
                .epoch
                .replace(head.epoch)
                .is_some_and(|epoch| epoch != head.epoch)
            {
                entry.raised = entry.raised.map(|raised| raised.min(head.offset));
            }
            if entry.doubted.is_some_and(|since| began >= since + DOUBT) {
                entry.is_doubted = false;
            }
            if !entry.is_doubted {
                entry.raised = Some(entry.raised.unwrap_or(head.offset));
            }
        });
    }

    /// What a stale answer must have; `None`: nobody knows.
    pub(super) fn floor(&self, user: UserId) -> Option<Floor> {
        self.with(user, |entry| {
            entry.raised.map(|offset| Floor {
                offset,
                epoch: entry.epoch,
            })
        })
    }

    /// Whether there was a doubt at `read` or later.
    pub(super) fn doubted_since(&self, user: UserId, read: Instant) -> bool {
        self.with(user, |entry| entry.doubted.is_some_and(|doubted| doubted >= read))
    }

    fn with<T>(&self, user: UserId, act: impl FnOnce(&mut Entry) -> T) -> T {
        let matters = |entry: &Entry| entry.raised != Some(0);
        let fresh = |is_lossy: bool| Entry {
            raised: (!is_lossy).then_some(0),
            epoch: None,
            is_doubted: false,
            doubted: None,
        };
        self.users.with(user, matters, fresh, act)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const USER: UserId = UserId(Uuid::from_u128(7));

    fn head(epoch: u64, offset: u64) -> LogHead {
        LogHead { epoch, offset }
    }

    fn offset(floors: &Floors) -> Option<u64> {
        floors.floor(USER).map(|floor| floor.offset)
    }

    #[test]
    fn the_floor_is_the_newest_offset_acknowledged_and_not_what_postgres_has() {
        let floors = Floors::new(100);
        assert_eq!(offset(&floors), Some(0));
        floors.raised(USER, 4);
        floors.raised(USER, 3);
        floors.asked(USER, head(1, 9), Instant::now());
        assert_eq!(offset(&floors), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_ends_with_what_postgres_says_some_time_after_it() {
        let floors = Floors::new(100);
        floors.raised(USER, 4);
        floors.doubted(USER);
        assert!(floors.doubted_since(USER, Instant::now()));
        floors.asked(USER, head(1, 9), Instant::now());
        assert_eq!(offset(&floors), None);
        tokio::time::advance(DOUBT).await;
        assert!(!floors.doubted_since(USER, Instant::now()));
        floors.asked(USER, head(1, 10), Instant::now());
        assert_eq!(offset(&floors), Some(10));
    }

    #[test]
    fn an_offset_that_was_forgotten_is_unknown_until_postgres_is_asked() {
        let floors = Floors::new(1);
        floors.raised(USER, 4);
        for n in 1..4u128 {
            floors.raised(UserId(Uuid::from_u128(n << 8 | 7)), 1);
        }
        assert_eq!(offset(&floors), None);
        floors.asked(USER, head(1, 6), Instant::now());
        assert_eq!(offset(&floors), Some(6));
    }

    #[test]
    fn offsets_of_an_earlier_life_of_the_log_do_not_stand() {
        let floors = Floors::new(100);
        floors.asked(USER, head(1, 90), Instant::now());
        floors.raised(USER, 100);
        floors.asked(USER, head(2, 50), Instant::now());
        let floor = floors.floor(USER).unwrap();
        assert_eq!(
            floor,
            Floor {
                offset: 50,
                epoch: Some(2)
            }
        );
    }
}
