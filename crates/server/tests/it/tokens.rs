//! Own tokens: every way in which one can be wrong, and what a right one may look like.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gravity_test_support::actors::{ADMIN, ALICE, Actor, BOB, SECRET};
use gravity_test_support::builders::{Claims, now_seconds};
use gravity_test_support::calls::Answer;
use gravity_test_support::test_app::{TestApp, eventually};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use uuid::Uuid;

use crate::{setup, start};

const PROFILE: &str = "/api/v1/profile";

fn refused(answer: &Answer, what: &str) {
    assert_eq!(answer.status, 401, "{what}: {}", answer.text());
    answer.problem(401, "unauthenticated");
    assert!(
        answer.must_header("www-authenticate").starts_with("Bearer"),
        "{what}"
    );
}

async fn ask(app: &TestApp, token: &str) -> Answer {
    app.nobody().with_token(token).get(PROFILE).await
}

fn unsigned(header: &serde_json::Value, claims: &serde_json::Value) -> String {
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}

#[tokio::test]
async fn a_missing_or_malformed_token_is_refused() {
    let app = start().await;
    let none = app.nobody().get(PROFILE).await;
    refused(&none, "none");
    assert_eq!(
        none.must_header("www-authenticate"),
        "Bearer",
        "no error code when nothing was sent"
    );
    let good = Claims::of(ALICE).signed(SECRET);
    let headers = [
        String::new(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        good.clone(),
        format!("Basic {good}"),
        format!("Token {good}"),
        format!("Bearer{good}"),
        format!("Bearer {good} x"),
        "Bearer x".to_owned(),
        "Bearer a.b.c".to_owned(),
        "Bearer ..".to_owned(),
        format!("Bearer {good}x"),
        format!("Bearer .{good}"),
        format!("Bearer {}", &good[..good.len() - 1]),
        format!("Bearer {}", good.rsplit_once('.').unwrap().0),
        format!("Bearer {}", "a".repeat(20_000)),
    ];
    for header in headers {
        refused(
            &app.nobody().get(PROFILE).header("authorization", &header).await,
            &header,
        );
    }
    refused(
        &app.nobody()
            .get(PROFILE)
            .header_bytes("authorization", b"Bearer \xff\xfe")
            .await,
        "no text",
    );
    refused(
        &app.alice()
            .get(PROFILE)
            .header("authorization", &format!("Bearer {good}"))
            .await,
        "two tokens",
    );
    app.nobody()
        .get(&format!("{PROFILE}?access_token={good}"))
        .await
        .problem(401, "unauthenticated");
}

#[tokio::test]
async fn a_token_that_is_not_signed_as_it_must_be_is_refused() {
    let app = start().await;
    let claims = Claims::of(ALICE);
    let exp = now_seconds() + 3_600;
    let payload = json!({"sub": ALICE, "role": "user", "exp": exp});
    let (head, rest) = {
        let good = claims.signed(SECRET);
        let (head, rest) = good.split_once('.').unwrap();
        (head.to_owned(), rest.to_owned())
    };
    let (_, signature) = rest.split_once('.').unwrap();
    let forged = URL_SAFE_NO_PAD.encode(json!({"sub": BOB, "role": "admin", "exp": exp}).to_string());
    let hmac = |algorithm| {
        claims.encoded(
            &Header::new(algorithm),
            &EncodingKey::from_secret(SECRET.as_bytes()),
        )
    };
    let mut crit = Header::new(Algorithm::HS256);
    crit.crit = Some(vec!["b64".to_owned()]);
    let tokens = [
        (
            "alg none",
            unsigned(&json!({"alg": "none", "typ": "JWT"}), &payload),
        ),
        ("alg None", unsigned(&json!({"alg": "None"}), &payload)),
        ("alg missing", unsigned(&json!({"typ": "JWT"}), &payload)),
        ("signature missing", unsigned(&json!({"alg": "HS256"}), &payload)),
        (
            "alg none with a signature",
            format!("{}{signature}", unsigned(&json!({"alg": "none"}), &payload)),
        ),
        ("another's signature", format!("{head}.{forged}.{signature}")),
        (
            "another secret",
            claims.signed("another-secret-that-is-long-enough-0123"),
        ),
        ("an empty secret", claims.signed("")),
        ("HS384", hmac(Algorithm::HS384)),
        ("HS512", hmac(Algorithm::HS512)),
        (
            "RS256 by name only",
            format!("{}{signature}", unsigned(&json!({"alg": "RS256"}), &payload)),
        ),
        (
            "an unknown critical header",
            claims.encoded(&crit, &EncodingKey::from_secret(SECRET.as_bytes())),
        ),
    ];
    for (what, token) in tokens {
        refused(&ask(&app, &token).await, what);
    }
}

#[tokio::test]
async fn claims_that_are_missing_or_wrong_are_refused() {
    let app = start().await;
    let of = || Claims::of(ALICE);
    let claims = [
        ("expired", of().expires_in(-3_600)),
        ("expired beyond the leeway", of().expires_in(-35)),
        ("no exp", of().without("exp")),
        ("exp null", of().set("exp", json!(null))),
        (
            "exp a text",
            of().set("exp", json!((now_seconds() + 3_600).to_string())),
        ),
        ("exp a list", of().set("exp", json!([now_seconds() + 3_600]))),
        ("exp negative", of().set("exp", json!(-1))),
        ("not yet valid", of().set("nbf", json!(now_seconds() + 3_600))),
        ("nbf a text", of().set("nbf", json!("tomorrow"))),
        ("no subject", of().without("sub")),
        ("subject empty", of().set("sub", json!(""))),
        ("subject no text", of().set("sub", json!(5))),
        ("subject no id", Claims::of_subject("alice")),
        ("subject an injection", Claims::of_subject("' OR '1'='1")),
        ("unknown role", of().role("root")),
        ("role empty", of().role("")),
        ("role no text", of().set("role", json!(["admin"]))),
        ("a user without a row", Claims::of(Uuid::now_v7())),
    ];
    for (what, claims) in claims {
        refused(&ask(&app, &claims.signed(SECRET)).await, what);
    }
}

#[tokio::test]
async fn right_tokens_of_every_form_are_taken() {
    let app = start().await;
    let of = || Claims::of(ALICE);
    let claims = [
        ("as it is", of()),
        (
            "user_id instead of sub",
            of().without("sub").set("user_id", json!(ALICE)),
        ),
        ("sub before user_id", of().set("user_id", json!(BOB))),
        ("no role", of().without("role")),
        ("just expired, within the leeway", of().expires_in(-10)),
        (
            "valid in a moment, within the leeway",
            of().set("nbf", json!(now_seconds() + 10)),
        ),
        (
            "exp a fraction",
            of().set("exp", json!(now_seconds() as f64 + 60.5)),
        ),
        ("exp far away", of().set("exp", json!(253_402_300_799_i64))),
        (
            "claims nobody knows",
            of().set("groups", json!(["a"]))
                .set("iss", json!("x"))
                .set("aud", json!("y")),
        ),
    ];
    for (what, claims) in claims {
        let answer = ask(&app, &claims.signed(SECRET)).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        assert_eq!(answer.id(), ALICE.to_string(), "{what}");
    }
    let token = of().signed(SECRET);
    for word in ["bearer", "BEARER", "bEaReR"] {
        app.nobody()
            .get(PROFILE)
            .header("authorization", &format!("{word} {token}"))
            .await
            .must_be(200);
    }
}

#[tokio::test]
async fn issuer_and_audience_count_when_they_are_set() {
    let app = setup()
        .set("JWT_ISSUER", "https://id.example")
        .set("JWT_AUDIENCE", "gravity")
        .start()
        .await;
    let right = || {
        Claims::of(ALICE)
            .set("iss", json!("https://id.example"))
            .set("aud", json!("gravity"))
    };
    for claims in [right(), right().set("aud", json!(["other", "gravity"]))] {
        ask(&app, &claims.signed(SECRET)).await.must_be(200);
    }
    let wrong = [
        ("no issuer", right().without("iss")),
        ("another issuer", right().set("iss", json!("https://id.example/"))),
        ("issuer a list", right().set("iss", json!(["https://id.example"]))),
        ("no audience", right().without("aud")),
        ("another audience", right().set("aud", json!("gravity2"))),
        ("other audiences", right().set("aud", json!(["a", "b"]))),
    ];
    for (what, claims) in wrong {
        refused(&ask(&app, &claims.signed(SECRET)).await, what);
    }
}

async fn set_row(app: &TestApp, assignment: &str) {
    app.sql()
        .await
        .execute(&format!("UPDATE users SET {assignment} WHERE id = $1"), &[&ALICE])
        .await
        .unwrap();
}

#[tokio::test]
async fn the_stored_role_counts_and_the_claimed_one_only_without_a_row() {
    let app = start().await;
    let buffer = |actor: Actor| async move { actor.get("/api/v1/admin/buffer").await.status };
    assert_eq!(buffer(app.actor(ALICE, "admin")).await, 403, "a row says user");
    assert_eq!(buffer(app.actor(ADMIN, "admin")).await, 200, "a machine account");
    assert_eq!(buffer(app.actor(ADMIN, "service")).await, 403);
    let app = start().await;
    set_row(&app, "role = 'admin'").await;
    assert_eq!(buffer(app.actor(ALICE, "user")).await, 200, "a row says admin");
    assert_eq!(app.alice().get(PROFILE).await.data()["role"], "admin");
}

#[tokio::test]
async fn a_suspended_user_is_refused() {
    let app = start().await;
    set_row(&app, "status = 'suspended'").await;
    refused(&app.alice().get(PROFILE).await, "suspended");
    refused(
        &app.alice().post("/api/v1/tasks", json!({"title": "x"})).await,
        "suspended",
    );
    app.bob().get(PROFILE).await.must_be(200);
}

#[tokio::test]
async fn a_suspension_counts_within_30_seconds() {
    let app = start().await;
    app.alice().get(PROFILE).await.must_be(200);
    set_row(&app, "status = 'suspended'").await;
    let since = Instant::now();
    eventually("the suspension counts", || async {
        (app.alice().get(PROFILE).await.status == 401).then_some(())
    })
    .await;
    assert!(since.elapsed() < Duration::from_secs(30));
}
