//! One's stream: the answers to the letter.

use crate::ports::{ALICE, BOB};
use crate::world::{Call, Client, World, refused};
use gravity_domain::id::{ItemId, MessageId, PersonId};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

const STREAM: &str = "/v2/stream";
const ITEMS: &str = "/v2/ingest/items";
const ACTIONS: &str = "/v2/stream/actions";

fn id(name: &str) -> String {
    ItemId::of(ALICE, "email", name).to_string()
}

/// An item of Alice; the greater `second`, the newer.
fn told(name: &str, second: u32) -> Value {
    json!({
        "userId": ALICE.0, "source": "email", "externalId": name, "title": format!("About {name}"),
        "priority": "medium", "timestamp": format!("2023-11-14T22:00:{second:02}Z"),
    })
}

async fn feed(client: &Client, items: &[Value]) {
    let reply = client.post("machine", ITEMS, &json!({ "items": items })).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

/// Alice's stream of `n` items, `m0` the oldest.
async fn stream_of(client: &Client, n: u32) {
    let items: Vec<Value> = (0..n).map(|at| told(&format!("m{at}"), at)).collect();
    feed(client, &items).await;
}

fn titles(page: &Value) -> Vec<&str> {
    let items = page["data"].as_array().unwrap();
    items.iter().map(|item| item["title"].as_str().unwrap()).collect()
}

#[actix_web::test]
async fn an_item_is_listed_and_shown_with_its_messages() {
    let client = World::new().client().await;
    let mut item = told("m0", 20);
    item["snippet"] = json!("Please look");
    item["participants"] = json!([
        { "externalId": "ada@example.com", "name": "Ada", "avatarUrl": "https://example.com/a.png" },
        { "name": "Bob" },
    ]);
    item["messages"] = json!([
        { "externalId": "1", "senderExternalId": "ada@example.com", "senderName": "Ada", "senderType": "other",
          "contentType": "text", "content": "a\nb", "fullContentHtml": "<p>a<script></p>",
          "timestamp": "2023-11-14T22:00:20.5+01:00",
          "attachments": [{ "name": "a.pdf", "url": "https://example.com/a.pdf", "mimeType": "application/pdf", "sizeBytes": 5 }] },
        { "externalId": "2", "senderType": "system", "contentType": "text", "timestamp": "2023-11-14T22:00:21Z" },
    ]);
    feed(&client, &[item]).await;
    let item = json!({
        "id": id("m0"), "title": "About m0", "source": "email", "priority": "medium", "isUnread": true,
        "isArchived": false, "snippet": "Please look", "timestamp": "2023-11-14T22:00:20.000Z",
        "participants": [
            { "id": PersonId::of(ALICE, "email", "ada@example.com"), "name": "Ada", "avatarUrl": "https://example.com/a.png" },
            { "id": PersonId::of_name(ALICE, "email", "Bob"), "name": "Bob", "avatarUrl": null },
        ],
        "version": 1,
    });
    let list = client.get("alice", STREAM).await;
    let meta = json!({
        "nextCursor": null, "hasMore": false, "version": 1, "unreadCount": 1, "asOf": "2023-11-14T22:13:20.000Z",
    });
    assert_eq!(
        (list.status.as_u16(), list.json()),
        (200, json!({ "data": [item], "meta": meta }))
    );
    assert_eq!(list.header("content-type"), Some("application/json"));
    assert_eq!(list.header("cache-control"), Some("private, no-cache"));
    assert_eq!(
        (list.header("gravity-consistency"), list.header("age")),
        (None, None)
    );
    let tag = list.header("etag").unwrap();
    assert!(tag.starts_with("\"1-") && tag.len() == 20, "{tag}");

    let mut detail = item;
    let of = |name: &str| MessageId::of(ItemId::of(ALICE, "email", "m0"), name);
    detail["messages"] = json!([
        { "id": of("2"), "senderType": "system", "contentType": "text", "content": null, "fullContentHtml": null,
          "timestamp": "2023-11-14T22:00:21.000Z" },
        { "id": of("1"), "senderId": PersonId::of(ALICE, "email", "ada@example.com"), "senderName": "Ada",
          "senderType": "other", "contentType": "text", "content": "a\nb", "fullContentHtml": "<p>a</p>",
          "timestamp": "2023-11-14T21:00:20.500Z",
          "attachments": [{ "name": "a.pdf", "url": "https://example.com/a.pdf", "mimeType": "application/pdf", "sizeBytes": 5 }] },
    ]);
    let path = format!("{STREAM}/{}", id("m0"));
    let shown = client.get("alice", &path).await;
    assert_eq!(
        (shown.status.as_u16(), shown.json()),
        (
            200,
            json!({ "data": detail, "meta": { "messagesCursor": null, "version": 1 } })
        )
    );
    let again = Call::by("alice").header("if-none-match", shown.header("etag").unwrap());
    assert_eq!(client.send("GET", &path, again).await.status, 304);
    let all = client
        .get("alice", &format!("{path}/messages?limit=1"))
        .await
        .json();
    assert_eq!(all["data"], json!([detail["messages"][0]]));
    assert_eq!(all["meta"]["hasMore"], true);
    let cursor = all["meta"]["nextCursor"].as_str().unwrap();
    let rest = client
        .get("alice", &format!("{path}/messages?cursor={cursor}"))
        .await;
    assert_eq!(
        rest.json(),
        json!({ "data": [detail["messages"][1]], "meta": { "nextCursor": null, "hasMore": false } })
    );
    for of_another in [path.clone(), format!("{path}/messages")] {
        refused(&client.get("bob", &of_another).await, 404, "not_found");
    }
    assert_eq!(client.get("bob", STREAM).await.data(), json!([]));
}

#[actix_web::test]
async fn the_filters_of_the_list_are_those_of_its_parameters() {
    let client = World::new().client().await;
    let mut all: Vec<Value> = (0..6).map(|at| told(&format!("m{at}"), at)).collect();
    all[1]["source"] = json!("chat & more");
    all[2]["source"] = json!("social");
    all[3]["priority"] = json!("high");
    all[4]["isUnread"] = json!(false);
    all[5]["isArchived"] = json!(true);
    feed(&client, &all).await;
    for (query, found) in [
        ("", "m4 m3 m2 m1 m0"),
        ("?filter=all", "m4 m3 m2 m1 m0"),
        ("?filter=unread", "m3 m2 m1 m0"),
        ("?filter=archived", "m5"),
        ("?source=social", "m2"),
        ("?source=social&source=chat+%26%20more", "m2 m1"),
        ("?priority=high&priority=low", "m3"),
        ("?since=2023-11-14T22:00:02Z", "m4 m3 m2"),
        ("?until=2023-11-14T23:00:02%2B01:00", "m1 m0"),
        ("?limit=2", "m4 m3"),
    ] {
        let page = client.get("alice", &format!("{STREAM}{query}")).await.json();
        let names: Vec<_> = titles(&page)
            .iter()
            .map(|title| &title["About ".len()..])
            .collect();
        assert_eq!(names.join(" "), found, "{query}");
        assert_eq!(page["meta"]["unreadCount"], 4);
    }
    let first = client.get("alice", "/v2/stream?limit=3").await.json();
    let cursor = first["meta"]["nextCursor"].as_str().unwrap();
    let second = client
        .get("alice", &format!("{STREAM}?limit=3&cursor={cursor}"))
        .await
        .json();
    assert_eq!(titles(&second), ["About m1", "About m0"]);
    assert_eq!(second["meta"]["hasMore"], false);
}

#[actix_web::test]
async fn bad_parameters_of_reads_are_refused() {
    let client = World::new().client().await;
    stream_of(&client, 1).await;
    let many: String = (0..21).map(|n| format!("source=s{n}&")).collect();
    let long = format!("source={}", "x".repeat(51));
    for (query, code) in [
        ("filter=read", "invalid_parameter"),
        ("filter=all&filter=all", "invalid_parameter"),
        ("source=", "invalid_parameter"),
        (long.as_str(), "invalid_parameter"),
        (many.as_str(), "invalid_parameter"),
        ("priority=urgent", "invalid_parameter"),
        ("since=yesterday", "invalid_parameter"),
        ("since=2023-11-14T22:00:02+01:00", "invalid_parameter"),
        ("until=1", "invalid_parameter"),
        ("minVersion=-1", "invalid_parameter"),
        ("minVersion=1&minVersion=1", "invalid_parameter"),
        ("limit=101", "invalid_parameter"),
        ("cursor=rubbish", "invalid_cursor"),
        ("status=x", "unknown_parameter"),
    ] {
        refused(
            &client.get("alice", &format!("{STREAM}?{query}")).await,
            400,
            code,
        );
    }
    let item = format!("{STREAM}/{}", id("m0"));
    for (path, code) in [
        (format!("{item}?minVersion=x"), "invalid_parameter"),
        (format!("{item}?filter=all"), "unknown_parameter"),
        (format!("{item}/messages?cursor=x"), "invalid_cursor"),
        (format!("{item}/messages?minVersion=1"), "unknown_parameter"),
        (format!("{STREAM}/m0"), "invalid_id"),
        (format!("{STREAM}/m0/messages"), "invalid_id"),
        (format!("{STREAM}/changes"), "invalid_parameter"),
        (format!("{STREAM}/changes?since=x"), "invalid_parameter"),
        (format!("{STREAM}/changes?since=2"), "invalid_parameter"),
    ] {
        refused(&client.get("alice", &path).await, 400, code);
    }
}

#[actix_web::test]
async fn a_page_that_is_known_is_304_and_not_loaded() {
    let world = World::new();
    let client = world.client().await;
    stream_of(&client, 2).await;
    let loaded = || world.memory.pages_loaded.load(Ordering::SeqCst);
    let first = client.get("alice", STREAM).await;
    let tag = first.header("etag").unwrap();
    let with = |tag: &'static str| Call::by("alice").header("if-none-match", tag);
    let tag: &'static str = tag.to_owned().leak();
    world.memory.streams.lock().unwrap().forget_pages();
    let before = loaded();
    for encoding in ["identity", "gzip", "br", "zstd"] {
        let reply = client
            .send("GET", STREAM, with(tag).header("accept-encoding", encoding))
            .await;
        assert_eq!(
            (reply.status.as_u16(), reply.text.as_str()),
            (304, ""),
            "{encoding}"
        );
        assert_eq!(reply.header("etag"), Some(tag));
        assert_eq!(reply.header("content-encoding"), None);
    }
    assert_eq!(loaded(), before);
    let packed = client
        .send("GET", STREAM, Call::by("alice").header("accept-encoding", "gzip"))
        .await;
    assert_eq!((packed.status.as_u16(), packed.header("etag")), (200, Some(tag)));
    let other = client.send("GET", "/v2/stream?limit=1", with(tag)).await;
    assert_eq!(other.status, 200);
    assert_ne!(other.header("etag"), Some(tag));
    let anothers = Call::by("bob").header("if-none-match", tag);
    assert_eq!(client.send("GET", STREAM, anothers).await.status, 200);
    let bare = client.send("GET", STREAM, with("\"2\"")).await;
    assert_eq!(bare.status, 200);
    feed(&client, &[told("m2", 2)]).await;
    let newer = client.send("GET", STREAM, with(tag)).await;
    assert_eq!((newer.status.as_u16(), titles(&newer.json()).len()), (200, 3));
}

#[actix_web::test]
async fn in_the_dark_a_page_is_stale_but_never_older_than_what_was_seen() {
    let world = World::new();
    let client = world.client().await;
    stream_of(&client, 2).await;
    let known = client.get("alice", STREAM).await;
    world.postgres_down();
    let stale = client.get("alice", STREAM).await;
    assert_eq!((stale.status.as_u16(), stale.json()), (200, known.json()));
    assert_eq!(
        (stale.header("gravity-consistency"), stale.header("age")),
        (Some("stale"), Some("7"))
    );
    let again = Call::by("alice").header("if-none-match", known.header("etag").unwrap());
    let again = client.send("GET", STREAM, again).await;
    assert_eq!((again.status.as_u16(), again.header("age")), (304, Some("7")));
    assert_eq!(client.get("alice", "/v2/stream?minVersion=2").await.status, 200);
    let newer = client.get("alice", "/v2/stream?minVersion=3").await;
    refused(&newer, 503, "database_unavailable");
    assert!(newer.header("retry-after").is_some());
    let seen = Call::by("alice").header("if-none-match", "\"3\"");
    refused(
        &client.send("GET", STREAM, seen).await,
        503,
        "database_unavailable",
    );
    refused(
        &client.get("alice", "/v2/stream?limit=7").await,
        503,
        "database_unavailable",
    );
    refused(&client.get("bob", STREAM).await, 503, "database_unavailable");
    let item = format!("{STREAM}/{}", id("m0"));
    refused(&client.get("alice", &item).await, 503, "database_unavailable");
    let changes = client.get("alice", "/v2/stream/changes?since=0").await;
    refused(&changes, 503, "database_unavailable");
}

#[actix_web::test]
async fn changes_are_told_from_a_version_on() {
    let world = World::new();
    let client = world.client().await;
    stream_of(&client, 2).await;
    let gone = json!({ "items": [{ "userId": ALICE.0, "source": "email", "externalId": "m0" }] });
    client
        .send("DELETE", ITEMS, Call::by("machine").json(&gone))
        .await;
    let changes = client.get("alice", "/v2/stream/changes?since=1").await;
    assert_eq!(
        (changes.status.as_u16(), changes.json()),
        (
            200,
            json!({ "data": { "changed": [id("m1")], "removed": [id("m0")], "version": 3, "hasMore": false } })
        )
    );
    let none = client.get("alice", "/v2/stream/changes?since=3").await;
    assert_eq!(
        none.data(),
        json!({ "changed": [], "removed": [], "version": 3, "hasMore": false })
    );
    refused(
        &client.get("alice", "/v2/stream/changes?since=4").await,
        400,
        "invalid_parameter",
    );
    world.set(|memory| &memory.purged, true);
    refused(
        &client.get("alice", "/v2/stream/changes?since=1").await,
        410,
        "cannot_calculate",
    );
}

#[actix_web::test]
async fn an_action_tells_what_became_of_each_item() {
    let client = World::new().client().await;
    stream_of(&client, 3).await;
    let theirs = ItemId::of(BOB, "email", "m0");
    let body = json!({
        "action": "archive", "ids": [id("m0"), id("m2"), theirs, id("m0")], "asOf": "2023-11-14T22:00:01Z",
    });
    let reply = client.post("alice", ACTIONS, &body).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()),
        (
            200,
            json!({ "data": {
                "results": [
                    { "id": id("m0"), "result": "applied" },
                    { "id": id("m2"), "result": "skipped" },
                    { "id": theirs, "result": "not_found" },
                ],
                "hasMore": false, "version": 4, "sync": "committed",
            }})
        )
    );
    assert_eq!(reply.header("etag"), Some("\"4\""));
    assert!(reply.header("operation-id").is_some());
    let rest = client.get("alice", "/v2/stream?minVersion=4").await.json();
    assert_eq!((titles(&rest).len(), &rest["meta"]["version"]), (2, &json!(4)));

    let filter = json!({
        "action": "read", "asOf": "2023-11-14T22:00:59Z",
        "filter": { "filter": "all", "source": "email", "priority": ["medium", "low"], "until": "2023-11-14T22:00:02Z" },
    });
    let call = || Call::by("alice").json(&filter).header("idempotency-key", "k");
    let read = client.send("POST", ACTIONS, call()).await;
    assert_eq!(
        read.data()["results"],
        json!([{ "id": id("m1"), "result": "applied" }])
    );
    let again = client.send("POST", ACTIONS, call()).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(
        (again.json(), again.header("etag")),
        (read.json(), read.header("etag"))
    );
    let other = Call::by("alice").json(&body).header("idempotency-key", "k");
    refused(
        &client.send("POST", ACTIONS, other).await,
        422,
        "idempotency_key_reused",
    );
    assert_eq!(client.get("alice", STREAM).await.json()["meta"]["unreadCount"], 1);
}

