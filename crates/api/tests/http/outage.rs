//! What clients see while Postgres, the buffer or Redis is away.

use crate::world::{Call, NOW, World, refused};
use serde_json::json;

const TASKS: &str = "/api/v1/tasks";

#[actix_web::test]
async fn writes_are_buffered_and_seen_by_their_writer() {
    let world = World::new();
    let client = world.client().await;
    let kept = client.task("kept").await;
    let doomed = client.task("doomed").await;
    client.get("alice", "/api/v1/profile").await;
    world.postgres_down();
    world.clock.set(NOW + 1_000);

    let made = client
        .post("alice", TASKS, &json!({ "title": "in the dark" }))
        .await;
    assert_eq!(made.status, 202);
    assert_eq!(
        (&made.data()["sync"], &made.data()["version"]),
        (&json!("pending"), &json!(1))
    );
    let operation = made.header("operation-id").unwrap();
    let path = made.header("location").unwrap();
    let read = client.get("alice", path).await;
    assert_eq!(
        (read.status.as_u16(), read.header("gravity-consistency")),
        (200, Some("pending"))
    );
    assert_eq!(
        (read.json(), read.header("etag")),
        (made.json(), made.header("etag"))
    );

    let stale = client.get("alice", &kept).await;
    assert_eq!(
        (stale.data()["sync"].as_str(), stale.header("gravity-consistency")),
        (Some("committed"), Some("stale"))
    );
    let gone = client.send("DELETE", &doomed, Call::by("alice")).await;
    let id = doomed.rsplit('/').next().unwrap();
    assert_eq!(
        (gone.status.as_u16(), gone.json()),
        (202, json!({ "data": { "id": id, "sync": "pending" } }))
    );
    refused(&client.get("alice", &doomed).await, 404, "not_found");

    let list = client.get("alice", TASKS).await;
    assert_eq!(list.header("gravity-consistency"), Some("pending"));
    let seen: Vec<_> = list.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| {
            (
                task["title"].as_str().unwrap().to_owned(),
                task["sync"].as_str().unwrap().to_owned(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("in the dark".into(), "pending".into()),
            ("kept".into(), "committed".into())
        ]
    );

    let report = client
        .get("alice", &format!("/api/v1/operations/{operation}"))
        .await;
    assert_eq!(
        report.json(),
        json!({ "data": {
            "id": operation, "entity": "task", "entityId": made.data()["id"], "kind": "create", "state": "pending",
            "acceptedAt": "2023-11-14T22:13:21.000Z", "appliedAt": null, "attempts": 0, "reason": null,
        }})
    );
    refused(
        &client
            .get("bob", &format!("/api/v1/operations/{operation}"))
            .await,
        404,
        "not_found",
    );
    let renamed = client
        .put("alice", "/api/v1/profile", &json!({ "name": "Alice" }))
        .await;
    assert_eq!(
        (renamed.status.as_u16(), &renamed.data()["sync"]),
        (202, &json!("pending"))
    );
}

#[actix_web::test]
async fn a_write_that_must_be_committed_is_503_instead() {
    let world = World::new();
    let client = world.client().await;
    let call = || {
        Call::by("alice")
            .json(&json!({ "title": "a" }))
            .header("gravity-durability", "committed")
    };
    assert_eq!(client.send("POST", TASKS, call()).await.status, 201);
    world.postgres_down();
    let reply = client.send("POST", TASKS, call()).await;
    refused(&reply, 503, "database_unavailable");
    assert!(reply.header("retry-after").is_some());
    assert!(world.memory.pending.lock().unwrap().is_empty());
}

#[actix_web::test]
async fn what_is_not_known_is_503_and_never_an_empty_list() {
    let world = World::new();
    let client = world.client().await;
    world.postgres_down();
    let id = "/api/v1/tasks/0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f";
    for reply in [
        client.get("alice", TASKS).await,
        client.get("alice", id).await,
        client.put("alice", id, &json!({ "title": "b" })).await,
        client.send("DELETE", id, Call::by("alice")).await,
        client.get("alice", "/api/v1/profile").await,
        client
            .get("alice", "/api/v1/operations/0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f")
            .await,
    ] {
        refused(&reply, 503, "database_unavailable");
        assert!(reply.header("retry-after").is_some());
    }
}

#[actix_web::test]
async fn a_full_or_broken_buffer_is_503_with_its_own_code() {
    let world = World::new();
    let client = world.client().await;
    world.postgres_down();
    world.set(|memory| &memory.buffer_full, true);
    let full = client.post("alice", TASKS, &json!({ "title": "a" })).await;
    refused(&full, 503, "buffer_full");
    assert!(full.header("retry-after").is_some());
    world.set(|memory| &memory.buffer_broken, true);
    let broken = client.post("alice", TASKS, &json!({ "title": "a" })).await;
    refused(&broken, 503, "buffer_unavailable");
    assert!(broken.header("retry-after").is_some());
    assert!(!broken.text.contains("secret"));
    refused(&client.get("alice", TASKS).await, 503, "buffer_unavailable");
}

#[actix_web::test]
async fn without_sessions_login_is_503_and_tokens_go_on_working() {
    let world = World::new();
    let client = world.client().await;
    world.set(|memory| &memory.sessions_down, true);
    let login = json!({ "username": "alice", "password": "correct horse" });
    let reply = client.post("", "/api/v1/auth/login", &login).await;
    refused(&reply, 503, "sessions_unavailable");
    assert!(reply.header("retry-after").is_some());
    refused(
        &client.get("alice", "/api/v1/auth/sessions").await,
        503,
        "sessions_unavailable",
    );
    assert_eq!(client.get("alice", TASKS).await.status, 200);
}
