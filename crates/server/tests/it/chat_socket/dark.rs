use super::{Client, contents, conversation};
use crate::chat::CHAT;
use crate::setup;
use gravity_test_support::test_app::eventually;
use serde_json::{Value, json};

#[tokio::test]
async fn a_message_in_the_dark_is_accepted_live_and_stored_once_with_a_second_ack() {
    let app = setup().private_postgres().start().await;
    let (alice, bob) = (app.alice(), app.bob());
    let talk = conversation(&alice, "bob").await;
    let path = format!("{CHAT}/conversations/{talk}/messages");
    for actor in [&alice, &bob] {
        actor.get(&format!("{CHAT}/conversations")).await.must_be(200);
        actor.get(&path).await.must_be(200);
    }
    let mut sender = Client::ready(&app, &alice).await;
    let mut receiver = Client::ready(&app, &bob).await;
    app.postgres().kill();
    app.in_the_dark().await;
    assert_eq!(
        sender.expect("system.status").await["payload"]["mode"],
        "degraded"
    );
    let id = sender.message(&talk, "in the dark").await;
    let ack = sender.expect("message.ack").await;
    assert_eq!(
        (&ack["payload"]["status"], &ack["payload"]["seq"]),
        (&json!("accepted"), &Value::Null)
    );
    let new = receiver.expect("message.new").await;
    assert_eq!(new["payload"]["durability"], "accepted");
    assert!(new.get("cursor").is_none());
    let mut late = Client::of(
        &app,
        &bob,
        &format!("?resume={}", receiver.cursor.clone().unwrap()),
    )
    .await;
    let ready = late.expect("ready").await;
    assert_eq!(
        (&ready["payload"]["mode"], &ready["payload"]["resume"]["status"]),
        (&json!("degraded"), &json!("deferred"))
    );

    app.postgres().start().unwrap();
    let second = sender.expect("message.ack").await;
    assert_eq!(second["payload"]["clientMessageId"], json!(id));
    assert_eq!(
        (&second["payload"]["status"], &second["payload"]["seq"]),
        (&json!("stored"), &json!(1))
    );
    for client in [&mut receiver, &mut late] {
        let stored = client.expect("message.new").await;
        assert_eq!(stored["payload"]["durability"], "stored");
        assert_eq!(stored["payload"]["message"]["id"], second["payload"]["messageId"]);
        assert!(contents(&client.quiet().await).is_empty(), "once");
    }
    app.drained().await;
    let listed = bob.get(&path).await.must_be(200).data();
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_message_to_who_blocked_meanwhile_is_rejected_when_it_is_to_be_stored() {
    let one = setup().proxied().start().await;
    let two = one.another_node().start().await;
    let (alice, bob) = (one.alice(), two.bob());
    let talk = conversation(&alice, "bob").await;
    alice.get(&format!("{CHAT}/conversations")).await.must_be(200);
    let mut sender = Client::ready(&one, &alice).await;
    crate::outage::cut_off(&one).await;
    let id = sender.message(&talk, "too late").await;
    assert_eq!(
        sender.expect("message.ack").await["payload"]["status"],
        "accepted"
    );
    bob.post(&format!("{CHAT}/blocks"), json!({"username": "alice"}))
        .await
        .must_be(201);
    one.proxy().pass();
    let ack = sender.expect("message.ack").await;
    assert_eq!(ack["payload"]["clientMessageId"], json!(id));
    assert_eq!(ack["payload"]["status"], "rejected");
    assert_eq!(ack["payload"]["error"]["code"], "blocked");
    one.drained().await;
}

#[tokio::test]
async fn a_client_that_begins_in_the_dark_is_told_to_load_when_it_is_over() {
    let app = setup().private_postgres().start().await;
    let alice = app.alice();
    alice.get("/api/v1/profile").await.must_be(200);
    app.postgres().kill();
    app.in_the_dark().await;
    let mut socket = Client::of(&app, &alice, "").await;
    let ready = socket.expect("ready").await;
    assert_eq!(ready["payload"]["resume"]["status"], "none");
    app.postgres().start().unwrap();
    assert_eq!(socket.expect("resync").await["payload"]["reason"], "recovered");
    assert!(socket.cursor.is_some());
    eventually("it is normal again", || async {
        (app.health().await.status == 200).then_some(())
    })
    .await;
}
