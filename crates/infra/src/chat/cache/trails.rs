//! The last entries of users' logs that this node heard of, and where the snapshots are that follow them.
//!
//! Whoever keeps a snapshot or brings entries holds the user's trail meanwhile: an entry that comes while something is being
//! loaded, or before the one that precedes it, is found when the snapshot is kept or the other comes. Right it is without that:
//! only the entry that follows a snapshot's place is folded into it.

use super::Place;
use super::fold::{Fold, Told};
use super::snapshots::Snapshot;
use gravity_domain::chat::UserEvent;
use gravity_domain::id::{ConversationId, UserId};
use moka::ops::compute::Op;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::sync::Arc;

/// How many entries are remembered of a user.
const ENTRIES: usize = 16;
/// How many conversations of a user are followed beside the inbox.
const CONVERSATIONS: usize = 64;
/// What a trail costs beside what is in it.
const FIXED: usize = 256;

#[derive(Debug, Clone)]
struct Entry {
    offset: u64,
    /// `None`: not understood.
    told: Option<Arc<Told>>,
}

/// Of one user.
#[derive(Debug, Clone, Default)]
pub(super) struct Trail {
    epoch: Option<u64>,
    /// In order; there may be gaps.
    entries: Vec<Entry>,
    /// Of which there are snapshots, the latest one kept last.
    conversations: Vec<ConversationId>,
}

impl Trail {
    /// Something of this life of the log is kept.
    pub(super) fn enter(&mut self, epoch: u64) {
        if self.epoch.replace(epoch).is_some_and(|before| before != epoch) {
            self.entries.clear();
        }
    }

    /// A snapshot of this conversation is kept.
    pub(super) fn note(&mut self, id: ConversationId) {
        self.conversations.retain(|noted| *noted != id);
        if self.conversations.len() >= CONVERSATIONS {
            self.conversations.remove(0);
        }
        self.conversations.push(id);
    }

    pub(super) fn push(&mut self, event: &UserEvent) {
        if let Err(place) = self
            .entries
            .binary_search_by_key(&event.offset, |entry| entry.offset)
        {
            let told = Told::read(event).map(Arc::new);
            let offset = event.offset;
            self.entries.insert(place, Entry { offset, told });
        }
    }

    /// Lets go of what is more than it remembers.
    pub(super) fn trim(&mut self) {
        let over = self.entries.len().saturating_sub(ENTRIES);
        self.entries.drain(..over);
    }

    /// Goes through the conversations of `user`, and lets go of those of which `follow` finds nothing.
    pub(super) fn each_conversation(&mut self, user: UserId, mut follow: impl FnMut(&Place, &Self) -> bool) {
        let mut conversations = std::mem::take(&mut self.conversations);
        conversations.retain(|id| follow(&(user, *id), self));
        self.conversations = conversations;
    }

    /// The snapshot with what follows it here; `None` when that is nothing, or cannot be folded in.
    pub(super) fn folded<K, T: Fold<K>>(&self, key: &K, snapshot: &Snapshot<T>) -> Option<Snapshot<T>> {
        if self.epoch.is_some_and(|epoch| epoch != snapshot.head.epoch) {
            return None;
        }
        let mut value = snapshot.value.clone();
        let mut offset = snapshot.head.offset;
        for entry in &self.entries {
            if entry.offset <= offset {
                continue;
            }
            if entry.offset != offset + 1 {
                break;
            }
            T::fold(&mut value, key, entry.offset, entry.told.as_deref()?)?;
            offset = entry.offset;
        }
        (offset > snapshot.head.offset).then(|| snapshot.moved(value, offset))
    }

    fn bytes(&self) -> usize {
        let entry = |entry: &Entry| size_of::<Entry>() + entry.told.as_ref().map_or(0, |told| told.bytes());
        FIXED
            + self.conversations.len() * size_of::<ConversationId>()
            + self.entries.iter().map(entry).sum::<usize>()
    }
}

/// The trails of those of whom something is kept.
pub(super) struct Trails(Cache<UserId, Trail>);

impl Trails {
    /// At most about `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, trail: &Trail| u32::try_from(trail.bytes()).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self(cache)
    }

    /// From now on entries are remembered: something is going to be loaded.
    pub(super) fn begin(&self, user: UserId) {
        if !self.0.contains_key(&user) {
            self.0.entry(user).or_default();
        }
    }

    /// The user's trail, of which nobody else has hold meanwhile.
    pub(super) fn with(&self, user: UserId, act: impl FnOnce(&mut Trail)) {
        self.0.entry(user).and_upsert_with(|held| {
            let mut trail = held.map(moka::Entry::into_value).unwrap_or_default();
            act(&mut trail);
            trail
        });
    }

    /// The same, if there is one.
    pub(super) fn with_known(&self, user: UserId, act: impl FnOnce(&mut Trail)) {
        if !self.0.contains_key(&user) {
            return;
        }
        self.0.entry(user).and_compute_with(|held| {
            let Some(held) = held else {
                return Op::Nop;
            };
            let mut trail = held.into_value();
            act(&mut trail);
            Op::Put(trail)
        });
    }

    /// The bytes held, after what is over the limit has gone.
    pub(super) fn bytes(&self) -> u64 {
        self.0.run_pending_tasks();
        self.0.weighted_size()
    }
}
