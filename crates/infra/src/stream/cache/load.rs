//! Finds a page or a detail at a version: in this process, in Redis, in Postgres.

use super::Core;
use super::metrics::{Kind, Level, count};
use super::process::PageName;
use super::shared::{LEASE, Outline, detail_key, page_key};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{Item, ItemDetail, StreamPage, StreamQuery};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a node looks whether another has loaded, and for how long.
const POLL: Duration = Duration::from_millis(10);
const POLLS: u32 = 20;

/// What a node that misses is to do.
enum Turn<T> {
    /// Another has done it.
    Found(T),
    /// Load; the lease was taken then, if at all.
    Load(Option<Instant>),
}

impl Core {
    pub(super) async fn find_page(
        self: &Arc<Self>,
        user: UserId,
        query: &StreamQuery,
        at_least: u64,
    ) -> Result<Arc<StreamPage>, StoreError> {
        let version = self.look_up(user, at_least).await?;
        if let Some(page) = self.process.page(user, version, query) {
            self.hits.page.increment(1);
            return Ok(page);
        }
        count(Kind::Page, Level::Process, false);
        let name = PageName {
            user,
            version,
            query: Arc::new(query.clone()),
        };
        let (core, load) = (self.clone(), name.clone());
        let landed = self.page_flights.join(name, move || core.load_page(load)).await?;
        Ok(landed.value)
    }

    async fn load_page(self: Arc<Self>, name: PageName) -> Result<Arc<StreamPage>, StoreError> {
        let PageName { user, version, query } = name;
        let key = page_key(user, version, &query);
        if let Some(page) = self.shared_page(&key, user, version).await {
            self.process.keep_page(user, query, &page);
            return Ok(page);
        }
        self.may_read()?;
        let look = || self.shared_page(&key, user, version).boxed();
        let leased = match self.turn(&key, look).await {
            Turn::Found(page) => {
                self.process.keep_page(user, query, &page);
                return Ok(page);
            }
            Turn::Load(leased) => leased,
        };
        let loaded = self.store.page(user, &query).await;
        count(Kind::Page, Level::Postgres, loaded.is_ok());
        let page = match loaded {
            Ok(page) => Arc::new(page),
            Err(error) => {
                self.let_go(key, leased);
                return Err(error);
            }
        };
        self.met(user, version, page.version);
        self.process.keep_page(user, query.clone(), &page);
        let kept = page.clone();
        self.share(key, leased, async move |shared| {
            shared.keep_page(user, &query, &kept).await
        });
        Ok(page)
    }

    async fn shared_page(&self, key: &str, user: UserId, version: u64) -> Option<Arc<StreamPage>> {
        let shared = self.shared.as_ref().filter(|shared| shared.is_up())?;
        let found = shared.page(key, user, version).await.ok().flatten();
        let page = match found {
            Some((outline, items)) => self.complete(user, outline, items).await,
            None => None,
        };
        count(Kind::Page, Level::Redis, page.is_some());
        page.map(Arc::new)
    }

    /// Fetches the items that Redis has let go of, if they are still at the version that the page names.
    async fn complete(
        &self,
        user: UserId,
        outline: Outline,
        items: Vec<Option<Arc<Item>>>,
    ) -> Option<StreamPage> {
        let missing: Vec<ItemId> = items
            .iter()
            .zip(&outline.items)
            .filter_map(|(item, (id, _))| item.is_none().then_some(*id))
            .collect();
        let mut fetched: HashMap<ItemId, Arc<Item>> = HashMap::new();
        if !missing.is_empty() {
            self.may_read().ok()?;
            let loaded = self.store.items(user, &missing).await.ok()?;
            fetched.extend(loaded.into_iter().map(|item| (item.id, Arc::new(item))));
        }
        let all = items
            .into_iter()
            .zip(&outline.items)
            .map(|(item, (id, _))| item.or_else(|| fetched.get(id).cloned()));
        let all: Option<Vec<Arc<Item>>> = all.collect();
        outline.fill(all?)
    }

    pub(super) async fn find_detail(
        self: &Arc<Self>,
        user: UserId,
        id: ItemId,
        at_least: u64,
    ) -> Result<Option<Arc<ItemDetail>>, StoreError> {
        let version = self.look_up(user, at_least).await?;
        if let Some(detail) = self.process.detail(user, version, id) {
            self.hits.detail.increment(1);
            return Ok(Some(detail));
        }
        if self.process.is_unknown(user, id, version) {
            self.hits.detail.increment(1);
            return Ok(None);
        }
        count(Kind::Detail, Level::Process, false);
        let core = self.clone();
        let load = move || core.load_detail(user, version, id);
        let landed = self.detail_flights.join((user, version, id), load).await?;
        Ok(landed.value)
    }

