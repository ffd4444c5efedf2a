//! Something about each user, in bounded memory: in shards, so that cores do not contend, and each shard in two generations. When
//! the younger is full, the older is dropped; whoever was used since is in the younger.

use gravity_domain::id::UserId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 32;

struct Shard<E> {
    young: HashMap<UserId, E>,
    old: HashMap<UserId, E>,
}

/// The table.
pub(crate) struct PerUser<E> {
    shards: Vec<Mutex<Shard<E>>>,
    per_generation: usize,
    /// An entry was dropped that mattered.
    is_lossy: AtomicBool,
}

impl<E> PerUser<E> {
    /// For at most about `users` users.
    pub(crate) fn new(users: usize) -> Self {
        let shard = || {
            Mutex::new(Shard {
                young: HashMap::new(),
                old: HashMap::new(),
            })
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
            per_generation: (users / SHARDS / 2).max(1),
            is_lossy: AtomicBool::new(false),
        }
    }

    fn shard(&self, user: UserId) -> MutexGuard<'_, Shard<E>> {
        let place = usize::from(user.0.as_bytes()[15]) % SHARDS;
        self.shards[place].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Acts on the user's entry, if there is one.
    pub(crate) fn find<T>(&self, user: UserId, act: impl FnOnce(&mut E) -> T) -> Option<T> {
        self.shard(user).find(user).map(act)
    }

    /// Acts on the user's entry. One that is not there is made by `fresh`, which hears whether an entry that `matters` was ever
    /// dropped to make room: this one may have been it.
    pub(crate) fn with<T>(
        &self,
        user: UserId,
        matters: impl Fn(&E) -> bool,
        fresh: impl FnOnce(bool) -> E,
        act: impl FnOnce(&mut E) -> T,
    ) -> T {
        let mut shard = self.shard(user);
        if let Some(entry) = shard.find(user) {
            return act(entry);
        }
        if shard.young.len() >= self.per_generation {
            let young = std::mem::take(&mut shard.young);
            let dropped = std::mem::replace(&mut shard.old, young);
            if dropped.values().any(matters) {
                self.is_lossy.store(true, Ordering::Relaxed);
            }
        }
        let entry = fresh(self.is_lossy.load(Ordering::Relaxed));
        act(shard.young.entry(user).or_insert(entry))
    }
}

impl<E> Shard<E> {
    fn find(&mut self, user: UserId) -> Option<&mut E> {
        if let Some(entry) = self.old.remove(&user) {
            self.young.insert(user, entry);
        }
        self.young.get_mut(&user)
    }
}
