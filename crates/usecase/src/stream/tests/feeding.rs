//! What services feed, and take out again.

use super::super::{IngestItems, RemoveItems};
use super::*;
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
    store.expect_ingest().returning(|_, _| Err(away()));
    store.expect_remove().returning(|_| Err(away()));
    let mut cache = MockStreamCache::new();
    cache.expect_doubted().times(1).return_const(());
    let fed = ingest(store, cache, true)
        .run(vec![new_item("a", "a"), new_item("b", "b")])
        .await;
    assert!(fed.is_err());
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
