//! The stream over mocks: what the caches know, and what pending actions make of it.

mod acting;
mod feeding;
mod judging;
mod listing;
mod reading;

use gravity_domain::clock::{Hlc, NodeId, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, OperationId, UserId};
use gravity_domain::page::PageLimit;
use gravity_domain::stream::ports::MockStreamCache;
use gravity_domain::stream::{
    Action, Cached, Item, ItemDetail, ItemPriority, ItemTitle, Source, StreamAction, StreamFilter,
    StreamPage, StreamQuery, View,
};
use gravity_domain::sync::ports::{MockBreaker, MockWriteBuffer};
use gravity_domain::sync::{Change, Freshness, Lww, Operation, Pending};
use std::cmp::Reverse;
use std::sync::{Arc, OnceLock};
use uuid::Uuid;

const USER: UserId = UserId(Uuid::from_u128(1));

fn id(n: u128) -> ItemId {
    ItemId(Uuid::from_u128(n))
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// An unread item that happened and arrived at this moment, of version 1.
fn item(n: u128, millis: i64) -> Item {
    Item {
        id: id(n),
        user_id: USER,
        title: ItemTitle::parse("title").unwrap(),
        source: Source::parse("email").unwrap(),
        priority: ItemPriority::Medium,
        unread: Lww::new(true, Hlc::ZERO),
        archived: Lww::new(false, Hlc::ZERO),
        snippet: None,
        timestamp: at(millis),
        arrived_at: at(millis),
        participants: Vec::new(),
        version: 1,
    }
}

/// Items 1..=n, the highest number newest.
fn items(n: i64) -> Vec<Item> {
    (1..=n)
        .map(|number| item(u128::try_from(number).unwrap(), number))
        .collect()
}

fn action(action: Action, ids: &[u128]) -> StreamAction {
    StreamAction {
        action,
        ids: ids.iter().map(|n| id(*n)).collect(),
        as_of: None,
        judged: Vec::new(),
    }
}

fn stamp(wall_ms: u64) -> Hlc {
    Hlc {
        wall_ms,
        counter: 0,
        node: NodeId(1),
    }
}

fn operation(wall_ms: u64, action: StreamAction) -> Operation {
    Operation::new(
        OperationId(Uuid::from_u128(u128::from(wall_ms))),
        USER,
        Change::StreamAction(action),
        stamp(wall_ms),
    )
}

fn view(view: View) -> StreamFilter {
    StreamFilter {
        view,
        ..StreamFilter::default()
    }
}

fn query(view_of: View, limit: usize) -> StreamQuery {
    StreamQuery {
        filter: view(view_of),
        after: None,
        limit: PageLimit::new(limit).unwrap(),
    }
}

fn away() -> StoreError {
    StoreError::unavailable("connect")
}

fn breaker(is_up: bool) -> MockBreaker {
    let mut breaker = MockBreaker::new();
    breaker.expect_allows_reads().return_const(is_up);
    breaker.expect_allows_writes().return_const(is_up);
    breaker.expect_failed().return_const(());
    breaker
}

fn buffer(actions: Vec<StreamAction>) -> MockWriteBuffer {
    let mut buffer = MockWriteBuffer::new();
    buffer.expect_pending_of().returning(move |_, _| {
        Ok((1..)
            .zip(actions.clone())
            .map(|(sequence, action)| Pending {
                sequence,
                operation: operation(sequence, action),
            })
            .collect())
    });
    buffer
}

fn counted(rows: &[Item]) -> u64 {
    rows.iter().filter(|item| item.counts_as_unread()).count() as u64
}

/// The page that Postgres would answer with.
fn page_of(rows: &[Item], query: &StreamQuery) -> StreamPage {
    let mut shown: Vec<_> = rows.iter().filter(|item| query.filter.shows(item)).collect();
    shown.sort_by_key(|item| Reverse(item.page_key()));
    shown.retain(|item| query.after.is_none_or(|after| item.page_key() < after));
    let has_more = shown.len() > query.limit.get();
    shown.truncate(query.limit.get());
    StreamPage {
        version: 1,
        unread_count: counted(rows),
        as_of: at(1_000),
        next: shown.last().filter(|_| has_more).map(|item| item.page_key()),
        items: shown.into_iter().cloned().map(Arc::new).collect(),
        rendered: OnceLock::new(),
    }
}

fn cached<T>(value: T, freshness: Freshness) -> Cached<T> {
    Cached {
        value,
        freshness,
        age_seconds: if freshness == Freshness::Stale { 9 } else { 0 },
    }
}

/// A cache before these rows: with Postgres behind it, or in the dark with the pages that a client of `limit` has asked for,
/// the first `known` of them.
fn cache(rows: Vec<Item>, dark: Option<(PageLimit, usize)>) -> MockStreamCache {
    let mut cache = MockStreamCache::new();
    let all = rows.clone();
    let freshness = dark.map_or(Freshness::Current, |_| Freshness::Stale);
    cache.expect_page().returning(move |_, query, _| {
        let is_known = dark.is_none_or(|(limit, pages)| {
            let mut reached = StreamQuery {
                after: None,
                ..query.clone()
            };
            query.limit == limit
                && (0..pages).any(|index| {
                    let is_there = (index == 0 || reached.after.is_some()) && reached.after == query.after;
                    reached.after = page_of(&rows, &reached).next;
                    is_there
                })
        });
        if is_known {
            Ok(cached(Arc::new(page_of(&rows, query)), freshness))
        } else {
            Err(away())
        }
    });
    known_items(&mut cache, all);
    nothing_done(&mut cache);
    cache
}

/// Nothing was done or shown that a stale page could lack.
fn nothing_done(cache: &mut MockStreamCache) {
    cache.expect_acted_since().returning(|_, _| Vec::new());
    cache.expect_newer().returning(|_, _| Vec::new());
}

/// Lets the cache know these items, and that there are no others.
fn known_items(cache: &mut MockStreamCache, rows: Vec<Item>) {
    let details = rows.clone();
    let ever = rows.clone();
    cache.expect_ever_known().returning(move |_, ids, _| {
        let find = |id: &ItemId| ever.iter().find(|item| item.id == *id);
        Ok(ids
            .iter()
            .map(|id| find(id).map(|item| Arc::new(item.clone())))
            .collect())
    });
    cache.expect_items().returning(move |_, ids, _| {
        let find = |id: &ItemId| rows.iter().find(|item| item.id == *id);
        Ok(ids
            .iter()
            .map(|id| find(id).map(|item| Arc::new(item.clone())))
            .collect())
    });
    cache.expect_detail().returning(move |_, id, _| {
        let found = details.iter().find(|item| item.id == id).cloned();
        let detail = found.map(|item| {
            Arc::new(ItemDetail {
                item,
                messages: Vec::new(),
                next: None,
                as_of: at(1_000),
                rendered: OnceLock::new(),
            })
        });
        Ok(cached(detail, Freshness::Current))
    });
}

/// The rows as they will be when the actions are applied.
fn applied(mut rows: Vec<Item>, actions: &[StreamAction]) -> Vec<Item> {
    for (wall_ms, action) in (1..).zip(actions) {
        for row in rows.iter_mut().filter(|row| action.ids.contains(&row.id)) {
            action.fold(stamp(wall_ms), row);
        }
    }
    rows
}
