//! What every call has in common: errors, headers, encodings, lists' parameters, and the connection itself.

use std::io::Read;

use gravity_test_support::builders::task;
use gravity_test_support::calls::Answer;
use gravity_test_support::test_app::TestApp;
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::{new_task, setup, start};

/// Answers of every kind.
async fn all_kinds(app: &TestApp) -> Vec<Answer> {
    let alice = app.alice();
    let created = alice.post("/api/v1/tasks", task("x")).await.must_be(201);
    let (path, tag) = (created.must_header("location"), created.must_header("etag"));
    vec![
        created,
        alice.get(&path).await.must_be(200),
        alice.get(&path).header("if-none-match", &tag).await.must_be(304),
        alice.call(Method::HEAD, &path).await.must_be(200),
        alice.call(Method::OPTIONS, &path).await.must_be(204),
        alice.post("/api/v1/tasks", json!({"x": 1})).await.must_be(400),
        alice.post("/api/v1/tasks", json!({})).await.must_be(422),
        alice.get("/api/v1/admin/buffer").await.must_be(403),
        app.nobody().get(&path).await.must_be(401),
        alice.get("/nowhere").await.must_be(404),
        alice.get("/api/v1/nowhere").await.must_be(404),
        alice.call(Method::PATCH, &path).await.must_be(405),
        alice
            .call(Method::POST, "/api/v1/tasks")
            .raw(vec![b' '; 70_000])
            .await
            .must_be(413),
        alice.delete(&path).await.must_be(204),
        app.nobody().get("/live").await.must_be(200),
        app.nobody().get("/ready").await.must_be(200),
        app.nobody().get("/health").await.must_be(200),
        app.nobody().get("/metrics").await.must_be(200),
        app.nobody().get("/openapi.json").await.must_be(200),
        app.nobody().get("/docs/").await.must_be(200),
        app.nobody().get("/docs").await.must_be(308),
        app.nobody().get("/docs/nothing-here.js").await.must_be(404),
    ]
}

