//! Snapshots by name, bounded by bytes; of each name the newest, with the place of its user's log that it has at least.

use super::floors::Floor;
use super::fold::Fold;
use super::trails::Trail;
use gravity_domain::chat::{Blocked, Conversation, Inbox, LogHead, Message, MessagePage, Person};
use moka::ops::compute::Op;
use moka::sync::Cache;
use std::hash::Hash;
use std::sync::Arc;
use tokio::time::Instant;

/// What an entry costs beside its value.
const FIXED: usize = 256;
/// What a text costs beside its bytes.
const ALLOCATION: usize = 8;

/// A value and what it has.
#[derive(Debug)]
pub(super) struct Snapshot<T> {
    pub(super) value: Arc<T>,
    /// Everything up to here is in it.
    pub(super) head: LogHead,
    /// When the reading of it began.
    pub(super) read: Instant,
    weight: u32,
}

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            head: self.head,
            read: self.read,
            weight: self.weight,
        }
    }
}

impl<T: Weigh> Snapshot<T> {
    pub(super) fn new(value: T, head: LogHead, read: Instant) -> Self {
        Self {
            weight: weight(&value),
            value: Arc::new(value),
            head,
            read,
        }
    }

    /// This one further on in its log, with this value.
    pub(super) fn moved(&self, value: Arc<T>, offset: u64) -> Self {
        let weight = if Arc::ptr_eq(&value, &self.value) {
            self.weight
        } else {
            weight(&*value)
        };
        Self {
            value,
            head: LogHead { offset, ..self.head },
            read: self.read,
            weight,
        }
    }
}

fn weight(value: &impl Weigh) -> u32 {
    u32::try_from(FIXED + value.bytes()).unwrap_or(u32::MAX)
}

impl<T> Snapshot<T> {
    /// Whether it has everything up to `head`.
    pub(super) fn reaches(&self, head: LogHead) -> bool {
        self.head.epoch == head.epoch && self.head.offset >= head.offset
    }

    /// Whether it may be given as stale.
    pub(super) fn is_above(&self, floor: Floor) -> bool {
        self.head.offset >= floor.offset && floor.epoch.is_none_or(|epoch| epoch == self.head.epoch)
    }

    /// Whether it is the newer of two: of the same life of the log by its place there, else by when it was read.
    pub(super) fn is_after(&self, other: &Self) -> bool {
        if self.head.epoch == other.head.epoch {
            is_newer(self, other)
        } else {
            self.read > other.read
        }
    }
}

/// Snapshots of one kind.
pub(super) struct Snapshots<K, T>(Cache<K, Snapshot<T>>);

impl<K, T> Snapshots<K, T>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    /// At most about `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, snapshot: &Snapshot<T>| snapshot.weight)
            .build();
        Self(cache)
    }

    pub(super) fn get(&self, name: &K) -> Option<Snapshot<T>> {
        self.0.get(name)
    }

    /// Keeps it, unless a newer one of the same life of the log is held.
    pub(super) fn keep(&self, name: K, snapshot: Snapshot<T>) {
        self.0.entry(name).and_compute_with(|held| match held {
            Some(held) if is_newer(held.value(), &snapshot) => Op::Nop,
            _ => Op::Put(snapshot),
        });
    }

    /// Lets it follow the user's log. False when there is none.
    pub(super) fn follow(&self, name: &K, trail: &Trail) -> bool
    where
        K: Clone,
        T: Fold<K>,
    {
        if !self.0.contains_key(name) {
            return false;
        }
        self.0.entry_by_ref(name).and_compute_with(|held| {
            let followed = held.and_then(|held| trail.folded(name, held.value()));
            followed.map_or(Op::Nop, Op::Put)
        });
        true
    }

    pub(super) fn forget(&self, name: &K) {
        self.0.invalidate(name);
    }

    /// The bytes held, after what is over the limit has gone.
    pub(super) fn bytes(&self) -> u64 {
        self.0.run_pending_tasks();
        self.0.weighted_size()
    }
}

fn is_newer<T>(held: &Snapshot<T>, other: &Snapshot<T>) -> bool {
    let place = |snapshot: &Snapshot<T>| (snapshot.head.offset, snapshot.read);
    held.head.epoch == other.head.epoch && place(held) > place(other)
}

/// Roughly the bytes that a value takes.
pub(super) trait Weigh {
    fn bytes(&self) -> usize;
}

fn text(text: Option<&str>) -> usize {
    text.map_or(0, |text| text.len() + ALLOCATION)
}

impl Weigh for Person {
    fn bytes(&self) -> usize {
        let username = self.username.as_ref().map(|name| name.as_str());
        size_of::<Self>() + text(username) + text(self.name.as_deref()) + text(self.avatar_url.as_deref())
    }
}

impl Weigh for Message {
    fn bytes(&self) -> usize {
        size_of::<Self>() + text(Some(self.content.as_str()))
    }
}

impl Weigh for Conversation {
    fn bytes(&self) -> usize {
        let last = self.last_message.as_ref().map_or(0, Weigh::bytes);
        size_of::<Self>() + self.other.bytes() + last
    }
}

impl Weigh for Inbox {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.conversations.iter().map(Weigh::bytes).sum::<usize>()
    }
}

impl Weigh for MessagePage {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.messages.iter().map(Weigh::bytes).sum::<usize>()
    }
}

impl Weigh for Vec<Blocked> {
    fn bytes(&self) -> usize {
        let bytes = |blocked: &Blocked| {
            let username = blocked.username.as_ref().map(|name| name.as_str());
            size_of::<Blocked>()
                + text(username)
                + text(blocked.name.as_deref())
                + text(blocked.avatar_url.as_deref())
        };
        self.iter().map(bytes).sum()
    }
}
