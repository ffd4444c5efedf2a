//! A page of the stream, with the user's own pending actions in it.
//!
//! The page as it is without them comes from the caches. Items on it are folded and filtered anew, and touched items that
//! pass the filter now are put in where the page reaches. When that takes items away, the list is read on, so that no shorter
//! page is answered than there are items for; a page that cannot be read on (Postgres is away) is answered short, with
//! the cursor at which it ends. The position a page ends at counts, not what is on it: so pages neither repeat nor gap.

use super::overlay::{PendingActions, bases, renew, unread as unread_error};
use gravity_domain::clock::Timestamp;
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::page::{PageKey, PageLimit};
use gravity_domain::stream::{Cached, Item, StreamCache, StreamPage, StreamQuery};
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{Freshness, ReadError};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

/// How often a list is read on for one page.
const MAX_LOADS: usize = 32;
/// How often a page and the items that pending actions touch are read until they are of one time.
const MAX_TRIES: usize = 5;

/// `GET /v2/stream`.
pub struct ListStream {
    cache: Arc<dyn StreamCache>,
    breaker: Arc<dyn Breaker>,
    buffer: Arc<dyn WriteBuffer>,
}

/// A page and how fresh it is.
#[derive(Debug, Clone)]
pub struct StreamRead {
    /// The page: shared with the cache, unless pending actions are folded in ([`Freshness::Pending`]), when it is this
    /// read's own, and its version is that of the page without them; or it was stale and lacked what was done, or shown, before.
    pub page: Arc<StreamPage>,
    /// How fresh.
    pub freshness: Freshness,
    /// How old what was known is, in seconds; 0 unless it is stale.
    pub age_seconds: u64,
    /// Whether it is not the page of its version, but has more in it.
    pub is_folded: bool,
}

/// A stretch of a list as it is without pending actions.
struct Stretch {
    items: Vec<Arc<Item>>,
    /// Where it ends; `None` at the end of the list.
    end: Option<PageKey>,
    version: u64,
    unread_count: u64,
    as_of: Timestamp,
    age_seconds: u64,
    is_stale: bool,
}

impl Stretch {
    fn of(page: &Cached<Arc<StreamPage>>) -> Self {
        Self {
            items: page.value.items.clone(),
            end: page.value.next,
            version: page.value.version,
            unread_count: page.value.unread_count,
            as_of: page.value.as_of,
            age_seconds: page.age_seconds,
            is_stale: page.freshness == Freshness::Stale,
        }
    }

    /// Lengthened by the page that begins at its end, which may be of another version: the older one is told.
    fn extend(&mut self, page: &Cached<Arc<StreamPage>>) {
        let seen: HashSet<ItemId> = self.items.iter().map(|item| item.id).collect();
        let new = page.value.items.iter().filter(|item| !seen.contains(&item.id));
        self.items.extend(new.cloned());
        self.end = page.value.next;
        self.version = self.version.min(page.value.version);
        self.as_of = self.as_of.min(page.value.as_of);
        self.age_seconds = self.age_seconds.max(page.age_seconds);
        self.is_stale |= page.freshness == Freshness::Stale;
    }

    /// With what is known newer of its items, if it is stale, and as far as that still lies in it.
    fn renew(&mut self, cache: &dyn StreamCache, user: UserId) {
        if !self.is_stale {
            return;
        }
        let before = unread(&self.items);
        renew(cache, user, &mut self.items);
        self.unread_count = (self.unread_count + unread(&self.items)).saturating_sub(before);
        let end = self.end;
        self.items
            .retain(|item| end.is_none_or(|end| item.page_key() >= end));
    }
}

fn unread(items: &[Arc<Item>]) -> u64 {
    items.iter().map(|item| u64::from(item.counts_as_unread())).sum()
}

impl ListStream {
    /// Over these ports.
    pub fn new(cache: Arc<dyn StreamCache>, breaker: Arc<dyn Breaker>, buffer: Arc<dyn WriteBuffer>) -> Self {
        Self {
            cache,
            breaker,
            buffer,
        }
    }

    /// The user's version, if it is known for certain without asking Postgres and nothing of the user is pending: an answer
    /// that carried it, and no pending actions, would be the same now.
    pub async fn version(&self, user: UserId, at_least: u64) -> Option<u64> {
        // In the dark an answer says so, and of what age it is.
        if !self.breaker.allows_reads() {
            return None;
        }
        let pending = PendingActions::of(self.buffer.as_ref(), user).await.ok()?;
        if pending.is_empty() {
            self.cache.version(user, at_least).await
        } else {
            None
        }
    }

