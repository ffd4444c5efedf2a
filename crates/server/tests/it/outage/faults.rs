//! Postgres hangs, loses an answer, has no connection left, or takes no writes.

use std::time::Duration;

use gravity_test_support::builders::task;
use gravity_test_support::services::fault_proxy::Direction::ToServer;
use gravity_test_support::services::fault_proxy::POSTGRES_IDLE;
use gravity_test_support::test_app::{TestApp, eventually};
use serde_json::json;
use uuid::Uuid;

use super::{TASKS, come_again, count, state_of};
use crate::{buffered_task, new_task, setup, titles};

/// No request waits longer for Postgres than the write deadline (1 s); the rest is a loaded machine's.
const DEADLINE: Duration = Duration::from_millis(1_500);

/// Waits until the server takes a failure at its word: for twice the deadline after Postgres came up, it may be a late one
/// of the time before, and only causes a ping.
async fn trusted(app: &TestApp) {
    eventually("the server has known Postgres for a while", || async {
        (app.reported("/uptimeSeconds").await.as_u64() >= Some(3)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_costs_no_request_more_than_the_deadline_and_later_ones_nothing() {
    let app = setup().private_postgres().start().await;
    let alice = app.alice();
    let known = new_task(&alice, "known").await;
    titles(&alice).await;
    let mut actors = Vec::new();
    for _ in 0..20 {
        let actor = app.actor(Uuid::now_v7(), "service");
        new_task(&actor, "before").await;
        actors.push(actor);
    }
    trusted(&app).await;
    app.postgres().pause().unwrap();
    let calls: Vec<_> = actors
        .iter()
        .enumerate()
        .map(|(number, actor)| tokio::spawn(actor.post(TASKS, task(&number.to_string())).into_future()))
        .collect();
    for call in calls {
        let answer = call.await.unwrap().must_be(202);
        assert!(answer.took < DEADLINE, "{:?}", answer.took);
    }
    app.in_the_dark().await;
    for _ in 0..20 {
        let written = alice.post(TASKS, task("later")).await.must_be(202);
        let read = alice.get(&format!("{TASKS}/{known}")).await.must_be(200);
        let listed = alice.get(TASKS).await.must_be(200);
        for answer in [written, read, listed] {
            assert!(
                answer.took < Duration::from_millis(300),
                "{}: {:?}",
                answer.call,
                answer.took
            );
        }
    }
    let unknown = app.actor(Uuid::now_v7(), "service").get(TASKS).await;
    come_again(&unknown, "database_unavailable");
    assert!(unknown.took < Duration::from_millis(300), "{:?}", unknown.took);
    app.postgres().resume().unwrap();
    app.drained().await;
    assert_eq!(count(&app, "SELECT count(*) FROM tasks").await, 61);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_waits_of_a_request_in_a_black_hole_share_one_deadline() {
    let app = setup().private_postgres().start().await;
    let alice = app.alice();
    titles(&alice).await;
    // Postgres has just come up: a failure is only a doubt, and whoever comes next tries again.
    app.postgres().pause().unwrap();
    let bob = app.bob();
    let (listed, created, unknown) = tokio::join!(
        alice.get(TASKS).into_future(),
        bob.post(TASKS, task("of a user who is not known yet"))
            .into_future(),
        bob.get(TASKS).into_future(),
    );
    for answer in [&listed, &created, &unknown] {
        assert!(answer.took < DEADLINE, "{}: {:?}", answer.call, answer.took);
    }
    listed.must_be(200);
    created.must_be(202);
    come_again(&unknown, "database_unavailable");
    app.postgres().resume().unwrap();
    app.drained().await;
    assert_eq!(titles(&bob).await, ["of a user who is not known yet"]);
}

#[tokio::test]
async fn a_read_in_a_black_hole_waits_no_longer_than_the_deadline() {
    let app = setup().proxied().start().await;
    let alice = app.alice();
    new_task(&alice, "known").await;
    titles(&alice).await;
    trusted(&app).await;
    app.proxy().black_hole();
    let read = alice.get(TASKS).await.must_be(200);
    assert_eq!(read.header("gravity-consistency"), Some("stale"));
    assert!(read.took < DEADLINE, "{:?}", read.took);
    app.proxy().pass();
    app.healthy().await;
    assert_eq!(
        alice.get(TASKS).await.must_be(200).header("gravity-consistency"),
        None
    );
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_takes_effect_once() {
    let app = setup().proxied().start().await;
    let alice = app.alice();
    let path = format!("{TASKS}/{}", new_task(&alice, "first").await);
    for round in 1..=3 {
        let title = format!("lost answer {round}");
        app.proxy().lose_answer(title.as_bytes(), POSTGRES_IDLE);
        let created = alice.post(TASKS, task(&title)).await.must_be(202);
        assert_eq!(
            app.proxy().rule_cuts(),
            round * 2 - 1,
            "the answer was lost indeed"
        );
        app.drained().await;
        assert_eq!(
            state_of(&alice, &created.must_header("operation-id")).await,
            "applied"
        );

        titles(&alice).await;
        let edit = format!("lost edit {round}");
        app.proxy().lose_answer(edit.as_bytes(), POSTGRES_IDLE);
        alice.put(&path, json!({"title": edit})).await.must_be(202);
        assert_eq!(app.proxy().rule_cuts(), round * 2);
        app.drained().await;
        let read = alice.get(&path).await.must_be(200).data();
        assert_eq!(
            (&read["title"], &read["version"]),
            (&json!(edit), &json!(round + 1))
        );
    }
    assert_eq!(
        titles(&alice).await,
        ["lost answer 3", "lost answer 2", "lost answer 1", "lost edit 3"]
    );
    assert_eq!(count(&app, "SELECT count(*) FROM applied_operations").await, 7);
}

#[tokio::test]
async fn a_write_that_never_reached_postgres_takes_effect_once() {
    let app = setup().proxied().start().await;
    let alice = app.alice();
    new_task(&alice, "first").await;
    app.proxy().cut_before_next_match(ToServer, &b"never arrives"[..]);
    let created = alice
        .post(TASKS, task("never arrives"))
        .key("k")
        .await
        .must_be(202);
    assert_eq!(app.proxy().rule_cuts(), 1);
    app.drained().await;
    let again = alice
        .post(TASKS, task("never arrives"))
        .key("k")
        .await
        .must_be(202);
    assert_eq!(again.id(), created.id());
    assert_eq!(titles(&alice).await, ["never arrives", "first"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_connections_writes_are_buffered() {
    let app = setup()
        .postgres_with(&[("max_connections", "12")])
        .prepare()
        .await;
    let mut taken = Vec::new();
    let full = eventually("all connections are taken", || {
        let connecting = app.database().connect();
        async move { Some(connecting.await) }
    });
    let mut next = Some(full.await);
    while let Some(Ok(client)) = next {
        taken.push(client);
        next = Some(app.database().connect().await);
    }
    assert!(taken.len() >= 10);
    app.launch().await;
    let alice = app.alice();
    app.in_the_dark().await;
    let id = buffered_task(&alice, "without a connection").await;
    alice
        .put(&format!("{TASKS}/{id}"), json!({"status": "completed"}))
        .await
        .must_be(202);
    drop(taken);
    app.drained().await;
    assert_eq!(titles(&alice).await, ["without a connection"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_writers_than_connections_are_all_served() {
    let app = setup().set("DB_POOL_SIZE", "2").start().await;
    let calls: Vec<_> = (0..60)
        .map(|number| {
            let actor = app.actor(Uuid::now_v7(), "service");
            tokio::spawn(actor.post(TASKS, task(&number.to_string())).into_future())
        })
        .collect();
    for call in calls {
        let answer = call.await.unwrap();
        assert!([201, 202].contains(&answer.status), "{}", answer.text());
    }
    app.drained().await;
    assert_eq!(count(&app, "SELECT count(*) FROM tasks").await, 60);
}

#[tokio::test]
async fn a_postgres_that_takes_no_writes_is_read_and_writes_are_buffered() {
    let app = setup().private_postgres().start().await;
    let alice = app.alice();
    let path = format!("{TASKS}/{}", new_task(&alice, "before").await);
    let admin = app.sql().await;
    admin
        .execute("ALTER SYSTEM SET default_transaction_read_only = on", &[])
        .await
        .unwrap();
    admin.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    eventually("Postgres takes no writes", || async {
        let row = admin.query_one("SHOW transaction_read_only", &[]).await.unwrap();
        (row.get::<_, &str>(0) == "on").then_some(())
    })
    .await;
    let created = alice.post(TASKS, task("read-only")).await.must_be(202);
    alice.put(&path, json!({"title": "edited"})).await.must_be(202);
    assert_eq!(titles(&alice).await, ["read-only", "edited"]);
    let strangers = app.actor(Uuid::now_v7(), "service").get(TASKS).await.must_be(200);
    assert_eq!(strangers.header("gravity-consistency"), None, "reads go on");
    app.ready().await.must_be(200);
    admin
        .execute("ALTER SYSTEM RESET default_transaction_read_only", &[])
        .await
        .unwrap();
    admin.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
    app.drained().await;
    assert_eq!(
        state_of(&alice, &created.must_header("operation-id")).await,
        "applied"
    );
    assert_eq!(titles(&alice).await, ["read-only", "edited"]);
    assert_eq!(app.reported("/buffer/deadLetters").await, 0);
}
