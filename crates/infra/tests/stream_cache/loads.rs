//! One node without Redis: loads, unknown ids, stale answers, bounds.

use crate::fixture::{FakeStore, OPEN, eventually, item_id, lone_node, node_with, query, user};
use gravity_domain::stream::StreamCache as _;
use gravity_domain::sync::Freshness;
use gravity_infra::stream::StreamCacheSettings;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use tokio::sync::Semaphore;

fn shut() -> Arc<FakeStore> {
    Arc::new(FakeStore {
        gate: Semaphore::new(0),
        ..FakeStore::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_readers_of_a_cold_page_make_one_load() {
    let store = shut();
    store.change(user(1), 1);
    let node = lone_node(&store);
    let readers: Vec<_> = (0..1_000)
        .map(|_| {
            let cache = node.cache.clone();
            tokio::spawn(async move { cache.page(user(1), &query(), 0).await.unwrap().value })
        })
        .collect();
    eventually("the load has begun", async || store.pages.load(SeqCst) == 1).await;
    store.gate.add_permits(OPEN);
    let mut first = None;
    for reader in readers {
        let page = reader.await.unwrap();
        assert!(Arc::ptr_eq(first.get_or_insert_with(|| page.clone()), &page));
    }
    assert_eq!(store.pages.load(SeqCst), 1);
}

#[tokio::test]
async fn a_leader_that_goes_away_does_not_fail_those_who_wait() {
    let store = shut();
    store.change(user(1), 1);
    let node = lone_node(&store);
    let read = |cache: gravity_infra::stream::CachedStream| {
        tokio::spawn(async move { cache.page(user(1), &query(), 0).await })
    };
    let leader = read(node.cache.clone());
    eventually("the load has begun", async || store.pages.load(SeqCst) == 1).await;
    let follower = read(node.cache.clone());
    eventually("the follower waits", async || store.versions.load(SeqCst) == 2).await;
    tokio::task::yield_now().await;
    leader.abort();
    assert!(leader.await.unwrap_err().is_cancelled());
    store.gate.add_permits(OPEN);
    assert_eq!(follower.await.unwrap().unwrap().value.version, 1);
    assert_eq!(store.pages.load(SeqCst), 1);
}

#[tokio::test]
async fn an_error_goes_to_all_who_wait_and_is_not_kept() {
    let store = shut();
    store.change(user(1), 1);
    let node = lone_node(&store);
    let readers: Vec<_> = (0..5)
        .map(|_| {
            let cache = node.cache.clone();
            tokio::spawn(async move { cache.page(user(1), &query(), 0).await })
        })
        .collect();
    eventually("the load has begun", async || store.pages.load(SeqCst) == 1).await;
    store.set_down(true);
    store.gate.add_permits(OPEN);
    for reader in readers {
        assert!(reader.await.unwrap().unwrap_err().is_outage());
    }
    store.set_down(false);
    let page = node.cache.page(user(1), &query(), 0).await.unwrap();
    assert_eq!((page.value.version, page.freshness), (1, Freshness::Current));
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_not_there_is_remembered_for_five_seconds_and_one_version() {
    let store = Arc::new(FakeStore::default());
    let node = lone_node(&store);
    let find = async || {
        node.cache
            .detail(user(1), item_id(user(1), 1), 0)
            .await
            .unwrap()
            .value
    };
    assert!(find().await.is_none());
    tokio::time::advance(Duration::from_millis(4_900)).await;
    assert!(find().await.is_none());
    assert_eq!(store.details.load(SeqCst), 1);
    tokio::time::advance(Duration::from_millis(200)).await;
    assert!(find().await.is_none());
    assert_eq!(store.details.load(SeqCst), 2);
    store.change(user(1), 1);
    assert!(find().await.is_some());
    let ids = [item_id(user(1), 2), item_id(user(1), 1)];
    let absent = node.cache.items(user(1), &ids, true).await.unwrap();
    assert!(absent[0].is_none() && absent[1].is_some());
}

#[tokio::test(start_paused = true)]
async fn a_page_is_the_answer_for_a_minute_and_the_last_known_for_longer() {
    let store = Arc::new(FakeStore::default());
    let version = store.change(user(1), 1);
    let node = lone_node(&store);
    let read = async || node.cache.page(user(1), &query(), 0).await.unwrap();
    for (after, loads) in [(0, 1), (59, 1), (2, 2), (58, 2)] {
        tokio::time::advance(Duration::from_secs(after)).await;
        assert_eq!(read().await.freshness, Freshness::Current);
        assert_eq!(store.pages.load(SeqCst), loads);
    }
    tokio::time::advance(Duration::from_secs(3_600)).await;
    store.set_down(true);
    let page = read().await;
    assert_eq!((page.value.version, page.freshness), (version, Freshness::Stale));
}

#[tokio::test]
async fn while_postgres_is_away_the_last_known_is_served_as_stale_unless_it_is_too_old() {
    let store = Arc::new(FakeStore::default());
    let version = store.change(user(1), 1);
    let node = lone_node(&store);
    let id = item_id(user(1), 1);
    node.cache.page(user(1), &query(), 0).await.unwrap();
    node.cache.detail(user(1), id, 0).await.unwrap();
    for breaker_open in [false, true] {
        store.set_down(true);
        node.breaker.0.store(!breaker_open, SeqCst);
        let page = node.cache.page(user(1), &query(), version).await.unwrap();
        assert_eq!((page.value.version, page.freshness), (version, Freshness::Stale));
        let detail = node.cache.detail(user(1), id, version).await.unwrap();
        assert!(detail.value.is_some() && detail.freshness == Freshness::Stale);
        assert!(node.cache.items(user(1), &[id], true).await.unwrap()[0].is_some());
        assert!(node.cache.page(user(1), &query(), version + 1).await.is_err());
        assert!(
            node.cache.page(user(2), &query(), 0).await.is_err(),
            "never an empty one"
        );
        assert!(node.cache.items(user(2), &[id], true).await.is_err(), "another's");
        assert_eq!(node.cache.version(user(1), 0).await, None);
    }
    // What others have changed may be missing.
    node.cache.raised(&[(user(1), version + 1)]);
    node.cache.stirred(user(1));
    let page = node.cache.page(user(1), &query(), 0).await.unwrap();
    assert_eq!((page.value.version, page.freshness), (version, Freshness::Stale));
    assert!(node.cache.detail(user(1), id, 0).await.is_ok());
    node.cache.doubted(user(1));
    assert!(node.cache.page(user(1), &query(), 0).await.is_err());
    assert!(node.cache.detail(user(1), id, 0).await.is_err());
    assert!(node.cache.items(user(1), &[id], true).await.is_err());
    let judged = node.cache.ever_known(user(1), &[id], true).await.unwrap();
    assert!(judged[0].is_some(), "that it is there is known for all that");
}

#[tokio::test]
async fn what_is_held_stays_within_its_bytes() {
    let store = Arc::new(FakeStore {
        title: 255,
        ..FakeStore::default()
    });
    let settings = StreamCacheSettings {
        bytes: 1 << 20,
        users: 1_000,
    };
    let node = node_with(&store, None, settings);
    for n in 0..300 {
        for item in 0..20 {
            store.change(user(n), item);
        }
        node.cache.page(user(n), &query(), 0).await.unwrap();
        node.cache.detail(user(n), item_id(user(n), 1), 0).await.unwrap();
    }
    let bytes = node.cache.bytes();
    assert!((1 << 18..=1 << 20).contains(&bytes), "{bytes}");
}
