//! Rate limits of login and registration, and addresses that are kept out.

use gravity_test_support::calls::{Answer, Call};
use gravity_test_support::test_app::{Setup, TestApp, eventually};
use serde_json::json;

use crate::{setup, start};

const LOGIN: &str = "/api/v1/auth/login";
const REGISTER: &str = "/api/v1/auth/register";

/// A server behind a proxy that tests speak for.
fn proxied() -> Setup {
    setup().set("TRUSTED_PROXIES", "127.0.0.0/8")
}

fn login(app: &TestApp, address: &str, username: &str) -> Call {
    let body = json!({"username": username, "password": "wrong password"});
    app.nobody().post(LOGIN, body).header("x-forwarded-for", address)
}

fn limited(answer: &Answer) {
    answer.problem(429, "rate_limited");
    let seconds: u64 = answer.must_header("retry-after").parse().unwrap();
    assert!((1..=3_600).contains(&seconds), "{seconds}");
    assert!(answer.must_header("ratelimit").contains("r=0"), "{answer:?}");
    assert!(
        answer.must_header("ratelimit-policy").contains("q="),
        "{answer:?}"
    );
}

#[tokio::test]
async fn logins_are_limited_by_address_and_by_username() {
    for redis in [false, true] {
        let setup = proxied().set("LOGIN_ATTEMPTS_PER_MINUTE", "3");
        let app = if redis {
            setup.private_redis().start().await
        } else {
            setup.start().await
        };
        for number in 0..3 {
            login(&app, "192.0.2.1", &format!("user{number}"))
                .await
                .problem(401, "invalid_credentials");
        }
        limited(&login(&app, "192.0.2.1", "user9").await);
        login(&app, "192.0.2.2", "user9")
            .await
            .problem(401, "invalid_credentials");
        for number in 0..3 {
            login(&app, &format!("198.51.100.{number}"), "alice")
                .await
                .problem(401, "invalid_credentials");
        }
        limited(&login(&app, "198.51.100.9", "alice").await);
        limited(&login(&app, "198.51.100.9", "ALICE").await);
        login(&app, "198.51.100.9", "bob")
            .await
            .problem(401, "invalid_credentials");
    }
}

#[tokio::test]
async fn registrations_are_limited_by_address() {
    let app = proxied().set("REGISTRATIONS_PER_HOUR", "2").start().await;
    let register = |address: &str, username: &str| {
        let body = json!({"username": username, "password": "correct horse"});
        app.nobody()
            .post(REGISTER, body)
            .header("x-forwarded-for", address)
    };
    register("2001:db8::1", "carol1").await.must_be(201);
    register("2001:db8::2", "carol2").await.must_be(201);
    limited(&register("2001:db8::3", "carol3").await);
    register("2001:db8:0:1::1", "carol3").await.must_be(201);
}

#[tokio::test]
async fn nodes_that_share_redis_share_the_limits() {
    let app = proxied()
        .private_redis()
        .set("LOGIN_ATTEMPTS_PER_MINUTE", "3")
        .start()
        .await;
    let other = app.another_node().start().await;
    for number in 0..3 {
        let node = if number % 2 == 0 { &app } else { &other };
        login(node, "192.0.2.1", &format!("user{number}"))
            .await
            .problem(401, "invalid_credentials");
    }
    limited(&login(&app, "192.0.2.1", "x.y").await);
    limited(&login(&other, "192.0.2.1", "x.y").await);
}

#[tokio::test]
async fn nobody_but_a_trusted_proxy_says_who_the_client_is() {
    let app = setup().set("LOGIN_ATTEMPTS_PER_MINUTE", "3").start().await;
    for number in 0..3 {
        login(&app, &format!("192.0.2.{number}"), &format!("user{number}"))
            .await
            .problem(401, "invalid_credentials");
    }
    limited(&login(&app, "192.0.2.9", "user9").await);
    let app = proxied().set("LOGIN_ATTEMPTS_PER_MINUTE", "3").start().await;
    for number in 0..3 {
        let claimed = format!("203.0.113.{number}, 192.0.2.1");
        login(&app, &claimed, &format!("user{number}"))
            .await
            .problem(401, "invalid_credentials");
    }
    limited(&login(&app, "203.0.113.9, 192.0.2.1", "user9").await);
}

