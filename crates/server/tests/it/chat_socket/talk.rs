use super::{Client, contents, conversation};
use crate::chat::{self, CHAT};
use crate::stream::{ingest, version_of};
use crate::{setup, start};
use gravity_test_support::actors::ALICE;
use gravity_test_support::builders::item;
use serde_json::{Value, json};
use uuid::Uuid;

#[tokio::test]
async fn two_people_talk_and_read() {
    let app = start().await;
    let (alice, bob) = (app.alice(), app.bob());
    let talk = conversation(&alice, "bob").await;
    let mut desk = Client::ready(&app, &alice).await;
    let mut phone = Client::ready(&app, &alice).await;
    let mut other = Client::ready(&app, &bob).await;
    let id = desk.message(&talk, "hello").await;
    let ack = desk.expect("message.ack").await;
    assert_eq!(ack["id"], "message.send-id");
    assert_eq!(ack["payload"]["clientMessageId"], json!(id));
    assert_eq!(
        (&ack["payload"]["status"], &ack["payload"]["seq"]),
        (&json!("stored"), &json!(1))
    );
    for client in [&mut phone, &mut other] {
        let new = client.expect("message.new").await;
        assert_eq!(new["payload"]["message"]["content"], "hello");
        assert_eq!(new["payload"]["durability"], "stored");
        assert!(new["cursor"].is_string());
    }
    let counts = other.expect("conversation.updated").await;
    assert_eq!(
        (&counts["payload"]["unread"], &counts["payload"]["lastSeq"]),
        (&json!(1), &json!(1))
    );
    let message = ack["payload"]["messageId"].clone();
    other
        .say(
            "message.read",
            json!({"conversationId": talk, "messageId": message}),
        )
        .await;
    assert_eq!(desk.expect("message.read").await["payload"]["readSeq"], 1);
    other.say("typing", json!({"conversationId": talk})).await;
    other.say("typing", json!({"conversationId": talk})).await;
    desk.expect("typing").await;
    let rest = desk.quiet().await;
    assert!(
        !rest.iter().any(|frame| frame["type"] == "typing"),
        "one in 3 s passes: {rest:?}"
    );
    assert!(
        contents(&rest).is_empty(),
        "the sender does not hear its own message"
    );
}

#[tokio::test]
async fn a_message_that_is_sent_again_is_one_message_and_other_content_is_refused() {
    let app = start().await;
    let alice = app.alice();
    let talk = conversation(&alice, "bob").await;
    let mut socket = Client::ready(&app, &alice).await;
    let id = Uuid::now_v7();
    let frame = |content: &str| json!({"conversationId": talk, "content": content, "clientMessageId": id});
    let mut seen = Vec::new();
    for content in ["once", "once", "other"] {
        socket.say("message.send", frame(content)).await;
        seen.push(socket.expect("message.ack").await["payload"].clone());
    }
    assert_eq!(seen[0]["status"], "stored");
    assert_eq!(
        (&seen[1]["status"], &seen[1]["seq"]),
        (&json!("stored"), &json!(1))
    );
    assert_eq!(seen[2]["status"], "rejected");
    assert_eq!(seen[2]["error"]["code"], "message_id_reused");
    let stranger =
        json!({"conversationId": Uuid::now_v7(), "content": "x", "clientMessageId": Uuid::now_v7()});
    socket.say("message.send", stranger).await;
    assert_eq!(
        socket.expect("message.ack").await["payload"]["error"]["code"],
        "not_found"
    );
    socket
        .say(
            "message.send",
            json!({"conversationId": talk, "content": "", "clientMessageId": Uuid::now_v7()}),
        )
        .await;
    assert_eq!(
        socket.expect("message.ack").await["payload"]["error"]["code"],
        "validation_failed"
    );
}

#[tokio::test]
async fn across_a_block_nothing_is_said_and_nothing_is_seen() {
    let app = start().await;
    let (alice, bob) = (app.alice(), app.bob());
    let talk = conversation(&alice, "bob").await;
    let mut one = Client::ready(&app, &alice).await;
    let mut two = Client::ready(&app, &bob).await;
    bob.post(&format!("{CHAT}/blocks"), json!({"username": "alice"}))
        .await
        .must_be(201);
    let update = one.expect("block.updated").await;
    assert_eq!(update["payload"]["blockedByThem"], true);
    one.message(&talk, "hello?").await;
    let ack = one.expect("message.ack").await;
    assert_eq!(
        (&ack["payload"]["status"], &ack["payload"]["error"]["code"]),
        (&json!("rejected"), &json!("blocked"))
    );
    one.say("typing", json!({"conversationId": talk})).await;
    let heard = two.quiet().await;
    let told = |kind: &str| heard.iter().any(|frame| frame["type"] == kind);
    assert!(!told("typing") && !told("message.new"), "{heard:?}");
}

