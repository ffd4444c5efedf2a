//! What people, probes and operators ask: `/live`, `/ready`, `/health`, `/metrics` and the admin calls.

use std::time::Duration;

use gravity_test_support::calls::is_time;
use gravity_test_support::test_app::eventually;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{new_task, setup, start};

fn healthy(redis: &Value) -> Value {
    json!({
        "status": "healthy", "timestamp": "[time]", "version": env!("CARGO_PKG_VERSION"), "uptimeSeconds": "[number]",
        "services": {
            "postgresql": {"status": true, "lastCheck": "[time]", "latencyMs": "[number]"},
            "redis": redis,
        },
        "buffer": {"status": "empty", "size": 0, "maxSize": 1_000_000, "oldestAgeSeconds": "[number]", "deadLetters": 0},
    })
}

/// The body with what differs each time replaced.
fn steady(mut body: Value) -> Value {
    let numbers = [
        "/uptimeSeconds",
        "/services/postgresql/latencyMs",
        "/services/redis/latencyMs",
        "/buffer/oldestAgeSeconds",
    ];
    for pointer in numbers {
        if let Some(number) = body.pointer_mut(pointer).filter(|number| number.is_number()) {
            *number = json!("[number]");
        }
    }
    gravity_test_support::calls::redacted(body)
}

#[tokio::test]
async fn health_and_readiness_are_told_in_full() {
    let app = start().await;
    let in_process = json!({"status": true, "mode": "in_process"});
    for path in ["/health", "/ready"] {
        let answer = app.nobody().get(path).await.must_be(200);
        assert_eq!(steady(answer.json()), healthy(&in_process));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let app = setup().private_redis().start().await;
    let server = json!({"status": true, "lastCheck": "[time]", "latencyMs": "[number]"});
    for path in ["/health", "/ready"] {
        assert_eq!(
            steady(app.nobody().get(path).await.must_be(200).json()),
            healthy(&server)
        );
    }
}

#[tokio::test]
async fn live_says_that_the_process_runs() {
    let app = start().await;
    let live = app.nobody().get("/live").await.must_be(200).json();
    assert_eq!(live["status"], "healthy");
    assert!(is_time(live["timestamp"].as_str().unwrap()));
}

#[tokio::test]
async fn probes_may_ask_with_any_query_and_any_token() {
    let app = start().await;
    for path in [
        "/live?probe=1",
        "/ready?x",
        "/health?verbose=true",
        "/metrics?a=b",
    ] {
        app.nobody().with_token("rubbish").get(path).await.must_be(200);
    }
}

#[tokio::test]
async fn metrics_tell_of_requests_writes_and_stores() {
    let app = start().await;
    new_task(&app.alice(), "x").await;
    app.alice().get("/api/v1/tasks/not-an-id").await.must_be(400);
    app.alice().get("/somewhere/else").await.must_be(404);
    let metrics = app.nobody().get("/metrics").await.must_be(200);
    assert!(metrics.must_header("content-type").starts_with("text/plain"));
    let text = eventually("the pool is measured", || async {
        let text = app.nobody().get("/metrics").await.text();
        text.contains("gravity_postgres_pool_size").then_some(text)
    })
    .await;
    assert_eq!(
        app.metric("gravity_writes_total{outcome=\"committed\"}").await,
        1.0
    );
    let names = [
        "gravity_http_requests_total",
        "gravity_http_request_seconds",
        "gravity_buffer_operations",
        "gravity_buffer_dead_letters",
        "gravity_store_up",
        "gravity_breaker_state",
        "gravity_postgres_pool_size",
    ];
    for name in names {
        assert!(text.lines().any(|line| line.starts_with(name)), "no {name}");
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} has no type");
    }
    assert!(
        text.contains("route=\"/api/v1/tasks/{id}\""),
        "routes are told by pattern"
    );
    assert!(
        !text.contains("not-an-id") && !text.contains("/somewhere/else"),
        "and never by path"
    );
}

#[tokio::test]
async fn operators_see_the_buffer() {
    let app = start().await;
    let answer = app.admin().get("/api/v1/admin/buffer").await;
    let expected = json!({
        "state": "empty", "size": 0, "maxSize": 1_000_000, "bytes": 0, "oldestAgeSeconds": 0.0,
        "drainRatePerSecond": 0.0, "deadLetters": 0,
    });
    assert_eq!(answer.shape(), json!({"status": 200, "body": {"data": expected}}));
}

#[tokio::test]
async fn there_are_no_dead_letters_at_first() {
    let app = start().await;
    let none = app.admin().get("/api/v1/admin/dead-letters").await;
    let meta = json!({"nextCursor": null, "hasMore": false});
    assert_eq!(
        none.shape(),
        json!({"status": 200, "body": {"data": [], "meta": meta}})
    );
    let path = format!("/api/v1/admin/dead-letters/{}", Uuid::now_v7());
    app.admin().delete(&path).await.problem(404, "not_found");
    app.admin()
        .post(&format!("{path}/retry"), json!({}))
        .await
        .problem(404, "not_found");
    app.admin()
        .delete("/api/v1/admin/dead-letters/x")
        .await
        .problem(400, "invalid_id");
    app.admin()
        .get("/api/v1/admin/dead-letters?limit=0")
        .await
        .problem(400, "invalid_parameter");
    app.admin()
        .get("/api/v1/admin/dead-letters?cursor=x")
        .await
        .problem(400, "invalid_cursor");
    app.admin()
        .get("/api/v1/admin/dead-letters?status=x")
        .await
        .problem(400, "unknown_parameter");
}

#[tokio::test]
async fn probes_are_answered_from_memory() {
    let app = start().await;
    let mut fastest = Duration::MAX;
    for _ in 0..50 {
        fastest = fastest.min(app.ready().await.must_be(200).took);
    }
    assert!(fastest < Duration::from_millis(20), "{fastest:?}");
}