    /// One page, at version `at_least` or later (0: any).
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn run(
        &self,
        user: UserId,
        query: &StreamQuery,
        at_least: u64,
    ) -> Result<StreamRead, ReadError> {
        let pending = PendingActions::of(self.buffer.as_ref(), user).await?;
        let is_pending = !pending.is_empty();
        if !is_pending {
            let page = self.cache.page(user, query, at_least).await;
            let lacks_nothing = |page: &Cached<Arc<StreamPage>>| {
                page.freshness != Freshness::Stale || self.lacks_nothing(user, &page.value)
            };
            match page {
                Ok(page) if lacks_nothing(&page) => {
                    return Ok(StreamRead {
                        page: page.value,
                        freshness: page.freshness,
                        age_seconds: page.age_seconds,
                        is_folded: false,
                    });
                }
                // Of pages that actions were folded over, the next may begin inside of a known one.
                Err(error) if error.is_transient() && self.may_be_inside(user, query) => {}
                Err(error) => return Err(unread_error(error)),
                Ok(_) => {}
            }
        }
        let freshness = if is_pending {
            Freshness::Pending
        } else {
            Freshness::Stale
        };
        // Items may come from what is known while the page is current, so committed actions are folded over both.
        let pending = self.with_committed(user, pending);
        let (mut base, touched) = self.base(user, query, at_least, &pending).await?;
        let rows = self
            .fill(user, query, at_least, &mut base, &touched, &pending)
            .await?;
        Ok(cut(&base, rows, query, &touched, &pending, freshness))
    }

    fn may_be_inside(&self, user: UserId, query: &StreamQuery) -> bool {
        query.after.is_some() && !self.cache.acted_since(user, 0).is_empty()
    }

    fn with_committed(&self, user: UserId, pending: PendingActions) -> PendingActions {
        pending.with(self.cache.acted_since(user, 0))
    }

    /// Of a stale page: whether all that was done and shown before is in it.
    fn lacks_nothing(&self, user: UserId, page: &StreamPage) -> bool {
        self.cache.acted_since(user, page.version).is_empty()
            && self.cache.newer(user, &page.items).is_empty()
    }

    /// The page without pending actions, and what they touch outside of it. A touched item may be newer than the page; both
    /// are then asked for again, so that the count on the page and the items are of one time.
    async fn base(
        &self,
        user: UserId,
        query: &StreamQuery,
        at_least: u64,
        pending: &PendingActions,
    ) -> Result<(Stretch, Vec<Arc<Item>>), ReadError> {
        let mut base = self.stretch(user, query, at_least).await?;
        let mut tries = 1;
        loop {
            let on_page: HashSet<ItemId> = base.items.iter().map(|item| item.id).collect();
            let elsewhere: Vec<_> = pending.ids().filter(|id| !on_page.contains(id)).collect();
            let touched = bases(self.cache.as_ref(), self.breaker.as_ref(), user, &elsewhere)
                .await
                .map_err(unread_error)?;
            let newest = touched.iter().map(|item| item.version).max().unwrap_or(0);
            if newest <= base.version || tries == MAX_TRIES || !self.breaker.allows_reads() {
                return Ok((base, touched));
            }
            tries += 1;
            match self.stretch(user, query, at_least.max(newest)).await {
                Ok(newer) => base = newer,
                Err(_) => return Ok((base, touched)),
            }
        }
    }

    /// The stretch that begins where `query` does. In the dark a cursor inside of a known page is found by following the
    /// known pages from the first.
    async fn stretch(&self, user: UserId, query: &StreamQuery, at_least: u64) -> Result<Stretch, ReadError> {
        let failed = match self.cache.page(user, query, at_least).await {
            Ok(page) => {
                let mut stretch = Stretch::of(&page);
                stretch.renew(self.cache.as_ref(), user);
                return Ok(stretch);
            }
            Err(error) => error,
        };
        let Some(after) = query.after.filter(|_| failed.is_transient()) else {
            return Err(unread_error(failed));
        };
        let first = StreamQuery {
            after: None,
            ..query.clone()
        };
        let page = self
            .cache
            .page(user, &first, at_least)
            .await
            .map_err(unread_error)?;
        let mut known = Stretch::of(&page);
        known.renew(self.cache.as_ref(), user);
        let mut loads = 1;
        while known.end.is_some_and(|end| end >= after) {
            if loads == MAX_LOADS {
                return Err(ReadError::Unknown);
            }
            loads += 1;
            self.lengthen(user, query, at_least, &mut known)
                .await
                .map_err(unread_error)?;
        }
        known.items.retain(|item| item.page_key() < after);
        Ok(known)
    }

