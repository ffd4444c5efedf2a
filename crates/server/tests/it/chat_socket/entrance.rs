use super::Client;
use crate::{setup, start};
use gravity_test_support::test_app::TestApp;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

async fn opened(app: &TestApp, query: &str, headers: &[(&'static str, &str)]) -> Client {
    let opened = Client::open(app, query, headers).await;
    opened.unwrap_or_else(|status| panic!("refused with {status}"))
}

#[tokio::test]
async fn there_are_four_ways_in() {
    let app = start().await;
    let alice = app.alice();
    let token = alice.token().unwrap().to_owned();
    let me = alice.get("/api/v1/profile").await.must_be(200).id();
    let header = format!("Bearer {token}");
    let ticket = alice
        .post("/api/chat/ws-tickets", json!({}))
        .await
        .must_be(201)
        .text_of("ticket");
    let by_ticket = format!("?ticket={ticket}");
    let mut sockets = vec![
        opened(&app, "", &[("authorization", &header)]).await,
        opened(&app, &by_ticket, &[]).await,
        opened(&app, &format!("?token={token}"), &[]).await,
        opened(&app, "", &[]).await,
    ];
    sockets[3].say("auth", json!({"token": token})).await;
    for socket in &mut sockets {
        let ready = socket.expect("ready").await;
        assert_eq!(ready["payload"]["userId"], json!(me));
        assert_eq!(ready["payload"]["mode"], "normal");
        assert_eq!(
            ready["payload"]["resume"],
            json!({"status": "none", "replaying": 0})
        );
    }
    assert!(
        app.log()
            .lines()
            .all(|line| !line.contains(&token) && !line.contains(&ticket))
    );
    assert_eq!(
        Client::open(&app, &by_ticket, &[]).await.err(),
        Some(401),
        "a ticket is good once"
    );
}

#[tokio::test]
async fn whoever_is_not_let_in_is_told_by_status_or_by_code() {
    let app = setup()
        .set("CHAT_ALLOWED_ORIGINS", "https://app.example")
        .start()
        .await;
    let wrong = [
        ("?token=nonsense", vec![]),
        ("?ticket=nonsense", vec![]),
        ("", vec![("authorization", "Bearer nonsense")]),
    ];
    for (query, headers) in wrong {
        assert_eq!(
            Client::open(&app, query, &headers).await.err(),
            Some(401),
            "{query}"
        );
    }
    let origin = |origin: &'static str| [("origin", origin)];
    assert_eq!(
        Client::open(&app, "", &origin("https://evil.example"))
            .await
            .err(),
        Some(403)
    );
    assert!(
        Client::open(&app, "", &origin("https://app.example"))
            .await
            .is_ok()
    );
    assert_eq!(Client::open(&app, "?nonsense=1", &[]).await.err(), Some(400));
    app.alice().get("/api/chat/ws").await.problem(400, "bad_request");

    let mut socket = opened(&app, "", &[]).await;
    socket.say("auth", json!({"token": "nonsense"})).await;
    assert_eq!(socket.closed().await, 4401);
    let mut socket = opened(&app, "", &[]).await;
    socket.say("ping", json!({})).await;
    assert_eq!(socket.closed().await, 4401);
    let mut silent = opened(&app, "", &[]).await;
    let since = Instant::now();
    assert_eq!(silent.closed().await, 4408);
    assert!(since.elapsed() > Duration::from_secs(4));
}

#[tokio::test]
async fn frames_that_cannot_be_are_closed_by_their_code_and_unknown_ones_are_answered() {
    let app = start().await;
    let alice = app.alice();
    let mut socket = Client::ready(&app, &alice).await;
    socket.say("nonsense", json!({})).await;
    let error = socket.expect("error").await;
    assert_eq!(
        (&error["id"], &error["payload"]["code"]),
        (&json!("nonsense-id"), &json!("unknown_type"))
    );
    socket.say("ping", json!({})).await;
    let pong = socket.expect("pong").await;
    assert_eq!(
        (&pong["id"], &pong["payload"]["top"]),
        (&json!("ping-id"), &json!(socket.cursor))
    );
    socket.send(Message::text("nonsense")).await;
    assert_eq!(socket.closed().await, 4400);

    let mut socket = Client::ready(&app, &alice).await;
    socket.send(Message::binary(vec![1])).await;
    assert_eq!(socket.closed().await, 4400);
    let mut socket = Client::ready(&app, &alice).await;
    socket.send(Message::text("x".repeat(64 * 1024 + 1))).await;
    assert_eq!(socket.closed().await, 4413);
    let mut stranger = opened(&app, "", &[]).await;
    stranger.send(Message::text("x".repeat(4 * 1024 + 1))).await;
    assert_eq!(stranger.closed().await, 4413);
    let mut chatty = Client::ready(&app, &alice).await;
    for _ in 0..300 {
        chatty
            .say("typing", json!({"conversationId": uuid::Uuid::nil()}))
            .await;
    }
    assert_eq!(chatty.closed().await, 4204);
}

#[tokio::test]
async fn a_token_is_renewed_by_the_same_user_only() {
    let app = start().await;
    let (alice, bob) = (app.alice(), app.bob());
    let mut socket = Client::ready(&app, &alice).await;
    socket.say("auth.refresh", json!({"token": alice.token()})).await;
    assert_eq!(socket.expect("auth.refreshed").await["id"], "auth.refresh-id");
    socket.say("auth.refresh", json!({"token": bob.token()})).await;
    assert_eq!(socket.closed().await, 4403);
}

#[tokio::test]
async fn one_socket_too_many_closes_the_oldest() {
    let app = setup().set("CHAT_MAX_SOCKETS_PER_USER", "2").start().await;
    let alice = app.alice();
    let mut oldest = Client::ready(&app, &alice).await;
    let mut second = Client::ready(&app, &alice).await;
    let _third = Client::ready(&app, &alice).await;
    assert_eq!(oldest.closed().await, 4409);
    second.say("ping", json!({})).await;
    second.expect("pong").await;
    second.close().await;
}

#[tokio::test]
async fn a_planned_stop_says_goaway_and_closes_and_takes_no_long_time() {
    let app = start().await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        sockets.push(Client::ready(&app, &app.alice()).await);
    }
    let since = Instant::now();
    app.signal(gravity_test_support::services::supervise::Signal::TERM);
    for socket in &mut sockets {
        let goaway = socket.expect("goaway").await;
        assert!(goaway["payload"]["reconnectAfterMs"].is_u64());
        assert_eq!(socket.closed().await, 4100);
    }
    drop(sockets);
    assert_eq!(app.ended().await, Some(0));
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}