    async fn load_detail(
        self: Arc<Self>,
        user: UserId,
        version: u64,
        id: ItemId,
    ) -> Result<Option<Arc<ItemDetail>>, StoreError> {
        let key = detail_key(user, version, id);
        if let Some(detail) = self.shared_detail(&key, user, version, id).await {
            self.process.keep_detail(user, version, &detail);
            return Ok(Some(detail));
        }
        self.may_read()?;
        let look = || self.shared_detail(&key, user, version, id).boxed();
        let leased = match self.turn(&key, look).await {
            Turn::Found(detail) => {
                self.process.keep_detail(user, version, &detail);
                return Ok(Some(detail));
            }
            Turn::Load(leased) => leased,
        };
        let loaded = self.store.detail(user, id).await;
        count(Kind::Detail, Level::Postgres, loaded.is_ok());
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                self.let_go(key, leased);
                return Err(error);
            }
        };
        let met = loaded.version;
        self.met(user, version, met);
        let detail = loaded.value.map(Arc::new);
        let kept = detail.clone();
        match &detail {
            Some(detail) => self.process.keep_detail(user, met, detail),
            None => self.process.keep_unknown(user, id, met),
        }
        self.share(key, leased, async move |shared| match kept {
            Some(detail) => shared.keep_detail(met, &detail).await,
            None => shared.forget_item(user, id).await,
        });
        Ok(detail)
    }

    async fn shared_detail(
        &self,
        key: &str,
        user: UserId,
        version: u64,
        id: ItemId,
    ) -> Option<Arc<ItemDetail>> {
        let shared = self.shared.as_ref().filter(|shared| shared.is_up())?;
        let found = shared.detail(key, user, version, id).await.ok().flatten();
        count(Kind::Detail, Level::Redis, found.is_some());
        found.map(Arc::new)
    }

    /// Items from Postgres, in the order asked.
    pub(super) async fn load_items(
        &self,
        user: UserId,
        ids: &[ItemId],
        may_ask_store: bool,
    ) -> Result<Vec<Option<Arc<Item>>>, StoreError> {
        if !may_ask_store {
            return Err(StoreError::unavailable("breaker_open"));
        }
        self.may_read()?;
        let loaded: Vec<Arc<Item>> = self
            .store
            .items(user, ids)
            .await?
            .into_iter()
            .map(Arc::new)
            .collect();
        self.process.keep_items(&loaded);
        let by_id: HashMap<ItemId, Arc<Item>> = loaded.into_iter().map(|item| (item.id, item)).collect();
        Ok(ids.iter().map(|id| by_id.get(id).cloned()).collect())
    }

    pub(super) fn may_read(&self) -> Result<(), StoreError> {
        if self.breaker.allows_reads() {
            return Ok(());
        }
        Err(StoreError::unavailable("breaker_open"))
    }

    /// A load at `wanted` met `met`.
    fn met(self: &Arc<Self>, user: UserId, wanted: u64, met: u64) {
        if met < wanted {
            self.versions.mistrust(user, met);
        } else if self.versions.saw(user, met) == met && met > wanted {
            self.tell_once(user, met);
        }
    }

    /// Whether this node is the one to load, or another that holds the lease has done it by now.
    async fn turn<'a, T>(&self, key: &str, look: impl Fn() -> BoxFuture<'a, Option<T>>) -> Turn<T> {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.is_up()) else {
            return Turn::Load(None);
        };
        let began = Instant::now();
        match shared.lease(key).await {
            Ok(true) => return Turn::Load(Some(began)),
            Err(_) => return Turn::Load(None),
            Ok(false) => {}
        }
        for _ in 0..POLLS {
            sleep(POLL).await;
            if let Some(found) = look().await {
                return Turn::Found(found);
            }
        }
        Turn::Load(None)
    }

    fn let_go(&self, key: String, leased: Option<Instant>) {
        self.share(key, leased, async |_| Ok(()));
    }

    /// Writes to Redis beside the answer, then gives the lease back.
    fn share<F>(
        &self,
        key: String,
        leased: Option<Instant>,
        write: impl FnOnce(Arc<super::Shared>) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let Some(shared) = self.shared.clone().filter(|shared| shared.is_up()) else {
            return;
        };
        self.handle.spawn(async move {
            let _ = write(shared.clone()).await;
            if leased.is_some_and(|since| since.elapsed() < LEASE) {
                let _ = shared.release(&key).await;
            }
        });
    }
}
