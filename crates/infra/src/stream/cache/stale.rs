//! The last known, for when Postgres is away: never older than what was asked for, nor lacking what its user has done, but for
//! the actions that can be folded over it.

use super::Core;
use super::metrics::{Kind, Level, count};
use super::shared::Shared;
use gravity_domain::clock::Timestamp;
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{Cached, Item, ItemDetail, StreamPage, StreamQuery};
use gravity_domain::sync::Freshness;
use std::sync::Arc;

impl Core {
    pub(super) async fn stale_page(
        &self,
        user: UserId,
        query: &StreamQuery,
        at_least: u64,
        error: StoreError,
    ) -> Result<Cached<Arc<StreamPage>>, StoreError> {
        let Some(floor) = self.floor(user, at_least, &error) else {
            return Err(error);
        };
        let good = |page: &Arc<StreamPage>| page.version >= floor;
        let held = self.process.last_page(user, query);
        let mut page = held.map(|held| held.page).filter(good);
        if page.is_none()
            && let Some(shared) = self.willing()
        {
            let found = shared.last_page(user, query).await.ok().flatten();
            let found = found.map(Arc::new).filter(good);
            let floor = match &found {
                Some(_) => self.floor_of_shared(shared, user, floor).await,
                None => None,
            };
            page = found.filter(|page| floor.is_some_and(|floor| page.version >= floor));
        }
        count(Kind::Page, Level::Stale, page.is_some());
        let page = page.ok_or(error)?;
        let as_of = page.as_of;
        Ok(self.stale(page, as_of))
    }

    pub(super) async fn stale_detail(
        &self,
        user: UserId,
        id: ItemId,
        at_least: u64,
        error: StoreError,
    ) -> Result<Cached<Option<Arc<ItemDetail>>>, StoreError> {
        let Some(floor) = self.floor(user, at_least, &error) else {
            return Err(error);
        };
        if self.is_gone(user, id) {
            count(Kind::Detail, Level::Stale, true);
            return Ok(self.stale(None, self.clock.now()));
        }
        let held = self.process.last_detail(user, id);
        let mut detail = held.filter(|held| held.version >= floor).map(|held| held.value);
        if detail.is_none()
            && let Some(shared) = self.willing()
        {
            let found = shared.last_detail(user, id).await.ok().flatten();
            if let Some((version, found)) = found.filter(|(version, _)| *version >= floor) {
                let floor = self.floor_of_shared(shared, user, floor).await;
                detail = floor.filter(|floor| version >= *floor).map(|_| Arc::new(found));
            }
        }
        count(Kind::Detail, Level::Stale, detail.is_some());
        let detail = detail.ok_or(error)?;
        let as_of = detail.as_of;
        Ok(self.stale(Some(detail), as_of))
    }

    /// The last known of items, each from where it is found. Of an item in Redis it is only known that it was so at its own
    /// version.
    pub(super) async fn last_items(
        &self,
        user: UserId,
        ids: &[ItemId],
        error: StoreError,
    ) -> Result<Vec<Option<Arc<Item>>>, StoreError> {
        let Some(floor) = self.floor(user, 0, &error) else {
            return Err(error);
        };
        let shared_floor = match self.willing() {
            Some(shared) => self.floor_of_shared(shared, user, floor).await,
            None => None,
        };
        self.items_from(user, ids, error, (floor, shared_floor)).await
    }

    /// As [`Self::last_items`], however old.
    pub(super) async fn ever_known(
        &self,
        user: UserId,
        ids: &[ItemId],
        error: StoreError,
    ) -> Result<Vec<Option<Arc<Item>>>, StoreError> {
        if !error.is_transient() {
            return Err(error);
        }
        self.items_from(user, ids, error, (0, Some(0))).await
    }

    /// Floors: of what this process holds, and of Redis, which is not asked when it has none.
    async fn items_from(
        &self,
        user: UserId,
        ids: &[ItemId],
        error: StoreError,
        (floor, shared_floor): (u64, Option<u64>),
    ) -> Result<Vec<Option<Arc<Item>>>, StoreError> {
        let last = |id: &ItemId| self.process.last_item(user, *id, floor);
        let mut found: Vec<Option<Arc<Item>>> = ids.iter().map(last).collect();
        let missing: Vec<usize> = (0..ids.len()).filter(|place| found[*place].is_none()).collect();
        let gone = |place: &usize| self.is_gone(user, ids[*place]);
        let missing: Vec<usize> = missing.into_iter().filter(|place| !gone(place)).collect();
        if missing.is_empty() {
            return Ok(found);
        }
        let wanted: Vec<ItemId> = missing.iter().map(|place| ids[*place]).collect();
        let (items, floor) = match (self.willing(), shared_floor) {
            (Some(shared), Some(floor)) => {
                let items = shared.last_items(user, &wanted).await.unwrap_or_default();
                (items, floor)
            }
            _ => (Vec::new(), floor),
        };
        let mut items = items.into_iter();
        for place in missing {
            match items.next().flatten().filter(|item| item.version >= floor) {
                Some(item) => found[place] = Some(Arc::new(item)),
                None => return Err(error),
            }
        }
        Ok(found)
    }

    /// The version that a stale answer to this failure must have; `None` when there must be none.
    fn floor(&self, user: UserId, at_least: u64, error: &StoreError) -> Option<u64> {
        if !error.is_transient() {
            return None;
        }
        self.versions.floor(user).map(|floor| floor.max(at_least))
    }

    /// Whether the item was found missing a moment ago, at the version known.
    fn is_gone(&self, user: UserId, id: ItemId) -> bool {
        self.process.is_unknown(user, id, self.versions.at_least(user, 0))
    }

    fn willing(&self) -> Option<&Arc<Shared>> {
        self.shared.as_ref().filter(|shared| shared.is_up())
    }

    pub(super) fn stale<T>(&self, value: T, as_of: Timestamp) -> Cached<T> {
        Cached {
            value,
            freshness: Freshness::Stale,
            age_seconds: self.clock.now().millis_since(as_of) / 1_000,
        }
    }
}