#[actix_web::test]
async fn in_the_dark_an_action_is_buffered_and_seen_by_its_user() {
    let world = World::new();
    let client = world.client().await;
    stream_of(&client, 3).await;
    let known = client.get("alice", STREAM).await;
    world.postgres_down();
    let body = json!({ "action": "read", "ids": [id("m1"), ItemId::of(BOB, "email", "m0")] });
    let reply = client.post("alice", ACTIONS, &body).await;
    assert_eq!(
        (reply.status.as_u16(), reply.header("etag")),
        (202, None),
        "{reply:?}"
    );
    assert_eq!(
        reply.data(),
        json!({
            "results": [{ "id": id("m1"), "result": "applied" }, { "id": ItemId::of(BOB, "email", "m0"), "result": "not_found" }],
            "hasMore": false, "version": null, "sync": "pending",
        })
    );
    let path = format!("/api/v1/operations/{}", reply.header("operation-id").unwrap());
    assert_eq!(client.get("alice", &path).await.data()["state"], "pending");
    let tag = known.header("etag").unwrap();
    let pending = client
        .send("GET", STREAM, Call::by("alice").header("if-none-match", tag))
        .await;
    assert_eq!(
        (pending.status.as_u16(), pending.header("gravity-consistency")),
        (200, Some("pending"))
    );
    assert_eq!(pending.json()["data"][1]["isUnread"], false);
    assert_eq!(pending.json()["meta"]["unreadCount"], 2);
    let own = pending.header("etag").unwrap();
    assert!(own.starts_with("\"3-") && own != tag, "{own}");
    let again = Call::by("alice").header("if-none-match", own);
    assert_eq!(client.send("GET", STREAM, again).await.status, 304);
    world.set(|memory| &memory.postgres_down, false);
    let still = Call::by("alice").header("if-none-match", tag);
    assert_eq!(client.send("GET", STREAM, still).await.status, 200);
    world.postgres_down();
    let committed = Call::by("alice")
        .json(&body)
        .header("gravity-durability", "committed");
    refused(
        &client.send("POST", ACTIONS, committed).await,
        503,
        "database_unavailable",
    );
}

