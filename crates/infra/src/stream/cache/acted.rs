//! Users' own actions that this node saw committed, to be folded over what is older than them while Postgres is away.
//!
//! An action that had to be dropped can no longer be folded: nothing older than it may then be answered as stale, which is what
//! `versions` calls the floor. Redis is told the version of each user's newest action, for as long as it may hold a last known
//! value: a process that begins in the dark takes nothing from there that is older.

use super::Core;
use super::shared::Shared;
use gravity_domain::clock::Hlc;
use gravity_domain::id::UserId;
use gravity_domain::stream::{ActionReceipt, StreamAction};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much is kept, in items named and [`FIXED`] for each action: some 10 MB.
const MOST: usize = 400_000;
const FIXED: usize = 8;
/// Of one user; more than one action may name.
const MOST_OF_USER: usize = 4 * StreamAction::MAX_ITEMS;

/// An action that is committed.
#[derive(Debug, Clone)]
struct Act {
    user: UserId,
    /// `None`: at nobody knows which, so it is folded over everything.
    version: Option<u64>,
    stamp: Hlc,
    action: StreamAction,
}

impl Act {
    fn weight(&self) -> usize {
        FIXED + self.action.ids.len()
    }
}

/// What can no longer be folded.
type Dropped = (UserId, Option<u64>);

#[derive(Default)]
struct Kept {
    /// The oldest first.
    acts: BTreeMap<u64, Act>,
    of_user: HashMap<UserId, VecDeque<u64>>,
    weight: usize,
    next: u64,
}

impl Kept {
    fn put(&mut self, act: Act, most: usize) -> Vec<Dropped> {
        let user = act.user;
        self.weight += act.weight();
        self.of_user.entry(user).or_default().push_back(self.next);
        self.acts.insert(self.next, act);
        self.next += 1;
        let mut dropped = Vec::new();
        while self.weight_of(user) > MOST_OF_USER.min(most) {
            let oldest = self.of_user.get(&user).and_then(VecDeque::front).copied();
            dropped.extend(oldest.and_then(|oldest| self.drop_act(oldest)));
        }
        while self.weight > most {
            let oldest = self.acts.first_key_value().map(|(number, _)| *number);
            dropped.extend(oldest.and_then(|oldest| self.drop_act(oldest)));
        }
        dropped
    }

    fn weight_of(&self, user: UserId) -> usize {
        self.of(user).map(Act::weight).sum()
    }

    fn of(&self, user: UserId) -> impl Iterator<Item = &Act> {
        let numbers = self.of_user.get(&user).into_iter().flatten();
        numbers.filter_map(|number| self.acts.get(number))
    }

    fn drop_act(&mut self, number: u64) -> Option<Dropped> {
        let act = self.acts.remove(&number)?;
        self.weight -= act.weight();
        if let Some(numbers) = self.of_user.get_mut(&act.user) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.of_user.remove(&act.user);
            }
        }
        Some((act.user, act.version))
    }
}

/// The actions kept.
pub(super) struct Acted {
    kept: Mutex<Kept>,
    most: usize,
}

impl Default for Acted {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            most: MOST,
        }
    }
}

impl Acted {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of the user's, unless each is in what is of this version.
    pub(super) fn since(&self, user: UserId, version: u64) -> Vec<(Hlc, StreamAction)> {
        let kept = self.kept();
        let is_later = |act: &Act| act.version.is_none_or(|at| at > version);
        if !kept.of(user).any(is_later) {
            return Vec::new();
        }
        kept.of(user).map(|act| (act.stamp, act.action.clone())).collect()
    }

    /// The version of the user's newest, 0 when there is none.
    fn newest(&self, user: UserId) -> u64 {
        let kept = self.kept();
        kept.of(user).filter_map(|act| act.version).max().unwrap_or(0)
    }
}

impl Core {
    pub(super) fn keep_act(self: &Arc<Self>, receipt: &ActionReceipt) {
        let user = receipt.user_id;
        match receipt.version {
            Some(version) => self.raise_act(user, version),
            None => {
                self.stir(user);
                if self.unseen().insert(user) {
                    self.handle.spawn(self.clone().tell_unseen(user));
                }
            }
        }
        let dropped = match receipt.effect() {
            Some(action) => {
                let act = Act {
                    user,
                    version: receipt.version,
                    stamp: receipt.stamp,
                    action,
                };
                self.acted.kept().put(act, self.acted.most)
            }
            None => receipt
                .action
                .is_none()
                .then_some((user, receipt.version))
                .into_iter()
                .collect(),
        };
        for (user, version) in dropped {
            match version {
                Some(version) => self.versions.told(user, version),
                None => self.doubt(user),
            }
        }
    }

    /// Whose actions are committed at nobody knows which version, and are still to be told of.
    pub(super) fn unseen(&self) -> MutexGuard<'_, HashSet<UserId>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn raise_act(&self, user: UserId, version: u64) {
        self.raise(user, version);
        if self.shared.is_some() {
            self.acts_to_tell.put(user, version);
            self.outbox.wake();
        }
    }

    /// What a value of Redis must not be older than; `None` when that cannot be known.
    pub(super) async fn floor_of_shared(&self, shared: &Shared, user: UserId, floor: u64) -> Option<u64> {
        let told = shared.acted(user).await.ok()?;
        if told <= self.acted.newest(user) {
            Some(floor)
        } else {
            Some(floor.max(told))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_domain::id::ItemId;
    use gravity_domain::stream::Action;
    use uuid::Uuid;

    fn act(user: u128, version: u64, items: usize) -> Act {
        Act {
            user: UserId(Uuid::from_u128(user)),
            version: Some(version),
            stamp: Hlc::ZERO,
            action: StreamAction {
                action: Action::Read,
                ids: vec![ItemId(Uuid::from_u128(1)); items],
                as_of: None,
                judged: Vec::new(),
            },
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_oldest_first_and_told() {
        let acted = Acted {
            most: 30,
            ..Acted::default()
        };
        let put = |act: Act| acted.kept().put(act, 30);
        let (a, b) = (act(1, 5, 2), act(2, 7, 2));
        assert!(put(a.clone()).is_empty() && put(b.clone()).is_empty() && put(act(1, 6, 2)).is_empty());
        assert_eq!((acted.newest(a.user), acted.newest(b.user)), (6, 7));
        assert_eq!(acted.since(a.user, 5).len(), 2);
        assert!(acted.since(a.user, 6).is_empty());
        assert_eq!(put(act(2, 8, 2)), [(a.user, Some(5))]);
        assert_eq!(put(act(3, 9, 12)), [(b.user, Some(7)), (a.user, Some(6))]);
        assert!(acted.since(a.user, 0).is_empty());
        // One that is too large on its own is kept nowhere.
        let large = act(4, 3, 40);
        assert_eq!(put(large.clone()), [(large.user, Some(3))]);
        assert_eq!(acted.kept().weight, 30);
    }
}
