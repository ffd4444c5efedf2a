//! The server is killed with writes in its buffer, the buffer is full or in use, and clocks are wrong.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gravity_infra::write_buffer::FileStampStore;
use gravity_test_support::actors::Actor;
use gravity_test_support::builders::task;
use gravity_test_support::test_app::eventually;
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::{TASKS, come_again, count};
use crate::{buffered_task, new_task, setup, titles};

#[tokio::test]
async fn a_killed_server_keeps_its_backlog_and_drains_it_once_and_in_order() {
    let app = setup()
        .private_postgres()
        .set("GRAVITY__BUFFER__BATCH_SIZE", "10")
        .start()
        .await;
    let actors: Vec<Actor> = (0..5).map(|_| app.actor(Uuid::now_v7(), "service")).collect();
    app.postgres().kill();
    let (mut operations, mut last) = (0, String::new());
    for actor in &actors {
        for number in 0..6 {
            let id = buffered_task(actor, &format!("{number}")).await;
            for edit in 1..=3 {
                let body = json!({"title": format!("{number}, edit {edit}")});
                actor.put(&format!("{TASKS}/{id}"), body).await.must_be(202);
            }
            operations += 4;
            if actor.id == actors[0].id {
                last = id;
            }
        }
    }
    let expected: Vec<String> = (0..6).rev().map(|number| format!("{number}, edit 3")).collect();
    app.kill();
    app.launch().await;
    assert_eq!(app.reported("/buffer/size").await, operations);
    let last = actors[0].get(&format!("{TASKS}/{last}")).await.must_be(200);
    assert_eq!(
        last.data()["title"],
        "5, edit 3",
        "own writes are there after a crash"
    );
    assert_eq!(last.header("gravity-consistency"), Some("pending"));
    come_again(&actors[0].get(TASKS).await, "database_unavailable");

    app.postgres().start().unwrap();
    // Killed again and again while it drains, between a commit and the removal as well.
    let mut left = operations;
    while left > 0 {
        left = eventually("it drains", || async {
            let size = app.reported("/buffer/size").await.as_i64()?;
            (size < left).then_some(size)
        })
        .await;
        app.kill();
        app.launch().await;
    }
    app.drained().await;
    for actor in &actors {
        assert_eq!(titles(actor).await, expected);
    }
    assert_eq!(
        count(&app, "SELECT count(*) FROM applied_operations").await,
        operations
    );
    assert_eq!(
        count(&app, "SELECT count(*) FROM tasks WHERE version = 4").await,
        30
    );
    assert_eq!(app.reported("/buffer/deadLetters").await, 0);
}

#[tokio::test]
async fn a_full_buffer_refuses_and_is_healed_by_the_drain() {
    let app = setup()
        .private_postgres()
        .set("BUFFER_MAX_SIZE", "3")
        .start()
        .await;
    let alice = app.alice();
    app.postgres().kill();
    for title in ["a", "b", "c"] {
        buffered_task(&alice, title).await;
    }
    app.in_the_dark().await;
    for _ in 0..3 {
        come_again(&alice.post(TASKS, task("d")).key("d").await, "buffer_full");
    }
    let ready = app.ready().await.must_be(503).json();
    assert_eq!(
        (&ready["status"], &ready["buffer"]["status"]),
        (&json!("unavailable"), &json!("full"))
    );
    assert_eq!(
        (&ready["buffer"]["size"], &ready["buffer"]["maxSize"]),
        (&json!(3), &json!(3))
    );
    let known = alice.post(TASKS, task("a")).await;
    come_again(&known, "buffer_full");
    app.kill();
    app.launch().await;
    assert_eq!(
        app.reported("/buffer/size").await,
        3,
        "what was acknowledged is safe"
    );
    app.postgres().start().unwrap();
    app.drained().await;
    app.ready().await.must_be(200);
    alice.post(TASKS, task("d")).key("d").await.must_be(201);
    assert_eq!(titles(&alice).await, ["d", "c", "b", "a"]);
}

#[tokio::test]
async fn a_buffer_in_anothers_hands_is_waited_for() {
    let app = setup().private_postgres().start().await;
    let path = app.buffer_path().display().to_string();
    let other = app.another_node().set("BUFFER_PATH", path).prepare().await;
    other.listen().await;
    other.healthy().await;
    other.alice().post(TASKS, task("direct")).await.must_be(201);
    assert_eq!(other.reported("/buffer/status").await, "unavailable");
    other.ready().await.must_be(200);
    app.postgres().kill();
    other.in_the_dark().await;
    come_again(&other.alice().post(TASKS, task("x")).await, "buffer_unavailable");
    assert_eq!(other.ready().await.must_be(503).json()["status"], "unavailable");
    buffered_task(&app.alice(), "of the first").await;
    app.kill();
    eventually("the other takes over the buffer", || async {
        let answer = other.alice().post(TASKS, task("of the second")).key("k").await;
        (answer.status == 202).then_some(())
    })
    .await;
    app.postgres().start().unwrap();
    other.drained().await;
    assert_eq!(
        titles(&other.alice()).await,
        ["of the second", "of the first", "direct"]
    );
}

