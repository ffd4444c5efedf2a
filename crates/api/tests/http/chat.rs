//! `/api/chat`: what a client sees, call by call.

use crate::world::{Call, Client, Reply, World, refused};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

const CONVERSATIONS: &str = "/api/chat/conversations";
const BLOCKS: &str = "/api/chat/blocks";
const PREFERENCES: &str = "/api/chat/notifications/preferences";
const SUBSCRIPTIONS: &str = "/api/chat/notifications/subscriptions";
const NOBODY: &str = "0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f";

/// The path of Alice's and Bob's conversation.
async fn opened(client: &Client) -> String {
    let reply = client.get("alice", &format!("{CONVERSATIONS}/with/bob")).await;
    assert!([200, 201].contains(&reply.status.as_u16()), "{reply:?}");
    format!("{CONVERSATIONS}/{}", reply.data()["id"].as_str().unwrap())
}

async fn say(client: &Client, who: &str, talk: &str, content: &str) -> Reply {
    client
        .post(who, &format!("{talk}/messages"), &json!({ "content": content }))
        .await
}

fn contents(reply: &Reply) -> Vec<String> {
    let data = reply.data();
    let content = |message: &Value| message["content"].as_str().unwrap().to_owned();
    data.as_array().unwrap().iter().map(content).collect()
}

fn keys(value: &Value) -> Vec<String> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
    keys.sort();
    keys
}

#[actix_web::test]
async fn a_conversation_is_opened_once_and_looks_as_promised() {
    let client = World::new().client().await;
    let first = client.get("alice", &format!("{CONVERSATIONS}/with/bob")).await;
    assert_eq!(first.status, 201);
    assert!(first.header("ratelimit").is_some());
    let again = client.get("bob", &format!("{CONVERSATIONS}/with/ALICE")).await;
    assert_eq!(again.status, 200);
    assert_eq!(first.data()["id"], again.data()["id"]);
    assert_eq!(
        keys(&first.data()),
        [
            "blockedByMe",
            "blockedByThem",
            "createdAt",
            "id",
            "lastMessage",
            "lastSeq",
            "otherUser",
            "readSeq",
            "unreadCount",
            "updatedAt"
        ]
    );
    assert_eq!(
        keys(&first.data()["otherUser"]),
        ["avatarUrl", "id", "name", "username"]
    );
    assert_eq!(first.data()["otherUser"]["username"], "bob");
    assert_eq!(first.data()["lastMessage"], Value::Null);
    let with = |name: &str| format!("{CONVERSATIONS}/with/{name}");
    refused(&client.get("alice", &with("alice")).await, 400, "oneself");
    refused(&client.get("alice", &with("nobody")).await, 404, "not_found");
    refused(&client.get("alice", &with("n%20o")).await, 404, "not_found");
    let tag = again.header("etag").unwrap().to_owned();
    let same = Call::by("bob").header("if-none-match", &tag);
    let same = client.send("GET", &with("alice"), same).await;
    assert_eq!(same.status, 304);
}

