//! `/live`, `/ready`, `/health`, `/metrics`, `/docs`, `/openapi.json`.

use crate::world::{NOW, World};
use gravity_api::health::{Lifecycle, RedisHealth};
use gravity_domain::clock::Timestamp;
use serde_json::json;

#[actix_web::test]
async fn health_and_ready_answer_the_same_bare_object() {
    let world = World::new();
    let client = world.client().await;
    let at = Timestamp::from_millis(NOW).to_string();
    let expected = json!({
        "status": "healthy", "timestamp": "2023-11-14T22:13:21.500Z", "version": env!("CARGO_PKG_VERSION"),
        "uptimeSeconds": 7,
        "services": {
            "postgresql": { "status": true, "lastCheck": at, "latencyMs": 0.5 },
            "redis": { "status": true, "lastCheck": at, "latencyMs": 0.25 },
        },
        "buffer": { "status": "empty", "size": 0, "maxSize": 1_000_000, "oldestAgeSeconds": 0.0, "deadLetters": 0 },
    });
    for path in ["/health", "/ready"] {
        let reply = client.get("", path).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()),
            (200, expected.clone()),
            "{path}"
        );
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    let live = client.get("", "/live").await;
    assert_eq!(
        (live.status.as_u16(), &live.json()["status"]),
        (200, &json!("healthy"))
    );
}

#[actix_web::test]
async fn degraded_is_ready_but_not_healthy_and_stopping_is_neither() {
    let world = World::new();
    let client = world.client().await;
    let check = |path: &'static str| async { client.get("", path).await };
    world.health.lock().unwrap().postgresql.up = false;
    assert_eq!(check("/ready").await.status, 200);
    let health = check("/health").await;
    assert_eq!(
        (health.status.as_u16(), &health.json()["status"]),
        (503, &json!("degraded"))
    );
    assert_eq!(health.header("content-type"), Some("application/json"));
    world.health.lock().unwrap().lifecycle = Lifecycle::Stopping;
    let ready = check("/ready").await;
    assert_eq!(
        (ready.status.as_u16(), &ready.json()["status"]),
        (503, &json!("unavailable"))
    );
    assert!(ready.header("retry-after").is_some());
    assert_eq!(check("/live").await.status, 200);
}

#[actix_web::test]
async fn without_a_redis_server_this_process_stands_in_for_it() {
    let world = World::new();
    world.health.lock().unwrap().redis = RedisHealth::InProcess;
    let reply = world.client().await.get("", "/health").await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json()["services"]["redis"],
        json!({ "status": true, "mode": "in_process" })
    );
}

#[actix_web::test]
async fn metrics_are_prometheus_text() {
    let reply = World::new().client().await.get("", "/metrics").await;
    assert_eq!(reply.text, "# rendered\n");
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
}

#[actix_web::test]
async fn the_docs_page_loads_only_what_the_binary_serves() {
    let client = World::new().client().await;
    let redirect = client.get("", "/docs").await;
    assert_eq!(
        (redirect.status.as_u16(), redirect.header("location")),
        (308, Some("/docs/"))
    );
    let page = client.get("", "/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .contains("script-src 'self'")
    );
    assert!(!page.text.contains("https://") && page.text.contains("swagger-ui-bundle.js"));
    let start = client.get("", "/docs/swagger-initializer.js").await;
    assert!(start.text.contains("/openapi.json"));
    assert_eq!(client.get("", "/docs/swagger-ui-bundle.js").await.status, 200);
    assert_eq!(
        client.get("", "/docs/nothing.js").await.failure(),
        (404, "not_found".into())
    );
}

#[actix_web::test]
async fn the_document_served_is_the_one_that_is_generated() {
    let reply = World::new().client().await.get("", "/openapi.json").await;
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.text, gravity_api::openapi::to_json());
    assert_eq!(reply.json()["openapi"], "3.1.0");
}
