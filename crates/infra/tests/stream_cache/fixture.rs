//! A store in memory, which can be slow, closed or down, and nodes before it.

use async_trait::async_trait;
use gravity_domain::auth::Secret;
use gravity_domain::clock::{Hlc, SystemClock, Timestamp, WallClock as _};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::stream::{
    Changes, Ingested, Item, ItemDetail, ItemKey, ItemPriority, ItemTitle, Message, NewItem, Removed,
    Selection, Source, StreamFilter, StreamPage, StreamQuery, StreamStore, Versioned,
};
use gravity_domain::sync::Lww;
use gravity_domain::sync::ports::Breaker;
use gravity_infra::redis::{Redis, RedisSettings};
use gravity_infra::stream::{CachedStream, StreamCachePorts, StreamCacheSettings};
use gravity_test_support::services;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub(crate) fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

pub(crate) fn query() -> StreamQuery {
    StreamQuery {
        filter: StreamFilter::default(),
        after: None,
        limit: PageLimit::default(),
    }
}

pub(crate) fn item_id(user: UserId, n: usize) -> ItemId {
    ItemId::of(user, "email", &n.to_string())
}

pub(crate) type Stream = (u64, BTreeMap<ItemId, Item>);

/// A breaker that is set.
pub(crate) struct Switch(pub(crate) AtomicBool);

impl Breaker for Switch {
    fn allows_writes(&self) -> bool {
        self.allows_reads()
    }
    fn allows_reads(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
    fn failed(&self, _: &StoreError) {}
}

pub(crate) fn closed() -> Arc<Switch> {
    Arc::new(Switch(AtomicBool::new(true)))
}

/// Postgres.
pub(crate) struct FakeStore {
    pub(crate) streams: Mutex<HashMap<UserId, Stream>>,
    pub(crate) versions: AtomicUsize,
    pub(crate) pages: AtomicUsize,
    pub(crate) details: AtomicUsize,
    /// Items that did not have to be read again.
    pub(crate) spared: AtomicUsize,
    pub(crate) down: AtomicBool,
    /// Pages and details wait for a permit.
    pub(crate) gate: Semaphore,
    /// How long the texts of new items are.
    pub(crate) title: usize,
}

pub(crate) const OPEN: usize = Semaphore::MAX_PERMITS / 2;

impl Default for FakeStore {
    fn default() -> Self {
        Self {
            streams: Mutex::default(),
            versions: AtomicUsize::new(0),
            pages: AtomicUsize::new(0),
            details: AtomicUsize::new(0),
            spared: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            gate: Semaphore::new(OPEN),
            title: 8,
        }
    }
}

impl FakeStore {
    /// Changes item `n`; the user's version after it.
    pub(crate) fn change(&self, user: UserId, n: usize) -> u64 {
        let mut streams = self.streams.lock().unwrap();
        let (version, items) = streams.entry(user).or_default();
        *version += 1;
        let item = Item {
            id: item_id(user, n),
            user_id: user,
            title: ItemTitle::parse(&"t".repeat(self.title)).unwrap(),
            source: Source::parse("email").unwrap(),
            priority: ItemPriority::High,
            unread: Lww::new(true, Hlc::ZERO),
            archived: Lww::new(false, Hlc::ZERO),
            snippet: None,
            timestamp: Timestamp::from_millis(n as i64),
            arrived_at: Timestamp::from_millis(1),
            participants: Vec::new(),
            version: *version,
        };
        items.insert(item.id, item);
        *version
    }

    pub(crate) fn at(&self, user: UserId) -> u64 {
        self.streams
            .lock()
            .unwrap()
            .get(&user)
            .map_or(0, |stream| stream.0)
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn answer<T>(&self, user: UserId, read: impl FnOnce(&Stream) -> T) -> Result<T, StoreError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("connect"));
        }
        let streams = self.streams.lock().unwrap();
        Ok(read(streams.get(&user).unwrap_or(&Stream::default())))
    }

    async fn pass(&self) {
        // Work that takes a moment, so that what overlaps can.
        tokio::task::yield_now().await;
        self.gate.acquire().await.unwrap().forget();
    }
}

fn nothing<T>() -> Result<T, StoreError> {
    Err(StoreError::unavailable("closed"))
}

