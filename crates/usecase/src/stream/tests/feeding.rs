//! What services feed, and take out again.

use super::super::{IngestItems, RemoveItems};
use super::*;
use futures_util::FutureExt as _;
use gravity_domain::clock::{HybridClock, MockClock};
use gravity_domain::stream::ports::MockStreamStore;
use gravity_domain::stream::{ExternalId, Flags, Ingested, ItemChange, ItemKey, NewItem, Removed};

fn key(name: &str) -> ItemKey {
    ItemKey {
        user_id: USER,
        source: Source::parse("email").unwrap(),
        external_id: ExternalId::parse(name).unwrap(),
    }
}

fn new_item(name: &str, title: &str) -> NewItem {
    NewItem {
        key: key(name),
        title: ItemTitle::parse(title).unwrap(),
        priority: ItemPriority::Low,
        timestamp: at(1),
        flags: Flags::default(),
        snippet: None,
        participants: Vec::new(),
        messages: Vec::new(),
    }
}

fn ingest(store: MockStreamStore, cache: MockStreamCache, is_up: bool) -> IngestItems {
    let wall = Arc::new(MockClock::at(1_000));
    let clock = HybridClock::new(NodeId(7), 0, 60_000, wall, Arc::new(()));
    IngestItems::new(
        Arc::new(store),
        Arc::new(cache),
        Arc::new(breaker(is_up)),
        Arc::new(clock),
    )
}

#[tokio::test]
async fn of_items_with_one_key_the_last_counts_and_each_is_answered() {
    let mut store = MockStreamStore::new();
    store.expect_ingest().times(1).returning(|items, stamp| {
        assert!(stamp > Hlc::ZERO);
        let titles: Vec<_> = items.iter().map(|item| item.title.as_str()).collect();
        assert_eq!(titles, ["b1", "a2"]);
        Ok(Ingested {
            changes: vec![
                (key("b").item_id(), ItemChange::Updated),
                (key("a").item_id(), ItemChange::Created),
            ],
            versions: vec![(USER, 5)],
        })
    });
    let mut cache = MockStreamCache::new();
    cache
        .expect_raised()
        .withf(|versions| versions == [(USER, 5)])
        .times(1)
        .return_const(());
    let done = ingest(store, cache, true)
        .run(vec![
            new_item("a", "a1"),
            new_item("b", "b1"),
            new_item("a", "a2"),
        ])
        .await
        .unwrap();
    let kinds: Vec<_> = done.changes.iter().map(|(_, change)| *change).collect();
    assert_eq!(
        kinds,
        [ItemChange::Created, ItemChange::Updated, ItemChange::Created]
    );
    assert_eq!(done.changes[0].0, key("a").item_id());
    assert_eq!(done.versions, [(USER, 5)]);
}

#[tokio::test]
async fn nothing_is_fed_while_postgres_is_away() {
    let fed = ingest(MockStreamStore::new(), MockStreamCache::new(), false)
        .run(vec![new_item("a", "a")])
        .await;
    assert!(fed.unwrap_err().is_outage());
    let removed = RemoveItems::new(
        Arc::new(MockStreamStore::new()),
        Arc::new(MockStreamCache::new()),
        Arc::new(breaker(false)),
    );
    assert!(removed.run(vec![key("a")]).await.unwrap_err().is_outage());
}

#[tokio::test]
async fn users_are_doubted_when_nobody_knows_what_was_committed() {
    let mut store = MockStreamStore::new();
    store
        .expect_ingest()
        .returning(|_, _| Err(StoreError::unavailable("timeout")));
    let mut cache = MockStreamCache::new();
    cache.expect_stirred().times(1).return_const(());
    let fed = ingest(store, cache, true)
        .run(vec![new_item("a", "a"), new_item("b", "b")])
        .await;
    assert!(fed.is_err());
}

#[tokio::test]
async fn nobody_is_doubted_when_nothing_can_have_been_committed() {
    for reason in ["pool", "lock", "serialization"] {
        let mut store = MockStreamStore::new();
        store
            .expect_remove()
            .returning(move |_| Err(StoreError::Busy { reason, source: None }));
        let remove = RemoveItems::new(
            Arc::new(store),
            Arc::new(MockStreamCache::new()),
            Arc::new(breaker(true)),
        );
        assert!(remove.run(vec![key("a")]).await.is_err());
    }
    let mut store = MockStreamStore::new();
    store.expect_ingest().returning(|_, _| Err(away()));
    let fed = ingest(store, MockStreamCache::new(), true)
        .run(vec![new_item("a", "a")])
        .await;
    assert!(fed.is_err());
}

#[tokio::test]
async fn what_is_fed_is_told_also_when_the_caller_has_gone_away() {
    let (gate, told) = (
        Arc::new(tokio::sync::Notify::new()),
        Arc::new(tokio::sync::Notify::new()),
    );
    let mut store = MockStreamStore::new();
    let opened = Arc::clone(&gate);
    store.expect_ingest().times(1).returning(move |_, _| {
        opened.notify_one();
        Ok(Ingested {
            changes: vec![(key("a").item_id(), ItemChange::Created)],
            versions: vec![(USER, 5)],
        })
    });
    let mut cache = MockStreamCache::new();
    let raised = Arc::clone(&told);
    cache
        .expect_raised()
        .times(1)
        .returning(move |_| raised.notify_one());
    let feed = ingest(store, cache, true);
    let mut feeding = Box::pin(feed.run(vec![new_item("a", "a")]));
    assert!((&mut feeding).now_or_never().is_none());
    drop(feeding);
    gate.notified().await;
    told.notified().await;
}

#[tokio::test]
async fn a_removal_answers_each_key_in_order() {
    let mut store = MockStreamStore::new();
    store.expect_remove().times(1).returning(|keys| {
        assert_eq!(keys, [key("b"), key("a")]);
        Ok(Removed {
            removed: vec![false, true],
            versions: vec![(USER, 6)],
        })
    });
    let mut cache = MockStreamCache::new();
    cache.expect_raised().times(1).return_const(());
    let done = RemoveItems::new(Arc::new(store), Arc::new(cache), Arc::new(breaker(true)))
        .run(vec![key("a"), key("b"), key("a")])
        .await
        .unwrap();
    assert_eq!(done.removed, [true, false, true]);
}
