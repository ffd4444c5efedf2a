//! Feeding streams: each row for itself.

use crate::ports::{ALICE, BOB};
use crate::world::{Call, Client, Reply, World, refused};
use gravity_domain::id::ItemId;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

const ITEMS: &str = "/v2/ingest/items";

fn told(name: &str) -> Value {
    json!({
        "userId": ALICE.0, "source": "email", "externalId": name, "title": name, "priority": "low",
        "timestamp": "2023-11-14T22:00:00Z",
    })
}

fn with(name: &str, field: &str, value: Value) -> Value {
    let mut item = told(name);
    item[field] = value;
    item
}

fn message(field: &str, value: Value) -> Value {
    let mut message = json!({
        "externalId": "1", "senderType": "other", "contentType": "event", "timestamp": "2023-11-14T22:00:00Z",
    });
    message[field] = value;
    with("a", "messages", json!([message]))
}

async fn feed(client: &Client, items: &Value) -> Reply {
    client.post("machine", ITEMS, &json!({ "items": items })).await
}

#[actix_web::test]
async fn items_are_made_changed_left_alone_and_taken_out() {
    let client = World::new().client().await;
    let id = |name| ItemId::of(ALICE, "email", name);
    let first = feed(&client, &json!([told("a"), told("b")])).await;
    assert_eq!(
        (first.status.as_u16(), first.json()),
        (
            200,
            json!({ "data": {
                "results": [
                    { "index": 0, "externalId": "a", "id": id("a"), "status": "created" },
                    { "index": 1, "externalId": "b", "id": id("b"), "status": "created" },
                ],
                "versions": { ALICE.0.to_string(): 2 },
            }})
        )
    );
    assert_eq!(first.header("etag"), Some("\"2\""));
    assert!(
        first
            .header("ratelimit")
            .unwrap()
            .starts_with("\"ingest_account\";r=")
    );
    assert_eq!(
        first.header("ratelimit-policy"),
        Some("\"ingest_account\";q=600;w=60")
    );
    let again = feed(&client, &json!([told("a"), with("b", "title", json!("B"))])).await;
    let statuses = |reply: &Reply| -> Vec<Value> {
        let data = reply.data();
        let results = data["results"].as_array().unwrap();
        results.iter().map(|result| result["status"].clone()).collect()
    };
    assert_eq!(statuses(&again), ["unchanged", "updated"]);
    let mut theirs = told("a");
    theirs["userId"] = json!(BOB.0);
    let both = feed(&client, &json!([told("a"), theirs])).await;
    assert_eq!(both.header("etag"), None);
    assert_eq!(
        both.data()["versions"],
        json!({ ALICE.0.to_string(): 3, BOB.0.to_string(): 1 })
    );
    let key = |name: &str| json!({ "userId": ALICE.0, "source": "email", "externalId": name });
    let gone = json!({ "items": [key("a"), key("x"), { "userId": ALICE.0 }] });
    let gone = client.send("DELETE", ITEMS, Call::by("root").json(&gone)).await;
    assert_eq!(
        (gone.status.as_u16(), gone.data()),
        (
            200,
            json!({
                "results": [
                    { "index": 0, "externalId": "a", "id": id("a"), "status": "removed" },
                    { "index": 1, "externalId": "x", "id": id("x"), "status": "not_found" },
                    { "index": 2, "externalId": null, "status": "failed",
                      "error": { "field": "source", "code": "required", "message": "is required" } },
                ],
                "versions": { ALICE.0.to_string(): 4 },
            })
        )
    );
    assert_eq!(gone.header("etag"), Some("\"4\""));
}

#[actix_web::test]
async fn of_an_item_that_is_there_twice_the_last_counts() {
    let client = World::new().client().await;
    let doubled = json!([with("a", "title", json!("first")), { "oops": 1 }, told("b"), with("a", "title", json!("last"))]);
    let reply = feed(&client, &doubled).await;
    let results = reply.data()["results"].clone();
    let seen: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|result| (result["externalId"].as_str(), result["status"].as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [
            (Some("a"), "created"),
            (None, "failed"),
            (Some("b"), "created"),
            (Some("a"), "created")
        ]
    );
    assert_eq!(results[0]["id"], results[3]["id"]);
    let path = format!("/v2/stream/{}", results[0]["id"].as_str().unwrap());
    assert_eq!(client.get("alice", &path).await.data()["title"], "last");
}

