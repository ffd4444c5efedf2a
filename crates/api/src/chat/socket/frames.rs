//! What the server says. Each function gives the whole frame as it is on the wire, to be shared by all who receive it.

use super::outbox::text_frame;
use super::protocol::RequestId;
use crate::error::{ApiError, Class};
use actix_web::ResponseError as _;
use actix_web::http::header::RETRY_AFTER;
use bytes::Bytes;
use gravity_domain::chat::{EventCursor, Message, Signal, UserEvent, message_new};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Write as _;
use uuid::Uuid;

/// Whether Postgres answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It does.
    Normal,
    /// It does not: messages are accepted, and stored later.
    Degraded,
}

/// What became of a wish to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ResumeStatus {
    /// Everything that was missed follows.
    Ok,
    /// It cannot be told what was missed: the client reloads.
    Reset,
    /// The log cannot be read now; what was missed follows when it can.
    Deferred,
    /// There was no such wish.
    None,
}

/// What a client may do.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatedLimits {
    pub(crate) max_frame_bytes: usize,
    pub(crate) max_content_characters: usize,
    pub(crate) messages_per_minute: u32,
    pub(crate) max_unanswered: usize,
    pub(crate) typing_every_ms: u64,
    pub(crate) resume_events: usize,
}

pub(crate) struct Ready<'a> {
    pub(crate) user_id: UserId,
    pub(crate) ping_every_ms: u64,
    pub(crate) limits: StatedLimits,
    pub(crate) mode: Mode,
    pub(crate) status: ResumeStatus,
    pub(crate) replaying: usize,
    pub(crate) cursor: Option<EventCursor>,
    pub(crate) id: Option<&'a RequestId>,
}

/// What became of a message, for those who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AckStatus {
    Accepted,
    Stored,
    Rejected,
}

/// What `message.ack` tells of a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Acked {
    #[serde(rename = "id")]
    pub(crate) message_id: ChatMessageId,
    pub(crate) client_message_id: Uuid,
    pub(crate) conversation_id: ConversationId,
    pub(crate) sender_id: UserId,
    pub(crate) seq: Option<u64>,
    pub(crate) created_at: Timestamp,
}

impl From<&Message> for Acked {
    fn from(message: &Message) -> Self {
        Self {
            message_id: message.id,
            client_message_id: message.client_message_id,
            conversation_id: message.conversation_id,
            sender_id: message.sender_id,
            seq: message.seq,
            created_at: message.created_at,
        }
    }
}

impl Acked {
    /// What the entry of a log tells, if it is a message's.
    pub(crate) fn of_event(event: &UserEvent) -> Option<Self> {
        #[derive(Deserialize)]
        struct Payload {
            message: Acked,
        }
        let payload: Payload = serde_json::from_str(&event.payload).ok()?;
        Some(payload.message)
    }
}

fn frame(kind: &'static str, id: Option<&RequestId>, cursor: Option<EventCursor>, payload: &str) -> Bytes {
    let mut text = String::with_capacity(payload.len() + 96);
    text.push_str("{\"type\":\"");
    text.push_str(kind);
    text.push('"');
    // Writing into a string does not fail.
    if let Some(id) = id {
        let _ = write!(text, ",\"id\":{}", id.as_json());
    }
    if let Some(cursor) = cursor {
        let _ = write!(text, ",\"cursor\":\"{cursor}\"");
    }
    text.push_str(",\"payload\":");
    text.push_str(payload);
    text.push('}');
    metrics::counter!("gravity_chat_frames_total", "type" => kind, "direction" => "out").increment(1);
    text_frame(text.as_bytes())
}

fn told(kind: &'static str, id: Option<&RequestId>, payload: &Value) -> Bytes {
    frame(kind, id, None, &payload.to_string())
}

/// `ready`.
pub(crate) fn ready(ready: &Ready<'_>) -> Bytes {
    let payload = json!({
        "userId": ready.user_id,
        "pingEveryMs": ready.ping_every_ms,
        "limits": ready.limits,
        "mode": ready.mode,
        "resume": {"status": ready.status, "replaying": ready.replaying},
    });
    frame("ready", ready.id, ready.cursor, &payload.to_string())
}

/// An entry of the log, for those who are where it follows: `before`.
pub(crate) fn event(event: &UserEvent, before: EventCursor) -> Bytes {
    let cursor = EventCursor {
        offset: event.offset,
        ..before
    };
    frame(event.kind.as_str(), None, Some(cursor), &event.payload)
}

/// `stream.changed`: the user's stream is at this version. For those who do not follow the log yet, without a cursor.
pub(crate) fn stream_changed(version: u64, cursor: Option<EventCursor>) -> Bytes {
    let payload = json!({"version": version});
    frame("stream.changed", None, cursor, &payload.to_string())
}

