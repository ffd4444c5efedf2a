//! Broken bodies and headers: each is refused with its own code, and none causes a 500.

use crate::world::{Call, World, refused};
use actix_web::http::StatusCode;
use proptest::prelude::*;
use serde_json::json;

const TASKS: &str = "/api/v1/tasks";

fn raw(body: &[u8]) -> Call<'_> {
    Call::by("alice")
        .raw(body)
        .header("content-type", "application/json")
}

#[actix_web::test]
async fn each_kind_of_broken_body_has_its_own_code() {
    let client = World::new().client().await;
    let deep = format!("{{\"title\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000));
    let cases: [(&[u8], u16, &str); 13] = [
        (b"", 400, "malformed_json"),
        (b"{", 400, "malformed_json"),
        (b"{\"title\":\"a\"} x", 400, "malformed_json"),
        (b"{\"title\":\"\xff\"}", 400, "malformed_json"),
        (b"\xef\xbb\xbf{}", 400, "malformed_json"),
        (deep.as_bytes(), 400, "malformed_json"),
        (b"[]", 400, "invalid_body"),
        (b"\"x\"", 400, "invalid_body"),
        (b"null", 400, "invalid_body"),
        (b"{\"title\":\"a\",\"colour\":1}", 400, "unknown_field"),
        (b"{\"title\":\"a\",\"title\":\"b\"}", 400, "duplicate_field"),
        (b"{\"title\":{\"x\":1,\"x\":2}}", 400, "duplicate_field"),
        (
            b"{\"title\":\"a\",\"id\":\"0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f\"}",
            400,
            "unknown_field",
        ),
    ];
    for (body, status, code) in cases {
        refused(&client.send("POST", TASKS, raw(body)).await, status, code);
    }
    let unknown = client
        .send("POST", TASKS, raw(b"{\"title\":\"a\",\"colour\":1}"))
        .await;
    assert!(unknown.json()["detail"].as_str().unwrap().contains("`colour`"));
}

#[actix_web::test]
async fn all_fields_that_are_wrong_are_told_at_once() {
    let client = World::new().client().await;
    let body = json!({ "title": "", "description": "a\u{0}b", "status": "done" });
    let reply = client.post("alice", TASKS, &body).await;
    refused(&reply, 422, "validation_failed");
    assert_eq!(
        reply.json()["errors"],
        json!([
            { "field": "title", "code": "required", "message": "must have at least 1 character" },
            { "field": "description", "code": "invalid_character", "message": "must not contain control characters" },
            { "field": "status", "code": "invalid_format",
              "message": "must be pending, in_progress, completed or cancelled" },
        ])
    );
    let problem = reply.json();
    assert_eq!(problem["type"], "urn:gravity:error:validation_failed");
    assert_eq!(problem["title"], "Fields of the body are not as they must be.");
}

#[actix_web::test]
async fn lengths_types_and_nulls_are_judged_by_field() {
    let client = World::new().client().await;
    let long = |n| "é".repeat(n);
    let cases = [
        (json!({}), "title", "required"),
        (json!({ "title": null }), "title", "invalid_type"),
        (json!({ "title": 5 }), "title", "invalid_type"),
        (json!({ "title": long(256) }), "title", "too_long"),
        (json!({ "title": "a\nb" }), "title", "invalid_character"),
        (
            json!({ "title": "a", "description": ["x"] }),
            "description",
            "invalid_type",
        ),
        (
            json!({ "title": "a", "description": long(10_001) }),
            "description",
            "too_long",
        ),
        (json!({ "title": "a", "status": null }), "status", "invalid_type"),
    ];
    for (body, field, code) in cases {
        let reply = client.post("alice", TASKS, &body).await;
        refused(&reply, 422, "validation_failed");
        let errors = &reply.json()["errors"];
        assert_eq!(
            (&errors[0]["field"], &errors[0]["code"]),
            (&json!(field), &json!(code)),
            "{body}"
        );
    }
    let longest = json!({ "title": long(255), "description": long(10_000) });
    assert_eq!(client.post("alice", TASKS, &longest).await.status, 201);
    assert_eq!(
        client
            .post("alice", TASKS, &json!({ "title": "a", "description": null }))
            .await
            .status,
        201
    );
}

#[actix_web::test]
async fn an_update_must_set_something_it_can_set() {
    let client = World::new().client().await;
    let path = client.task("a").await;
    refused(&client.put("alice", &path, &json!({})).await, 400, "empty_update");
    refused(
        &client.put("alice", "/api/v1/profile", &json!({})).await,
        400,
        "empty_update",
    );
    refused(
        &client.put("alice", &path, &json!({ "title": null })).await,
        422,
        "validation_failed",
    );
    refused(
        &client.put("alice", &path, &json!({ "version": 1 })).await,
        400,
        "unknown_field",
    );
}

#[actix_web::test]
async fn only_plain_json_is_taken() {
    let client = World::new().client().await;
    let body = b"{\"title\":\"a\"}".to_vec();
    let sent = |headers: &[(&'static str, &'static str)]| {
        let call = Call {
            headers: headers.to_vec(),
            ..Call::by("alice").raw(body.clone())
        };
        client.send("POST", TASKS, call)
    };
    for headers in [
        &[][..],
        &[("content-type", "text/plain")],
        &[("content-type", "application/jsonx")],
        &[("content-type", "application/json; charset=latin1")],
        &[
            ("content-type", "application/json"),
            ("content-type", "text/plain"),
        ],
        &[("content-type", "application/json"), ("content-encoding", "gzip")],
    ] {
        refused(&sent(headers).await, 415, "unsupported_media_type");
    }
    for kind in [
        "application/json",
        "APPLICATION/JSON; Charset=\"UTF-8\"",
        "application/json; profile=x",
    ] {
        assert_eq!(sent(&[("content-type", kind)]).await.status, 201);
    }
}

#[actix_web::test]
async fn a_body_may_have_64_kib_and_not_a_byte_more() {
    let client = World::new().client().await;
    let padded = |size: usize| {
        let mut body = b"{\"title\":\"a\"}".to_vec();
        body.resize(size, b' ');
        body
    };
    assert_eq!(client.send("POST", TASKS, raw(&padded(65_536))).await.status, 201);
    for size in [65_537, 900_000, 3_000_000] {
        refused(
            &client.send("POST", TASKS, raw(&padded(size))).await,
            413,
            "payload_too_large",
        );
    }
}

#[actix_web::test]
async fn headers_of_writes_are_checked() {
    let client = World::new().client().await;
    let path = client.task("a").await;
    let long = "k".repeat(256);
    for (name, value) in [
        ("idempotency-key", ""),
        ("idempotency-key", "a b"),
        ("idempotency-key", "é"),
        ("idempotency-key", long.as_str()),
        ("if-match", "3"),
        ("if-match", "\"3"),
        ("gravity-durability", "eventual"),
        ("gravity-durability", "Committed"),
    ] {
        let call = Call::by("alice")
            .json(&json!({ "title": "b" }))
            .header(name, value);
        refused(
            &client.send("PUT", &path, call.clone()).await,
            400,
            "invalid_header",
        );
        refused(&client.send("DELETE", &path, call).await, 400, "invalid_header");
    }
    let twice = Call::by("alice").json(&json!({ "title": "b" }));
    let twice = twice
        .header("idempotency-key", "a")
        .header("idempotency-key", "a");
    refused(&client.send("POST", TASKS, twice).await, 400, "invalid_header");
}

#[actix_web::test]
async fn a_refused_request_is_refused_for_its_token_before_anything_else() {
    let client = World::new().client().await;
    let call = || Call {
        who: "nobody",
        ..raw(b"{")
    };
    refused(&client.send("POST", TASKS, call()).await, 401, "unauthenticated");
    refused(
        &client.send("GET", "/api/v1/tasks?x=1", Call::by("")).await,
        401,
        "unauthenticated",
    );
    refused(
        &client.send("GET", "/api/v1/tasks/rubbish", Call::by("")).await,
        401,
        "unauthenticated",
    );
}

/// Any bytes and headers, sent to any call: never a 5xx.
#[test]
fn nothing_a_client_sends_causes_a_server_error() {
    let runtime = actix_web::rt::System::new();
    let paths = prop::sample::select(vec![
        "/api/v1/tasks",
        "/api/v1/tasks/0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f",
        "/api/v1/profile",
        "/api/v1/auth/login",
        "/api/v1/auth/register",
        "/api/v1/auth/refresh",
        "/api/v1/auth/logout",
    ]);
    let methods = prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"]);
    let names = prop::sample::select(vec![
        "if-match",
        "if-none-match",
        "idempotency-key",
        "gravity-durability",
        "accept-encoding",
        "origin",
        "x-forwarded-for",
        "traceparent",
        "x-request-id",
        "content-type",
        "content-encoding",
        "authorization",
    ]);
    let value = "[ -~]{0,30}";
    let fields = prop::sample::select(vec![
        "title",
        "name",
        "username",
        "password",
        "refreshToken",
        "avatarUrl",
    ]);
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..60),
        (fields, "\\PC{0,20}").prop_map(|(field, text)| json!({ field: text }).to_string().into_bytes()),
    ];
    let config = ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(path in paths, method in methods, name in names, value in value, body in body, query in "[a-z=&%+0-9]{0,12}")| {
        let status = runtime.block_on(async {
            let client = World::new().client().await;
            let call = raw(&body).header(name, &value);
            client.send(method, &format!("{path}?{}", query.replace('%', "%25")), call).await.status
        });
        prop_assert!(status < StatusCode::INTERNAL_SERVER_ERROR, "{status} for {method} {path} {name}: {value}");
    });
}
