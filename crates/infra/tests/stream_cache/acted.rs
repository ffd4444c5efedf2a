//! What a user has done, while Postgres is away: it is never missing from what is stale.

use crate::fixture::{FakeStore, eventually, item_id, lone_node, node, query, user};
use gravity_domain::clock::{Hlc, NodeId};
use gravity_domain::id::ItemId;
use gravity_domain::stream::{Action, ActionReceipt, ItemOutcome, StreamCache as _};
use gravity_domain::sync::Freshness;
use gravity_test_support::services::Redis as Server;
use redis::cmd;
use std::sync::Arc;
use uuid::Uuid;

fn receipt(ids: &[ItemId], version: Option<u64>) -> ActionReceipt {
    ActionReceipt {
        id: Uuid::now_v7(),
        user_id: user(1),
        stamp: Hlc {
            wall_ms: 9,
            counter: 0,
            node: NodeId(1),
        },
        action: Some(Action::Read),
        results: ids.iter().map(|id| (*id, ItemOutcome::Applied)).collect(),
        version,
    }
}

#[tokio::test]
async fn a_page_from_before_an_action_is_served_with_the_action_to_fold_over_it() {
    let store = Arc::new(FakeStore::default());
    let version = store.change(user(1), 1);
    let id = item_id(user(1), 1);
    for told in [Some(version + 1), None] {
        let node = lone_node(&store);
        node.cache.page(user(1), &query(), 0).await.unwrap();
        node.cache.acted(&receipt(&[id], told));
        store.set_down(true);
        let page = node.cache.page(user(1), &query(), 0).await.unwrap();
        assert_eq!((page.value.version, page.freshness), (version, Freshness::Stale));
        assert!(node.cache.items(user(1), &[id], true).await.unwrap()[0].is_some());
        let acts = node.cache.acted_since(user(1), version);
        assert_eq!(acts.len(), 1);
        assert_eq!(
            (acts[0].0, acts[0].1.action),
            (receipt(&[], told).stamp, Action::Read)
        );
        assert_eq!(acts[0].1.ids, [id]);
        let later = node.cache.acted_since(user(1), version + 1);
        assert_eq!(
            later.is_empty(),
            told.is_some(),
            "of which nobody knows the version"
        );
        assert!(node.cache.acted_since(user(2), 0).is_empty());
        store.set_down(false);
    }
}

#[tokio::test]
async fn while_postgres_is_there_an_action_is_seen_in_what_it_answers() {
    let store = Arc::new(FakeStore::default());
    store.change(user(1), 1);
    let node = lone_node(&store);
    node.cache.page(user(1), &query(), 0).await.unwrap();
    let version = store.change(user(1), 1);
    node.cache.acted(&receipt(&[item_id(user(1), 1)], Some(version)));
    let page = node.cache.page(user(1), &query(), 0).await.unwrap();
    assert_eq!(
        (page.value.version, page.freshness),
        (version, Freshness::Current)
    );
}

#[tokio::test]
async fn what_this_node_has_known_newer_can_be_put_into_what_is_older() {
    let store = Arc::new(FakeStore::default());
    store.change(user(1), 1);
    store.change(user(1), 2);
    let node = lone_node(&store);
    let old = node.cache.page(user(1), &query(), 0).await.unwrap().value;
    let version = store.change(user(1), 2);
    node.cache.raised(&[(user(1), version)]);
    node.cache.detail(user(1), item_id(user(1), 2), 0).await.unwrap();
    store.set_down(true);
    let page = node.cache.page(user(1), &query(), 0).await.unwrap().value;
    assert!(Arc::ptr_eq(&page, &old));
    let newer = node.cache.newer(user(1), &page.items);
    let newer: Vec<_> = newer.iter().map(|item| (item.id, item.version)).collect();
    assert_eq!(newer, [(item_id(user(1), 2), version)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_begins_in_the_dark_takes_nothing_that_is_older_than_what_was_done() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    let version = store.change(user(1), 1);
    let id = item_id(user(1), 1);
    let first = node(&store, &server).await;
    first.cache.page(user(1), &query(), 0).await.unwrap();
    first.cache.detail(user(1), id, 0).await.unwrap();
    let redis = first.redis.clone().unwrap();
    let keys = async |pattern: &str| -> usize {
        let found: Vec<String> = redis.command("keys", cmd("KEYS").arg(pattern)).await.unwrap();
        found.len()
    };
    eventually("it is in Redis", async || {
        keys("gravity:stream:last:*").await == 3 && keys("gravity:stream:lease:*").await == 0
    })
    .await;
    first.cache.acted(&receipt(&[id], Some(version + 1)));
    eventually("Redis is told", async || {
        keys("gravity:stream:acted:*").await == 1
    })
    .await;
    store.set_down(true);
    let second = node(&store, &server).await;
    assert!(second.cache.page(user(1), &query(), 0).await.is_err());
    assert!(second.cache.detail(user(1), id, 0).await.is_err());
    assert!(second.cache.items(user(1), &[id], true).await.is_err());
    let judged = second.cache.ever_known(user(1), &[id], true).await.unwrap();
    assert!(judged[0].is_some());
    // The one that can fold it serves on.
    assert!(first.cache.page(user(1), &query(), 0).await.is_ok());
    assert!(first.cache.items(user(1), &[id], true).await.unwrap()[0].is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_found_committed_is_told_to_all_with_the_version_that_postgres_has() {
    let server = Server::start_private().unwrap();
    let store = Arc::new(FakeStore::default());
    store.change(user(1), 1);
    let (acting, other) = (node(&store, &server).await, node(&store, &server).await);
    other.cache.page(user(1), &query(), 0).await.unwrap();
    eventually("the other need not ask", async || {
        other.cache.page(user(1), &query(), 0).await.unwrap();
        other.cache.version(user(1), 0).await.is_some()
    })
    .await;
    let version = store.change(user(1), 1);
    acting.cache.acted(&receipt(&[item_id(user(1), 1)], None));
    eventually("the other sees it", async || {
        other
            .cache
            .page(user(1), &query(), 0)
            .await
            .unwrap()
            .value
            .version
            == version
    })
    .await;
    let redis = acting.redis.clone().unwrap();
    let key = format!("gravity:stream:acted:{}", user(1));
    eventually("whoever begins in the dark is told", async || {
        let told: Option<u64> = redis.command("get", cmd("GET").arg(&key)).await.unwrap();
        told == Some(version)
    })
    .await;
}
