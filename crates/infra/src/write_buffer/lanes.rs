//! How many operations wait in each lane, near enough: a look into an empty lane, which is nearly every look, costs a load
//! from memory, and never touches the store.
//!
//! Lanes share counters by the hash of their user, so that memory does not grow with the backlog. A counter at zero proves
//! its lanes empty; at anything else the store has to be asked. Counters rise before a commit and fall after it.

use super::engine::{EngineError, Reader};
use super::{key, queue};
use gravity_domain::id::UserId;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// 1 MiB of counters.
const COUNTERS: u64 = 1 << 18;

pub(super) struct LaneCounts(Box<[AtomicU32]>);

impl LaneCounts {
    pub(super) fn new() -> Self {
        Self((0..COUNTERS).map(|_| AtomicU32::new(0)).collect())
    }

    /// True when nothing waits in the user's lane. False proves nothing.
    pub(super) fn is_empty(&self, user: UserId) -> bool {
        self.of(user).load(SeqCst) == 0
    }

    /// One more operation in each of these lanes: before the commit.
    pub(super) fn enter(&self, users: &[UserId]) {
        for user in users {
            self.of(*user).fetch_add(1, SeqCst);
        }
    }

    /// One operation less in each of these lanes: after the commit.
    pub(super) fn leave(&self, users: &[UserId]) {
        for user in users {
            self.of(*user).fetch_sub(1, SeqCst);
        }
    }

    /// Counts anew, while nobody reads.
    pub(super) fn load(&self, reader: &dyn Reader) -> Result<(), EngineError> {
        self.0.iter().for_each(|counter| counter.store(0, SeqCst));
        visit(reader, &mut |user, length| {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            self.of(user).fetch_add(length, SeqCst);
        })
    }

    fn of(&self, user: UserId) -> &AtomicU32 {
        let (_, low) = user.0.as_u64_pair();
        let at = (low ^ (low >> 32)) % COUNTERS;
        &self.0[usize::try_from(at).unwrap_or(0)]
    }
}

/// How many operations wait in all lanes together.
pub(super) fn total(reader: &dyn Reader) -> Result<u64, EngineError> {
    let mut total = 0u64;
    visit(reader, &mut |_, length| total = total.saturating_add(length))?;
    Ok(total)
}

fn visit(reader: &dyn Reader, each: &mut dyn FnMut(UserId, u64)) -> Result<(), EngineError> {
    let mut damage = Ok(());
    reader.scan(&[key::LANES], &[key::LANES + 1], &mut |key, sealed| {
        let lane = queue::lane_from(key, sealed)
            .and_then(|(length, _)| Ok((key::id_of(key).ok_or_else(key::misshapen)?, length)));
        match lane {
            Ok((id, length)) => each(UserId(id.0), length),
            Err(error) => {
                damage = Err(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    damage
}