#[actix_web::test]
async fn a_message_is_stored_listed_and_counted() {
    let client = World::new().client().await;
    let talk = opened(&client).await;
    let sent = say(&client, "alice", &talk, "hello").await;
    assert_eq!(sent.status, 201);
    let message = sent.data();
    assert_eq!(
        keys(&message),
        [
            "clientMessageId",
            "content",
            "conversationId",
            "createdAt",
            "durability",
            "id",
            "senderId",
            "seq",
            "sync"
        ]
    );
    assert_eq!(
        (&message["seq"], &message["durability"], &message["sync"]),
        (&json!(1), &json!("stored"), &json!("committed"))
    );
    for header in ["operation-id", "ratelimit", "ratelimit-policy", "etag"] {
        assert!(sent.header(header).is_some(), "{header}");
    }
    let one = client.get("bob", sent.header("location").unwrap()).await;
    assert_eq!(
        (one.status.as_u16(), &one.data()["content"]),
        (200, &json!("hello"))
    );
    assert!(one.data().get("sync").is_none());
    say(&client, "alice", &talk, "again").await;
    let counts = client
        .get("bob", &format!("{CONVERSATIONS}/unread-count"))
        .await
        .data();
    assert_eq!(counts, json!({"total": 2, "conversations": 1}));
    let list = client.get("bob", CONVERSATIONS).await;
    assert_eq!(list.data()[0]["unreadCount"], 2);
    assert_eq!(list.data()[0]["lastMessage"]["content"], "again");
    assert_eq!(list.json()["meta"], json!({"nextCursor": null, "hasMore": false}));
    let first = message["id"].as_str().unwrap();
    let read = client
        .post("bob", &format!("{talk}/read"), &json!({ "messageId": first }))
        .await;
    assert_eq!(read.status, 200);
    let conversation = talk.rsplit('/').next().unwrap();
    assert_eq!(
        read.data(),
        json!({"conversationId": conversation, "readSeq": 1, "unreadCount": 1, "sync": "committed"})
    );
    let all = client
        .send("POST", &format!("{talk}/read"), Call::by("bob"))
        .await;
    assert_eq!(
        (&all.data()["readSeq"], &all.data()["unreadCount"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(
        client.get("alice", CONVERSATIONS).await.data()[0]["unreadCount"],
        0
    );
}

#[actix_web::test]
async fn messages_come_in_pages_back_from_the_newest_or_on_from_a_place() {
    let client = World::new().client().await;
    let talk = opened(&client).await;
    for n in 1..=5 {
        say(&client, "alice", &talk, &n.to_string()).await;
    }
    let path = format!("{talk}/messages");
    let first = client.get("bob", &format!("{path}?limit=2")).await;
    assert_eq!(contents(&first), ["5", "4"]);
    let cursor = first.json()["meta"]["nextCursor"].as_str().unwrap().to_owned();
    let second = client
        .get("bob", &format!("{path}?limit=2&cursor={cursor}"))
        .await;
    assert_eq!(contents(&second), ["3", "2"]);
    let after = client.get("bob", &format!("{path}?afterSeq=2&limit=2")).await;
    assert_eq!(contents(&after), ["3", "4"]);
    assert_eq!(after.json()["meta"], json!({"nextCursor": null, "hasMore": true}));
    let rest = client.get("bob", &format!("{path}?afterSeq=4&limit=2")).await;
    assert_eq!(contents(&rest), ["5"]);
    assert_eq!(rest.json()["meta"]["hasMore"], false);
    for (query, code) in [
        ("cursor=x", "invalid_cursor"),
        ("afterSeq=x", "invalid_parameter"),
        ("limit=0", "invalid_parameter"),
    ] {
        refused(&client.get("bob", &format!("{path}?{query}")).await, 400, code);
    }
    let both = format!("{path}?afterSeq=1&cursor={cursor}");
    refused(&client.get("bob", &both).await, 400, "invalid_parameter");
}

#[actix_web::test]
async fn the_messages_own_id_makes_a_send_safe_to_repeat() {
    let client = World::new().client().await;
    let talk = opened(&client).await;
    let path = format!("{talk}/messages");
    let body = |content: &str| json!({"content": content, "clientMessageId": NOBODY});
    let first = client.post("alice", &path, &body("once")).await;
    assert_eq!(first.status, 201);
    let again = client.post("alice", &path, &body("once")).await;
    assert_eq!(again.status, 200);
    assert_eq!(again.data(), first.data());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    refused(
        &client.post("alice", &path, &body("twice")).await,
        409,
        "message_id_reused",
    );
    let with_root = client.get("alice", &format!("{CONVERSATIONS}/with/root")).await;
    let elsewhere = format!(
        "{CONVERSATIONS}/{}/messages",
        with_root.data()["id"].as_str().unwrap()
    );
    refused(
        &client.post("alice", &elsewhere, &body("once")).await,
        409,
        "message_id_reused",
    );
    let keyed = |key: &'static str, body: Value| Call::by("alice").header("idempotency-key", key).json(&body);
    let first = client
        .send("POST", &path, keyed("k", json!({"content": "x"})))
        .await;
    assert_eq!(first.status, 201);
    let again = client
        .send("POST", &path, keyed("k", json!({"content": "x"})))
        .await;
    assert_eq!((again.status.as_u16(), &again.text), (201, &first.text));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    refused(
        &client
            .send("POST", &path, keyed("k", json!({"content": "y"})))
            .await,
        422,
        "idempotency_key_reused",
    );
    let other = client.send("POST", &path, keyed("l", body("once"))).await;
    assert_eq!(other.status, 200, "the same message under another key: {other:?}");
    assert_eq!(contents(&client.get("bob", &path).await), ["x", "once"]);
}

#[actix_web::test]
async fn broken_messages_are_refused_with_every_reason() {
    let client = World::new().client().await;
    let path = format!("{}/messages", opened(&client).await);
    for (body, field, code) in [
        (json!({}), "content", "required"),
        (json!({"content": ""}), "content", "required"),
        (json!({"content": "x".repeat(4_001)}), "content", "too_long"),
        (json!({"content": "a\u{0}b"}), "content", "invalid_character"),
        (json!({"content": 1}), "content", "invalid_type"),
        (
            json!({"content": "x", "clientMessageId": "x"}),
            "clientMessageId",
            "invalid_format",
        ),
    ] {
        let reply = client.post("alice", &path, &body).await;
        refused(&reply, 422, "validation_failed");
        let errors = &reply.json()["errors"];
        assert_eq!(
            (&errors[0]["field"], &errors[0]["code"]),
            (&json!(field), &json!(code))
        );
    }
    let unknown = json!({"content": "x", "to": "bob"});
    refused(&client.post("alice", &path, &unknown).await, 400, "unknown_field");
    let longest = "ä".repeat(4_000);
    assert_eq!(
        client
            .post("alice", &path, &json!({"content": longest}))
            .await
            .status,
        201
    );
}

#[actix_web::test]
async fn a_conversation_is_its_two_people_s_only() {
    let client = World::new().client().await;
    let talk = opened(&client).await;
    let sent = say(&client, "alice", &talk, "secret").await;
    let message = sent.header("location").unwrap().to_owned();
    for path in [format!("{talk}/messages"), message] {
        refused(&client.get("root", &path).await, 404, "not_found");
    }
    refused(&say(&client, "root", &talk, "me too").await, 404, "not_found");
    let read = client
        .send("POST", &format!("{talk}/read"), Call::by("root"))
        .await;
    refused(&read, 404, "not_found");
    let of_another = json!({ "messageId": NOBODY });
    let read = client.post("alice", &format!("{talk}/read"), &of_another).await;
    refused(&read, 404, "not_found");
    let unread = format!("{CONVERSATIONS}/{NOBODY}/messages");
    refused(&client.get("alice", &unread).await, 404, "not_found");
    let bad = format!("{CONVERSATIONS}/x/messages");
    refused(&client.get("alice", &bad).await, 400, "invalid_id");
}

#[actix_web::test]
async fn a_block_stops_both_until_it_is_taken_back() {
    let client = World::new().client().await;
    let talk = opened(&client).await;
    let block = json!({"username": "Alice"});
    let first = client.post("bob", BLOCKS, &block).await;
    assert_eq!(first.status, 201);
    assert_eq!(
        keys(&first.data()),
        ["avatarUrl", "createdAt", "name", "sync", "username"]
    );
    assert_eq!(client.post("bob", BLOCKS, &block).await.status, 200);
    let list = client.get("bob", BLOCKS).await;
    assert_eq!(
        keys(&list.data()[0]),
        ["avatarUrl", "createdAt", "name", "username"]
    );
    assert_eq!(list.data()[0]["username"], "alice");
    let status = |who: &'static str, other: &'static str| {
        let path = format!("{BLOCKS}/status/{other}");
        let client = &client;
        async move { client.get(who, &path).await.data() }
    };
    assert_eq!(
        status("alice", "bob").await,
        json!({"blockedByMe": false, "blockedByThem": true})
    );
    assert_eq!(
        status("bob", "alice").await,
        json!({"blockedByMe": true, "blockedByThem": false})
    );
    for who in ["alice", "bob"] {
        refused(&say(&client, who, &talk, "x").await, 403, "blocked");
    }
    assert_eq!(
        client.get("alice", CONVERSATIONS).await.data()[0]["blockedByThem"],
        true
    );
    let reopened = client.get("alice", &format!("{CONVERSATIONS}/with/bob")).await;
    assert_eq!(reopened.status, 200);
    let path = format!("{BLOCKS}/alice");
    let gone = client.send("DELETE", &path, Call::by("bob")).await;
    assert_eq!((gone.status.as_u16(), gone.text.as_str()), (204, ""));
    assert_eq!(client.send("DELETE", &path, Call::by("bob")).await.status, 204);
    assert_eq!(say(&client, "alice", &talk, "x").await.status, 201);
    let unknown = client
        .send("DELETE", &format!("{BLOCKS}/nobody"), Call::by("bob"))
        .await;
    refused(&unknown, 404, "not_found");
    let body = |name: &str| json!({ "username": name });
    refused(
        &client.post("bob", BLOCKS, &body("nobody")).await,
        404,
        "not_found",
    );
    refused(&client.post("bob", BLOCKS, &body("bob")).await, 400, "oneself");
    refused(
        &client.post("bob", BLOCKS, &body("!")).await,
        422,
        "validation_failed",
    );
}

#[actix_web::test]
async fn messages_are_limited_and_replays_are_free() {
    let world = World::new();
    let client = world.client().await;
    let talk = opened(&client).await;
    let path = format!("{talk}/messages");
    world.memory.calls_left.store(1, Ordering::SeqCst);
    let body = json!({"content": "x", "clientMessageId": NOBODY});
    assert_eq!(client.post("alice", &path, &body).await.status, 201);
    let limited = say(&client, "alice", &talk, "y").await;
    refused(&limited, 429, "rate_limited");
    for header in ["retry-after", "ratelimit", "ratelimit-policy"] {
        assert!(limited.header(header).is_some(), "{header}");
    }
    assert_eq!(client.post("alice", &path, &body).await.status, 200);
    let with_root = format!("{CONVERSATIONS}/with/root");
    refused(&client.get("alice", &with_root).await, 429, "rate_limited");
    assert_eq!(
        client
            .get("alice", &format!("{CONVERSATIONS}/with/bob"))
            .await
            .status,
        200
    );
}

#[actix_web::test]
async fn in_the_dark_messages_marks_and_blocks_are_taken_and_shown() {
    let world = World::new();
    let client = world.client().await;
    let talk = opened(&client).await;
    say(&client, "bob", &talk, "before").await;
    world.postgres_down();
    let sent = say(&client, "alice", &talk, "in the dark").await;
    assert_eq!(sent.status, 202);
    let message = sent.data();
    assert_eq!(
        (&message["seq"], &message["durability"], &message["sync"]),
        (&Value::Null, &json!("accepted"), &json!("pending"))
    );
    assert!(sent.header("operation-id").is_some());
    let told: Vec<_> = world.memory.chats.lock().unwrap().signals.clone();
    assert_eq!(told.len(), 2, "both are told: {told:?}");
    let list = client.get("alice", &format!("{talk}/messages")).await;
    assert_eq!(contents(&list), ["in the dark", "before"]);
    assert_eq!(list.header("gravity-consistency"), Some("pending"));
    let others = client.get("bob", &format!("{talk}/messages")).await;
    assert_eq!(others.header("gravity-consistency"), Some("stale"));
    let shown = client.get("alice", CONVERSATIONS).await;
    assert_eq!(shown.data()[0]["lastMessage"]["content"], "in the dark");
    let one = client.get("alice", sent.header("location").unwrap()).await;
    assert_eq!(one.data()["durability"], "accepted");

    let read = client
        .send("POST", &format!("{talk}/read"), Call::by("alice"))
        .await;
    assert_eq!(
        (read.status.as_u16(), &read.data()["sync"]),
        (202, &json!("pending"))
    );
    let counts = format!("{CONVERSATIONS}/unread-count");
    assert_eq!(client.get("alice", &counts).await.data()["total"], 0);

    let block = client.post("alice", BLOCKS, &json!({"username": "bob"})).await;
    assert_eq!(
        (block.status.as_u16(), &block.data()["sync"]),
        (202, &json!("pending"))
    );
    refused(&say(&client, "alice", &talk, "no more").await, 403, "blocked");
    let unblock = client
        .send("DELETE", &format!("{BLOCKS}/bob"), Call::by("alice"))
        .await;
    assert_eq!(
        (unblock.status.as_u16(), unblock.data()),
        (202, json!({"username": "bob", "sync": "pending"}))
    );
    let must = Call::by("alice")
        .header("gravity-durability", "committed")
        .json(&json!({"content": "now or never"}));
    let must = client.send("POST", &format!("{talk}/messages"), must).await;
    refused(&must, 503, "database_unavailable");
    refused(
        &client.get("alice", PREFERENCES).await,
        503,
        "database_unavailable",
    );
    world.set(|memory| &memory.purged, true);
    refused(
        &say(&client, "bob", &talk, "who are we").await,
        503,
        "database_unavailable",
    );
}

#[actix_web::test]
async fn presence_is_of_people_one_talks_with_and_unknown_without_redis() {
    let world = World::new();
    let client = world.client().await;
    opened(&client).await;
    let (bob, root) = (crate::ports::BOB, crate::ports::ROOT);
    let path = format!("/api/chat/presence?userIds={bob},{root}");
    let found = client.get("alice", &path).await.data();
    assert_eq!(
        found,
        json!([
            {"userId": bob, "status": "online", "lastSeen": null},
            {"userId": root, "status": "unknown", "lastSeen": null}
        ])
    );
    world.set(|memory| &memory.sessions_down, true);
    assert_eq!(client.get("alice", &path).await.data()[0]["status"], "unknown");
    for query in ["", "?userIds=", "?userIds=bob"] {
        let reply = client.get("alice", &format!("/api/chat/presence{query}")).await;
        refused(&reply, 400, "invalid_parameter");
    }
}

#[actix_web::test]
async fn a_ticket_is_issued_and_not_to_be_kept() {
    let world = World::new();
    let client = world.client().await;
    let path = "/api/chat/ws-tickets";
    let issued = client.send("POST", path, Call::by("alice")).await;
    assert_eq!(issued.status, 201);
    assert_eq!(keys(&issued.data()), ["expiresInSeconds", "ticket"]);
    assert_eq!(issued.data()["expiresInSeconds"], 30);
    assert_eq!(issued.header("cache-control"), Some("no-store"));
    world.set(|memory| &memory.sessions_down, true);
    let failed = client.send("POST", path, Call::by("alice")).await;
    refused(&failed, 503, "sessions_unavailable");
}

#[actix_web::test]
async fn preferences_are_set_one_by_one() {
    let client = World::new().client().await;
    let all = |messages: bool, push: bool, hook: bool| json!({"chatMessages": messages, "webPush": push, "webhook": hook});
    assert_eq!(
        client.get("alice", PREFERENCES).await.data(),
        all(true, true, true)
    );
    let set = client.put("alice", PREFERENCES, &json!({"webPush": false})).await;
    assert_eq!((set.status.as_u16(), set.data()), (200, all(true, false, true)));
    assert_eq!(
        client.get("alice", PREFERENCES).await.data(),
        all(true, false, true)
    );
    assert_eq!(client.get("bob", PREFERENCES).await.data(), all(true, true, true));
    refused(
        &client.put("alice", PREFERENCES, &json!({})).await,
        400,
        "empty_update",
    );
    for value in [json!(null), json!("true"), json!(1)] {
        let reply = client
            .put("alice", PREFERENCES, &json!({ "webhook": value }))
            .await;
        refused(&reply, 422, "validation_failed");
        assert_eq!(reply.json()["errors"][0]["code"], "invalid_type");
    }
}

#[actix_web::test]
async fn browsers_subscribe_and_unsubscribe() {
    let mut world = World::new();
    let client = world.client().await;
    // The keys of the example in RFC 8291.
    let body = |endpoint: &str| {
        json!({"endpoint": endpoint, "expirationTime": null, "keys": {
            "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            "auth": "BTBZMqHH6r4Tts7J_aSIgg"}})
    };
    let endpoint = "https://push.example.com/abc";
    assert_eq!(
        client.post("alice", SUBSCRIPTIONS, &body(endpoint)).await.status,
        201
    );
    assert_eq!(
        client.post("alice", SUBSCRIPTIONS, &body(endpoint)).await.status,
        200
    );
    for endpoint in ["https://127.0.0.1/abc", "abc"] {
        let reply = client.post("alice", SUBSCRIPTIONS, &body(endpoint)).await;
        refused(&reply, 422, "validation_failed");
        assert_eq!(reply.json()["errors"][0]["field"], "endpoint", "{endpoint}");
    }
    let mut bad = body(endpoint);
    bad["keys"]["auth"] = json!("AA");
    refused(
        &client.post("alice", SUBSCRIPTIONS, &bad).await,
        422,
        "validation_failed",
    );
    bad["keys"] = json!({"auth": "AA", "surprise": 1});
    refused(
        &client.post("alice", SUBSCRIPTIONS, &bad).await,
        400,
        "unknown_field",
    );
    let end = |who: &'static str| Call::by(who).json(&json!({ "endpoint": endpoint }));
    let not_theirs = client.send("DELETE", SUBSCRIPTIONS, end("bob")).await;
    refused(&not_theirs, 404, "not_found");
    assert_eq!(
        client.send("DELETE", SUBSCRIPTIONS, end("alice")).await.status,
        204
    );
    let again = client.send("DELETE", SUBSCRIPTIONS, end("alice")).await;
    refused(&again, 404, "not_found");

    let path = "/api/chat/notifications/vapid-key";
    refused(&client.get("alice", path).await, 404, "not_found");
    world.vapid_public_key = Some("key".into());
    let client = world.client().await;
    assert_eq!(
        client.get("alice", path).await.data(),
        json!({"publicKey": "key"})
    );
}
