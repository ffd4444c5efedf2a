//! Every route there is, and who may call it. A new route fails here until it has its line.

use std::collections::BTreeSet;

use gravity_api::routes::{Auth, routes};
use gravity_test_support::actors::Actor;
use gravity_test_support::calls::Answer;
use reqwest::Method;
use uuid::Uuid;

use crate::start;

const CASES: &[(&str, &str, Auth)] = &[
    ("GET", "/live", Auth::Public),
    ("GET", "/ready", Auth::Public),
    ("GET", "/health", Auth::Public),
    ("GET", "/metrics", Auth::Public),
    ("GET", "/openapi.json", Auth::Public),
    ("GET", "/docs", Auth::Public),
    ("GET", "/docs/{file:.*}", Auth::Public),
    ("POST", "/api/v1/auth/register", Auth::Public),
    ("POST", "/api/v1/auth/login", Auth::Public),
    ("POST", "/api/v1/auth/refresh", Auth::Public),
    ("POST", "/api/v1/auth/logout", Auth::User),
    ("GET", "/api/v1/auth/sessions", Auth::User),
    ("DELETE", "/api/v1/auth/sessions/{id}", Auth::User),
    ("GET", "/api/v1/profile", Auth::User),
    ("PUT", "/api/v1/profile", Auth::User),
    ("GET", "/api/v1/tasks", Auth::User),
    ("POST", "/api/v1/tasks", Auth::User),
    ("GET", "/api/v1/tasks/{id}", Auth::User),
    ("PUT", "/api/v1/tasks/{id}", Auth::User),
    ("DELETE", "/api/v1/tasks/{id}", Auth::User),
    ("GET", "/v2/stream", Auth::User),
    ("GET", "/v2/stream/changes", Auth::User),
    ("POST", "/v2/stream/actions", Auth::User),
    ("GET", "/v2/stream/{itemId}", Auth::User),
    ("GET", "/v2/stream/{itemId}/messages", Auth::User),
    ("POST", "/v2/ingest/items", Auth::Service),
    ("DELETE", "/v2/ingest/items", Auth::Service),
    ("GET", "/api/chat/conversations", Auth::User),
    ("GET", "/api/chat/conversations/unread-count", Auth::User),
    ("GET", "/api/chat/conversations/with/{username}", Auth::User),
    ("GET", "/api/chat/conversations/{id}/messages", Auth::User),
    ("POST", "/api/chat/conversations/{id}/messages", Auth::User),
    ("POST", "/api/chat/conversations/{id}/read", Auth::User),
    ("GET", "/api/chat/messages/{id}", Auth::User),
    ("GET", "/api/chat/blocks", Auth::User),
    ("POST", "/api/chat/blocks", Auth::User),
    ("GET", "/api/chat/blocks/status/{username}", Auth::User),
    ("DELETE", "/api/chat/blocks/{username}", Auth::User),
    ("GET", "/api/chat/presence", Auth::User),
    ("POST", "/api/chat/ws-tickets", Auth::User),
    ("GET", "/api/chat/ws", Auth::Public),
    ("GET", "/api/chat/notifications/preferences", Auth::User),
    ("PUT", "/api/chat/notifications/preferences", Auth::User),
    ("POST", "/api/chat/notifications/subscriptions", Auth::User),
    ("DELETE", "/api/chat/notifications/subscriptions", Auth::User),
    ("GET", "/api/chat/notifications/vapid-key", Auth::User),
    ("GET", "/api/v1/operations/{id}", Auth::User),
    ("GET", "/api/v1/admin/buffer", Auth::Admin),
    ("GET", "/api/v1/admin/dead-letters", Auth::Admin),
    ("POST", "/api/v1/admin/dead-letters/{id}/retry", Auth::Admin),
    ("DELETE", "/api/v1/admin/dead-letters/{id}", Auth::Admin),
];

#[test]
fn every_route_has_its_case() {
    let shown = |method: &str, path: &str, auth: Auth| format!("{method} {path} {auth:?}");
    let served: BTreeSet<String> = routes()
        .iter()
        .map(|route| shown(route.method, route.path, route.auth))
        .collect();
    let cases: BTreeSet<String> = CASES
        .iter()
        .map(|(method, path, auth)| shown(method, path, *auth))
        .collect();
    assert_eq!(served, cases);
}

/// Calls the route with nothing right but, perhaps, the token.
async fn call(actor: &Actor, method: &str, path: &str) -> Answer {
    let path = path
        .replace("{id}", &Uuid::now_v7().to_string())
        .replace("{itemId}", &Uuid::now_v7().to_string())
        .replace("{username}", "nobody")
        .replace("{file:.*}", "");
    actor
        .call(Method::from_bytes(method.as_bytes()).unwrap(), &path)
        .await
}

#[tokio::test]
async fn every_route_lets_in_whom_it_should_and_nobody_else() {
    let app = start().await;
    for (method, path, auth) in CASES {
        let what = format!("{method} {path}");
        let nobody = call(&app.nobody(), method, path).await;
        let broken = call(&app.nobody().with_token("x.y.z"), method, path).await;
        if *auth == Auth::Public {
            assert!(![401, 403].contains(&nobody.status), "{what}: {}", nobody.text());
            assert!(
                ![401, 403].contains(&broken.status),
                "a token is not looked at: {what}"
            );
            continue;
        }
        for refused in [&nobody, &broken] {
            refused.problem(401, "unauthenticated");
            assert!(
                refused.must_header("www-authenticate").starts_with("Bearer"),
                "{what}"
            );
        }
        let callers = [
            (app.alice(), *auth == Auth::User),
            (app.service(), matches!(auth, Auth::User | Auth::Service)),
            (app.admin(), true),
        ];
        for (actor, may) in callers {
            let answer = call(&actor, method, path).await;
            if may {
                assert!(![401, 403].contains(&answer.status), "{what}: {}", answer.text());
            } else {
                answer.problem(403, "forbidden");
            }
        }
    }
}

#[tokio::test]
async fn nobody_without_a_token_learns_more_than_that() {
    let app = start().await;
    let nobody = app.nobody();
    nobody
        .get("/api/v1/tasks?nonsense=1")
        .await
        .problem(401, "unauthenticated");
    nobody
        .get("/api/v1/tasks/not-an-id")
        .await
        .problem(401, "unauthenticated");
    nobody
        .call(Method::POST, "/api/v1/tasks")
        .raw("{")
        .await
        .problem(401, "unauthenticated");
    nobody
        .call(Method::POST, "/api/v1/tasks")
        .raw(vec![b' '; 70_000])
        .await
        .problem(401, "unauthenticated");
    nobody
        .call(Method::POST, "/api/v1/tasks")
        .key("")
        .body("text/plain", "x")
        .await
        .problem(401, "unauthenticated");
    app.alice()
        .get("/api/v1/admin/dead-letters?nonsense=1")
        .await
        .problem(403, "forbidden");
}
