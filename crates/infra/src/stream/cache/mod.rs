//! The two levels of cache before the stream in Postgres.
//!
//! Pages, details and items never change at one version of their user, so only the version can be out of date: it is looked up
//! in `versions` (this process, while the tracking connection vouches for it), then in Redis, then in Postgres. What is
//! read at that version comes from `process`, then from Redis (`shared`), then from Postgres, with one load per key
//! (`flight`, and a lease across nodes). When Postgres is away, the last known value is served as stale, unless it lacks
//! what the user has done (`acted`). Redis is never needed: whatever is wrong with it is a miss.

mod acted;
mod flight;
mod load;
mod lookup;
mod metrics;
mod process;
mod shared;
mod stale;
mod tracking;
mod versions;
mod weight;

use crate::redis::{Redis, track};
use acted::Acted;
use async_trait::async_trait;
use flight::Flights;
use gravity_domain::chat::{Live, Signal};
use gravity_domain::clock::{Hlc, Timestamp, WallClock};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{
    ActionReceipt, Cached, Item, ItemDetail, Raised, StreamAction, StreamCache, StreamPage, StreamQuery,
    StreamStore,
};
use gravity_domain::sync::Freshness;
use gravity_domain::sync::ports::Breaker;
use metrics::Hits;
use process::{PageName, Process};
use shared::Shared;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracking::{Listener, Outbox, Trust};
use versions::Versions;

/// How much this process keeps.
#[derive(Debug, Clone, Copy)]
pub struct StreamCacheSettings {
    /// Bytes of pages, details and items, roughly.
    pub bytes: u64,
    /// Users whose version is remembered (about 200 bytes each).
    pub users: usize,
}

impl Default for StreamCacheSettings {
    fn default() -> Self {
        Self {
            bytes: 256 << 20,
            users: 50_000,
        }
    }
}

/// What the cache stands on.
#[derive(Clone)]
pub struct StreamCachePorts {
    /// Postgres.
    pub store: Arc<dyn StreamStore>,
    /// The breaker before it.
    pub breaker: Arc<dyn Breaker>,
    /// Redis; without it every read asks Postgres for the version.
    pub redis: Option<Redis>,
    /// For the age of stale answers.
    pub clock: Arc<dyn WallClock>,
}

/// The cache. Cheap to clone; usable from any runtime.
#[derive(Clone)]
pub struct CachedStream {
    core: Arc<Core>,
}

struct Core {
    store: Arc<dyn StreamStore>,
    breaker: Arc<dyn Breaker>,
    clock: Arc<dyn WallClock>,
    handle: Handle,
    shared: Option<Arc<Shared>>,
    process: Process,
    versions: Arc<Versions>,
    trust: Arc<Trust>,
    outbox: Arc<Outbox>,
    acted: Acted,
    acts_to_tell: Outbox,
    unseen: Mutex<HashSet<UserId>>,
    live: OnceLock<Arc<dyn Live>>,
    hits: Arc<Hits>,
    version_flights: Flights<lookup::Asking, u64>,
    page_flights: Flights<(PageName, u64), Arc<StreamPage>>,
    detail_flights: Flights<(UserId, u64, ItemId), Option<Arc<ItemDetail>>>,
}

/// How many versions wait to be told at most.
const OUTBOX: usize = 100_000;

impl CachedStream {
    /// Begins on `handle`, a multi-threaded runtime: a connection that hears of raised versions, and a task that tells them. Both
    /// end with `stop`.
    pub fn spawn(
        settings: StreamCacheSettings,
        ports: StreamCachePorts,
        handle: Handle,
        stop: CancellationToken,
    ) -> Self {
        let versions = Arc::new(Versions::new(settings.users));
        let core = Arc::new(Core {
            store: ports.store,
            breaker: ports.breaker,
            clock: ports.clock,
            shared: ports.redis.clone().map(|redis| Arc::new(Shared::new(redis))),
            process: Process::new(settings.bytes),
            versions,
            trust: Arc::default(),
            outbox: Arc::new(Outbox::new(OUTBOX)),
            acted: Acted::default(),
            acts_to_tell: Outbox::new(OUTBOX),
            unseen: Mutex::default(),
            live: OnceLock::new(),
            hits: Arc::default(),
            version_flights: Flights::new("version", handle.clone()),
            page_flights: Flights::new("page", handle.clone()),
            detail_flights: Flights::new("detail", handle.clone()),
            handle,
        });
        if let Some(redis) = ports.redis {
            let listener = Arc::new(Listener {
                trust: core.trust.clone(),
                versions: core.versions.clone(),
                outbox: core.outbox.clone(),
                hits: core.hits.clone(),
            });
            core.handle
                .spawn(track(redis.settings().clone(), listener, stop.clone()));
            core.handle.spawn(core.clone().tell_on(stop.clone()));
        }
        core.handle.spawn(core.clone().measure(stop));
        Self { core }
    }

    /// Whether what level 1 knows of versions may be believed: the tracking connection is up.
    pub fn is_tracking(&self) -> bool {
        self.core.trust.epoch().is_some()
    }

    /// The bytes that level 1 holds, after what is over the limit has gone.
    pub fn bytes(&self) -> u64 {
        self.core.process.tidy()
    }
}

impl CachedStream {
    /// From now on the sockets of users whose version is raised here are told so. Once.
    pub fn announce(&self, live: Arc<dyn Live>) {
        let _ = self.core.live.set(live);
    }
}

