//! `ETag`, `If-Match`, `If-None-Match` and `Gravity-Durability`.

use gravity_test_support::builders::task;
use serde_json::json;

use crate::{new_task, start};

const TASKS: &str = "/api/v1/tasks";

#[tokio::test]
async fn a_read_that_is_known_already_is_answered_304() {
    let app = start().await;
    let alice = app.alice();
    let path = format!("{TASKS}/{}", new_task(&alice, "x").await);
    for path in [path.as_str(), "/api/v1/profile", TASKS] {
        let tag = alice.get(path).await.must_be(200).must_header("etag");
        for given in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"other\", {tag}"),
            "*".to_owned(),
        ] {
            let known = alice.get(path).header("if-none-match", &given).await.must_be(304);
            assert!(known.body.is_empty());
            assert_eq!(known.must_header("etag"), tag);
            assert_eq!(known.header("content-type"), None);
            assert_eq!(known.must_header("cache-control"), "private, no-cache");
        }
        alice
            .get(path)
            .header("if-none-match", "\"other\"")
            .await
            .must_be(200);
        alice
            .get(path)
            .header("if-none-match", "rubbish")
            .await
            .must_be(200);
    }
    let tag = alice.get(TASKS).await.must_header("etag");
    alice.put(&path, json!({"title": "y"})).await.must_be(200);
    alice.get(TASKS).header("if-none-match", &tag).await.must_be(200);
}

#[tokio::test]
async fn a_write_on_the_right_version_goes_through_and_on_another_is_refused() {
    let app = start().await;
    let alice = app.alice();
    let created = alice.post(TASKS, task("a")).await.must_be(201);
    let (path, first) = (created.must_header("location"), created.must_header("etag"));
    let updated = alice
        .put(&path, json!({"title": "b"}))
        .header("if-match", &first)
        .await
        .must_be(200);
    let second = updated.must_header("etag");
    assert_ne!(first, second);

    for stale in [first.as_str(), "\"1\"", "\"x\"", &format!("W/{second}"), "\"99\""] {
        alice
            .put(&path, json!({"title": "c"}))
            .header("if-match", stale)
            .await
            .problem(412, "version_mismatch");
        alice
            .delete(&path)
            .header("if-match", stale)
            .await
            .problem(412, "version_mismatch");
    }
    assert_eq!(alice.get(&path).await.data()["title"], "b");
    for fine in [format!("{first}, {second}").as_str(), "*"] {
        alice
            .put(&path, json!({"title": "b"}))
            .header("if-match", fine)
            .await
            .must_be(200);
    }
    let current = alice.get(&path).await.must_header("etag");
    alice
        .delete(&path)
        .header("if-match", &current)
        .await
        .must_be(204);
}

#[tokio::test]
async fn a_condition_on_what_is_not_there_is_answered_404() {
    let app = start().await;
    let path = format!("{TASKS}/{}", uuid::Uuid::now_v7());
    for tag in ["\"1\"", "*"] {
        app.alice()
            .put(&path, json!({"title": "b"}))
            .header("if-match", tag)
            .await
            .problem(404, "not_found");
        app.alice()
            .delete(&path)
            .header("if-match", tag)
            .await
            .problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_condition_that_cannot_be_read_is_refused() {
    let app = start().await;
    let path = format!("{TASKS}/{}", new_task(&app.alice(), "x").await);
    for bad in ["1", "\"1", "", "\"1\" \"2\"", "*, \"1\""] {
        let refused = app
            .alice()
            .put(&path, json!({"title": "b"}))
            .header("if-match", bad)
            .await;
        refused.problem(400, "invalid_header");
    }
}

#[tokio::test]
async fn tags_are_each_users_own() {
    let app = start().await;
    let (alice, bob) = (app.alice(), app.bob());
    let own = alice.get("/api/v1/profile").await.must_header("etag");
    assert_ne!(own, bob.get("/api/v1/profile").await.must_header("etag"));
    bob.put("/api/v1/profile", json!({"name": "B"}))
        .header("if-match", &own)
        .await
        .problem(412, "version_mismatch");
    alice
        .put("/api/v1/profile", json!({"name": "A"}))
        .header("if-match", &own)
        .await
        .must_be(200);
    let (empty, other) = (alice.get(TASKS).await, bob.get(TASKS).await);
    assert_eq!(empty.json(), other.json());
    assert_ne!(
        empty.header("etag"),
        other.header("etag"),
        "also for lists that look alike"
    );
    assert!(empty.list("vary").contains("authorization"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_writes_on_one_version_exactly_one_goes_through() {
    let app = start().await;
    let created = app.alice().post(TASKS, task("a")).await.must_be(201);
    let (path, tag) = (created.must_header("location"), created.must_header("etag"));
    let calls: Vec<_> = (0..16)
        .map(|number| {
            let body = json!({"title": number.to_string()});
            tokio::spawn(
                app.alice()
                    .put(&path, body)
                    .header("if-match", &tag)
                    .into_future(),
            )
        })
        .collect();
    let mut through = 0;
    for call in calls {
        let answer = call.await.unwrap();
        if answer.status == 200 {
            through += 1;
        } else {
            answer.problem(412, "version_mismatch");
        }
    }
    assert_eq!(through, 1);
    assert_eq!(app.alice().get(&path).await.data()["version"], 2);
}

#[tokio::test]
async fn a_write_that_must_be_committed_is_while_postgres_is_up() {
    let app = start().await;
    let committed = app
        .alice()
        .post(TASKS, task("x"))
        .header("gravity-durability", "committed")
        .await
        .must_be(201);
    assert_eq!(committed.data()["sync"], "committed");
    for bad in ["buffered", "", "Committed", "committed, committed"] {
        let refused = app
            .alice()
            .post(TASKS, task("x"))
            .header("gravity-durability", bad)
            .await;
        refused.problem(400, "invalid_header");
    }
}
