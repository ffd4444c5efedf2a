//! Level 1: what this process holds, bounded by bytes.
//!
//! Pages and details are kept by the version they were read at, and never go wrong. Beside them lies the last known of each, for
//! the time when Postgres is away; both point to the same value.

use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{Item, ItemDetail, StreamPage, StreamQuery};
use moka::Equivalent;
use moka::sync::Cache;
use serde::Serialize;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an item that is not there is remembered.
pub(super) const UNKNOWN: Duration = Duration::from_secs(5);

/// Names a page.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PageName {
    pub(super) user: UserId,
    /// 0 for the last known.
    pub(super) version: u64,
    pub(super) query: Arc<StreamQuery>,
}

/// The same, borrowed. Hashes alike.
#[derive(Hash)]
struct PageRef<'a> {
    user: UserId,
    version: u64,
    query: &'a StreamQuery,
}

impl Equivalent<PageName> for PageRef<'_> {
    fn equivalent(&self, name: &PageName) -> bool {
        self.user == name.user && self.version == name.version && *self.query == *name.query
    }
}

type DetailName = (UserId, u64, ItemId);

/// A value and the user's version it was read at.
#[derive(Debug, Clone)]
pub(super) struct Known<T> {
    pub(super) value: T,
    pub(super) version: u64,
    weight: u32,
}

#[derive(Debug, Clone, Copy)]
struct Unknown {
    version: u64,
    until: Instant,
}

/// The caches.
pub(super) struct Process {
    pages: Cache<PageName, Known<Arc<StreamPage>>>,
    details: Cache<DetailName, Known<Arc<ItemDetail>>>,
    last_pages: Cache<PageName, Known<Arc<StreamPage>>>,
    last_details: Cache<DetailName, Known<Arc<ItemDetail>>>,
    items: Cache<ItemId, Known<Arc<Item>>>,
    unknown: Cache<(UserId, ItemId), Unknown>,
}

/// What a cache entry costs beside its value.
const FIXED: u32 = 256;

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

/// Counts what is written to it.
struct Scale(usize);

impl std::io::Write for Scale {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Roughly the bytes of a value and of what is rendered from it.
fn weigh(value: &impl Serialize) -> u32 {
    let mut scale = Scale(0);
    // Never fails: these values have string keys only, and the scale takes everything.
    let _ = serde_json::to_writer(&mut scale, value);
    u32::try_from(scale.0)
        .unwrap_or(u32::MAX)
        .saturating_mul(2)
        .saturating_add(FIXED)
}

impl Process {
    /// At most about `bytes`, in all.
    pub(super) fn new(bytes: u64) -> Self {
        let percent = |share: u64| bytes / 100 * share;
        Self {
            pages: cache(percent(40)),
            details: cache(percent(20)),
            last_pages: cache(percent(20)),
            last_details: cache(percent(10)),
            items: cache(percent(9)),
            unknown: Cache::builder()
                .max_capacity(percent(1) / u64::from(FIXED))
                .build(),
        }
    }

    pub(super) fn page(&self, user: UserId, version: u64, query: &StreamQuery) -> Option<Arc<StreamPage>> {
        let name = PageRef { user, version, query };
        self.pages.get(&name).map(|known| known.value)
    }

    pub(super) fn last_page(&self, user: UserId, query: &StreamQuery) -> Option<Arc<StreamPage>> {
        let name = PageRef {
            user,
            version: 0,
            query,
        };
        self.last_pages.get(&name).map(|known| known.value)
    }

    pub(super) fn keep_page(&self, user: UserId, query: Arc<StreamQuery>, page: &Arc<StreamPage>) {
        let mut weight = FIXED + weigh(query.as_ref());
        for item in &page.items {
            let known = Known {
                value: item.clone(),
                version: page.version,
                weight: weigh(item.as_ref()),
            };
            weight = weight.saturating_add(known.weight);
            self.keep_item(known);
        }
        let known = Known {
            value: page.clone(),
            version: page.version,
            weight,
        };
        let name = PageName {
            user,
            version: page.version,
            query,
        };
        let last = PageName {
            version: 0,
            ..name.clone()
        };
        self.pages.insert(name, known.clone());
        keep_newest(&self.last_pages, last, known);
    }

    pub(super) fn detail(&self, user: UserId, version: u64, id: ItemId) -> Option<Arc<ItemDetail>> {
        self.details.get(&(user, version, id)).map(|known| known.value)
    }

    pub(super) fn last_detail(&self, user: UserId, id: ItemId) -> Option<Known<Arc<ItemDetail>>> {
        self.last_details.get(&(user, 0, id))
    }

    pub(super) fn keep_detail(&self, user: UserId, version: u64, detail: &Arc<ItemDetail>) {
        let item = Known {
            value: Arc::new(detail.item.clone()),
            version,
            weight: weigh(&detail.item),
        };
        self.keep_item(item);
        let known = Known {
            value: detail.clone(),
            version,
            weight: weigh(detail.as_ref()),
        };
        let id = detail.item.id;
        self.details.insert((user, version, id), known.clone());
        keep_newest(&self.last_details, (user, 0, id), known);
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
            self.keep_item(Known {
                value: item.clone(),
                version: item.version,
                weight: weigh(item.as_ref()),
            });
        }
    }

    fn keep_item(&self, known: Known<Arc<Item>>) {
        keep_newest(&self.items, known.value.id, known);
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
        self.last_details.invalidate(&(user, 0, id));
        self.items.invalidate(&id);
    }

    /// The bytes held, after what is over the limit has gone.
    pub(super) fn tidy(&self) -> u64 {
        self.pages.run_pending_tasks();
        self.details.run_pending_tasks();
        self.last_pages.run_pending_tasks();
        self.last_details.run_pending_tasks();
        self.items.run_pending_tasks();
        self.pages.weighted_size()
            + self.details.weighted_size()
            + self.last_pages.weighted_size()
            + self.last_details.weighted_size()
            + self.items.weighted_size()
            + self.unknown.entry_count() * u64::from(FIXED)
    }
}

/// Takes turns per key, so that an older value does not replace a newer one.
fn keep_newest<K, T>(cache: &Cache<K, Known<T>>, key: K, known: Known<T>)
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    use moka::ops::compute::Op;
    cache.entry(key).and_compute_with(|held| match held {
        Some(held) if held.value().version > known.version => Op::Nop,
        _ => Op::Put(known),
    });
}
