//! The description of the API: valid, complete, and the one that is checked in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gravity_api::routes::{Auth, routes};
use gravity_test_support::calls::Answer;
use serde_json::{Value, json};

use crate::{setup, start};

const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

async fn document() -> Value {
    start()
        .await
        .nobody()
        .get("/openapi.json")
        .await
        .must_be(200)
        .json()
}

/// Every operation of the document, as `GET /path`.
fn operations(document: &Value) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            if let Some(operation) = item.get(method) {
                all.insert(format!("{} {path}", method.to_uppercase()), operation.clone());
            }
        }
    }
    all
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found.insert(reference.clone());
            }
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_is_sound() {
    let document = document().await;
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3.1"),
        "{}",
        document["openapi"]
    );
    assert!(!document["info"]["title"].as_str().unwrap().is_empty());
    assert!(!document["info"]["version"].as_str().unwrap().is_empty());
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference
            .strip_prefix('#')
            .expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = BTreeSet::new();
    for (call, operation) in operations(&document) {
        let id = operation["operationId"]
            .as_str()
            .unwrap_or_else(|| panic!("{call} has no operationId"));
        assert!(ids.insert(id.to_owned()), "{id} is there twice");
        assert!(
            operation["summary"].is_string() || operation["description"].is_string(),
            "{call} says nothing"
        );
        let path = call.split(' ').nth(1).unwrap();
        let named: BTreeSet<&str> = path
            .split('{')
            .skip(1)
            .map(|rest| rest.split('}').next().unwrap())
            .collect();
        let described: BTreeSet<&str> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(named, described, "{call}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(
                !response["description"].as_str().unwrap_or_default().is_empty()
                    || response.get("$ref").is_some()
            );
            assert!(
                status.parse::<u16>().is_ok() || status == "default",
                "{call}: {status}"
            );
        }
    }
}

#[tokio::test]
async fn every_route_is_in_the_document_and_nothing_else() {
    let document = document().await;
    let described: BTreeSet<String> = operations(&document).into_keys().collect();
    let served: BTreeSet<String> = routes()
        .iter()
        .filter(|route| !route.path.starts_with("/docs") && route.path != "/openapi.json")
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    let described: BTreeSet<String> = described
        .into_iter()
        .filter(|call| !call.contains("/docs") && !call.ends_with("/openapi.json"))
        .collect();
    assert_eq!(served, described);
}

#[tokio::test]
async fn the_document_says_who_may_call_and_how_it_fails() {
    let document = document().await;
    let operations = operations(&document);
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    assert!(
        schemes.values().any(|scheme| scheme["scheme"] == "bearer"),
        "{schemes:?}"
    );
    for route in routes() {
        let Some(operation) = operations.get(&format!("{} {}", route.method, route.path)) else {
            continue;
        };
        let security = operation.get("security").or(document.get("security"));
        let is_protected = security
            .and_then(Value::as_array)
            .is_some_and(|all| all.iter().any(|one| *one != json!({})));
        assert_eq!(
            is_protected,
            route.auth != Auth::Public,
            "{} {}",
            route.method,
            route.path
        );
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses
                .keys()
                .any(|status| status.starts_with('2') || status == "101"),
            "{}",
            route.path
        );
        if route.auth != Auth::Public {
            assert!(responses.contains_key("401"), "{}", route.path);
        }
        assert_eq!(
            responses.contains_key("413"),
            route.body,
            "{} {}",
            route.method,
            route.path
        );
        for code in route.errors {
            assert!(
                responses.contains_key(code.status().as_str()),
                "{} lacks {code:?}",
                route.path
            );
        }
    }
}

/// What an answer really looks like must be what the document says.
fn check(document: &Value, call: &str, answer: &Answer) {
    let operation = &operations(document)[call];
    let response = &operation["responses"][answer.status.to_string()];
    assert!(response.is_object(), "{call} does not tell of {}", answer.status);
    let response = resolve(document, response);
    let Some(content) = response.get("content").and_then(Value::as_object) else {
        assert!(answer.body.is_empty(), "{call} {} has a body", answer.status);
        return;
    };
    let kind = answer.must_header("content-type");
    let schema = &content
        .get(kind.split(';').next().unwrap())
        .unwrap_or_else(|| panic!("{call}: {kind}"))["schema"];
    fits(document, schema, &answer.json(), call);
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value.get("$ref").and_then(Value::as_str) {
        Some(reference) => document.pointer(&reference[1..]).unwrap(),
        None => value,
    }
}

/// A small judge of JSON Schema: types, required and known properties, items, choices.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolve(document, schema);
    for choice in ["oneOf", "anyOf"] {
        if let Some(choices) = schema.get(choice).and_then(Value::as_array) {
            let any = choices
                .iter()
                .any(|one| std::panic::catch_unwind(|| fits(document, one, value, at)).is_ok());
            assert!(any, "{at}: {value} is none of {schema}");
            return;
        }
    }
    for part in schema
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        fits_loosely(document, part, value, at);
    }
    fits_loosely(document, schema, value, at);
    if let (Some(object), Some(properties), None) = (
        value.as_object(),
        schema.get("properties").and_then(Value::as_object),
        schema.get("allOf"),
    ) {
        for name in object.keys() {
            assert!(properties.contains_key(name), "{at}.{name} is not described");
        }
    }
}