#[tokio::test]
async fn whoever_resumes_misses_nothing_and_hears_nothing_twice() {
    let app = start().await;
    let (alice, bob) = (app.alice(), app.bob());
    let talk = conversation(&alice, "bob").await;
    let mut socket = Client::ready(&app, &bob).await;
    let path = format!("{CHAT}/conversations/{talk}");
    chat::say(&alice, &path, "0").await.must_be(201);
    let mut heard = vec![socket.expect("message.new").await];
    let cursor = socket.cursor.clone().unwrap();
    socket.close().await;
    for number in 1..=5 {
        chat::say(&alice, &path, &number.to_string()).await.must_be(201);
    }
    let mut ways = vec![Client::of(&app, &bob, &format!("?resume={cursor}")).await];
    let mut by_frame = Client::of(&app, &bob, "").await;
    by_frame.say("resume", json!({"cursor": cursor})).await;
    ways.push(by_frame);
    let mut by_auth = Client::open(&app, "", &[]).await.ok().unwrap();
    by_auth
        .say("auth", json!({"token": bob.token(), "resume": cursor}))
        .await;
    ways.push(by_auth);
    for socket in &mut ways {
        let ready = socket.expect("ready").await;
        assert_eq!(ready["payload"]["resume"]["status"], "ok");
        let replay = socket.quiet().await;
        assert_eq!(contents(&replay), ["1", "2", "3", "4", "5"]);
        assert_eq!(ready["payload"]["resume"]["replaying"], json!(replay.len()));
    }
    chat::say(&alice, &path, "6").await.must_be(201);
    heard.extend(ways[0].quiet().await);
    assert_eq!(contents(&heard), ["0", "6"]);
    let mut socket = Client::of(&app, &bob, "?resume=nonsense").await;
    assert_eq!(
        socket.expect("ready").await["payload"]["resume"]["status"],
        "reset"
    );
}

#[tokio::test]
async fn what_is_said_on_one_node_is_heard_on_the_other() {
    let one = setup().private_redis().start().await;
    let two = one.another_node().start().await;
    let (alice, bob) = (one.alice(), two.bob());
    let talk = conversation(&alice, "bob").await;
    let mut here = Client::ready(&one, &alice).await;
    let mut there = Client::ready(&two, &bob).await;
    for number in 0..10 {
        here.message(&talk, &number.to_string()).await;
        there.message(&talk, &format!("back {number}")).await;
    }
    for (client, prefix) in [(&mut there, ""), (&mut here, "back ")] {
        for number in 0..10 {
            let frame = client.expect("message.new").await;
            assert_eq!(
                frame["payload"]["message"]["content"],
                format!("{prefix}{number}")
            );
        }
    }
    here.quiet().await;
    there.say("typing", json!({"conversationId": talk})).await;
    here.expect("typing").await;
    one.redis().kill();
    here.message(&talk, "without redis").await;
    let frame = there.expect("message.new").await;
    assert_eq!(frame["payload"]["message"]["content"], "without redis");
}

#[tokio::test]
async fn others_are_told_who_comes() {
    let app = start().await;
    let (alice, bob) = (app.alice(), app.bob());
    conversation(&alice, "bob").await;
    let mut socket = Client::ready(&app, &alice).await;
    let _other = Client::ready(&app, &bob).await;
    let presence: Value = socket.expect("presence").await;
    assert_eq!(presence["payload"]["status"], "online");
}

#[tokio::test]
async fn a_client_in_a_hurry_gets_an_answer_to_every_message_and_none_is_lost() {
    let app = setup().set("CHAT_MESSAGES_PER_MINUTE", "40").start().await;
    let alice = app.alice();
    let talk = conversation(&alice, "bob").await;
    let mut socket = Client::ready(&app, &alice).await;
    let mut waiting = std::collections::BTreeSet::new();
    for number in 0..60 {
        waiting.insert(socket.message(&talk, &number.to_string()).await.to_string());
    }
    let mut stored = 0;
    while !waiting.is_empty() {
        let ack = socket.expect("message.ack").await["payload"].clone();
        let id = ack["clientMessageId"].as_str().unwrap();
        assert!(waiting.remove(id), "answered twice: {ack}");
        match (ack["status"].as_str().unwrap(), ack["error"]["code"].as_str()) {
            ("stored", None) => stored += 1,
            ("rejected", Some("rate_limited" | "too_many_unanswered")) => {
                assert_eq!(ack["error"]["retryable"], true);
                assert!(ack["error"]["retryAfterMs"].as_u64() > Some(0));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((32..=40).contains(&stored), "{stored}");
    let listed = alice
        .get(&format!("{CHAT}/conversations/{talk}/messages?limit=100"))
        .await
        .must_be(200)
        .data();
    assert_eq!(listed.as_array().unwrap().len(), stored);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_the_others_hear_on() {
    let app = setup().set("CHAT_MESSAGES_PER_MINUTE", "100000").start().await;
    let (alice, bob) = (app.alice(), app.bob());
    let talk = conversation(&alice, "bob").await;
    let mut slow = Client::ready(&app, &bob).await;
    let mut quick = Client::ready(&app, &bob).await;
    let path = format!("{CHAT}/conversations/{talk}");
    let content = "\u{1F600}".repeat(4_000);
    let closed = || app.metric("gravity_chat_closes_total{code=\"4202\"}");
    let mut sent = 0;
    while closed().await < 1.0 {
        for _ in 0..20 {
            chat::say(&alice, &path, &content).await.must_be(201);
            quick.expect("message.new").await;
            sent += 1;
        }
        assert!(sent < 4_000, "nothing is too slow");
    }
    chat::say(&alice, &path, "still there?").await.must_be(201);
    let last = quick.expect("message.new").await;
    assert_eq!(last["payload"]["message"]["seq"], json!(sent + 1));
    assert!([json!({"end": true}), json!({"close": 4202})].contains(&slow.last().await));
}

#[tokio::test]
async fn a_socket_is_told_the_version_that_its_users_stream_has_come_to() {
    let app = start().await;
    let alice = app.alice();
    let mut socket = Client::ready(&app, &alice).await;
    let fed = ingest(&app, vec![item(ALICE, "1", "one", "2026-01-01T00:00:00.000Z")]).await;
    let changed = socket.expect("stream.changed").await;
    assert_eq!(changed["payload"]["version"], version_of(&fed, ALICE));
}
