//! Postgres is down, and comes back. `faults` has the other ways in which it can fail, `crashes` what becomes of the
//! buffer when the server itself is killed.

mod crashes;
mod faults;

use gravity_test_support::actors::Actor;
use gravity_test_support::builders::task;
use gravity_test_support::calls::Answer;
use gravity_test_support::test_app::TestApp;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{all_tasks, new_task, setup, titles};

const TASKS: &str = "/api/v1/tasks";

/// Cuts the server off from Postgres, which itself goes on.
pub(crate) async fn cut_off(app: &TestApp) {
    app.proxy().refuse();
    app.proxy().cut();
    app.in_the_dark().await;
}

/// 503, and when to come again.
#[track_caller]
pub(crate) fn come_again(answer: &Answer, code: &str) {
    answer.problem(503, code);
    assert!(answer.must_header("retry-after").parse::<u64>().expect("seconds") > 0);
}

/// The state that an operation is in.
pub(crate) async fn state_of(actor: &Actor, operation: &str) -> String {
    actor
        .get(&format!("/api/v1/operations/{operation}"))
        .await
        .must_be(200)
        .text_of("state")
}

async fn count(app: &TestApp, query: &str) -> i64 {
    app.sql()
        .await
        .query_one(query, &[])
        .await
        .expect("a count")
        .get(0)
}

#[tokio::test]
async fn tasks_are_created_edited_deleted_and_listed_in_the_dark() {
    let app = setup().private_postgres().start().await;
    let alice = app.alice();
    let kept = new_task(&alice, "kept").await;
    let doomed = new_task(&alice, "doomed").await;
    assert_eq!(titles(&alice).await, ["doomed", "kept"]);
    app.postgres().kill();

    let created = alice
        .post(TASKS, json!({"title": "new", "description": "d"}))
        .await;
    let expected = json!({
        "id": "[id]", "title": "new", "description": "d", "status": "pending", "createdAt": "[time]",
        "updatedAt": "[time]", "version": 1, "sync": "pending",
    });
    assert_eq!(
        created.shape(),
        json!({"status": 202, "body": {"data": expected}})
    );
    let path = created.must_header("location");
    assert_eq!(path, format!("{TASKS}/{}", created.id()));
    assert_eq!(
        state_of(&alice, &created.must_header("operation-id")).await,
        "pending"
    );
    let read = alice.get(&path).await.must_be(200);
    assert_eq!(read.json(), created.json());
    assert_eq!(read.header("gravity-consistency"), Some("pending"));

    let edited = alice
        .put(&path, json!({"status": "completed"}))
        .await
        .must_be(202);
    assert_eq!(
        (&edited.data()["status"], &edited.data()["version"]),
        (&json!("completed"), &json!(2))
    );
    let edited = alice
        .put(&format!("{TASKS}/{kept}"), json!({"title": "kept, edited"}))
        .await
        .must_be(202);
    assert_eq!(
        (&edited.data()["sync"], &edited.data()["version"]),
        (&json!("pending"), &json!(2))
    );
    let deleted = alice.delete(&format!("{TASKS}/{doomed}")).await;
    assert_eq!(
        deleted.shape(),
        json!({"status": 202, "body": {"data": {"id": "[id]", "sync": "pending"}}})
    );
    alice
        .get(&format!("{TASKS}/{doomed}"))
        .await
        .problem(404, "not_found");
    alice
        .delete(&format!("{TASKS}/{doomed}"))
        .await
        .problem(404, "not_found");
    alice
        .put(&format!("{TASKS}/{doomed}"), json!({"title": "x"}))
        .await
        .problem(404, "not_found");
    come_again(
        &app.bob().put(&path, json!({"title": "bob's"})).await,
        "database_unavailable",
    );

    let listed = alice.get(TASKS).await.must_be(200);
    assert_eq!(listed.header("gravity-consistency"), Some("pending"));
    let shown = |task: &Value| (task["title"].clone(), task["sync"].clone());
    let dark: Vec<_> = listed.data().as_array().unwrap().iter().map(shown).collect();
    assert_eq!(
        dark,
        [
            (json!("new"), json!("pending")),
            (json!("kept, edited"), json!("pending"))
        ]
    );

    app.postgres().start().unwrap();
    app.drained().await;
    let light: Vec<_> = all_tasks(&alice).await.iter().map(shown).collect();
    assert_eq!(
        light,
        [
            (json!("new"), json!("committed")),
            (json!("kept, edited"), json!("committed"))
        ]
    );
    let read = alice.get(&path).await.must_be(200);
    assert_eq!(
        (&read.data()["version"], read.header("gravity-consistency")),
        (&json!(2), None)
    );
    let operation = alice
        .get(&format!(
            "/api/v1/operations/{}",
            created.must_header("operation-id")
        ))
        .await
        .data();
    assert_eq!(operation["state"], "applied");
    assert!(operation["appliedAt"].is_string());
    assert_eq!(app.reported("/buffer/deadLetters").await, 0);
    alice.post(TASKS, task("after")).await.must_be(201);
}

#[tokio::test]
async fn a_profile_is_edited_in_the_dark() {
    let app = setup().private_postgres().start().await;
    let alice = app.alice();
    alice.get("/api/v1/profile").await.must_be(200);
    app.postgres().kill();
    let edited = alice
        .put("/api/v1/profile", json!({"name": "In the dark"}))
        .await
        .must_be(202);
    assert_eq!(
        (&edited.data()["name"], &edited.data()["sync"]),
        (&json!("In the dark"), &json!("pending"))
    );
    let read = alice.get("/api/v1/profile").await.must_be(200);
    assert_eq!(read.json(), edited.json());
    app.postgres().start().unwrap();
    app.drained().await;
    let read = alice.get("/api/v1/profile").await.must_be(200).data();
    assert_eq!(
        (&read["name"], &read["sync"], &read["version"]),
        (&json!("In the dark"), &json!("committed"), &json!(2))
    );
}