#[actix_web::test]
async fn bad_actions_are_refused() {
    let client = World::new().client().await;
    let many: Vec<String> = (0..201).map(|n| id(&n.to_string())).collect();
    let now = "2023-11-14T22:00:00Z";
    for (body, field, code) in [
        (json!({ "ids": [id("a")] }), "action", "required"),
        (
            json!({ "action": "delete", "ids": [id("a")] }),
            "action",
            "invalid_format",
        ),
        (json!({ "action": "read" }), "ids", "required"),
        (json!({ "action": "read", "ids": [] }), "ids", "required"),
        (json!({ "action": "read", "ids": null }), "ids", "invalid_type"),
        (json!({ "action": "read", "ids": "x" }), "ids", "invalid_type"),
        (
            json!({ "action": "read", "ids": [id("a"), 1] }),
            "ids[1]",
            "invalid_type",
        ),
        (
            json!({ "action": "read", "ids": ["x"] }),
            "ids[0]",
            "invalid_format",
        ),
        (json!({ "action": "read", "ids": many }), "ids", "too_long"),
        (
            json!({ "action": "read", "ids": [id("a")], "filter": {}, "asOf": now }),
            "filter",
            "invalid_value",
        ),
        (json!({ "action": "read", "filter": {} }), "asOf", "required"),
        (
            json!({ "action": "read", "filter": [], "asOf": now }),
            "filter",
            "invalid_type",
        ),
        (
            json!({ "action": "read", "filter": {}, "asOf": "now" }),
            "asOf",
            "invalid_format",
        ),
        (
            json!({ "action": "read", "filter": { "filter": "x" }, "asOf": now }),
            "filter.filter",
            "invalid_format",
        ),
        (
            json!({ "action": "read", "filter": { "source": ["a", ""] }, "asOf": now }),
            "filter.source[1]",
            "required",
        ),
        (
            json!({ "action": "read", "filter": { "priority": 1 }, "asOf": now }),
            "filter.priority",
            "invalid_type",
        ),
        (
            json!({ "action": "read", "filter": { "since": "x" }, "asOf": now }),
            "filter.since",
            "invalid_format",
        ),
    ] {
        let reply = client.post("alice", ACTIONS, &body).await;
        refused(&reply, 422, "validation_failed");
        let error = &reply.json()["errors"][0];
        assert_eq!(
            (&error["field"], &error["code"]),
            (&json!(field), &json!(code)),
            "{body}"
        );
    }
    for body in [
        json!({ "action": "read", "ids": [id("a")], "undo": true }),
        json!({ "action": "read", "filter": { "limit": 5 }, "asOf": now }),
    ] {
        refused(&client.post("alice", ACTIONS, &body).await, 400, "unknown_field");
    }
}
