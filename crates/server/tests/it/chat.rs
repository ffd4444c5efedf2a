//! Chat by REST: two people talk, read, block, and are limited; on one node and on two.

use gravity_test_support::actors::{Actor, BOB};
use gravity_test_support::calls::Answer;
use gravity_test_support::test_app::TestApp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use uuid::Uuid;

use crate::outage::state_of;
use crate::{setup, start};

pub(crate) const CHAT: &str = "/api/chat";
pub(crate) const CONVERSATIONS: &str = "/api/chat/conversations";
const BLOCKS: &str = "/api/chat/blocks";

/// The path of the conversation of `actor` with `other`.
pub(crate) async fn talk(actor: &Actor, other: &str) -> String {
    let opened = actor.get(&format!("{CONVERSATIONS}/with/{other}")).await;
    assert!([200, 201].contains(&opened.status), "{}", opened.text());
    format!("{CONVERSATIONS}/{}", opened.id())
}

/// Sends; the answer.
pub(crate) async fn say(actor: &Actor, talk: &str, content: &str) -> Answer {
    actor
        .post(&format!("{talk}/messages"), json!({ "content": content }))
        .await
}

/// Contents, in the order listed.
pub(crate) async fn contents(actor: &Actor, path: &str) -> Vec<String> {
    let data = actor.get(path).await.must_be(200).data();
    let text = |message: &Value| message["content"].as_str().expect("text").to_owned();
    data.as_array().expect("a list").iter().map(text).collect()
}

/// Unread messages, and conversations that have some.
pub(crate) async fn unread(actor: &Actor) -> (u64, u64) {
    let data = actor
        .get(&format!("{CONVERSATIONS}/unread-count"))
        .await
        .must_be(200)
        .data();
    let number = |name: &str| data[name].as_u64().expect("a number");
    (number("total"), number("conversations"))
}

#[tokio::test]
async fn two_people_talk_and_read() {
    let app = start().await;
    let (alice, bob) = (app.alice(), app.bob());
    let opened = alice.get(&format!("{CONVERSATIONS}/with/bob")).await.must_be(201);
    let expected = json!({
        "id": "[id]", "otherUser": {"id": "[id]", "username": "bob", "name": null, "avatarUrl": null}, "lastMessage": null,
        "unreadCount": 0, "lastSeq": 0, "readSeq": 0, "blockedByMe": false, "blockedByThem": false,
        "createdAt": "[time]", "updatedAt": "[time]",
    });
    assert_eq!(opened.shape(), json!({"status": 201, "body": {"data": expected}}));
    let here = talk(&bob, "ALICE").await;
    assert_eq!(here, format!("{CONVERSATIONS}/{}", opened.id()));
    assert_eq!(contents(&bob, &format!("{here}/messages")).await, [""; 0]);
    let sent = say(&alice, &here, "hello").await.must_be(201);
    let expected = json!({
        "id": "[id]", "conversationId": "[id]", "seq": 1, "senderId": "[id]", "clientMessageId": "[id]", "content": "hello",
        "createdAt": "[time]", "durability": "stored", "sync": "committed",
    });
    assert_eq!(sent.shape(), json!({"status": 201, "body": {"data": expected}}));
    assert_eq!(
        state_of(&alice, &sent.must_header("operation-id")).await,
        "applied"
    );
    let one = bob.get(&sent.must_header("location")).await.must_be(200).data();
    assert_eq!(one["id"], sent.data()["id"]);
    for n in 2..=4 {
        say(&alice, &here, &format!("{n}")).await.must_be(201);
    }
    assert_eq!((unread(&bob).await, unread(&alice).await), ((4, 1), (0, 0)));
    let list = bob.get(CONVERSATIONS).await.must_be(200).data();
    assert_eq!(
        (&list[0]["unreadCount"], &list[0]["lastMessage"]["content"]),
        (&json!(4), &json!("4"))
    );
    let up_to = json!({"messageId": sent.data()["id"]});
    let read = bob
        .post(&format!("{here}/read"), up_to.clone())
        .await
        .must_be(200);
    assert_eq!(
        (&read.data()["readSeq"], &read.data()["unreadCount"]),
        (&json!(1), &json!(3))
    );
    assert_eq!(unread(&bob).await, (3, 1));
    let all = bob
        .call(reqwest::Method::POST, &format!("{here}/read"))
        .await
        .must_be(200);
    assert_eq!(
        (&all.data()["readSeq"], &all.data()["unreadCount"]),
        (&json!(4), &json!(0))
    );
    let back = bob.post(&format!("{here}/read"), up_to).await.must_be(200);
    assert_eq!(back.data()["readSeq"], 4, "it never goes back");
    assert_eq!(unread(&bob).await, (0, 0));
    say(&bob, &here, "5").await.must_be(201);
    assert_eq!((unread(&alice).await, unread(&bob).await), ((1, 1), (0, 0)));
}

