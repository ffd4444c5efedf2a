//! One write at a time per user: so that the order in which a user's writes are stamped, applied or appended, and
//! acknowledged is one order. Locks are striped, which bounds memory; two users on one stripe only wait a little.

use gravity_domain::id::UserId;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

const STRIPES: usize = 4_096;

#[derive(Debug)]
pub(super) struct Lanes(Vec<Mutex<()>>);

impl Lanes {
    pub(super) fn new() -> Self {
        Self((0..STRIPES).map(|_| Mutex::new(())).collect())
    }

    /// Waits for the user's turn until `deadline`.
    pub(super) async fn enter(&self, user: UserId, deadline: Instant) -> Option<MutexGuard<'_, ()>> {
        if Instant::now() > deadline {
            return None;
        }
        let stripe = &self.0[stripe_of(user)];
        match stripe.try_lock() {
            Ok(turn) => Some(turn),
            Err(_) => tokio::time::timeout_at(deadline, stripe.lock()).await.ok(),
        }
    }
}

/// Ids are random or hashed in their low half.
fn stripe_of(user: UserId) -> usize {
    let (_, low) = user.0.as_u64_pair();
    let mixed = low ^ (low >> 32);
    usize::try_from(mixed % STRIPES as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn a_second_write_of_the_same_user_waits_and_gives_up_in_time() {
        let lanes = Lanes::new();
        let user = UserId::random();
        let turn = lanes.enter(user, Instant::now()).await.unwrap();
        let soon = Instant::now() + Duration::from_millis(1);
        assert!(lanes.enter(user, soon).await.is_none());
        assert_eq!(Instant::now(), soon);
        drop(turn);
        assert!(lanes.enter(user, soon).await.is_some());
    }
}
