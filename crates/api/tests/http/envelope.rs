//! What every answer has, whatever it answers: headers, problems, methods, CORS, compression.

use crate::world::{Call, Reply, World, refused};
use serde_json::json;

#[track_caller]
fn hardened(reply: &Reply) {
    assert_eq!(
        reply.header("x-content-type-options"),
        Some("nosniff"),
        "{reply:?}"
    );
    assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
    let policy = reply.header("content-security-policy");
    assert_eq!(policy, Some("default-src 'none'; frame-ancestors 'none'"));
    assert!(reply.header("x-request-id").is_some());
    assert!(reply.header("strict-transport-security").is_none());
}

#[actix_web::test]
async fn every_answer_is_hardened_and_named() {
    let mut world = World::new();
    world.http.cors_origins = vec!["https://app.example".into()];
    let client = world.client().await;
    let preflight = Call::by("")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "PUT");
    for reply in [
        client.get("alice", "/api/v1/tasks").await,
        client.get("", "/api/v1/tasks").await,
        client.get("", "/nowhere").await,
        client.get("", "/live").await,
        client.send("PATCH", "/api/v1/tasks", Call::by("alice")).await,
        client.send("OPTIONS", "/api/v1/tasks", preflight).await,
        client.post("alice", "/api/v1/tasks", &json!({})).await,
    ] {
        hardened(&reply);
    }
}

#[actix_web::test]
async fn a_sane_request_id_is_kept() {
    let client = World::new().client().await;
    let kept = client
        .send(
            "GET",
            "/nowhere",
            Call::by("").header("x-request-id", "abc-1.2_3"),
        )
        .await;
    assert_eq!(kept.header("x-request-id"), Some("abc-1.2_3"));
    assert_eq!(kept.json()["requestId"], "abc-1.2_3");
    let made = client
        .send("GET", "/nowhere", Call::by("").header("x-request-id", "a\"b"))
        .await;
    assert_ne!(made.header("x-request-id"), Some("a\"b"));
}

#[actix_web::test]
async fn unknown_paths_and_methods_are_problems() {
    let client = World::new().client().await;
    let nowhere = client.get("alice", "/nowhere?token=secret").await;
    refused(&nowhere, 404, "not_found");
    assert!(!nowhere.text.contains("secret"));
    refused(&client.get("alice", "/api/v1/tasks/").await, 404, "not_found");
    for (path, allow) in [
        ("/api/v1/tasks", "GET, HEAD, POST, OPTIONS"),
        (
            "/api/v1/tasks/0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f",
            "GET, HEAD, PUT, DELETE, OPTIONS",
        ),
        ("/api/v1/auth/login", "POST, OPTIONS"),
        ("/health", "GET, HEAD, OPTIONS"),
    ] {
        let reply = client.send("PATCH", path, Call::by("alice")).await;
        refused(&reply, 405, "method_not_allowed");
        assert_eq!(reply.header("allow"), Some(allow));
        let options = client.send("OPTIONS", path, Call::by("")).await;
        assert_eq!(
            (options.status.as_u16(), options.header("allow")),
            (204, Some(allow))
        );
        refused(
            &client.send("BREW", path, Call::by("")).await,
            405,
            "method_not_allowed",
        );
    }
}

#[actix_web::test]
async fn head_is_get_without_the_body() {
    let client = World::new().client().await;
    let path = client.task("a").await;
    for path in [
        path.as_str(),
        "/api/v1/tasks",
        "/api/v1/profile",
        "/health",
        "/live",
        "/docs/",
    ] {
        let get = client.get("alice", path).await;
        let head = client.send("HEAD", path, Call::by("alice")).await;
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.header("etag"), get.header("etag"));
        assert_eq!(head.header("content-type"), get.header("content-type"));
    }
}

#[actix_web::test]
async fn only_listed_origins_get_cors_headers() {
    let mut world = World::new();
    world.http.cors_origins = vec!["https://app.example".into()];
    let client = world.client().await;
    let from = |origin: &'static str| Call::by("alice").header("origin", origin);
    let good = client
        .send("GET", "/api/v1/tasks", from("https://app.example"))
        .await;
    assert_eq!(
        good.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    assert!(good.header("access-control-allow-credentials").is_none());
    let exposed = good
        .header("access-control-expose-headers")
        .unwrap()
        .to_ascii_lowercase();
    for name in [
        "etag",
        "location",
        "operation-id",
        "retry-after",
        "ratelimit",
        "x-request-id",
        "gravity-consistency",
    ] {
        assert!(exposed.contains(name), "{name} in {exposed}");
    }
    let problem = client
        .send("GET", "/api/v1/tasks/x", from("https://app.example"))
        .await;
    assert_eq!(
        problem.header("access-control-allow-origin"),
        Some("https://app.example")
    );
    for origin in [
        "https://app.example.evil",
        "https://APP.example",
        "null",
        "http://app.example",
    ] {
        let other = client.send("GET", "/api/v1/tasks", from(origin)).await;
        assert_eq!(
            (other.status.as_u16(), other.header("access-control-allow-origin")),
            (200, None)
        );
        let preflight = from(origin).header("access-control-request-method", "GET");
        refused(
            &client.send("OPTIONS", "/api/v1/tasks", preflight).await,
            400,
            "bad_request",
        );
    }
    let preflight = from("https://app.example")
        .header("access-control-request-method", "PUT")
        .header(
            "access-control-request-headers",
            "authorization,content-type,idempotency-key,if-match",
        );
    let preflight = client.send("OPTIONS", "/api/v1/profile", preflight).await;
    assert_eq!(preflight.status, 200);
    assert!(
        preflight
            .header("access-control-allow-methods")
            .unwrap()
            .contains("PUT")
    );
}

#[actix_web::test]
async fn answers_are_compressed_as_asked_and_problems_are_not() {
    let client = World::new().client().await;
    for encoding in ["gzip", "br", "zstd"] {
        let reply = client
            .send(
                "GET",
                "/openapi.json",
                Call::by("").header("accept-encoding", encoding),
            )
            .await;
        assert_eq!(reply.header("content-encoding"), Some(encoding));
        assert!(reply.headers.iter().any(|(name, value)| name == "vary" && value.to_ascii_lowercase().contains("accept-encoding")));
        let problem = client
            .send(
                "GET",
                "/nowhere",
                Call::by("").header("accept-encoding", encoding),
            )
            .await;
        assert_eq!(problem.header("content-encoding"), None);
        refused(&problem, 404, "not_found");
    }
    let none = client
        .send(
            "GET",
            "/live",
            Call::by("").header("accept-encoding", "identity;q=0, x;q=1"),
        )
        .await;
    refused(&none, 406, "not_acceptable");
}
