//! The socket of chat, from outside.

mod client;
mod dark;
mod entrance;
#[path = "../../../../api/src/chat/socket/tests/spec.rs"]
mod spec;
mod talk;

use crate::chat;
use client::Client;
use gravity_test_support::actors::Actor;
use serde_json::Value;

/// The id of the conversation of `actor` with `other`.
async fn conversation(actor: &Actor, other: &str) -> String {
    let path = chat::talk(actor, other).await;
    path.rsplit('/').next().expect("an id").to_owned()
}

/// The contents of the messages that came.
fn contents(frames: &[Value]) -> Vec<&str> {
    let of = |frame: &'_ Value| frame["type"] == "message.new";
    let messages = frames.iter().filter(|frame| of(frame));
    messages
        .filter_map(|frame| frame["payload"]["message"]["content"].as_str())
        .collect()
}
