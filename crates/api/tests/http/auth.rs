//! Registration, login, sessions, tokens and blocked addresses.

use crate::ports::SESSION;
use crate::world::{Call, World, refused};
use serde_json::json;
use std::sync::atomic::Ordering;

#[actix_web::test]
async fn a_token_that_is_missing_or_bad_is_401_with_a_challenge() {
    let client = World::new().client().await;
    let missing = client.get("", "/api/v1/tasks").await;
    refused(&missing, 401, "unauthenticated");
    assert_eq!(missing.header("www-authenticate"), Some("Bearer"));
    let bad = client.get("mallory", "/api/v1/tasks").await;
    refused(&bad, 401, "unauthenticated");
    assert_eq!(
        bad.header("www-authenticate"),
        Some("Bearer error=\"invalid_token\"")
    );
    let basic = client
        .send(
            "GET",
            "/api/v1/tasks",
            Call::by("").header("authorization", "Basic x"),
        )
        .await;
    refused(&basic, 401, "unauthenticated");
    let lower = client
        .send(
            "GET",
            "/api/v1/tasks",
            Call::by("").header("authorization", "bearer alice"),
        )
        .await;
    assert_eq!(lower.status, 200);
}

#[actix_web::test]
async fn registering_gives_the_user_and_a_taken_name_is_409() {
    let client = World::new().client().await;
    let body = json!({ "username": "Ada_L", "password": "correct horse", "name": "Ada", "email": "ada@example.org" });
    let made = client.post("", "/api/v1/auth/register", &body).await;
    assert_eq!(made.status, 201);
    let data = made.data();
    assert_eq!(
        data,
        json!({
            "id": data["id"], "username": "ada_l", "name": "Ada", "avatarUrl": null, "role": "user", "status": "active",
            "createdAt": "2023-11-14T22:13:20.000Z", "updatedAt": "2023-11-14T22:13:20.000Z", "version": 1,
            "sync": "committed", "email": "ada@example.org",
        })
    );
    assert_eq!(made.header("cache-control"), Some("no-store"));
    assert_eq!(
        made.header("ratelimit-policy"),
        Some("\"register_address\";q=10;w=3600")
    );
    let taken = json!({ "username": "alice", "password": "correct horse" });
    refused(
        &client.post("", "/api/v1/auth/register", &taken).await,
        409,
        "username_taken",
    );
    let wrong = json!({ "username": "a b", "password": "hunter2", "email": "x" });
    let reply = client.post("", "/api/v1/auth/register", &wrong).await;
    refused(&reply, 422, "validation_failed");
    let fields: Vec<_> = reply.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["field"].clone())
        .collect();
    assert_eq!(json!(fields), json!(["username", "password", "email"]));
    assert!(!reply.text.contains("hunter2"));
}

#[actix_web::test]
async fn logging_in_gives_tokens_and_a_wrong_password_and_an_unknown_user_look_the_same() {
    let client = World::new().client().await;
    let login = |username: &str, password: &str| {
        let body = json!({ "username": username, "password": password });
        let client = &client;
        async move { client.post("", "/api/v1/auth/login", &body).await }
    };
    let good = login("ALICE", "correct horse").await;
    assert_eq!(good.status, 200);
    let refresh = good.data()["refreshToken"].clone();
    assert_eq!(
        good.json(),
        json!({ "data": {
            "accessToken": "signed", "tokenType": "Bearer", "expiresIn": 900, "refreshToken": refresh,
        }})
    );
    assert_eq!(good.header("cache-control"), Some("no-store"));
    let (wrong, unknown) = (login("alice", "wrong").await, login("nobody", "wrong").await);
    refused(&wrong, 401, "invalid_credentials");
    refused(&unknown, 401, "invalid_credentials");
    assert_eq!(wrong.header("www-authenticate"), Some("Bearer"));
    let spent = client
        .post("", "/api/v1/auth/refresh", &json!({ "refreshToken": refresh }))
        .await;
    refused(&spent, 401, "unauthenticated");
    refused(
        &client
            .post("", "/api/v1/auth/refresh", &json!({ "refreshToken": "x" }))
            .await,
        401,
        "unauthenticated",
    );
    refused(
        &client.post("", "/api/v1/auth/refresh", &json!({})).await,
        422,
        "validation_failed",
    );
}