#[tokio::test]
async fn every_answer_carries_the_security_headers_and_a_request_id() {
    let app = start().await;
    for answer in all_kinds(&app).await {
        let call = &answer.call;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{call}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{call}");
        let policy = answer.must_header("content-security-policy");
        if call.contains("/docs/") && answer.status == 200 {
            assert!(
                policy.contains("frame-ancestors 'none'") && policy.contains("script-src 'self'"),
                "{policy}"
            );
        } else {
            assert_eq!(policy, "default-src 'none'; frame-ancestors 'none'", "{call}");
        }
        assert_eq!(
            answer.header("strict-transport-security"),
            None,
            "only under TLS: {call}"
        );
        assert_eq!(answer.header("server"), None, "{call}");
        assert!(
            Uuid::try_parse(&answer.must_header("x-request-id")).is_ok(),
            "{call}"
        );
        if answer.status >= 400 {
            let code = answer.json()["code"].as_str().unwrap().to_owned();
            answer.problem(answer.status, &code);
        }
    }
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_any_other_replaced() {
    let app = start().await;
    let longest = "x".repeat(128);
    for sane in ["a", "A-b_c.9", longest.as_str()] {
        let answer = app
            .nobody()
            .get("/api/v1/tasks")
            .header("x-request-id", sane)
            .await;
        assert_eq!(answer.header("x-request-id"), Some(sane));
        assert_eq!(answer.json()["requestId"], sane);
    }
    let longer = "x".repeat(129);
    for other in ["", "a b", "a/b", "a\"b", "<b>", longer.as_str()] {
        let answer = app.nobody().get("/live").header("x-request-id", other).await;
        assert!(
            Uuid::try_parse(&answer.must_header("x-request-id")).is_ok(),
            "{other}"
        );
    }
}

#[tokio::test]
async fn a_wrong_method_is_answered_405_with_those_that_are_allowed() {
    let app = start().await;
    let task = format!("/api/v1/tasks/{}", Uuid::now_v7());
    let cases = [
        (Method::DELETE, "/api/v1/tasks", "GET, HEAD, POST, OPTIONS"),
        (Method::POST, task.as_str(), "GET, HEAD, PUT, DELETE, OPTIONS"),
        (Method::PATCH, task.as_str(), "GET, HEAD, PUT, DELETE, OPTIONS"),
        (Method::POST, "/health", "GET, HEAD, OPTIONS"),
        (Method::GET, "/api/v1/auth/login", "POST, OPTIONS"),
        (Method::TRACE, "/live", "GET, HEAD, OPTIONS"),
    ];
    let sorted = |allow: &str| {
        let mut methods: Vec<String> = allow.split(',').map(|method| method.trim().to_owned()).collect();
        methods.sort();
        methods
    };
    for (method, path, allowed) in cases {
        let refused = app.alice().call(method, path).await;
        refused.problem(405, "method_not_allowed");
        assert_eq!(sorted(&refused.must_header("allow")), sorted(allowed), "{path}");
    }
    let options = app
        .nobody()
        .call(Method::OPTIONS, "/api/v1/tasks")
        .await
        .must_be(204);
    assert_eq!(
        sorted(&options.must_header("allow")),
        sorted("GET, HEAD, POST, OPTIONS")
    );
}

#[tokio::test]
async fn what_is_not_served_is_answered_404() {
    let app = start().await;
    let paths = [
        "/",
        "/api",
        "/api/v1",
        "/api/v2/tasks",
        "/api/v1/tasks/",
        "/API/v1/tasks",
        "/api/v1//tasks",
        "/.env",
        "/%2e%2e/etc/passwd",
    ];
    for path in paths {
        app.alice().get(path).await.problem(404, "not_found");
        app.nobody().get(path).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn unknown_and_wrong_query_parameters_are_refused() {
    let app = start().await;
    let alice = app.alice();
    new_task(&alice, "x").await;
    for query in ["?x=1", "?Limit=1", "?limit=1&x", "?cursor[]=a", "?user_id=1"] {
        alice
            .get(&format!("/api/v1/tasks{query}"))
            .await
            .problem(400, "unknown_parameter");
    }
    alice
        .get("/api/v1/profile?limit=1")
        .await
        .problem(400, "unknown_parameter");
    alice
        .post("/api/v1/tasks?dry=1", task("x"))
        .await
        .problem(400, "unknown_parameter");
    for limit in [
        "0",
        "101",
        "-1",
        "+5",
        "1.0",
        "ten",
        "",
        "99999999999999999999",
        "%31%",
    ] {
        alice
            .get(&format!("/api/v1/tasks?limit={limit}"))
            .await
            .problem(400, "invalid_parameter");
    }
    alice
        .get("/api/v1/tasks?limit=1&limit=1")
        .await
        .problem(400, "invalid_parameter");
    alice.get("/api/v1/tasks?limit=%31").await.must_be(200);
    for limit in ["1", "100"] {
        alice
            .get(&format!("/api/v1/tasks?limit={limit}"))
            .await
            .must_be(200);
    }
}

#[tokio::test]
async fn a_cursor_that_was_not_given_out_is_refused() {
    let app = start().await;
    let alice = app.alice();
    for title in ["a", "b", "c"] {
        new_task(&alice, title).await;
    }
    let page = alice.get("/api/v1/tasks?limit=1").await.json();
    let cursor = page["meta"]["nextCursor"].as_str().unwrap().to_owned();
    alice
        .get(&format!("/api/v1/tasks?cursor={cursor}"))
        .await
        .must_be(200);
    let mut turned = cursor.clone().into_bytes();
    turned[5] = if turned[5] == b'A' { b'B' } else { b'A' };
    let turned = String::from_utf8(turned).unwrap();
    let bad = [
        turned.as_str(),
        &cursor[1..],
        &cursor[..cursor.len() - 1],
        "",
        "x",
        "null",
        "%20",
        "' OR 1=1",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ];
    for cursor in bad {
        alice
            .get(&format!("/api/v1/tasks?cursor={cursor}"))
            .await
            .problem(400, "invalid_cursor");
    }
}

#[tokio::test]
async fn browsers_of_the_origins_named_may_call_and_no_others() {
    let app = setup()
        .set(
            "CORS_ALLOWED_ORIGINS",
            "https://app.example.com,http://localhost:3000",
        )
        .start()
        .await;
    for origin in ["https://app.example.com", "http://localhost:3000"] {
        let answer = app
            .alice()
            .get("/api/v1/profile")
            .header("origin", origin)
            .await
            .must_be(200);
        assert_eq!(answer.header("access-control-allow-origin"), Some(origin));
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert!(answer.list("vary").contains("origin"));
        let exposed = answer.must_header("access-control-expose-headers").to_lowercase();
        for name in [
            "etag",
            "location",
            "operation-id",
            "retry-after",
            "ratelimit",
            "x-request-id",
            "gravity-consistency",
        ] {
            assert!(
                exposed.split(',').any(|given| given.trim() == name),
                "{name} is not in {exposed}"
            );
        }
        let refusal = app
            .nobody()
            .get("/api/v1/profile")
            .header("origin", origin)
            .await
            .must_be(401);
        assert_eq!(
            refusal.header("access-control-allow-origin"),
            Some(origin),
            "errors can be read too"
        );
    }
    let preflight = |origin: &str| {
        let call = app
            .nobody()
            .call(Method::OPTIONS, "/api/v1/tasks")
            .header("origin", origin);
        call.header("access-control-request-method", "POST").header(
            "access-control-request-headers",
            "authorization,content-type,idempotency-key,if-match",
        )
    };
    let allowed = preflight("https://app.example.com").await;
    assert!((200..300).contains(&allowed.status), "{}", allowed.status);
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        Some("https://app.example.com")
    );
    let methods = allowed.must_header("access-control-allow-methods");
    assert!(
        ["GET", "POST", "PUT", "DELETE"]
            .iter()
            .all(|method| methods.contains(method)),
        "{methods}"
    );
    let headers = allowed.must_header("access-control-allow-headers").to_lowercase();
    assert!(
        ["authorization", "idempotency-key", "if-match"]
            .iter()
            .all(|name| headers.contains(name)),
        "{headers}"
    );

    let strangers = [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "https://APP.example.com",
        "null",
    ];
    for stranger in strangers {
        let answer = preflight(stranger).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{stranger}");
        let answer = app
            .alice()
            .get("/api/v1/profile")
            .header("origin", stranger)
            .await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{stranger}");
    }
}

#[tokio::test]
async fn without_origins_no_browser_of_another_site_may_call() {
    let app = start().await;
    let answer = app
        .alice()
        .get("/api/v1/profile")
        .header("origin", "https://app.example.com")
        .await
        .must_be(200);
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn answers_are_compressed_as_the_client_can_take_them() {
    let app = start().await;
    let alice = app.alice();
    for number in 0..50 {
        new_task(&alice, &format!("task number {number} {}", "x".repeat(100))).await;
    }
    let path = "/api/v1/tasks?limit=100";
    let plain = alice
        .get(path)
        .header("accept-encoding", "identity")
        .await
        .must_be(200);
    assert_eq!(plain.header("content-encoding"), None);
    for encoding in ["gzip", "br", "zstd"] {
        let answer = alice
            .get(path)
            .header("accept-encoding", encoding)
            .await
            .must_be(200);
        assert_eq!(answer.header("content-encoding"), Some(encoding));
        assert!(
            answer.body.len() < plain.body.len() / 4,
            "{encoding}: {} bytes",
            answer.body.len()
        );
        assert!(
            answer.list("vary").contains("accept-encoding"),
            "{}",
            answer.list("vary")
        );
        let mut decoded = Vec::new();
        match encoding {
            "gzip" => flate2::read::GzDecoder::new(&answer.body[..])
                .read_to_end(&mut decoded)
                .unwrap(),
            "br" => brotli::Decompressor::new(&answer.body[..], 4_096)
                .read_to_end(&mut decoded)
                .unwrap(),
            _ => zstd::stream::copy_decode(&answer.body[..], &mut decoded)
                .map(|()| 0)
                .unwrap(),
        };
        assert_eq!(decoded, plain.body, "{encoding}");
    }
    let unknown = alice
        .get(path)
        .header("accept-encoding", "lzma, identity")
        .await
        .must_be(200);
    assert_eq!(unknown.body, plain.body);
}

#[tokio::test]
async fn head_answers_like_get_without_the_body() {
    let app = start().await;
    let path = format!("/api/v1/tasks/{}", new_task(&app.alice(), "x").await);
    for path in [path.as_str(), "/api/v1/tasks", "/live", "/openapi.json"] {
        let get = app.alice().get(path).await.must_be(200);
        let head = app.alice().call(Method::HEAD, path).await.must_be(200);
        assert!(head.body.is_empty());
        for name in ["etag", "content-type", "cache-control"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {path}");
        }
    }
    let refused = app.nobody().call(Method::HEAD, &path).await;
    assert_eq!((refused.status, refused.body.len()), (401, 0));
}