fn fits_loosely(document: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolve(document, schema);
    if let Some(kinds) = schema.get("type") {
        let kinds: Vec<&str> = match kinds {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            kind => kind.as_str().into_iter().collect(),
        };
        let is = |kind: &&str| match *kind {
            "null" => value.is_null(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{at}: unknown type {other}"),
        };
        assert!(kinds.iter().any(is), "{at}: {value} is no {kinds:?}");
    }
    if let Some(allowed) = schema.get("enum").and_then(Value::as_array) {
        assert!(allowed.contains(value), "{at}: {value} is none of {allowed:?}");
    }
    if let Some(object) = value.as_object() {
        for name in schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            assert!(
                object.contains_key(name.as_str().unwrap()),
                "{at} lacks {name}: {value}"
            );
        }
        for (name, property) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            if let Some(field) = object.get(name) {
                fits(document, property, field, &format!("{at}.{name}"));
            }
        }
    }
    for item in value.as_array().into_iter().flatten() {
        if let Some(items) = schema.get("items") {
            fits(document, items, item, &format!("{at}[]"));
        }
    }
}

#[tokio::test]
async fn answers_are_what_the_document_says() {
    let app = setup().private_redis().start().await;
    let document = app.nobody().get("/openapi.json").await.json();
    let (alice, nobody) = (app.alice(), app.nobody());
    let created = alice
        .post("/api/v1/tasks", json!({"title": "x", "description": "y"}))
        .await
        .must_be(201);
    let path = created.must_header("location");
    check(&document, "POST /api/v1/tasks", &created);
    check(
        &document,
        "POST /api/v1/tasks",
        &alice.post("/api/v1/tasks", json!({})).await,
    );
    check(
        &document,
        "POST /api/v1/tasks",
        &nobody.post("/api/v1/tasks", json!({})).await,
    );
    check(&document, "GET /api/v1/tasks", &alice.get("/api/v1/tasks").await);
    check(&document, "GET /api/v1/tasks/{id}", &alice.get(&path).await);
    check(
        &document,
        "PUT /api/v1/tasks/{id}",
        &alice.put(&path, json!({"title": "z"})).await,
    );
    let operation = format!("/api/v1/operations/{}", created.must_header("operation-id"));
    check(
        &document,
        "GET /api/v1/operations/{id}",
        &alice.get(&operation).await,
    );
    check(&document, "DELETE /api/v1/tasks/{id}", &alice.delete(&path).await);
    check(&document, "DELETE /api/v1/tasks/{id}", &alice.delete(&path).await);
    check(
        &document,
        "GET /api/v1/profile",
        &alice.get("/api/v1/profile").await,
    );
    check(
        &document,
        "PUT /api/v1/profile",
        &alice.put("/api/v1/profile", json!({"name": "z"})).await,
    );
    let account = json!({"username": "carol", "password": "correct horse", "email": "c@example.com"});
    check(
        &document,
        "POST /api/v1/auth/register",
        &nobody.post("/api/v1/auth/register", account).await.must_be(201),
    );
    let login = json!({"username": "carol", "password": "correct horse"});
    let tokens = nobody.post("/api/v1/auth/login", login).await.must_be(200);
    check(&document, "POST /api/v1/auth/login", &tokens);
    let carol = nobody.with_token(tokens.text_of("accessToken"));
    check(
        &document,
        "GET /api/v1/auth/sessions",
        &carol.get("/api/v1/auth/sessions").await,
    );
    let spend = json!({"refreshToken": tokens.text_of("refreshToken")});
    check(
        &document,
        "POST /api/v1/auth/refresh",
        &nobody.post("/api/v1/auth/refresh", spend).await.must_be(200),
    );
    check(
        &document,
        "GET /api/v1/admin/buffer",
        &app.admin().get("/api/v1/admin/buffer").await,
    );
    check(
        &document,
        "GET /api/v1/admin/dead-letters",
        &app.admin().get("/api/v1/admin/dead-letters").await,
    );
    for path in ["/live", "/ready", "/health"] {
        check(
            &document,
            &format!("GET {path}"),
            &nobody.get(path).await.must_be(200),
        );
    }
}

#[tokio::test]
async fn the_program_prints_what_the_server_serves_and_what_is_checked_in() {
    let app = start().await;
    let served = app.nobody().get("/openapi.json").await.must_be(200);
    assert_eq!(served.header("content-type"), Some("application/json"));
    let printed = app.command().arg("openapi").output().await.unwrap();
    assert!(
        printed.status.success(),
        "{}",
        String::from_utf8_lossy(&printed.stderr)
    );
    assert_eq!(
        served.text().trim(),
        String::from_utf8_lossy(&printed.stdout).trim()
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi.json");
    let kept = std::fs::read_to_string(file).expect("openapi.json is checked in");
    assert_eq!(kept.trim(), served.text().trim(), "run `cargo xtask openapi`");
}

#[tokio::test]
async fn the_page_that_browses_it_loads_nothing_from_elsewhere() {
    let app = start().await;
    assert_eq!(
        app.nobody().get("/docs").await.must_be(308).header("location"),
        Some("/docs/")
    );
    let page = app.nobody().get("/docs/").await.must_be(200);
    assert!(page.must_header("content-type").starts_with("text/html"));
    let text = page.text();
    assert!(!text.contains("https://") && !text.contains("http://"), "{text}");
    let assets = text
        .split(['"', '\''])
        .filter(|part| part.ends_with(".js") || part.ends_with(".css"));
    let mut found = 0;
    for asset in assets {
        app.nobody()
            .get(&format!("/docs/{}", asset.trim_start_matches("./")))
            .await
            .must_be(200);
        found += 1;
    }
    assert!(found >= 2, "{text}");
}
