//! The ports of the stream.

use super::action::{ActionReceipt, StreamAction};
use super::ingest::{Ingested, ItemKey, NewItem, Raised, Removed};
use super::item::{Item, ItemDetail};
use super::message::Message;
use super::query::{Changes, Selection, StreamFilter, StreamPage, StreamQuery};
use crate::clock::{Hlc, Timestamp};
use crate::error::StoreError;
use crate::id::{ItemId, UserId};
use crate::page::{Page, PageKey, PageLimit};
use crate::sync::Freshness;
use async_trait::async_trait;
use std::sync::Arc;

/// A value and the user's version that it was read at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The user's version.
    pub version: u64,
}

/// The stream in Postgres. Every call is one round trip, and what it answers is of one snapshot.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait StreamStore: Send + Sync {
    /// The user's version; 0 for a user who has never had an item.
    ///
    /// # Errors
    /// [`StoreError`], here as in all calls.
    async fn version(&self, user: UserId) -> Result<u64, StoreError>;

    /// A page of the user's stream.
    async fn page(&self, user: UserId, query: &StreamQuery) -> Result<StreamPage, StoreError>;

    /// The same page as [`Self::page`] gives, for a caller who has it of an earlier version: items that have not changed
    /// since are those of `known`, and need not be read again.
    async fn page_since(
        &self,
        user: UserId,
        query: &StreamQuery,
        known: &StreamPage,
    ) -> Result<StreamPage, StoreError> {
        let _ = known;
        self.page(user, query).await
    }

    /// One item with its newest messages; `None` when the user has no such item.
    async fn detail(&self, user: UserId, id: ItemId) -> Result<Versioned<Option<ItemDetail>>, StoreError>;

    /// Those of the items that the user has, in any order.
    async fn items(&self, user: UserId, ids: &[ItemId]) -> Result<Vec<Item>, StoreError>;

    /// Messages of an item, newest first, after `after`; `None` when the user has no such item.
    async fn messages(
        &self,
        user: UserId,
        id: ItemId,
        after: Option<PageKey>,
        limit: PageLimit,
    ) -> Result<Option<Page<Message>>, StoreError>;

    /// What has changed after version `since`. Whole versions only, some 500 ids; `None` when it cannot be calculated:
    /// tombstones since then have been purged, or there is too much for ten pages.
    async fn changes(&self, user: UserId, since: u64) -> Result<Versioned<Option<Changes>>, StoreError>;

    /// The newest `limit` items that `filter` finds and that are not newer than `as_of`, by timestamp or arrival.
    async fn select(
        &self,
        user: UserId,
        filter: &StreamFilter,
        as_of: Timestamp,
        limit: usize,
    ) -> Result<Selection, StoreError>;

    /// Upserts items (each key once) with participants and messages, in one transaction of set-based statements. Flags that
    /// are given are set at `stamp`. Raises the version of each user of whom something changed, once.
    async fn ingest(&self, items: &[NewItem], stamp: Hlc) -> Result<Ingested, StoreError>;

    /// Removes items (each key once), leaving tombstones, in one transaction.
    async fn remove(&self, keys: &[ItemKey]) -> Result<Removed, StoreError>;
}

/// A cached value and how fresh it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached<T> {
    /// The value.
    pub value: T,
    /// [`Freshness::Current`] or [`Freshness::Stale`].
    pub freshness: Freshness,
    /// How old a stale value is, in seconds.
    pub age_seconds: u64,
}

/// The two levels of cache before [`StreamStore`], and the store behind them: one load per key, however many wait.
///
/// `at_least` is a version that the answer must not be older than (0: any). An answer is never older than a version that this
/// node has told by [`Self::raised`], unless it is stale; then it lacks none of the user's own actions but those that
/// [`Self::acted_since`] gives.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait StreamCache: Send + Sync {
    /// The user's version if it is known for certain without asking Postgres: for answering 304.
    async fn version(&self, user: UserId, at_least: u64) -> Option<u64>;

    /// A page.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be loaded and no last known one is there (or it is older than `at_least`).
    async fn page(
        &self,
        user: UserId,
        query: &StreamQuery,
        at_least: u64,
    ) -> Result<Cached<Arc<StreamPage>>, StoreError>;

    /// An item with its newest messages; `None` when the user has no such item.
    ///
    /// # Errors
    /// As [`Self::page`].
    async fn detail(
        &self,
        user: UserId,
        id: ItemId,
        at_least: u64,
    ) -> Result<Cached<Option<Arc<ItemDetail>>>, StoreError>;

    /// What is known of these items: from Postgres, or, when it is away, the last known of each in either level. `Ok(None)`
    /// for an item that is known not to be there.
    ///
    /// # Errors
    /// [`StoreError`] when nothing is known of one of them.
    async fn items(
        &self,
        user: UserId,
        ids: &[ItemId],
        may_ask_store: bool,
    ) -> Result<Vec<Option<Arc<Item>>>, StoreError>;

    /// As [`Self::items`], however old: for what an action of the user's own does not change, as whether an item is there.
    ///
    /// # Errors
    /// As [`Self::items`].
    async fn ever_known(
        &self,
        user: UserId,
        ids: &[ItemId],
        may_ask_store: bool,
    ) -> Result<Vec<Option<Arc<Item>>>, StoreError>;

    /// Those of `items` that this node has known at a later version of theirs, as they were then: what was shown once is
    /// not to be taken back by something older.
    fn newer(&self, user: UserId, items: &[Arc<Item>]) -> Vec<Arc<Item>>;

    /// These versions are committed: reads on this node see them from now on while Postgres answers, and other nodes are
    /// told. Never fails: what cannot be told now is told when Redis is back.
    fn raised(&self, versions: &[Raised]);

    /// An action of the user is committed, at the receipt's version as [`Self::raised`] tells it (`None`: nobody knows at which).
    /// Nothing stale is answered without it from now on, but for what [`Self::acted_since`] gives.
    fn acted(&self, receipt: &ActionReceipt);

    /// What is to be folded over a stale value of version `version`: nothing, or all that this node knows of the user's committed
    /// actions, with their stamps.
    fn acted_since(&self, user: UserId, version: u64) -> Vec<(Hlc, StreamAction)>;

    /// Something of the user's items may have been committed unseen, which was not acknowledged to the user: the version is
    /// asked for anew.
    fn stirred(&self, user: UserId);

    /// An action of the user may have been committed unseen: as [`Self::stirred`], and nothing stale is answered until
    /// Postgres has told a version.
    fn doubted(&self, user: UserId);
}

/// Makes HTML from outside safe to show.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait HtmlSanitizer: Send + Sync {
    /// What is left of `html` when everything that is not known to be harmless is taken out.
    fn clean(&self, html: &str) -> String;
}