#[actix_web::test]
async fn too_many_logins_are_429_and_say_when_to_come_again() {
    let world = World::new();
    let client = world.client().await;
    world.memory.calls_left.store(0, Ordering::SeqCst);
    let body = json!({ "username": "alice", "password": "correct horse" });
    for path in ["/api/v1/auth/login", "/api/v1/auth/register"] {
        let reply = client.post("", path, &body).await;
        refused(&reply, 429, "rate_limited");
        assert_eq!(reply.header("retry-after"), Some("7"));
        assert!(reply.header("ratelimit").unwrap().ends_with(";r=0;t=7"));
        assert!(reply.header("ratelimit-policy").is_some());
    }
}

#[actix_web::test]
async fn sessions_are_listed_and_ended() {
    let client = World::new().client().await;
    let list = client.get("alice", "/api/v1/auth/sessions").await;
    assert_eq!(
        list.json(),
        json!({
            "data": [{
                "id": SESSION.0, "client": "curl/8", "current": true, "createdAt": "2023-11-14T22:13:20.000Z",
                "lastUsedAt": "2023-11-14T22:13:20.000Z", "expiresAt": "2023-11-14T22:14:20.000Z",
            }],
            "meta": { "nextCursor": null, "hasMore": false },
        })
    );
    let end = |who: &'static str| {
        let (client, path) = (&client, format!("/api/v1/auth/sessions/{SESSION}"));
        async move { client.send("DELETE", &path, Call::by(who)).await }
    };
    assert_eq!(end("alice").await.status, 204);
    refused(&end("bob").await, 404, "not_found");
}

#[actix_web::test]
async fn logging_out_takes_a_refresh_token_or_nothing() {
    let client = World::new().client().await;
    let path = "/api/v1/auth/logout";
    assert_eq!(client.send("POST", path, Call::by("alice")).await.status, 204);
    assert_eq!(client.post("alice", path, &json!({})).await.status, 204);
    assert_eq!(
        client
            .post("alice", path, &json!({ "refreshToken": null }))
            .await
            .status,
        204
    );
    let foreign = client.post("alice", path, &json!({ "refreshToken": "x" })).await;
    refused(&foreign, 422, "validation_failed");
    assert_eq!(foreign.json()["errors"][0]["field"], "refreshToken");
    refused(
        &client.post("alice", path, &json!({ "refreshToken": 1 })).await,
        422,
        "validation_failed",
    );
    refused(
        &client.post("alice", path, &json!({ "token": "x" })).await,
        400,
        "unknown_field",
    );
}

#[actix_web::test]
async fn refusals_count_against_the_address_and_a_blocked_one_is_kept_out() {
    let world = World::new();
    let client = world.client().await;
    let counted = |expected: u32| assert_eq!(world.memory.refusals.load(Ordering::SeqCst), expected);
    client.get("", "/api/v1/tasks").await;
    counted(1);
    client.get("alice", "/api/v1/admin/buffer").await;
    counted(2);
    client.post("", "/api/v1/auth/login", &json!({ "x": 1 })).await;
    counted(3);
    client
        .post("", "/%61pi/v1/auth/%6Cogin", &json!({ "x": 1 }))
        .await;
    counted(4);
    client.post("alice", "/api/v1/tasks", &json!({ "x": 1 })).await;
    client
        .get("alice", "/api/v1/tasks/0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f")
        .await;
    client.get("alice", "/api/v1/tasks").await;
    counted(4);
    world.set(|memory| &memory.blocked, true);
    let reply = client.get("alice", "/api/v1/tasks").await;
    refused(&reply, 429, "address_blocked");
    assert_eq!(reply.header("retry-after"), Some("300"));
    let encoded = client.get("alice", "/%61pi/v1/tasks").await;
    refused(&encoded, 429, "address_blocked");
    counted(4);
    assert_eq!(client.get("", "/ready").await.status, 200);
}
