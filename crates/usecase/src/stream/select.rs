//! The items that a filter finds, for an action on them.
//!
//! Postgres finds them, or, when it is away, the pages that are known, if they are the whole list at one version. Either
//! way the user's pending actions are folded in: what they put out of the filter's sight is not found, what they bring into it is.
//! In the dark an item that arrived unseen is not found: an action is for what its user has seen.

use super::overlay::{PendingActions, bases, renew, unwritten};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::page::PageLimit;
use gravity_domain::stream::{
    Item, Selection, StreamAction, StreamCache, StreamFilter, StreamQuery, StreamStore, View,
};
use gravity_domain::sync::WriteError;
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// The sizes of page that clients ask for most; only whole lists of such pages are looked for.
const LIMITS: [usize; 5] = [20, 50, 100, 25, 10];
/// The most pages of one list that are followed.
const MAX_PAGES: usize = 400;

pub(super) struct Finder {
    pub(super) store: Arc<dyn StreamStore>,
    pub(super) cache: Arc<dyn StreamCache>,
    pub(super) breaker: Arc<dyn Breaker>,
    pub(super) buffer: Arc<dyn WriteBuffer>,
}

impl Finder {
    /// At most [`StreamAction::MAX_ITEMS`] items that are not newer than `as_of`; that many when there are more.
    pub(super) async fn find(
        &self,
        user: UserId,
        filter: &StreamFilter,
        as_of: Timestamp,
    ) -> Result<Selection, WriteError> {
        let pending = PendingActions::of(self.buffer.as_ref(), user).await?;
        let limit = StreamAction::MAX_ITEMS + pending.len();
        let mut known = HashMap::new();
        let mut pending = pending;
        let mut selection = match self.stored(user, filter, as_of, limit).await? {
            Some(selection) => selection,
            None => {
                let mut items = self.known(user, filter).await.ok_or(WriteError::Unknown)?;
                renew(self.cache.as_ref(), user, &mut items);
                pending = pending.with(self.cache.acted_since(user, 0));
                let found = items.iter().filter(|item| is_wanted(item, filter, as_of));
                let ids = found.map(|item| item.id).collect();
                known.extend(items.into_iter().map(|item| (item.id, item)));
                Selection { ids, has_more: false }
            }
        };
        if !pending.is_empty() {
            let unknown: Vec<_> = pending.ids().filter(|id| !known.contains_key(id)).collect();
            let found = bases(self.cache.as_ref(), self.breaker.as_ref(), user, &unknown).await;
            let found = found.map_err(unwritten)?;
            let touched = pending.ids().filter_map(|id| known.remove(&id)).chain(found);
            let folded: Vec<_> = touched.map(|item| pending.fold(&item)).collect();
            correct(&mut selection.ids, folded, filter, as_of);
        }
        if selection.ids.len() > StreamAction::MAX_ITEMS {
            selection.ids.truncate(StreamAction::MAX_ITEMS);
            selection.has_more = true;
        }
        Ok(selection)
    }

    /// What Postgres finds; `None` when it is away.
    async fn stored(
        &self,
        user: UserId,
        filter: &StreamFilter,
        as_of: Timestamp,
        limit: usize,
    ) -> Result<Option<Selection>, WriteError> {
        if !self.breaker.allows_reads() {
            return Ok(None);
        }
        match self.store.select(user, filter, as_of, limit).await {
            Ok(selection) => Ok(Some(selection)),
            Err(error) => {
                self.breaker.failed(&error);
                match unwritten(error) {
                    WriteError::Unknown => Ok(None),
                    refused => Err(refused),
                }
            }
        }
    }

    /// A whole known list that holds all that `filter` shows.
    async fn known(&self, user: UserId, filter: &StreamFilter) -> Option<Vec<Arc<Item>>> {
        let whole = StreamFilter {
            view: if filter.view == View::Archived {
                View::Archived
            } else {
                View::All
            },
            ..StreamFilter::default()
        };
        let filters = [Some(filter), (*filter != whole).then_some(&whole)];
        for filter in filters.into_iter().flatten() {
            for limit in LIMITS.into_iter().filter_map(PageLimit::new) {
                let items = self.followed(user, filter.clone(), limit).await;
                if items.is_some() {
                    return items;
                }
            }
        }
        None
    }

    /// The list by its pages of this size; `None` unless all of them are known, at one version.
    async fn followed(&self, user: UserId, filter: StreamFilter, limit: PageLimit) -> Option<Vec<Arc<Item>>> {
        let mut query = StreamQuery {
            filter,
            after: None,
            limit,
        };
        let mut items = Vec::new();
        let mut version = None;
        for _ in 0..MAX_PAGES {
            let page = self.cache.page(user, &query, 0).await.ok()?.value;
            if *version.get_or_insert(page.version) != page.version {
                return None;
            }
            items.extend(page.items.iter().cloned());
            query.after = page.next;
            if query.after.is_none() {
                return Some(items);
            }
        }
        None
    }
}

fn is_wanted(item: &Item, filter: &StreamFilter, as_of: Timestamp) -> bool {
    filter.shows(item) && item.timestamp <= as_of && item.arrived_at <= as_of
}

/// Takes out of `ids` what pending actions have put out of sight, and adds what they have brought into it.
fn correct(ids: &mut Vec<ItemId>, mut folded: Vec<Arc<Item>>, filter: &StreamFilter, as_of: Timestamp) {
    let gone: HashSet<ItemId> = folded
        .iter()
        .filter(|item| !filter.shows(item))
        .map(|item| item.id)
        .collect();
    ids.retain(|id| !gone.contains(id));
    let there: HashSet<ItemId> = ids.iter().copied().collect();
    folded.sort_by_key(|item| Reverse(item.page_key()));
    let new = folded
        .iter()
        .filter(|item| !there.contains(&item.id) && is_wanted(item, filter, as_of));
    ids.extend(new.map(|item| item.id));
}
