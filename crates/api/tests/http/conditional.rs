//! `ETag`, `If-Match`, `If-None-Match`.

use crate::world::{Call, World, refused};
use serde_json::json;

#[actix_web::test]
async fn a_write_against_an_older_version_is_412_and_changes_nothing() {
    let client = World::new().client().await;
    let path = client.task("a").await;
    let first = client
        .get("alice", &path)
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    let put = |tag: &str, title: &str| {
        let (tag, body) = (tag.to_owned(), json!({ "title": title }));
        let (client, path) = (&client, &path);
        async move {
            client
                .send(
                    "PUT",
                    path,
                    Call::by("alice").json(&body).header("if-match", &tag),
                )
                .await
        }
    };
    let second = put(&first, "b").await;
    assert_eq!(second.status, 200);
    refused(&put(&first, "c").await, 412, "version_mismatch");
    assert_eq!(client.get("alice", &path).await.data()["title"], "b");
    let second = second.header("etag").unwrap().to_owned();
    refused(&put(&format!("W/{second}"), "c").await, 412, "version_mismatch");
    refused(&put("\"something-else\"", "c").await, 412, "version_mismatch");
    assert_eq!(put(&format!("{first}, {second}"), "c").await.status, 200);
    refused(
        &put(&format!("{first}, {second}"), "d").await,
        412,
        "version_mismatch",
    );
    assert_eq!(put("*", "d").await.status, 200);
    assert_eq!(put("\"4\"", "e").await.status, 200);
    let delete = Call::by("alice").header("if-match", &first);
    refused(
        &client.send("DELETE", &path, delete).await,
        412,
        "version_mismatch",
    );
    let other = client.task("other").await;
    let other = client
        .get("alice", &other)
        .await
        .header("etag")
        .unwrap()
        .to_owned();
    let delete = Call::by("alice").header("if-match", &other);
    refused(
        &client.send("DELETE", &path, delete).await,
        412,
        "version_mismatch",
    );
}

#[actix_web::test]
async fn a_write_with_any_tag_to_nothing_is_404() {
    let client = World::new().client().await;
    let path = "/api/v1/tasks/0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f";
    for tag in ["*", "\"1\"", "\"1\", \"2\""] {
        let call = Call::by("alice")
            .json(&json!({ "title": "b" }))
            .header("if-match", tag);
        refused(&client.send("PUT", path, call).await, 404, "not_found");
    }
}

#[actix_web::test]
async fn a_read_of_what_is_known_is_304_without_a_body() {
    let client = World::new().client().await;
    let task = client.task("a").await;
    for path in [
        task.as_str(),
        "/api/v1/tasks",
        "/api/v1/profile",
        "/api/v1/auth/sessions",
    ] {
        let read = client.get("alice", path).await;
        let tag = read.header("etag").unwrap();
        let again = client
            .send("GET", path, Call::by("alice").header("if-none-match", tag))
            .await;
        assert_eq!((again.status.as_u16(), again.text.as_str()), (304, ""), "{path}");
        assert_eq!(again.header("etag"), Some(tag));
        assert_eq!(again.header("cache-control"), Some("private, no-cache"));
        assert!(again.header("content-type").is_none());
        let head = client
            .send("HEAD", path, Call::by("alice").header("if-none-match", tag))
            .await;
        assert_eq!(head.status, 304);
        let other = client
            .send("GET", path, Call::by("alice").header("if-none-match", "\"x\""))
            .await;
        assert_eq!((other.status.as_u16(), other.text), (200, read.text));
    }
}

#[actix_web::test]
async fn tags_are_per_user() {
    let client = World::new().client().await;
    let tag = |reply: crate::world::Reply| reply.header("etag").unwrap().to_owned();
    let path = "/api/v1/tasks";
    assert_ne!(
        tag(client.get("alice", path).await),
        tag(client.get("bob", path).await)
    );
}

#[actix_web::test]
async fn an_answer_that_was_pending_is_not_taken_for_the_committed_one_but_its_version_is() {
    let world = World::new();
    let client = world.client().await;
    let path = client.task("a").await;
    world.postgres_down();
    let buffered = client.put("alice", &path, &json!({ "title": "b" })).await;
    assert_eq!(buffered.status, 202);
    let pending = buffered.header("etag").unwrap().to_owned();
    // The drain commits it.
    let operation = world.memory.pending.lock().unwrap().remove(0);
    world.set(|memory| &memory.postgres_down, false);
    gravity_domain::sync::ports::OperationStore::apply(&*world.memory, &operation)
        .await
        .unwrap();
    let read = client
        .send("GET", &path, Call::by("alice").header("if-none-match", &pending))
        .await;
    assert_eq!(read.status, 200);
    assert_eq!(read.data()["sync"], "committed");
    let write = Call::by("alice")
        .json(&json!({ "title": "c" }))
        .header("if-match", &pending);
    assert_eq!(client.send("PUT", &path, write).await.status, 200);
}