fn blocking() -> Setup {
    proxied().set("IP_BLOCK_THRESHOLD", "5")
}

fn from(call: Call, address: &str) -> Call {
    call.header("x-forwarded-for", address)
}

#[tokio::test]
async fn an_address_that_is_refused_too_often_is_kept_out() {
    let app = blocking().start().await;
    let bad = |address: &'static str| from(app.nobody().get("/api/v1/profile"), address);
    for _ in 0..5 {
        bad("192.0.2.1").await.problem(401, "unauthenticated");
    }
    let out = bad("192.0.2.1").await;
    out.problem(429, "address_blocked");
    let seconds: u64 = out.must_header("retry-after").parse().unwrap();
    assert!((290..=300).contains(&seconds), "{seconds}");
    from(app.alice().get("/api/v1/profile"), "192.0.2.1")
        .await
        .problem(429, "address_blocked");
    from(app.alice().get("/api/v1/profile"), "192.0.2.2")
        .await
        .must_be(200);
    from(app.nobody().get("/ready"), "192.0.2.1").await.must_be(200);
}

#[tokio::test]
async fn each_kind_of_refusal_counts_and_mistakes_do_not() {
    let app = blocking().set("LOGIN_ATTEMPTS_PER_MINUTE", "2").start().await;
    let blocked = |address: &'static str| {
        let call = from(app.alice().get("/api/v1/profile"), address);
        async move { call.await.status == 429 }
    };
    for _ in 0..5 {
        from(app.alice().get("/api/v1/admin/buffer"), "192.0.2.1")
            .await
            .problem(403, "forbidden");
        from(app.nobody().post(LOGIN, json!({"x": 1})), "192.0.2.2")
            .await
            .problem(400, "unknown_field");
        from(app.alice().get("/api/v1/nowhere"), "192.0.2.3")
            .await
            .problem(404, "not_found");
        from(app.alice().get("/api/v1/tasks?limit=0"), "192.0.2.3")
            .await
            .problem(400, "invalid_parameter");
        from(app.alice().post("/api/v1/tasks", json!({})), "192.0.2.3")
            .await
            .problem(422, "validation_failed");
    }
    for number in 0..5 {
        login(&app, "192.0.2.4", &format!("user{number}")).await;
    }
    assert!(blocked("192.0.2.1").await, "403");
    assert!(blocked("192.0.2.2").await, "400 from the login calls");
    assert!(!blocked("192.0.2.3").await, "mistakes");
    assert!(blocked("192.0.2.4").await, "401 and 429");
}

#[tokio::test]
async fn a_block_ends() {
    let app = blocking().set("IP_BLOCK_SECONDS", "1").start().await;
    let bad = || app.nobody().get("/api/v1/profile");
    for _ in 0..5 {
        bad().await.problem(401, "unauthenticated");
    }
    bad().await.problem(429, "address_blocked");
    eventually("the block ends", || async {
        (bad().await.status == 401).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_block_counts_on_every_node_that_shares_redis() {
    let app = blocking().private_redis().start().await;
    let other = app.another_node().start().await;
    for _ in 0..5 {
        from(app.nobody().get("/api/v1/profile"), "192.0.2.1")
            .await
            .problem(401, "unauthenticated");
    }
    eventually("the other node knows", || async {
        let answer = from(other.alice().get("/api/v1/profile"), "192.0.2.1").await;
        (answer.status == 429).then_some(())
    })
    .await;
    from(other.alice().get("/api/v1/profile"), "192.0.2.2")
        .await
        .must_be(200);
}

#[tokio::test]
async fn a_login_within_the_limit_says_what_is_left() {
    let app = start().await;
    let body = json!({"username": "carol", "password": "correct horse"});
    app.nobody().post(REGISTER, body.clone()).await.must_be(201);
    let answer = app.nobody().post(LOGIN, body).await.must_be(200);
    assert!(answer.must_header("ratelimit").contains("r=9"), "{answer:?}");
    assert!(
        answer.must_header("ratelimit-policy").contains("q=10;w=60"),
        "{answer:?}"
    );
}