/// `message.ack` of a message that was accepted or stored.
pub(crate) fn ack(
    acked: &Acked,
    status: AckStatus,
    id: Option<&RequestId>,
    cursor: Option<EventCursor>,
) -> Bytes {
    let payload = json!({
        "clientMessageId": acked.client_message_id,
        "messageId": acked.message_id,
        "conversationId": acked.conversation_id,
        "status": status,
        "seq": acked.seq,
        "createdAt": acked.created_at,
    });
    frame("message.ack", id, cursor, &payload.to_string())
}

/// `message.ack` of a message that was refused.
pub(crate) fn rejected(
    client_message_id: Option<Uuid>,
    message_id: Option<ChatMessageId>,
    error: &Value,
    id: Option<&RequestId>,
) -> Bytes {
    let payload = json!({
        "clientMessageId": client_message_id,
        "messageId": message_id,
        "status": AckStatus::Rejected,
        "seq": null,
        "createdAt": null,
        "error": error,
    });
    told("message.ack", id, &payload)
}

/// Something that is in no log.
pub(crate) fn signal(signal: &Signal) -> Bytes {
    match signal {
        Signal::Accepted(message) => frame("message.new", None, None, &message_new(message)),
        Signal::Rejected {
            client_message_id,
            message_id,
            code,
        } => {
            let error = trouble(
                code,
                "The message was refused when it was to be stored.",
                false,
                None,
            );
            rejected(Some(*client_message_id), Some(*message_id), &error, None)
        }
        Signal::Typing {
            conversation_id,
            user_id,
        } => told(
            "typing",
            None,
            &json!({"conversationId": conversation_id, "userId": user_id}),
        ),
        Signal::Presence {
            user_id,
            status,
            last_seen,
        } => told(
            "presence",
            None,
            &json!({"userId": user_id, "status": status, "lastSeen": last_seen}),
        ),
        Signal::StreamChanged { version } => stream_changed(*version, None),
    }
}

/// `pong`.
pub(crate) fn pong(id: Option<&RequestId>, top: Option<EventCursor>, now: Timestamp) -> Bytes {
    let top = top.map(|cursor| cursor.to_string());
    told("pong", id, &json!({"top": top, "serverTime": now}))
}

/// `auth.refreshed`: until when the socket is authenticated now.
pub(crate) fn refreshed(id: Option<&RequestId>, expires_at: Timestamp) -> Bytes {
    told("auth.refreshed", id, &json!({"expiresAt": expires_at}))
}

/// `auth.expiring`.
pub(crate) fn expiring(expires_at: Timestamp) -> Bytes {
    told("auth.expiring", None, &json!({"expiresAt": expires_at}))
}

/// `message.read` was taken: the answer to a request with an id.
pub(crate) fn read_done(
    id: &RequestId,
    conversation_id: ConversationId,
    user_id: UserId,
    read_seq: u64,
) -> Bytes {
    let payload = json!({"conversationId": conversation_id, "userId": user_id, "readSeq": read_seq});
    told("message.read", Some(id), &payload)
}

/// `system.status`.
pub(crate) fn status(mode: Mode, since: Timestamp) -> Bytes {
    told("system.status", None, &json!({"mode": mode, "since": since}))
}

/// `resync`, with a new place in the log where that is known.
pub(crate) fn resync(reason: &str, cursor: Option<EventCursor>) -> Bytes {
    frame("resync", None, cursor, &json!({"reason": reason}).to_string())
}

/// `goaway`.
pub(crate) fn goaway(reconnect_after_ms: u64) -> Bytes {
    told("goaway", None, &json!({"reconnectAfterMs": reconnect_after_ms}))
}

/// `error`.
pub(crate) fn error(id: Option<&RequestId>, error: &Value) -> Bytes {
    told("error", id, error)
}

/// The body of an error.
pub(crate) fn trouble(code: &str, message: &str, retryable: bool, retry_after_ms: Option<u64>) -> Value {
    json!({"code": code, "message": message, "retryable": retryable, "retryAfterMs": retry_after_ms})
}

/// The body of an error of the API: nothing internal is in it.
pub(crate) fn trouble_of(error: &ApiError) -> Value {
    let code = error.code();
    let shown = error.to_string();
    let message = shown
        .strip_prefix(code.as_str())
        .and_then(|rest| rest.strip_prefix(": "))
        .unwrap_or(code.title());
    let retryable = matches!(code.class(), Class::Limit | Class::Unavailable);
    let seconds = retryable.then(|| error.error_response()).and_then(|response| {
        let header = response.headers().get(RETRY_AFTER)?;
        header.to_str().ok()?.parse::<u64>().ok()
    });
    trouble(code.as_str(), message, retryable, seconds.map(|s| s * 1_000))
}
