//! Walks the route table: each route demands what it says, and the document knows each.

use crate::world::{Call, World, refused};
use gravity_api::openapi;
use gravity_api::routes::{Auth, routes};
use serde_json::Value;

fn concrete(path: &str) -> String {
    let id = "0199a3c2-7c1e-7d5e-8f00-3b1f0c2d4e5f";
    path.replace("{id}", id)
        .replace("{itemId}", id)
        .replace("{username}", "bob")
        .replace("{file:.*}", "index.html")
}

#[actix_web::test]
async fn every_route_that_is_not_public_demands_a_token_and_its_role() {
    let client = World::new().client().await;
    let mut guarded = 0;
    for route in routes() {
        let path = concrete(route.path);
        let nobody = client.send(route.method, &path, Call::by("")).await;
        if route.auth == Auth::Public {
            assert_ne!(nobody.status, 401, "{path}");
            continue;
        }
        guarded += 1;
        refused(&nobody, 401, "unauthenticated");
        assert!(nobody.header("www-authenticate").is_some());
        refused(
            &client.send(route.method, &path, Call::by("mallory")).await,
            401,
            "unauthenticated",
        );
        let user = client.send(route.method, &path, Call::by("alice")).await;
        match route.auth {
            Auth::Admin | Auth::Service => refused(&user, 403, "forbidden"),
            Auth::User | Auth::Public => {
                assert!(![401, 403].contains(&user.status.as_u16()), "{path}: {user:?}");
            }
        }
        if route.method == "GET" {
            refused(
                &client.send("HEAD", &path, Call::by("")).await,
                401,
                "unauthenticated",
            );
        }
    }
    assert!(guarded > 10);
    let public: Vec<_> = routes()
        .iter()
        .filter(|route| route.auth == Auth::Public)
        .map(|route| route.path)
        .collect();
    assert_eq!(
        public,
        [
            "/live",
            "/ready",
            "/health",
            "/metrics",
            "/openapi.json",
            "/docs",
            "/docs/{file:.*}",
            "/api/v1/auth/register",
            "/api/v1/auth/login",
            "/api/v1/auth/refresh",
            "/api/chat/ws",
        ]
    );
}

#[actix_web::test]
async fn every_call_of_the_api_refuses_query_parameters_it_does_not_know() {
    let client = World::new().client().await;
    for route in routes()
        .iter()
        .filter(|route| ["/api/", "/v2/"].iter().any(|root| route.path.starts_with(root)))
    {
        let who = if route.auth == Auth::Public { "" } else { "root" };
        let reply = client
            .send(
                route.method,
                &format!("{}?surprise=1", concrete(route.path)),
                Call::by(who),
            )
            .await;
        refused(&reply, 400, "unknown_parameter");
    }
}

#[test]
fn the_document_has_every_route_with_its_security_and_no_other() {
    let document: Value = serde_json::from_str(&openapi::to_json()).unwrap();
    let mut known = 0;
    for route in routes() {
        if route.path.starts_with("/docs") || route.path == "/openapi.json" {
            continue;
        }
        let operation = &document["paths"][route.path][route.method.to_ascii_lowercase()];
        assert!(
            operation.is_object(),
            "{} {} is not in the document",
            route.method,
            route.path
        );
        known += 1;
        assert_eq!(
            operation["security"].is_array(),
            route.auth != Auth::Public,
            "{}",
            route.path
        );
        assert_eq!(operation["requestBody"].is_object(), route.body, "{}", route.path);
        let responses = operation["responses"].as_object().unwrap();
        assert_eq!(
            responses.contains_key("401"),
            route.auth != Auth::Public || route.errors.iter().any(|code| code.status() == 401),
            "{}",
            route.path
        );
        for code in route.errors {
            let text = responses[code.status().as_str()]["description"].as_str().unwrap();
            assert!(
                text.contains(code.as_str()),
                "{} lacks {}",
                route.path,
                code.as_str()
            );
        }
        for (status, response) in responses {
            assert!(
                response["headers"]["X-Request-Id"].is_object(),
                "{} {status}",
                route.path
            );
            if status == "503" || status == "429" {
                assert!(
                    response["headers"]["Retry-After"].is_object(),
                    "{} {status}",
                    route.path
                );
            }
        }
    }
    let there: usize = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .map(|item| item.as_object().unwrap().len())
        .sum();
    assert_eq!(there, known);
    assert_eq!(
        document["components"]["securitySchemes"]["bearer"]["scheme"],
        "bearer"
    );
}