#[tokio::test]
async fn a_long_talk_comes_in_pages_without_a_gap_or_a_double() {
    let app = setup().set("CHAT_MESSAGES_PER_MINUTE", "1000").start().await;
    let alice = app.alice();
    let here = talk(&alice, "bob").await;
    for n in 1..=25 {
        say(&alice, &here, &n.to_string()).await.must_be(201);
    }
    let path = format!("{here}/messages");
    let (mut seen, mut query) = (Vec::new(), "?limit=7".to_owned());
    loop {
        let page = app.bob().get(&format!("{path}{query}")).await.must_be(200).json();
        let seqs = page["data"].as_array().expect("a list").iter();
        seen.extend(seqs.map(|message| message["seq"].as_u64().expect("a place")));
        // What comes meanwhile moves nothing.
        say(&alice, &here, "meanwhile").await.must_be(201);
        match page["meta"]["nextCursor"].as_str() {
            Some(cursor) => query = format!("?limit=7&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen, (1..=25).rev().collect::<Vec<u64>>());
    let caught_up = app
        .bob()
        .get(&format!("{path}?afterSeq=20&limit=5"))
        .await
        .must_be(200);
    let caught_up = caught_up.json();
    let seqs = caught_up["data"].as_array().expect("a list").iter();
    let seqs: Vec<&Value> = seqs.map(|message| &message["seq"]).collect();
    assert_eq!(seqs, [21, 22, 23, 24, 25]);
    assert_eq!(caught_up["meta"], json!({"nextCursor": null, "hasMore": true}));
    for query in ["?cursor=x", "?limit=0", "?afterSeq=x", "?surprise=1"] {
        assert_eq!(alice.get(&format!("{path}{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn a_repeated_send_is_one_message() {
    let app = start().await;
    let alice = app.alice();
    let here = talk(&alice, "bob").await;
    let path = format!("{here}/messages");
    let id = Uuid::now_v7();
    let body = |content: &str| json!({"content": content, "clientMessageId": id});
    let first = alice.post(&path, body("once")).await.must_be(201);
    let again = alice.post(&path, body("once")).await.must_be(200);
    assert_eq!(again.data(), first.data());
    alice
        .post(&path, body("twice"))
        .await
        .problem(409, "message_id_reused");
    let keyed = || alice.post(&path, json!({"content": "by key"})).key("k");
    let first = keyed().await.must_be(201);
    let again = keyed().await.must_be(201);
    assert_eq!(again.json(), first.json());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    alice
        .post(&path, json!({"content": "another"}))
        .key("k")
        .await
        .problem(422, "idempotency_key_reused");
    assert_eq!(contents(&app.bob(), &path).await, ["by key", "once"]);
    let sends = (0..8).map(|_| {
        alice.post(
            &path,
            json!({"content": "race", "clientMessageId": Uuid::from_u128(7)}),
        )
    });
    let mut statuses = BTreeSet::new();
    let mut running: Vec<_> = sends
        .map(|send| tokio::spawn(async move { send.await }))
        .collect();
    for send in running.drain(..) {
        let answer = send.await.expect("an answer");
        statuses.insert(answer.status);
        assert_eq!(answer.data()["seq"], 3, "{}", answer.text());
    }
    assert_eq!(statuses, BTreeSet::from([200, 201]));
}

#[tokio::test]
async fn strangers_see_nothing_and_blocks_stop_both() {
    let app = start().await;
    let (alice, bob) = (app.alice(), app.bob());
    let here = talk(&alice, "bob").await;
    let message = say(&alice, &here, "secret").await.must_be(201);
    let stranger = app.service();
    for path in [format!("{here}/messages"), message.must_header("location")] {
        stranger.get(&path).await.problem(404, "not_found");
    }
    say(&stranger, &here, "me too").await.problem(404, "not_found");
    let read = stranger
        .call(reqwest::Method::POST, &format!("{here}/read"))
        .await;
    read.problem(404, "not_found");
    assert_eq!(stranger.get(CONVERSATIONS).await.must_be(200).data(), json!([]));

    let block = json!({"username": "alice"});
    bob.post(BLOCKS, block.clone()).await.must_be(201);
    bob.post(BLOCKS, block.clone()).await.must_be(200);
    let listed = bob.get(BLOCKS).await.must_be(200).data();
    assert_eq!(
        (&listed[0]["username"], &listed[0]["name"]),
        (&json!("alice"), &json!("Alice"))
    );
    for (who, other, by_me) in [(&alice, "bob", false), (&bob, "alice", true)] {
        let status = who.get(&format!("{BLOCKS}/status/{other}")).await.must_be(200);
        assert_eq!(
            status.data(),
            json!({"blockedByMe": by_me, "blockedByThem": !by_me})
        );
        say(who, &here, "x").await.problem(403, "blocked");
        let shown = who.get(CONVERSATIONS).await.must_be(200).data()[0].clone();
        assert_eq!(
            (&shown["blockedByMe"], &shown["blockedByThem"]),
            (&json!(by_me), &json!(!by_me))
        );
    }
    bob.delete(&format!("{BLOCKS}/alice")).await.must_be(204);
    bob.delete(&format!("{BLOCKS}/alice")).await.must_be(204);
    assert_eq!(bob.get(BLOCKS).await.data(), json!([]));
    say(&alice, &here, "again").await.must_be(201);
    assert_eq!(
        contents(&bob, &format!("{here}/messages")).await,
        ["again", "secret"]
    );
    alice
        .post(BLOCKS, json!({"username": "alice"}))
        .await
        .problem(400, "oneself");
    alice
        .post(BLOCKS, json!({"username": "nobody"}))
        .await
        .problem(404, "not_found");
    alice
        .get(&format!("{CONVERSATIONS}/with/alice"))
        .await
        .problem(400, "oneself");
}

#[tokio::test]
async fn messages_and_new_conversations_are_limited_across_nodes() {
    let one = setup()
        .private_redis()
        .set("CHAT_MESSAGES_PER_MINUTE", "4")
        .set("CHAT_CONVERSATIONS_PER_MINUTE", "1")
        .start()
        .await;
    let two = one.another_node().start().await;
    let here = talk(&one.alice(), "bob").await;
    let body = json!({"content": "x", "clientMessageId": Uuid::now_v7()});
    let path = format!("{here}/messages");
    one.alice().post(&path, body.clone()).await.must_be(201);
    for _ in 0..6 {
        two.alice().post(&path, body.clone()).await.must_be(200);
    }
    for n in 0..3 {
        let node = if n % 2 == 0 { &two } else { &one };
        say(&node.alice(), &here, "y").await.must_be(201);
    }
    let refused = say(&two.alice(), &here, "z").await;
    refused.problem(429, "rate_limited");
    let seconds: u64 = refused.must_header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&seconds));
    assert!(refused.must_header("ratelimit").contains("r=0"));
    say(&one.bob(), &here, "others may").await.must_be(201);
    one.sql()
        .await
        .execute(
            "INSERT INTO users (id, username, created_at, updated_at) VALUES (gen_random_uuid(), 'carol', now(), now())",
            &[],
        )
        .await
        .expect("a row");
    let carol = format!("{CONVERSATIONS}/with/carol");
    two.alice().get(&carol).await.problem(429, "rate_limited");
    talk(&two.alice(), "bob").await;
}

#[tokio::test]
async fn what_one_node_takes_the_other_shows() {
    let one = setup()
        .private_redis()
        .set("CHAT_MESSAGES_PER_MINUTE", "1000")
        .start()
        .await;
    let two = one.another_node().start().await;
    let here = talk(&one.alice(), "bob").await;
    let path = format!("{here}/messages");
    for n in 1..=10 {
        let (node, other) = if n % 2 == 0 { (&one, &two) } else { (&two, &one) };
        say(&node.alice(), &here, &n.to_string()).await.must_be(201);
        assert_eq!(contents(&other.bob(), &path).await.len(), n);
        assert_eq!(unread(&other.bob()).await, (n as u64, 1));
    }
    two.bob()
        .call(reqwest::Method::POST, &format!("{here}/read"))
        .await
        .must_be(200);
    assert_eq!(unread(&one.bob()).await, (0, 0));
    one.bob()
        .post(BLOCKS, json!({"username": "alice"}))
        .await
        .must_be(201);
    say(&two.alice(), &here, "x").await.problem(403, "blocked");
}

#[tokio::test]
async fn tickets_presence_and_preferences_are_each_one_s_own() {
    let app = setup().private_redis().start().await;
    let (alice, bob) = (app.alice(), app.bob());
    let ticket = || alice.call(reqwest::Method::POST, "/api/chat/ws-tickets");
    let (one, two) = (ticket().await.must_be(201), ticket().await.must_be(201));
    assert_eq!(one.data()["expiresInSeconds"], 30);
    assert_ne!(one.data()["ticket"], two.data()["ticket"]);
    assert_eq!(one.must_header("cache-control"), "no-store");
    let presence = async || {
        let path = format!("{CHAT}/presence?userIds={BOB}");
        alice.get(&path).await.must_be(200).data()
    };
    let of_bob = |status: &str| json!([{"userId": BOB, "status": status, "lastSeen": null}]);
    assert_eq!(presence().await, of_bob("unknown"), "a stranger");
    talk(&alice, "bob").await;
    assert_eq!(presence().await, of_bob("offline"));
    bob.post(BLOCKS, json!({"username": "alice"})).await.must_be(201);
    assert_eq!(presence().await, of_bob("unknown"), "across a block");

    let path = format!("{CHAT}/notifications/preferences");
    let all = |push: bool| json!({"chatMessages": true, "webPush": push, "webhook": true});
    assert_eq!(alice.get(&path).await.must_be(200).data(), all(true));
    alice.put(&path, json!({"webPush": false})).await.must_be(200);
    assert_eq!(alice.get(&path).await.must_be(200).data(), all(false));
    assert_eq!(bob.get(&path).await.must_be(200).data(), all(true));
    alice
        .get(&format!("{CHAT}/notifications/vapid-key"))
        .await
        .problem(404, "not_found");
}

/// With Postgres of its own, and everything known that `look` has seen.
async fn dark() -> TestApp {
    setup()
        .private_postgres()
        .set("CHAT_MESSAGES_PER_MINUTE", "1000")
        .start()
        .await
}

#[tokio::test]
async fn in_the_dark_messages_are_accepted_shown_and_stored_once_in_order() {
    let app = dark().await;
    let (alice, bob) = (app.alice(), app.bob());
    let here = talk(&alice, "bob").await;
    let path = format!("{here}/messages");
    say(&bob, &here, "before").await.must_be(201);
    for who in [&alice, &bob] {
        who.get(CONVERSATIONS).await.must_be(200);
        contents(who, &path).await;
    }
    app.postgres().kill();

    let id = Uuid::now_v7();
    let body = json!({"content": "1", "clientMessageId": id});
    let first = alice.post(&path, body.clone()).await.must_be(202);
    let expected = json!({
        "id": "[id]", "conversationId": "[id]", "seq": null, "senderId": "[id]", "clientMessageId": "[id]", "content": "1",
        "createdAt": "[time]", "durability": "accepted", "sync": "pending",
    });
    assert_eq!(first.shape(), json!({"status": 202, "body": {"data": expected}}));
    let again = alice.post(&path, body.clone()).await;
    assert_eq!(
        (again.status, again.data()["id"].clone()),
        (202, first.data()["id"].clone())
    );
    let other = json!({"content": "another", "clientMessageId": id});
    alice.post(&path, other).await.problem(409, "message_id_reused");
    for n in 2..=20 {
        say(&alice, &here, &n.to_string()).await.must_be(202);
    }
    let mut expected: Vec<String> = (1..=20).rev().map(|n| n.to_string()).collect();
    expected.push("before".to_owned());
    assert_eq!(contents(&alice, &format!("{path}?limit=100")).await, expected);
    let shown = alice.get(CONVERSATIONS).await.must_be(200);
    assert_eq!(shown.header("gravity-consistency"), Some("pending"));
    assert_eq!(shown.data()[0]["lastMessage"]["content"], "20");
    let stale = bob.get(&path).await.must_be(200);
    assert_eq!(stale.header("gravity-consistency"), Some("stale"));
    let operation = first.must_header("operation-id");
    assert_eq!(state_of(&alice, &operation).await, "pending");
    let unknown = format!("{CONVERSATIONS}/{}/messages", Uuid::now_v7());
    crate::outage::come_again(
        &alice.post(&unknown, json!({"content": "x"})).await,
        "database_unavailable",
    );
    crate::outage::come_again(
        &alice.get(&format!("{CHAT}/notifications/preferences")).await,
        "database_unavailable",
    );

    app.postgres().start().expect("Postgres comes back");
    app.drained().await;
    let stored = bob
        .get(&format!("{path}?afterSeq=0&limit=100"))
        .await
        .must_be(200)
        .data();
    let stored: Vec<(u64, String)> = stored
        .as_array()
        .expect("a list")
        .iter()
        .map(|message| {
            assert_eq!(message["durability"], "stored");
            let text = message["content"].as_str().expect("text");
            (message["seq"].as_u64().expect("a place"), text.to_owned())
        })
        .collect();
    let mut expected = vec![(1, "before".to_owned())];
    expected.extend((1..=20).map(|n| (n + 1, n.to_string())));
    assert_eq!(stored, expected);
    assert_eq!(state_of(&alice, &operation).await, "applied");
    let again = alice.post(&path, body).await.must_be(200);
    assert_eq!(
        (&again.data()["seq"], &again.data()["id"]),
        (&json!(2), &first.data()["id"])
    );
    assert_eq!(unread(&bob).await, (20, 1));
}

#[tokio::test]
async fn in_the_dark_marks_and_blocks_are_taken_and_a_block_stops_what_waits() {
    let app = dark().await;
    let (alice, bob) = (app.alice(), app.bob());
    let here = talk(&alice, "bob").await;
    for n in 1..=3 {
        say(&alice, &here, &n.to_string()).await.must_be(201);
    }
    assert_eq!(unread(&bob).await, (3, 1));
    for who in [&alice, &bob] {
        who.get(CONVERSATIONS).await.must_be(200);
        who.get(BLOCKS).await.must_be(200);
        contents(who, &format!("{here}/messages")).await;
    }
    bob.get(&format!("{BLOCKS}/status/alice")).await.must_be(200);
    app.postgres().kill();

    let read = bob
        .call(reqwest::Method::POST, &format!("{here}/read"))
        .await
        .must_be(202);
    assert_eq!(
        (&read.data()["readSeq"], &read.data()["unreadCount"]),
        (&json!(3), &json!(0))
    );
    assert_eq!(unread(&bob).await, (0, 0));
    bob.post(BLOCKS, json!({"username": "alice"})).await.must_be(202);
    say(&bob, &here, "x").await.problem(403, "blocked");
    let status = bob.get(&format!("{BLOCKS}/status/alice")).await.must_be(200);
    assert_eq!(status.data()["blockedByMe"], true);
    assert_eq!(bob.get(BLOCKS).await.must_be(200).data()[0]["username"], "alice");

    app.postgres().start().expect("Postgres comes back");
    app.drained().await;
    assert_eq!(unread(&bob).await, (0, 0));
    say(&alice, &here, "x").await.problem(403, "blocked");
    bob.delete(&format!("{BLOCKS}/alice")).await.must_be(204);
    say(&alice, &here, "4").await.must_be(201);
    assert_eq!(unread(&bob).await, (1, 1));
}