#[actix_web::test]
async fn what_is_wrong_with_an_item_fails_that_one_and_is_named_by_its_path() {
    let client = World::new().client().await;
    let many = |n: usize, one: Value| Value::Array(vec![one; n]);
    let person = |field: &str, value: Value| {
        let mut person = json!({ "name": "Ada" });
        person[field] = value;
        with("a", "participants", json!([{ "name": "Bob" }, person]))
    };
    for (item, field, code) in [
        (json!("x"), "", "invalid_type"),
        (with("a", "colour", json!("red")), "colour", "unknown_field"),
        (with("a", "userId", json!("me")), "userId", "invalid_format"),
        (with("a", "source", json!("")), "source", "required"),
        (with("a", "externalId", json!(7)), "externalId", "invalid_type"),
        (with("a", "title", json!("x".repeat(256))), "title", "too_long"),
        (with("a", "title", Value::Null), "title", "invalid_type"),
        (
            with("a", "priority", json!("urgent")),
            "priority",
            "invalid_format",
        ),
        (
            with("a", "timestamp", json!("today")),
            "timestamp",
            "invalid_format",
        ),
        (with("a", "isUnread", json!("yes")), "isUnread", "invalid_type"),
        (
            with("a", "snippet", json!("a\nb")),
            "snippet",
            "invalid_character",
        ),
        (
            with("a", "participants", many(51, json!({ "name": "Ada" }))),
            "participants",
            "too_long",
        ),
        (
            with("a", "participants", json!({})),
            "participants",
            "invalid_type",
        ),
        (
            person("avatarUrl", json!("javascript:x")),
            "participants[1].avatarUrl",
            "invalid_format",
        ),
        (person("age", json!(5)), "participants[1].age", "unknown_field"),
        (
            with("a", "messages", many(201, json!({}))),
            "messages",
            "too_long",
        ),
        (
            message("senderType", json!("robot")),
            "messages[0].senderType",
            "invalid_format",
        ),
        (
            message("contentType", json!("html")),
            "messages[0].contentType",
            "invalid_format",
        ),
        (
            message("content", json!("x".repeat(100_001))),
            "messages[0].content",
            "too_long",
        ),
        (
            message("fullContentHtml", json!("a\u{0}b")),
            "messages[0].fullContentHtml",
            "invalid_character",
        ),
        (
            message("eventDetails", json!({ "startsAt": 5 })),
            "messages[0].eventDetails.startsAt",
            "invalid_type",
        ),
        (
            message("aiInsights", json!([{ "kind": "x" }])),
            "messages[0].aiInsights[0].text",
            "required",
        ),
    ] {
        let reply = feed(&client, &json!([item, told("good")])).await;
        assert_eq!(reply.status, 200);
        let results = &reply.data()["results"];
        assert_eq!(results[0]["status"], "failed", "{item}");
        let error = &results[0]["error"];
        assert_eq!(
            (&error["field"], &error["code"]),
            (&json!(field), &json!(code)),
            "{error}"
        );
        assert!(error["message"].is_string() && results[0].get("id").is_none());
        assert_ne!(results[1]["status"], "failed");
    }
    let full = with(
        "full",
        "participants",
        many(
            50,
            json!({ "name": "Ada", "externalId": null, "avatarUrl": null }),
        ),
    );
    let reply = feed(&client, &json!([full])).await;
    assert_eq!(reply.data()["results"][0]["status"], "created", "{reply:?}");
    let none = feed(&client, &json!([{}])).await;
    assert_eq!(
        (none.header("etag"), &none.data()["versions"]),
        (None, &json!({}))
    );
}

#[actix_web::test]
async fn a_batch_has_1_to_500_items_and_at_most_4_mib() {
    let client = World::new().client().await;
    for (items, code) in [
        (json!([]), "required"),
        (json!({}), "invalid_type"),
        (Value::Array(vec![json!({}); 501]), "too_long"),
    ] {
        let reply = feed(&client, &items).await;
        refused(&reply, 422, "validation_failed");
        assert_eq!(reply.json()["errors"][0]["code"], code);
    }
    refused(
        &client.post("machine", ITEMS, &json!({})).await,
        422,
        "validation_failed",
    );
    let more = json!({ "items": [told("a")], "dryRun": true });
    refused(&client.post("machine", ITEMS, &more).await, 400, "unknown_field");
    let padded = |size: usize| {
        let mut body = json!({ "items": [told("a")] }).to_string().into_bytes();
        body.resize(size, b' ');
        Call::by("machine")
            .raw(body)
            .header("content-type", "application/json")
    };
    let limit = 4 * 1024 * 1024;
    assert_eq!(client.send("POST", ITEMS, padded(limit)).await.status, 200);
    let larger = client.send("POST", ITEMS, padded(limit + 1)).await;
    refused(&larger, 413, "payload_too_large");
}

#[actix_web::test]
async fn feeding_is_limited_and_not_buffered() {
    let world = World::new();
    let client = world.client().await;
    world.postgres_down();
    let dark = feed(&client, &json!([told("a")])).await;
    refused(&dark, 503, "database_unavailable");
    assert!(dark.header("retry-after").is_some());
    assert!(world.memory.pending.lock().unwrap().is_empty());
    world.set(|memory| &memory.postgres_down, false);
    world.set(|memory| &memory.rejects, true);
    let reply = feed(&client, &json!([told("a")])).await;
    refused(&reply, 409, "write_refused");
    assert!(!reply.text.contains("secret"));
    world.set(|memory| &memory.rejects, false);
    world.memory.calls_left.store(0, Ordering::SeqCst);
    let limited = feed(&client, &json!([told("a")])).await;
    refused(&limited, 429, "rate_limited");
    assert_eq!(limited.header("retry-after"), Some("7"));
    assert!(limited.header("ratelimit").is_some() && limited.header("ratelimit-policy").is_some());
    let users = client
        .post("alice", ITEMS, &json!({ "items": [told("a")] }))
        .await;
    refused(&users, 403, "forbidden");
}