/// Writes with retries, as a client does that was not told: creates, and after each an edit of its first task.
async fn write_through(actor: Actor, path: String, stop: Arc<AtomicBool>) -> (Actor, usize) {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let (title, key) = (number.to_string(), format!("k{number}"));
        for call in [Method::POST, Method::PUT] {
            let path = if call == Method::POST { TASKS } else { &path };
            eventually("the write is acknowledged", || async {
                let key = format!("{call}-{key}");
                let answer = actor
                    .call(call.clone(), path)
                    .json(&task(&title))
                    .key(&key)
                    .attempt()
                    .await
                    .ok()?;
                assert!([200, 201, 202, 503].contains(&answer.status), "{}", answer.text());
                (answer.status != 503).then_some(())
            })
            .await;
        }
    }
    (actor, number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_under_load_survive_crashes_of_postgres_and_server() {
    let app = setup().private_postgres().start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for _ in 0..4 {
        let actor = app.actor(Uuid::now_v7(), "service");
        let path = format!("{TASKS}/{}", new_task(&actor, "first").await);
        writers.push(tokio::spawn(write_through(actor, path, Arc::clone(&stop))));
    }
    for round in 0..3 {
        app.postgres().kill();
        if round > 0 {
            app.kill();
            app.launch().await;
        }
        app.in_the_dark().await;
        app.postgres().start().unwrap();
        app.reports("/services/postgresql/status", true).await;
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        let (actor, number) = writer.await.unwrap();
        app.drained().await;
        let mut kept = titles(&actor).await;
        let mut acknowledged: Vec<String> = (1..=number).map(|number| number.to_string()).collect();
        acknowledged.push(number.to_string());
        kept.sort();
        acknowledged.sort();
        assert_eq!(
            kept, acknowledged,
            "each task once, and the edits in order: the last one is what is there"
        );
    }
    assert_eq!(app.reported("/buffer/deadLetters").await, 0);
}

fn an_hour_ahead() -> u64 {
    u64::try_from(gravity_test_support::builders::now_seconds()).expect("after 1970") * 1_000 + 3_600_000
}

#[tokio::test]
async fn a_wall_clock_set_back_an_hour_turns_no_write_around() {
    let app = setup().private_postgres().start().await;
    let alice = app.alice();
    let path = format!("{TASKS}/{}", new_task(&alice, "first").await);
    app.kill();
    // What a run left behind whose clock was an hour ahead of what it is now.
    let stamps = FileStampStore::load(Path::new(&app.buffer_path()));
    gravity_domain::clock::StampStore::reserve(&stamps.store, an_hour_ahead());
    drop(stamps);
    app.start().await;
    alice.put(&path, json!({"title": "second"})).await.must_be(200);
    app.postgres().kill();
    alice.put(&path, json!({"title": "third"})).await.must_be(202);
    alice.put(&path, json!({"title": "fourth"})).await.must_be(202);
    app.kill();
    app.launch().await;
    app.postgres().start().unwrap();
    app.drained().await;
    let read = alice.get(&path).await.must_be(200).data();
    assert_eq!((&read["title"], &read["version"]), (&json!("fourth"), &json!(4)));
}

#[tokio::test]
async fn a_row_stamped_by_a_clock_that_is_ahead_can_still_be_changed() {
    let app = setup().private_postgres().start().await;
    let alice = app.alice();
    let id = new_task(&alice, "first").await;
    let path = format!("{TASKS}/{id}");
    let stamp = gravity_domain::clock::Hlc {
        wall_ms: an_hour_ahead(),
        counter: 0,
        node: gravity_domain::clock::NodeId(1),
    };
    let update = "UPDATE tasks SET title = 'ahead', title_stamp = $1 WHERE id = $2";
    let id = Uuid::try_parse(&id).unwrap();
    app.sql()
        .await
        .execute(update, &[&stamp.to_bytes().to_vec(), &id])
        .await
        .unwrap();
    let changed = alice.put(&path, json!({"title": "changed"})).await.must_be(200);
    assert_eq!(changed.data()["title"], "changed");
    assert_eq!(alice.get(&path).await.data()["title"], "changed");
    assert_eq!(app.metric("gravity_clock_skew_total").await, 1.0);
    app.postgres().kill();
    alice
        .put(&path, json!({"title": "in the dark"}))
        .await
        .must_be(202);
    app.postgres().start().unwrap();
    app.drained().await;
    assert_eq!(alice.get(&path).await.data()["title"], "in the dark");
}
