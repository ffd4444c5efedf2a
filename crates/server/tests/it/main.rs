//! The server from outside: the real program, over HTTP, with a database of its own for each test.
//!
//! A file per feature; what all calls have in common is in `bodies`, `connection`, `conventions`, `idempotency` and `conditional`.
//! `outage`, `dead_letters` and `redis_outage` break what the server stands on.

mod auth;
mod bodies;
mod chat;
mod chat_socket;
mod conditional;
mod connection;
mod conventions;
mod coverage;
mod dead_letters;
mod graceful;
mod idempotency;
mod limits;
mod notifications;
mod openapi;
mod operators;
mod outage;
mod profile;
mod provider;
mod redis_outage;
mod stream;
mod stream_outage;
mod sync;
mod task;
mod tokens;
mod two_nodes;

use gravity_test_support::actors::Actor;
use gravity_test_support::builders;
use gravity_test_support::test_app::{Setup, TestApp};
use serde_json::Value;

/// A server to be set up.
fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_gravity"))
}

/// A server that finds everything up.
async fn start() -> TestApp {
    setup().start().await
}

/// A committed task; its id.
async fn new_task(actor: &Actor, title: &str) -> String {
    actor
        .post("/api/v1/tasks", builders::task(title))
        .await
        .must_be(201)
        .id()
}

/// A buffered task; its id.
async fn buffered_task(actor: &Actor, title: &str) -> String {
    actor
        .post("/api/v1/tasks", builders::task(title))
        .await
        .must_be(202)
        .id()
}

/// All of someone's tasks, newest first, however many pages they fill.
async fn all_tasks(actor: &Actor) -> Vec<Value> {
    let mut all = Vec::new();
    let mut query = "?limit=100".to_owned();
    loop {
        let page = actor
            .get(&format!("/api/v1/tasks{query}"))
            .await
            .must_be(200)
            .json();
        all.extend(page["data"].as_array().expect("a list").clone());
        match page["meta"]["nextCursor"].as_str() {
            Some(cursor) => query = format!("?limit=100&cursor={cursor}"),
            None => return all,
        }
    }
}

/// The titles of all of someone's tasks, newest first.
async fn titles(actor: &Actor) -> Vec<String> {
    let text = |task: &Value| task["title"].as_str().expect("a title").to_owned();
    all_tasks(actor).await.iter().map(text).collect()
}
