//! `Idempotency-Key`.

use crate::world::{Call, World, refused};
use serde_json::{Value, json};

const TASKS: &str = "/api/v1/tasks";

fn keyed(body: &Value) -> Call<'static> {
    Call::by("alice").json(body).header("idempotency-key", "k-1")
}

#[actix_web::test]
async fn the_same_key_and_body_give_the_first_answer_again() {
    let world = World::new();
    let client = world.client().await;
    let first = client
        .send(
            "POST",
            TASKS,
            keyed(&json!({ "title": "a", "status": "pending" })),
        )
        .await;
    assert_eq!(
        (first.status.as_u16(), first.header("idempotency-replayed")),
        (201, None)
    );
    let path = first.header("location").unwrap().to_owned();
    client
        .put("alice", &path, &json!({ "title": "changed meanwhile" }))
        .await;
    let spaced = b"{ \"status\" : \"pending\", \"title\": \"\\u0061\" }".to_vec();
    let call = Call::by("alice")
        .raw(spaced)
        .header("content-type", "application/json");
    let again = client
        .send("POST", TASKS, call.header("idempotency-key", "k-1"))
        .await;
    assert_eq!((again.status.as_u16(), &again.text), (201, &first.text));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    for name in ["operation-id", "location", "etag"] {
        assert_eq!(again.header(name), first.header(name));
    }
    assert_eq!(world.memory.tasks.lock().unwrap().len(), 1);
}

#[actix_web::test]
async fn the_same_key_for_something_else_is_422() {
    let client = World::new().client().await;
    let made = client.send("POST", TASKS, keyed(&json!({ "title": "a" }))).await;
    refused(
        &client.send("POST", TASKS, keyed(&json!({ "title": "b" }))).await,
        422,
        "idempotency_key_reused",
    );
    let path = made.header("location").unwrap();
    refused(
        &client.send("PUT", path, keyed(&json!({ "title": "a" }))).await,
        422,
        "idempotency_key_reused",
    );
    let delete = Call::by("alice").header("idempotency-key", "k-1");
    refused(
        &client.send("DELETE", path, delete).await,
        422,
        "idempotency_key_reused",
    );
    let bobs = Call {
        who: "bob",
        ..keyed(&json!({ "title": "b" }))
    };
    assert_eq!(client.send("POST", TASKS, bobs).await.status, 201);
}

#[actix_web::test]
async fn a_refused_body_does_not_spend_its_key() {
    let client = World::new().client().await;
    refused(
        &client.send("POST", TASKS, keyed(&json!({ "title": "" }))).await,
        422,
        "validation_failed",
    );
    assert_eq!(
        client
            .send("POST", TASKS, keyed(&json!({ "title": "a" })))
            .await
            .status,
        201
    );
}

#[actix_web::test]
async fn a_delete_is_replayed_too() {
    let client = World::new().client().await;
    let path = client.task("a").await;
    let delete = || client.send("DELETE", &path, Call::by("alice").header("idempotency-key", "d"));
    assert_eq!(delete().await.status, 204);
    let again = delete().await;
    assert_eq!(
        (again.status.as_u16(), again.header("idempotency-replayed")),
        (204, Some("true"))
    );
}

#[actix_web::test]
async fn a_buffered_answer_is_replayed_as_it_was() {
    let world = World::new();
    let client = world.client().await;
    world.postgres_down();
    let first = client.send("POST", TASKS, keyed(&json!({ "title": "a" }))).await;
    let again = client.send("POST", TASKS, keyed(&json!({ "title": "a" }))).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (202, 202));
    assert_eq!(first.text, again.text);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(world.memory.pending.lock().unwrap().len(), 1);
}
