//! Level 1: what this process holds, bounded by bytes.
//!
//! Each page and each detail is kept once: the newest known, with the version it was read at. At that version it is the
//! answer, for a minute at most; else it is the last known, for the time when Postgres is away.

use super::weight::{FIXED, weight_of_detail, weight_of_item, weight_of_page};
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{Item, ItemDetail, StreamPage, StreamQuery};
use moka::Equivalent;
use moka::sync::Cache;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a value is the answer without a look further.
const FRESH: Duration = Duration::from_secs(60);
/// How long an item that is not there is remembered.
pub(super) const UNKNOWN: Duration = Duration::from_secs(5);

/// Names a page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PageName {
    pub(super) user: UserId,
    pub(super) query: Arc<StreamQuery>,
}

/// The same, borrowed. Hashes alike.
#[derive(Hash)]
struct PageRef<'a> {
    user: UserId,
    query: &'a StreamQuery,
}

impl Equivalent<PageName> for PageRef<'_> {
    fn equivalent(&self, name: &PageName) -> bool {
        self.user == name.user && *self.query == *name.query
    }
}

type DetailName = (UserId, ItemId);

/// A page, and when all its items were written to Redis by this node.
#[derive(Debug, Clone)]
pub(super) struct HeldPage {
    pub(super) page: Arc<StreamPage>,
    pub(super) written: Option<Instant>,
}

/// A value and the user's version it was read at.
#[derive(Debug, Clone)]
pub(super) struct Known<T> {
    pub(super) value: T,
    pub(super) version: u64,
    weight: u32,
    since: Instant,
}

impl<T> Known<T> {
    fn is_fresh_at(&self, version: u64) -> bool {
        self.version == version && self.since.elapsed() < FRESH
    }
}

#[derive(Debug, Clone, Copy)]
struct Unknown {
    version: u64,
    until: Instant,
}

/// The caches.
pub(super) struct Process {
    pages: Cache<PageName, Known<HeldPage>>,
    details: Cache<DetailName, Known<Arc<ItemDetail>>>,
    items: Cache<ItemId, Known<Arc<Item>>>,
    unknown: Cache<(UserId, ItemId), Unknown>,
}

fn cache<K, T>(bytes: u64) -> Cache<K, Known<T>>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    Cache::builder()
        .max_capacity(bytes)
        .weigher(|_, known: &Known<T>| known.weight)
        .build()
}

impl Process {
    /// At most about `bytes`, in all.
    pub(super) fn new(bytes: u64) -> Self {
        let percent = |share: u64| bytes / 100 * share;
        Self {
            pages: cache(percent(75)),
            details: cache(percent(12)),
            items: cache(percent(12)),
            unknown: Cache::builder()
                .max_capacity(percent(1) / u64::from(FIXED))
                .build(),
        }
    }

    pub(super) fn page(&self, user: UserId, version: u64, query: &StreamQuery) -> Option<Arc<StreamPage>> {
        self.pages
            .get(&PageRef { user, query })
            .filter(|known| known.is_fresh_at(version))
            .map(|known| known.value.page)
    }

    pub(super) fn last_page(&self, user: UserId, query: &StreamQuery) -> Option<HeldPage> {
        self.pages.get(&PageRef { user, query }).map(|known| known.value)
    }

    /// Keeps a page, unless a newer one is held that is not beyond `newest`, the version known.
    pub(super) fn keep_page(&self, name: PageName, held: HeldPage, newest: u64) {
        let page = &held.page;
        for item in &page.items {
            self.keep_item(item, page.version);
        }
        let known = Known {
            version: page.version,
            weight: weight_of_page(&name.query, page),
            since: Instant::now(),
            value: held,
        };
        keep_newest(&self.pages, name, known, newest);
    }

    pub(super) fn detail(&self, user: UserId, version: u64, id: ItemId) -> Option<Arc<ItemDetail>> {
        self.last_detail(user, id)
            .filter(|known| known.is_fresh_at(version))
            .map(|known| known.value)
    }

    /// The detail of an older version, if it is known by a page of this one that the item has not changed since; it is
    /// kept as that of this version.
    pub(super) fn renewed_detail(&self, user: UserId, version: u64, id: ItemId) -> Option<Arc<ItemDetail>> {
        let item = self.items.get(&id).filter(|known| known.version == version)?;
        let mut held = self.last_detail(user, id)?;
        let same = held.version < version
            && item.value.user_id == user
            && item.value.version == held.value.item.version;
        if !same {
            return None;
        }
        held.version = version;
        held.since = item.since;
        let detail = held.value.clone();
        keep_newest(&self.details, (user, id), held, version);
        Some(detail)
    }

    pub(super) fn last_detail(&self, user: UserId, id: ItemId) -> Option<Known<Arc<ItemDetail>>> {
        self.details.get(&(user, id))
    }

    /// Keeps a detail, as [`Self::keep_page`] does a page.
    pub(super) fn keep_detail(&self, user: UserId, version: u64, detail: &Arc<ItemDetail>, newest: u64) {
        self.keep_item(&Arc::new(detail.item.clone()), version);
        let known = Known {
            value: detail.clone(),
            version,
            weight: weight_of_detail(detail),
            since: Instant::now(),
        };
        let id = detail.item.id;
        keep_newest(&self.details, (user, id), known, newest);
        self.unknown.invalidate(&(user, id));
    }

    /// The last known of an item, if it is the user's and was so at version `floor` or later.
    pub(super) fn last_item(&self, user: UserId, id: ItemId, floor: u64) -> Option<Arc<Item>> {
        self.items
            .get(&id)
            .filter(|known| known.version >= floor)
            .map(|known| known.value)
            .filter(|item| item.user_id == user)
    }

    pub(super) fn keep_items(&self, items: &[Arc<Item>]) {
        for item in items {
            self.keep_item(item, item.version);
        }
    }

    fn keep_item(&self, item: &Arc<Item>, version: u64) {
        let known = Known {
            value: item.clone(),
            version,
            weight: weight_of_item(item),
            since: Instant::now(),
        };
        keep_newest(&self.items, item.id, known, u64::MAX);
    }

    /// Whether the item was found missing a moment ago, at this version or later.
    pub(super) fn is_unknown(&self, user: UserId, id: ItemId, version: u64) -> bool {
        self.unknown
            .get(&(user, id))
            .is_some_and(|unknown| unknown.version >= version && Instant::now() < unknown.until)
    }

    pub(super) fn keep_unknown(&self, user: UserId, id: ItemId, version: u64) {
        let until = Instant::now() + UNKNOWN;
        self.unknown.insert((user, id), Unknown { version, until });
        self.details.invalidate(&(user, id));
        self.items.invalidate(&id);
    }

    /// The bytes held, after what is over the limit has gone.
    pub(super) fn tidy(&self) -> u64 {
        self.pages.run_pending_tasks();
        self.details.run_pending_tasks();
        self.items.run_pending_tasks();
        self.pages.weighted_size()
            + self.details.weighted_size()
            + self.items.weighted_size()
            + self.unknown.entry_count() * u64::from(FIXED)
    }
}

/// Takes turns per key, so that an older value does not replace a newer one; but it does one that is newer than `newest`.
fn keep_newest<K, T>(cache: &Cache<K, Known<T>>, key: K, known: Known<T>, newest: u64)
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    use moka::ops::compute::Op;
    cache.entry(key).and_compute_with(|held| match held {
        Some(held) if (known.version + 1..=newest).contains(&held.value().version) => Op::Nop,
        _ => Op::Put(known),
    });
}
