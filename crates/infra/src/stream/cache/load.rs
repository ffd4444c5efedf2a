//! Finds a page or a detail at a version: in this process, in Redis, in Postgres.

use super::Core;
use super::metrics::{Kind, Level, count};
use super::process::{HeldPage, PageName};
use super::shared::{LEASE, Outline, Raw, WRITTEN_MS, detail_key, detail_of, page_key};
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
/// See [`WRITTEN_MS`].
const WRITTEN: Duration = Duration::from_millis(WRITTEN_MS);

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
        let query = Arc::new(query.clone());
        let name = PageName { user, query };
        let (core, load) = (self.clone(), name.clone());
        let load = move || core.load_page(load, version);
        let landed = self.page_flights.join((name, version), load).await?;
        Ok(landed.value)
    }

    async fn load_page(self: Arc<Self>, name: PageName, version: u64) -> Result<Arc<StreamPage>, StoreError> {
        let (user, query) = (name.user, name.query.clone());
        let key = page_key(user, version, &query);
        let known = self.process.last_page(user, &query);
        let known = known.filter(|held| held.page.version <= version);
        let read = |raw| self.page_of(raw, user, version).boxed();
        let leased = match self.turn(Kind::Page, &key, known.is_some(), read).await? {
            Turn::Found(page) => {
                self.keep_page(name, page.clone(), None);
                return Ok(page);
            }
            Turn::Load(leased) => leased,
        };
        let loaded = self.read_page(user, &query, known.as_ref()).await;
        count(Kind::Page, Level::Postgres, loaded.is_ok());
        let page = match loaded {
            Ok(page) => Arc::new(page),
            Err(error) => {
                self.let_go(key, leased);
                return Err(error);
            }
        };
        self.met(user, version, page.version);
        let known = known.filter(|held| held.written.is_some_and(|at| at.elapsed() < WRITTEN));
        let written = known
            .as_ref()
            .map_or_else(|| Some(Instant::now()), |held| held.written);
        self.keep_page(name, page.clone(), written);
        let kept = page.clone();
        self.share(key, leased, async move |shared, lease| {
            let known = known.as_ref().map(|held| &*held.page);
            shared
                .keep_page(user, &query, &kept, known, lease.as_deref())
                .await
        });
        Ok(page)
    }

    /// From Postgres: only what is not known of an earlier version, unless Postgres has gone back behind that.
    async fn read_page(
        &self,
        user: UserId,
        query: &StreamQuery,
        known: Option<&HeldPage>,
    ) -> Result<StreamPage, StoreError> {
        if let Some(held) = known {
            let page = self.store.page_since(user, query, &held.page).await?;
            if page.version >= held.page.version {
                return Ok(page);
            }
        }
        self.store.page(user, query).await
    }

    async fn page_of(&self, raw: Raw, user: UserId, version: u64) -> Option<Arc<StreamPage>> {
        let shared = self.shared.as_ref()?;
        let (outline, items) = shared.page(raw, user, version).await.ok().flatten()?;
        self.complete(user, outline, items).await.map(Arc::new)
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
        if let Some(detail) = self.process.renewed_detail(user, version, id) {
            self.hits.detail.increment(1);
            return Ok(Some(detail));
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
        let read = |raw| async move { detail_of(raw, user, version, id).map(Arc::new) }.boxed();
        let leased = match self.turn(Kind::Detail, &key, false, read).await? {
            Turn::Found(detail) => {
                self.keep_detail(user, version, &detail);
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
            Some(detail) => self.keep_detail(user, met, detail),
            None => self.process.keep_unknown(user, id, met),
        }
        self.share(key, leased, async move |shared, lease| match kept {
            Some(detail) => shared.keep_detail(met, &detail, lease.as_deref()).await,
            None => shared.forget_item(user, id, lease.as_deref()).await,
        });
        Ok(detail)
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

    fn keep_page(&self, name: PageName, page: Arc<StreamPage>, written: Option<Instant>) {
        let newest = self.versions.at_least(name.user, 0);
        self.process.keep_page(name, HeldPage { page, written }, newest);
    }

    fn keep_detail(&self, user: UserId, version: u64, detail: &Arc<ItemDetail>) {
        let newest = self.versions.at_least(user, 0);
        self.process.keep_detail(user, version, detail, newest);
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

    /// What Redis has, or whether this node is the one to load it. In haste (it is likely not there yet) the lease is asked
    /// for at once. It always is before the value: whoever gets it just after another let go of it finds what that has written.
    async fn turn<'a, T>(
        &self,
        kind: Kind,
        key: &str,
        in_haste: bool,
        read: impl Fn(Raw) -> BoxFuture<'a, Option<T>>,
    ) -> Result<Turn<T>, StoreError> {
        let Some(shared) = self.shared.as_ref().filter(|shared| shared.is_up()) else {
            return self.may_read().map(|()| Turn::Load(None));
        };
        let look = async || read(shared.get(kind, key).await.ok().flatten()).await;
        if !in_haste || self.may_read().is_err() {
            let found = look().await;
            count(kind, Level::Redis, found.is_some());
            if let Some(found) = found {
                return Ok(Turn::Found(found));
            }
            self.may_read()?;
        }
        let began = Instant::now();
        let Ok((taken, raw)) = shared.lease(key).await else {
            return Ok(Turn::Load(None));
        };
        let found = read(raw).await;
        if in_haste || found.is_some() {
            count(kind, Level::Redis, found.is_some());
        }
        match (found, taken) {
            (Some(found), taken) => {
                self.let_go(key.to_owned(), taken.then_some(began));
                return Ok(Turn::Found(found));
            }
            (None, true) => return Ok(Turn::Load(Some(began))),
            (None, false) => {}
        }
        for _ in 0..POLLS {
            sleep(POLL).await;
            if let Some(found) = look().await {
                count(kind, Level::Redis, true);
                return Ok(Turn::Found(found));
            }
        }
        Ok(Turn::Load(None))
    }

    /// Lets others load, if this node holds the lease.
    fn let_go(&self, key: String, leased: Option<Instant>) {
        if leased.is_some() {
            self.share(key, leased, async |shared, lease| match lease {
                Some(key) => shared.release(&key).await,
                None => Ok(()),
            });
        }
    }

    /// Writes to Redis beside the answer. What is to be let go of with it: the lease on the key, while it is this node's.
    fn share<F>(
        &self,
        key: String,
        leased: Option<Instant>,
        write: impl FnOnce(Arc<super::Shared>, Option<String>) -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        let Some(shared) = self.shared.clone().filter(|shared| shared.is_up()) else {
            return;
        };
        let lease = leased.filter(|since| since.elapsed() < LEASE).map(|_| key);
        let write = write(shared, lease);
        self.handle.spawn(async move {
            let _ = write.await;
        });
    }
}
