//! Nodes over a Redis of their own.

use crate::fixture::{FakeStore, Node, OPEN, eventually, item_id, node, query, user};
use gravity_domain::stream::StreamCache as _;
use gravity_domain::sync::Freshness;
use gravity_test_support::services::Redis as Server;
use redis::cmd;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use tokio::sync::Semaphore;

async fn keys(node: &Node, pattern: &str) -> Vec<String> {
    let redis = node.redis.as_ref().unwrap();
    redis.command("keys", cmd("KEYS").arg(pattern)).await.unwrap()
}

/// Until level 1 answers without asking.
async fn settle(node: &Node) {
    eventually("the version is known", async || {
        node.cache.page(user(1), &query(), 0).await.unwrap();
        node.cache.version(user(1), 0).await.is_some()
    })
    .await;
}

async fn shared(node: &Node) {
    eventually("it is in Redis", async || {
        !keys(node, "gravity:stream:last:page:*").await.is_empty()
            && keys(node, "gravity:stream:lease:*").await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_has_loaded_another_takes_from_redis_and_then_from_itself() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    let version = store.change(user(1), 1);
    let (a, b) = (node(&store, &server).await, node(&store, &server).await);
    let first = a.cache.page(user(1), &query(), 0).await.unwrap().value;
    a.cache.detail(user(1), item_id(user(1), 1), 0).await.unwrap();
    shared(&a).await;
    eventually("the detail is in Redis", async || {
        !keys(&a, "gravity:stream:last:detail:*").await.is_empty()
    })
    .await;
    let second = b.cache.page(user(1), &query(), 0).await.unwrap().value;
    assert_eq!(
        (first.version, first.as_of, &first.items),
        (second.version, second.as_of, &second.items)
    );
    assert!(
        b.cache
            .detail(user(1), item_id(user(1), 1), 0)
            .await
            .unwrap()
            .value
            .is_some()
    );
    assert_eq!((store.pages.load(SeqCst), store.details.load(SeqCst)), (1, 1));
    settle(&b).await;
    let asked = store.versions.load(SeqCst);
    for _ in 0..100 {
        let again = b.cache.page(user(1), &query(), version).await.unwrap().value;
        assert!(Arc::ptr_eq(&again, &second));
    }
    assert_eq!(store.versions.load(SeqCst), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_process_asks_postgres_once_for_what_the_one_before_it_may_not_have_told() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    store.change(user(1), 1);
    let killed = node(&store, &server).await;
    killed.cache.page(user(1), &query(), 0).await.unwrap();
    shared(&killed).await;
    eventually("Redis holds the version", async || {
        !keys(&killed, "gravity:stream:*:version:*").await.is_empty()
    })
    .await;
    let version = store.change(user(1), 1);
    drop(killed);
    let next = node(&store, &server).await;
    let page = next.cache.page(user(1), &query(), 0).await.unwrap();
    assert_eq!(
        (page.value.version, page.freshness),
        (version, Freshness::Current)
    );
    settle(&next).await;
    let asked = store.versions.load(SeqCst);
    next.cache.page(user(1), &query(), 0).await.unwrap();
    assert_eq!(store.versions.load(SeqCst), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_could_not_be_told_for_long_is_not_left_in_redis() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    store.change(user(1), 1);
    let (a, b) = (node(&store, &server).await, node(&store, &server).await);
    settle(&b).await;
    let version = store.change(user(1), 1);
    server.pause().unwrap();
    a.cache.raised(&[(user(1), version)]);
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    server.resume().unwrap();
    eventually("Redis holds no version", async || {
        keys(&b, "gravity:stream:*:version:*").await.is_empty()
    })
    .await;
    let page = b.cache.page(user(1), &query(), 0).await.unwrap();
    assert_eq!(page.value.version, version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raise_on_one_node_is_seen_on_the_other() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    store.change(user(1), 1);
    let (a, b) = (node(&store, &server).await, node(&store, &server).await);
    settle(&b).await;
    for n in 0..20 {
        let version = store.change(user(1), n);
        a.cache.raised(&[(user(1), version)]);
        assert_eq!(
            a.cache.page(user(1), &query(), 0).await.unwrap().value.version,
            version
        );
        assert_eq!(
            b.cache
                .page(user(1), &query(), version)
                .await
                .unwrap()
                .value
                .version,
            version
        );
        let version = store.change(user(1), n);
        a.cache.raised(&[(user(1), version)]);
        eventually("b sees it", async || {
            b.cache.page(user(1), &query(), 0).await.unwrap().value.version == version
        })
        .await;
    }
    // Only Postgres is beyond doubt about a version that nobody has told.
    assert_eq!(b.cache.version(user(1), store.at(user(1)) + 1).await, None);
    let page = b
        .cache
        .page(user(1), &query(), store.at(user(1)) + 1)
        .await
        .unwrap();
    assert_eq!(page.value.version, store.at(user(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_miss_together_load_once() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore {
        gate: Semaphore::new(0),
        ..FakeStore::default()
    });
    store.change(user(1), 1);
    let (a, b) = (node(&store, &server).await, node(&store, &server).await);
    let read = |cache: gravity_infra::stream::CachedStream| {
        tokio::spawn(async move { cache.page(user(1), &query(), 0).await.unwrap() })
    };
    let first = read(a.cache.clone());
    eventually("a loads", async || store.pages.load(SeqCst) == 1).await;
    let second = read(b.cache.clone());
    eventually("b has asked", async || {
        store.versions.load(SeqCst) == 2 || keys(&b, "*version*").await.len() == 1
    })
    .await;
    store.gate.add_permits(OPEN);
    assert_eq!(first.await.unwrap().value.version, 1);
    assert_eq!(second.await.unwrap().value.version, 1);
    assert_eq!(store.pages.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_is_resolved_by_postgres() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    store.change(user(1), 1);
    let a = node(&store, &server).await;
    settle(&a).await;
    let version = store.change(user(1), 1);
    a.cache.doubted(user(1));
    assert_eq!(a.cache.version(user(1), 0).await, None);
    assert_eq!(
        a.cache.page(user(1), &query(), 0).await.unwrap().value.version,
        version
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_values_are_misses() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    store.change(user(1), 1);
    let id = item_id(user(1), 1);
    let a = node(&store, &server).await;
    let redis = a.redis.clone().unwrap();
    a.cache.page(user(1), &query(), 0).await.unwrap();
    a.cache.detail(user(1), id, 0).await.unwrap();
    shared(&a).await;
    eventually("the detail is in Redis", async || {
        keys(&a, "gravity:stream:*").await.len() >= 7 && keys(&a, "gravity:stream:lease:*").await.is_empty()
    })
    .await;
    let other = serde_json::json!({"version": 1, "user": user(2), "items": []}).to_string();
    for junk in ["", "junk", "{}", "null", "-1", &other, "LIST"] {
        for key in keys(&a, "gravity:stream:*").await {
            redis.command::<()>("del", cmd("DEL").arg(&key)).await.unwrap();
            let mut put = cmd(if junk == "LIST" { "RPUSH" } else { "SET" });
            put.arg(&key).arg(junk);
            if junk != "LIST" {
                put.arg("PX").arg(60_000);
            }
            redis.command::<()>("put", &put).await.unwrap();
        }
        let b = node(&store, &server).await;
        let page = b.cache.page(user(1), &query(), 0).await.unwrap();
        assert_eq!((page.value.items.len(), page.value.version), (1, 1), "{junk}");
        assert!(
            b.cache.detail(user(1), id, 0).await.unwrap().value.is_some(),
            "{junk}"
        );
        eventually("the version need not be asked for", async || {
            b.cache.page(user(1), &query(), 0).await.unwrap();
            b.cache.version(user(1), 1).await == Some(1)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_another_users_is_a_miss() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    let a = node(&store, &server).await;
    for who in [user(1), user(2)] {
        store.change(who, 1);
        a.cache.page(who, &query(), 0).await.unwrap();
        a.cache.detail(who, item_id(who, 1), 0).await.unwrap();
    }
    eventually("all is in Redis", async || {
        keys(&a, "gravity:stream:last:*").await.len() == 6
            && keys(&a, "gravity:stream:lease:*").await.is_empty()
    })
    .await;
    let redis = a.redis.clone().unwrap();
    let (mine, other) = (user(1).to_string(), user(2).to_string());
    let (my_item, other_item) = (item_id(user(1), 1).to_string(), item_id(user(2), 1).to_string());
    for key in keys(&a, "gravity:stream:*").await {
        if key.contains(&mine) && !key.contains("version") {
            let from = key.replace(&mine, &other).replace(&my_item, &other_item);
            let mut copy = cmd("COPY");
            copy.arg(from).arg(&key).arg("REPLACE");
            assert_eq!(redis.command::<i64>("copy", &copy).await.unwrap(), 1, "{key}");
        }
    }
    let b = node(&store, &server).await;
    let page = b.cache.page(user(1), &query(), 0).await.unwrap().value;
    assert_eq!(page.items[0].user_id, user(1));
    let detail = b
        .cache
        .detail(user(1), item_id(user(1), 1), 0)
        .await
        .unwrap()
        .value;
    assert_eq!(detail.unwrap().item.user_id, user(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_postgres_is_away_redis_serves_and_when_both_are_the_process_does() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    let version = store.change(user(1), 1);
    let a = node(&store, &server).await;
    let id = item_id(user(1), 1);
    a.cache.page(user(1), &query(), 0).await.unwrap();
    shared(&a).await;
    store.set_down(true);
    let b = node(&store, &server).await;
    let run: Vec<String> = keys(&b, "gravity:stream:*:version:*").await;
    let redis = b.redis.clone().unwrap();
    redis.command::<()>("del", cmd("DEL").arg(run)).await.unwrap();
    let page = b.cache.page(user(1), &query(), version).await.unwrap();
    assert_eq!((page.value.version, page.freshness), (version, Freshness::Stale));
    assert!(b.cache.items(user(1), &[id], true).await.unwrap()[0].is_some());
    assert!(b.cache.page(user(2), &query(), 0).await.is_err());
    server.kill();
    let page = a.cache.page(user(1), &query(), version).await.unwrap();
    assert_eq!((page.value.version, page.freshness), (version, Freshness::Stale));
    // What Redis lent is not this node's.
    assert!(b.cache.page(user(1), &query(), 0).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_page_that_changed_only_what_changed_is_read_and_written_again() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    for n in 0..10 {
        store.change(user(1), n);
    }
    let (a, b) = (node(&store, &server).await, node(&store, &server).await);
    let old = a.cache.page(user(1), &query(), 0).await.unwrap().value;
    a.cache.detail(user(1), item_id(user(1), 3), 0).await.unwrap();
    shared(&a).await;
    let items = "gravity:stream:item:*";
    assert_eq!(keys(&a, items).await.len(), 10);
    let version = store.change(user(1), 7);
    a.cache.raised(&[(user(1), version)]);
    let new = a.cache.page(user(1), &query(), 0).await.unwrap().value;
    assert_eq!((new.version, new.items.len()), (version, 10));
    assert_eq!(store.spared.load(SeqCst), 9);
    let kept = |item: &&Arc<_>| old.items.iter().any(|other| Arc::ptr_eq(item, other));
    assert_eq!(new.items.iter().filter(kept).count(), 9);
    eventually("it is in Redis", async || {
        keys(&a, items).await.len() == 11 && keys(&a, "gravity:stream:lease:*").await.is_empty()
    })
    .await;
    let loads = store.pages.load(SeqCst);
    let page = b.cache.page(user(1), &query(), version).await.unwrap().value;
    assert_eq!((&page.items, page.version), (&new.items, version));
    assert_eq!(store.pages.load(SeqCst), loads);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_detail_of_an_item_that_a_newer_page_shows_unchanged_is_not_read_again() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    store.change(user(1), 1);
    store.change(user(1), 2);
    let a = node(&store, &server).await;
    let [one, two] = [1, 2].map(|n| item_id(user(1), n));
    a.cache.detail(user(1), one, 0).await.unwrap();
    a.cache.detail(user(1), two, 0).await.unwrap();
    let version = store.change(user(1), 2);
    a.cache.raised(&[(user(1), version)]);
    a.cache.page(user(1), &query(), 0).await.unwrap();
    let found = a.cache.detail(user(1), one, version).await.unwrap().value;
    assert_eq!(found.unwrap().item.version, 1);
    assert_eq!(store.details.load(SeqCst), 2);
    let found = a.cache.detail(user(1), two, version).await.unwrap().value;
    assert_eq!(found.unwrap().item.version, version);
    assert_eq!(store.details.load(SeqCst), 3);
}