#[async_trait]
impl StreamStore for FakeStore {
    async fn version(&self, user: UserId) -> Result<u64, StoreError> {
        self.versions.fetch_add(1, Ordering::SeqCst);
        self.answer(user, |stream| stream.0)
    }

    async fn page(&self, user: UserId, query: &StreamQuery) -> Result<StreamPage, StoreError> {
        self.pages.fetch_add(1, Ordering::SeqCst);
        self.pass().await;
        self.answer(user, |(version, items)| StreamPage {
            version: *version,
            unread_count: items.len() as u64,
            as_of: SystemClock.now(),
            items: items
                .values()
                .take(query.limit.get())
                .cloned()
                .map(Arc::new)
                .collect(),
            next: None,
            rendered: OnceLock::new(),
        })
    }

    async fn page_since(
        &self,
        user: UserId,
        query: &StreamQuery,
        known: &StreamPage,
    ) -> Result<StreamPage, StoreError> {
        let mut page = self.page(user, query).await?;
        for item in &mut page.items {
            let held = known.items.iter().find(|held| held.id == item.id);
            if let Some(held) = held.filter(|_| item.version <= known.version) {
                self.spared.fetch_add(1, Ordering::SeqCst);
                *item = held.clone();
            }
        }
        Ok(page)
    }

    async fn detail(&self, user: UserId, id: ItemId) -> Result<Versioned<Option<ItemDetail>>, StoreError> {
        self.details.fetch_add(1, Ordering::SeqCst);
        self.pass().await;
        self.answer(user, |(version, items)| Versioned {
            version: *version,
            value: items.get(&id).cloned().map(|item| ItemDetail {
                item,
                messages: Vec::new(),
                next: None,
                as_of: SystemClock.now(),
                rendered: OnceLock::new(),
            }),
        })
    }

    async fn items(&self, user: UserId, ids: &[ItemId]) -> Result<Vec<Item>, StoreError> {
        self.answer(user, |(_, items)| {
            ids.iter().filter_map(|id| items.get(id).cloned()).collect()
        })
    }

    async fn messages(
        &self,
        _: UserId,
        _: ItemId,
        _: Option<PageKey>,
        _: PageLimit,
    ) -> Result<Option<Page<Message>>, StoreError> {
        nothing()
    }

    async fn changes(&self, _: UserId, _: u64) -> Result<Versioned<Option<Changes>>, StoreError> {
        nothing()
    }

    async fn select(
        &self,
        _: UserId,
        _: &StreamFilter,
        _: Timestamp,
        _: usize,
    ) -> Result<Selection, StoreError> {
        nothing()
    }

    async fn ingest(&self, _: &[NewItem], _: Hlc) -> Result<Ingested, StoreError> {
        nothing()
    }

    async fn remove(&self, _: &[ItemKey]) -> Result<Removed, StoreError> {
        nothing()
    }
}

/// One process.
pub(crate) struct Node {
    pub(crate) cache: CachedStream,
    pub(crate) breaker: Arc<Switch>,
    pub(crate) redis: Option<Redis>,
    _stop: DropGuard,
}

pub(crate) fn node_with(
    store: &Arc<FakeStore>,
    server: Option<&services::Redis>,
    settings: StreamCacheSettings,
) -> Node {
    let breaker = closed();
    let redis = server.map(|server| {
        let settings = RedisSettings::new(Secret::new(server.url()));
        Redis::new(settings, Handle::current(), closed()).unwrap()
    });
    let ports = StreamCachePorts {
        store: store.clone(),
        breaker: breaker.clone(),
        redis: redis.clone(),
        clock: Arc::new(SystemClock),
    };
    let stop = CancellationToken::new();
    Node {
        cache: CachedStream::spawn(settings, ports, Handle::current(), stop.clone()),
        breaker,
        redis,
        _stop: stop.drop_guard(),
    }
}

pub(crate) async fn node(store: &Arc<FakeStore>, server: &services::Redis) -> Node {
    let node = node_with(store, Some(server), StreamCacheSettings::default());
    eventually("it tracks", async || node.cache.is_tracking()).await;
    node
}

pub(crate) fn lone_node(store: &Arc<FakeStore>) -> Node {
    node_with(store, None, StreamCacheSettings::default())
}

pub(crate) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let began = std::time::Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(10), "not so: {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}