impl Core {
    /// Keeps the gauge, until `stop`.
    async fn measure(self: Arc<Self>, stop: CancellationToken) {
        const EVERY: Duration = Duration::from_secs(1);
        while stop
            .run_until_cancelled(tokio::time::sleep(EVERY))
            .await
            .is_some()
        {
            #[allow(clippy::cast_precision_loss, reason = "a gauge")]
            ::metrics::gauge!("gravity_stream_cache_bytes").set(self.process.tidy() as f64);
        }
    }

    /// What is right as far as is known. While Postgres is away nobody can know, whatever Redis vouches for.
    fn found<T>(&self, value: T, as_of: Timestamp) -> Cached<T> {
        if !self.breaker.allows_reads() {
            return self.stale(value, as_of);
        }
        Cached {
            value,
            freshness: Freshness::Current,
            age_seconds: 0,
        }
    }

    fn raise(&self, user: UserId, version: u64) {
        self.versions.raised(user, version);
        if let Some(live) = self.live.get() {
            live.signal(user, Signal::StreamChanged { version });
        }
        if self.shared.is_some() {
            self.outbox.put(user, version);
        }
    }

    fn stir(self: &Arc<Self>, user: UserId) {
        if self.versions.stir(user) {
            self.handle.spawn(self.clone().settle(user));
        }
    }

    fn doubt(self: &Arc<Self>, user: UserId) {
        if self.versions.doubt(user) {
            self.handle.spawn(self.clone().settle(user));
        }
    }

    /// The version, if nobody has to be asked.
    fn known(&self, user: UserId, at_least: u64) -> Option<u64> {
        let version = self.versions.trusted(user, self.trust.epoch())?;
        if version < at_least {
            return None;
        }
        self.hits.version.increment(1);
        Some(version)
    }
}

#[async_trait]
impl StreamCache for CachedStream {
    async fn version(&self, user: UserId, at_least: u64) -> Option<u64> {
        match self.core.known(user, at_least) {
            Some(version) => Some(version),
            None => self.core.ask_shared(user, at_least).await,
        }
    }

    async fn page(
        &self,
        user: UserId,
        query: &StreamQuery,
        at_least: u64,
    ) -> Result<Cached<Arc<StreamPage>>, StoreError> {
        if let Some(version) = self.core.known(user, at_least)
            && let Some(page) = self.core.process.page(user, version, query)
        {
            self.core.hits.page.increment(1);
            let as_of = page.as_of;
            return Ok(self.core.found(page, as_of));
        }
        match self.core.find_page(user, query, at_least).await {
            Ok(page) => {
                let as_of = page.as_of;
                Ok(self.core.found(page, as_of))
            }
            Err(error) => self.core.stale_page(user, query, at_least, error).await,
        }
    }

    async fn detail(
        &self,
        user: UserId,
        id: ItemId,
        at_least: u64,
    ) -> Result<Cached<Option<Arc<ItemDetail>>>, StoreError> {
        if let Some(version) = self.core.known(user, at_least)
            && let Some(detail) = self.core.process.detail(user, version, id)
        {
            self.core.hits.detail.increment(1);
            let as_of = detail.as_of;
            return Ok(self.core.found(Some(detail), as_of));
        }
        match self.core.find_detail(user, id, at_least).await {
            Ok(detail) => {
                let as_of = detail
                    .as_ref()
                    .map_or_else(|| self.core.clock.now(), |detail| detail.as_of);
                Ok(self.core.found(detail, as_of))
            }
            Err(error) => self.core.stale_detail(user, id, at_least, error).await,
        }
    }

    async fn items(
        &self,
        user: UserId,
        ids: &[ItemId],
        may_ask_store: bool,
    ) -> Result<Vec<Option<Arc<Item>>>, StoreError> {
        match self.core.load_items(user, ids, may_ask_store).await {
            Err(error) => self.core.last_items(user, ids, error).await,
            found => found,
        }
    }

    async fn ever_known(
        &self,
        user: UserId,
        ids: &[ItemId],
        may_ask_store: bool,
    ) -> Result<Vec<Option<Arc<Item>>>, StoreError> {
        match self.core.load_items(user, ids, may_ask_store).await {
            Err(error) => self.core.ever_known(user, ids, error).await,
            found => found,
        }
    }

    fn newer(&self, user: UserId, items: &[Arc<Item>]) -> Vec<Arc<Item>> {
        let newest = |item: &Arc<Item>| self.core.process.last_item(user, item.id, item.version + 1);
        let newest = items
            .iter()
            .filter_map(|item| newest(item).map(|found| (found, item)));
        newest
            .filter(|(found, item)| found.version > item.version)
            .map(|(found, _)| found)
            .collect()
    }

    fn raised(&self, versions: &[Raised]) {
        for (user, version) in versions {
            self.core.raise(*user, *version);
        }
    }

    fn acted(&self, receipt: &ActionReceipt) {
        self.core.keep_act(receipt);
    }

    fn acted_since(&self, user: UserId, version: u64) -> Vec<(Hlc, StreamAction)> {
        self.core.acted.since(user, version)
    }

    fn stirred(&self, user: UserId) {
        self.core.stir(user);
    }

    fn doubted(&self, user: UserId) {
        self.core.doubt(user);
    }
}
