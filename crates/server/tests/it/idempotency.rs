//! `Idempotency-Key`: one request, however often it is sent.

use gravity_test_support::builders::task;
use reqwest::Method;
use serde_json::json;

use crate::{new_task, start, titles};

const TASKS: &str = "/api/v1/tasks";

#[tokio::test]
async fn a_retry_gets_the_first_answer_and_writes_nothing() {
    let app = start().await;
    let alice = app.alice();
    let first = alice.post(TASKS, task("once")).key("k1").await.must_be(201);
    assert_eq!(first.header("idempotency-replayed"), None);
    let path = first.must_header("location");
    let update = alice
        .put(&path, json!({"title": "later"}))
        .key("k2")
        .await
        .must_be(200);
    alice
        .put(&path, json!({"title": "even later"}))
        .await
        .must_be(200);

    let again = alice.post(TASKS, task("once")).key("k1").await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(
        (again.status, again.json()),
        (201, first.json()),
        "the first answer, not what is there now"
    );
    for header in ["location", "operation-id", "etag"] {
        assert_eq!(again.header(header), first.header(header), "{header}");
    }
    let again = alice.put(&path, json!({"title": "later"})).key("k2").await;
    assert_eq!((again.status, again.json()), (200, update.json()));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(titles(&alice).await, ["even later"]);

    let deleted = alice.delete(&path).key("k3").await.must_be(204);
    let again = alice.delete(&path).key("k3").await.must_be(204);
    assert_eq!(again.header("operation-id"), deleted.header("operation-id"));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    alice.delete(&path).key("k4").await.problem(404, "not_found");

    let again = alice.post(TASKS, task("once")).key("k1").await;
    assert_eq!(
        (again.status, again.json()),
        (201, first.json()),
        "also when it is deleted"
    );
    assert!(titles(&alice).await.is_empty());
}

#[tokio::test]
async fn a_key_is_remembered_over_a_crash_and_on_another_node() {
    let app = start().await;
    let alice = app.alice();
    let first = alice.post(TASKS, task("once")).key("k").await.must_be(201);
    app.kill();
    app.start().await;
    let again = alice.post(TASKS, task("once")).key("k").await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    alice
        .post(TASKS, task("other"))
        .key("k")
        .await
        .problem(422, "idempotency_key_reused");
    let other = app.another_node().start().await;
    let there = other.alice().post(TASKS, task("once")).key("k").await;
    assert_eq!((there.status, there.json()), (201, first.json()));
    assert_eq!(there.header("idempotency-replayed"), Some("true"));
    other
        .alice()
        .post(TASKS, task("other"))
        .key("k")
        .await
        .problem(422, "idempotency_key_reused");
    assert_eq!(titles(&alice).await, ["once"]);
}

#[tokio::test]
async fn a_key_belongs_to_one_body_one_path_and_one_method() {
    let app = start().await;
    let alice = app.alice();
    let a = format!("{TASKS}/{}", new_task(&alice, "a").await);
    let b = format!("{TASKS}/{}", new_task(&alice, "b").await);
    alice.put(&a, json!({"title": "c"})).key("k").await.must_be(200);
    alice
        .put(&a, json!({"title": "d"}))
        .key("k")
        .await
        .problem(422, "idempotency_key_reused");
    alice
        .put(&b, json!({"title": "c"}))
        .key("k")
        .await
        .problem(422, "idempotency_key_reused");
    alice
        .put("/api/v1/profile", json!({"name": "c"}))
        .key("k")
        .await
        .problem(422, "idempotency_key_reused");
    alice
        .post(TASKS, json!({"title": "c"}))
        .key("k")
        .await
        .problem(422, "idempotency_key_reused");
    alice
        .delete(&a)
        .key("k")
        .await
        .problem(422, "idempotency_key_reused");
    assert_eq!(titles(&alice).await, ["b", "c"]);
}

#[tokio::test]
async fn bodies_are_compared_by_value() {
    let app = start().await;
    let alice = app.alice();
    let post = |body: &'static str| alice.call(Method::POST, TASKS).raw(body).key("k");
    let first = post(r#"{"title":"é","status":"pending"}"#).await.must_be(201);
    let again = post("{ \"status\" : \"pending\",\n \"title\" : \"\\u00e9\" }")
        .await
        .must_be(201);
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    post(r#"{"title":"é","status":"completed"}"#)
        .await
        .problem(422, "idempotency_key_reused");
}

#[tokio::test]
async fn a_key_is_its_users_own() {
    let app = start().await;
    let first = app.alice().post(TASKS, task("mine")).key("k").await.must_be(201);
    let other = app.bob().post(TASKS, task("his")).key("k").await.must_be(201);
    assert_ne!(first.id(), other.id());
    assert_eq!(other.header("idempotency-replayed"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_with_one_key_at_the_same_time_write_once() {
    let app = start().await;
    for round in 0..5 {
        let key = format!("k{round}");
        let calls: Vec<_> = (0..12)
            .map(|_| tokio::spawn(app.alice().post(TASKS, task("once")).key(&key).into_future()))
            .collect();
        let mut ids = Vec::new();
        let mut first_answers = 0;
        for call in calls {
            let answer = call.await.unwrap().must_be(201);
            first_answers += usize::from(answer.header("idempotency-replayed").is_none());
            ids.push(answer.id());
        }
        ids.dedup();
        assert_eq!((ids.len(), first_answers), (1, 1));
    }
    assert_eq!(titles(&app.alice()).await.len(), 5);
}

#[tokio::test]
async fn a_refused_request_does_not_spend_its_key() {
    let app = start().await;
    let alice = app.alice();
    alice
        .post(TASKS, json!({"title": ""}))
        .key("k")
        .await
        .problem(422, "validation_failed");
    alice
        .post(TASKS, json!({"titel": "x"}))
        .key("k")
        .await
        .problem(400, "unknown_field");
    let created = alice.post(TASKS, task("x")).key("k").await.must_be(201);
    let path = created.must_header("location");
    let body = || json!({"title": "y"});
    alice
        .put(&path, body())
        .key("u")
        .header("if-match", "\"7\"")
        .await
        .problem(412, "version_mismatch");
    alice
        .put(&path, body())
        .key("u")
        .header("if-match", "\"1\"")
        .await
        .must_be(200);
}

#[tokio::test]
async fn a_key_has_1_to_255_visible_characters() {
    let app = start().await;
    let post = || app.alice().post(TASKS, task("x"));
    let longest = "k".repeat(255);
    for good in ["k", "!~\"#", longest.as_str()] {
        post().key(good).await.must_be(201);
    }
    let longer = "k".repeat(256);
    for bad in ["", " ", "a b", longer.as_str()] {
        post().key(bad).await.problem(400, "invalid_header");
    }
    for bad in [&b"k\xc3\xa9"[..], b"\xff", b"a\tb"] {
        post()
            .header_bytes("idempotency-key", bad)
            .await
            .problem(400, "invalid_header");
    }
    post().key("a").key("b").await.problem(400, "invalid_header");
}