#[tokio::test]
async fn what_is_not_known_in_the_dark_is_not_made_up() {
    let app = setup().private_postgres().start().await;
    let alice = app.alice();
    let known = new_task(&alice, "known").await;
    assert_eq!(titles(&alice).await, ["known"]);
    app.postgres().kill();
    app.in_the_dark().await;
    let read = alice.get(&format!("{TASKS}/{known}")).await.must_be(200);
    assert_eq!(read.header("gravity-consistency"), Some("stale"));
    assert_eq!(
        alice.get(TASKS).await.must_be(200).header("gravity-consistency"),
        Some("stale")
    );
    let stranger = app.actor(Uuid::now_v7(), "service");
    come_again(&stranger.get(TASKS).await, "database_unavailable");
    come_again(&stranger.get("/api/v1/profile").await, "database_unavailable");
    let unknown = format!("{TASKS}/{}", Uuid::now_v7());
    come_again(&stranger.get(&unknown).await, "database_unavailable");
    come_again(
        &stranger.put(&unknown, json!({"title": "x"})).await,
        "database_unavailable",
    );
    come_again(&stranger.delete(&unknown).await, "database_unavailable");
    come_again(
        &stranger
            .get(&format!("/api/v1/operations/{}", Uuid::now_v7()))
            .await,
        "database_unavailable",
    );
    let body = json!({"username": "carol", "password": "correct horse"});
    come_again(
        &app.nobody().post("/api/v1/auth/register", body.clone()).await,
        "database_unavailable",
    );
    come_again(
        &app.nobody().post("/api/v1/auth/login", body).await,
        "database_unavailable",
    );
    assert_eq!(app.reported("/buffer/size").await, 0);
}

#[tokio::test]
async fn a_write_that_must_be_committed_is_refused_in_the_dark() {
    let app = setup().private_postgres().start().await;
    app.postgres().kill();
    for _ in 0..2 {
        let refused = app
            .alice()
            .post(TASKS, task("x"))
            .header("gravity-durability", "committed")
            .await;
        come_again(&refused, "database_unavailable");
    }
    assert_eq!(app.reported("/buffer/size").await, 0);
    app.postgres().start().unwrap();
    app.healthy().await;
    assert!(titles(&app.alice()).await.is_empty());
    app.alice()
        .post(TASKS, task("x"))
        .header("gravity-durability", "committed")
        .await
        .must_be(201);
}

#[tokio::test]
async fn a_retry_in_the_dark_gets_the_first_answer() {
    let app = setup().private_postgres().start().await;
    let alice = app.alice();
    let committed = alice.post(TASKS, task("before")).key("before").await.must_be(201);
    app.postgres().kill();
    let first = alice.post(TASKS, task("once")).key("k").await.must_be(202);
    let path = first.must_header("location");
    let update = alice
        .put(&path, json!({"title": "twice"}))
        .key("u")
        .await
        .must_be(202);
    for restarted in [false, true] {
        if restarted {
            app.kill();
            app.launch().await;
        }
        let again = alice.post(TASKS, task("once")).key("k").await;
        assert_eq!((again.status, again.json()), (202, first.json()));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        let again = alice.put(&path, json!({"title": "twice"})).key("u").await;
        assert_eq!((again.status, again.json()), (202, update.json()));
        alice
            .post(TASKS, task("other"))
            .key("k")
            .await
            .problem(422, "idempotency_key_reused");
    }
    // What only Postgres remembers is written again under the same id, and is one write in the end.
    let again = alice.post(TASKS, task("before")).key("before").await;
    assert_eq!(again.id(), committed.id());
    app.postgres().start().unwrap();
    app.drained().await;
    let again = alice.post(TASKS, task("once")).key("k").await;
    assert_eq!(
        (again.status, again.json()),
        (202, first.json()),
        "the first answer, also from Postgres"
    );
    assert_eq!(titles(&alice).await, ["twice", "before"]);
    assert_eq!(app.reported("/buffer/deadLetters").await, 0);
}

#[tokio::test]
async fn a_server_starts_without_postgres_and_migrates_when_it_appears() {
    for unmigrated in [false, true] {
        let setup = setup().private_postgres();
        let app = if unmigrated {
            setup.unmigrated().prepare().await
        } else {
            setup.prepare().await
        };
        app.postgres().stop();
        app.launch().await;
        app.reports("/status", "degraded").await;
        app.ready().await.must_be(200);
        assert_eq!(app.health().await.must_be(503).json()["status"], "degraded");
        let writer = app.service();
        let created = writer.post(TASKS, task("early")).await.must_be(202);
        let read = writer.get(&created.must_header("location")).await.must_be(200);
        assert_eq!(read.header("gravity-consistency"), Some("pending"));
        writer
            .put(&created.must_header("location"), json!({"status": "completed"}))
            .await
            .must_be(202);
        app.postgres().start().unwrap();
        app.drained().await;
        let task = &all_tasks(&writer).await[0];
        assert_eq!(
            (&task["title"], &task["status"], &task["sync"]),
            (&json!("early"), &json!("completed"), &json!("committed"))
        );
    }
}