    /// Reads on at the end of `base`: far, or, in the dark, by pages of the size that are likely to be known.
    async fn lengthen(
        &self,
        user: UserId,
        query: &StreamQuery,
        at_least: u64,
        base: &mut Stretch,
    ) -> Result<(), StoreError> {
        let mut next = StreamQuery {
            after: base.end,
            ..query.clone()
        };
        if self.breaker.allows_reads() {
            next.limit = PageLimit::new(PageLimit::MAX).unwrap_or(query.limit);
            match self.cache.page(user, &next, at_least).await {
                Ok(page) => {
                    base.extend(&page);
                    base.renew(self.cache.as_ref(), user);
                    return Ok(());
                }
                Err(error) if !error.is_transient() => return Err(error),
                Err(_) => next.limit = query.limit,
            }
        }
        base.extend(&self.cache.page(user, &next, at_least).await?);
        base.renew(self.cache.as_ref(), user);
        Ok(())
    }

    /// What is to be seen of the stretch, read on until that fills a page.
    async fn fill(
        &self,
        user: UserId,
        query: &StreamQuery,
        at_least: u64,
        base: &mut Stretch,
        touched: &[Arc<Item>],
        pending: &PendingActions,
    ) -> Result<Vec<Arc<Item>>, ReadError> {
        let folded: Vec<_> = touched
            .iter()
            .map(|item| pending.fold(item))
            .filter(|item| query.filter.shows(item))
            .filter(|item| query.after.is_none_or(|after| item.page_key() < after))
            .collect();
        for _ in 0..MAX_LOADS {
            let rows = visible(base, &folded, query, pending);
            if rows.len() >= query.limit.get() || base.end.is_none() {
                return Ok(rows);
            }
            if let Err(error) = self.lengthen(user, query, at_least, base).await {
                let error = unread_error(error);
                return if rows.is_empty() || !matches!(error, ReadError::Unknown) {
                    Err(error)
                } else {
                    Ok(rows)
                };
            }
        }
        Ok(visible(base, &folded, query, pending))
    }
}

/// What is to be seen of the stretch, with the folded items from elsewhere that lie in it; newest first.
fn visible(
    base: &Stretch,
    folded: &[Arc<Item>],
    query: &StreamQuery,
    pending: &PendingActions,
) -> Vec<Arc<Item>> {
    let in_base: HashSet<ItemId> = base.items.iter().map(|item| item.id).collect();
    let own = base.items.iter().map(|item| pending.fold(item));
    let own = own.filter(|item| query.filter.shows(item));
    let others = folded
        .iter()
        .filter(|item| !in_base.contains(&item.id))
        .filter(|item| base.end.is_none_or(|end| item.page_key() >= end));
    let mut rows: Vec<_> = own.chain(others.cloned()).collect();
    rows.sort_by_key(|item| Reverse(item.page_key()));
    rows
}

fn cut(
    base: &Stretch,
    mut rows: Vec<Arc<Item>>,
    query: &StreamQuery,
    touched: &[Arc<Item>],
    pending: &PendingActions,
    freshness: Freshness,
) -> StreamRead {
    let limit = query.limit.get();
    let next = if rows.len() > limit {
        rows.truncate(limit);
        rows.last().map(|item| item.page_key())
    } else {
        base.end
    };
    let page = StreamPage {
        version: base.version,
        unread_count: unread_count(base, query, touched, pending),
        as_of: base.as_of,
        items: rows,
        next,
        rendered: OnceLock::new(),
    };
    StreamRead {
        page: Arc::new(page),
        freshness,
        age_seconds: base.age_seconds,
        is_folded: true,
    }
}

/// Whether the count of the base includes an item that is not on it. The item may be known as it was at another time: one that a
/// stretch which it lies in would show was not as it is known to be.
fn was_counted(base: &Stretch, query: &StreamQuery, item: &Item) -> bool {
    let lies_in = query.after.is_none_or(|after| item.page_key() < after)
        && base.end.is_none_or(|end| item.page_key() >= end);
    item.counts_as_unread() && !(lies_in && query.filter.shows(item))
}

/// The count of the base, corrected by what pending actions make of each item they touch.
fn unread_count(base: &Stretch, query: &StreamQuery, touched: &[Arc<Item>], pending: &PendingActions) -> u64 {
    let elsewhere = touched
        .iter()
        .map(|item| (item.id, (item, was_counted(base, query, item))));
    let mut items: HashMap<ItemId, (&Arc<Item>, bool)> = elsewhere.collect();
    let on_page = base.items.iter().filter(|item| pending.touch(item.id));
    items.extend(on_page.map(|item| (item.id, (item, item.counts_as_unread()))));
    let (mut more, mut fewer) = (0, 0);
    for (item, was_counted) in items.into_values() {
        match (was_counted, pending.fold(item).counts_as_unread()) {
            (false, true) => more += 1,
            (true, false) => fewer += 1,
            _ => {}
        }
    }
    (base.unread_count + more).saturating_sub(fewer)
}
