//! Redis goes away and comes back. It is never needed for correctness.

use gravity_test_support::builders::task;
use gravity_test_support::test_app::{TestApp, eventually};
use serde_json::json;

use crate::outage::come_again;
use crate::{all_tasks, new_task, setup, titles};

const TASKS: &str = "/api/v1/tasks";
const LOGIN: &str = "/api/v1/auth/login";
const REFRESH: &str = "/api/v1/auth/refresh";

fn carol() -> serde_json::Value {
    json!({"username": "carol", "password": "correct horse"})
}

async fn with_carol() -> TestApp {
    let app = setup().private_redis().start().await;
    app.nobody()
        .post("/api/v1/auth/register", carol())
        .await
        .must_be(201);
    app
}

#[tokio::test]
async fn redis_down_alone_sends_no_write_to_the_buffer() {
    let app = with_carol().await;
    new_task(&app.alice(), "before").await;
    app.redis().kill();
    for number in 0..10 {
        let written = app
            .alice()
            .post(TASKS, task(&number.to_string()))
            .key(&format!("k{number}"))
            .await
            .must_be(201);
        assert_eq!(written.data()["sync"], "committed");
    }
    let path = format!("{TASKS}/{}", new_task(&app.alice(), "x").await);
    app.alice().put(&path, json!({"title": "y"})).await.must_be(200);
    app.alice().delete(&path).await.must_be(204);
    app.alice()
        .put("/api/v1/profile", json!({"name": "A"}))
        .await
        .must_be(200);
    let listed = app.alice().get(TASKS).await.must_be(200);
    assert_eq!(listed.header("gravity-consistency"), None);
    assert_eq!(titles(&app.alice()).await.len(), 11);
    assert_eq!(
        app.metric("gravity_writes_total{outcome=\"buffered\"}").await,
        0.0
    );
    assert_eq!(app.reported("/buffer/size").await, 0);
}

#[tokio::test]
async fn with_redis_down_logins_wait_and_valid_tokens_go_on() {
    let app = with_carol().await;
    let tokens = app.nobody().post(LOGIN, carol()).await.must_be(200);
    let user = app.nobody().with_token(tokens.text_of("accessToken"));
    let spend = json!({"refreshToken": tokens.text_of("refreshToken")});
    app.redis().kill();
    for _ in 0..2 {
        come_again(&app.nobody().post(LOGIN, carol()).await, "sessions_unavailable");
        come_again(
            &app.nobody().post(REFRESH, spend.clone()).await,
            "sessions_unavailable",
        );
        come_again(&user.get("/api/v1/auth/sessions").await, "sessions_unavailable");
        come_again(
            &user.post("/api/v1/auth/logout", json!({})).await,
            "sessions_unavailable",
        );
        user.get("/api/v1/profile").await.must_be(200);
        user.post(TASKS, task("x")).await.must_be(201);
    }
    let wrong = json!({"username": "carol", "password": "wrong password"});
    app.nobody()
        .post(LOGIN, wrong)
        .await
        .problem(401, "invalid_credentials");
    app.reports("/services/redis/status", false).await;
    assert_eq!(app.ready().await.must_be(200).json()["status"], "degraded");
    assert_eq!(app.health().await.must_be(503).json()["status"], "degraded");

    app.redis().start().unwrap();
    app.healthy().await;
    app.nobody().post(LOGIN, carol()).await.must_be(200);
    app.health().await.must_be(200);
}

#[tokio::test]
async fn a_redis_that_hangs_delays_nothing_for_long() {
    let app = with_carol().await;
    app.redis().pause().unwrap();
    let waited = app.nobody().post(LOGIN, carol()).await;
    come_again(&waited, "sessions_unavailable");
    assert!(waited.took.as_millis() < 2_500, "{:?}", waited.took);
    for _ in 0..5 {
        let written = app.alice().post(TASKS, task("x")).await.must_be(201);
        assert!(written.took.as_millis() < 500, "{:?}", written.took);
    }
    app.redis().resume().unwrap();
    eventually("logins work again", || async {
        (app.nobody().post(LOGIN, carol()).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn limits_go_on_in_the_process_while_redis_is_down() {
    let app = setup()
        .private_redis()
        .set("LOGIN_ATTEMPTS_PER_MINUTE", "3")
        .start()
        .await;
    app.redis().kill();
    let attempt = || {
        app.nobody()
            .post(LOGIN, json!({"username": "carol", "password": "wrong password"}))
    };
    for _ in 0..3 {
        attempt().await.problem(401, "invalid_credentials");
    }
    attempt().await.problem(429, "rate_limited");
}

#[tokio::test]
async fn a_server_starts_without_redis_and_uses_it_when_it_appears() {
    let app = setup().private_redis().prepare().await;
    app.redis().kill();
    app.launch().await;
    app.reports("/status", "degraded").await;
    app.reports("/services/postgresql/status", true).await;
    app.alice().post(TASKS, task("x")).await.must_be(201);
    app.nobody()
        .post("/api/v1/auth/register", carol())
        .await
        .must_be(201);
    come_again(&app.nobody().post(LOGIN, carol()).await, "sessions_unavailable");
    app.redis().start().unwrap();
    app.healthy().await;
    app.nobody().post(LOGIN, carol()).await.must_be(200);
}

#[tokio::test]
async fn a_server_starts_with_everything_down() {
    let app = setup().private_postgres().private_redis().prepare().await;
    app.postgres().kill();
    app.redis().kill();
    app.launch().await;
    app.reports("/status", "degraded").await;
    let ready = app.ready().await.must_be(200).json();
    assert_eq!(
        (
            &ready["services"]["postgresql"]["status"],
            &ready["services"]["redis"]["status"]
        ),
        (&json!(false), &json!(false))
    );
    let created = app.alice().post(TASKS, task("in the dark")).await.must_be(202);
    app.alice()
        .get(&created.must_header("location"))
        .await
        .must_be(200);
    come_again(&app.nobody().post(LOGIN, carol()).await, "database_unavailable");
    app.postgres().start().unwrap();
    app.reports("/services/postgresql/status", true).await;
    app.reports("/buffer/size", 0).await;
    assert_eq!(all_tasks(&app.alice()).await.len(), 1);
    app.redis().start().unwrap();
    app.healthy().await;
}
