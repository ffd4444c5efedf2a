//! A message in a log: one row, two entries.
//!
//! A stored message changes two things that clients show, the messages of a conversation and its counts, so it is two entries
//! with an offset each. It is the hottest write there is, so they are kept as one row, which names the message (that never
//! changes) and holds the counts. What is told at once and what is replayed are both rendered here.

use super::event::{EventKind, UserEvent};
use super::message::Message;
use crate::clock::Timestamp;
use crate::id::{ChatMessageId, ConversationId, UserId};
use serde::Serialize;
use std::sync::Arc;
use uuid::Uuid;

/// Where a stored message is in somebody's log, and how that one's counts were then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggedMessage {
    /// Whose log.
    pub user_id: UserId,
    /// Of its `conversation.updated`; its `message.new` is at the one before.
    pub offset: u64,
    /// Messages of the other that this one has not read.
    pub unread: u64,
    /// Up to where this one has read.
    pub read_seq: u64,
}

impl LoggedMessage {
    /// Its entries, in their order. `shown` is the message's [`message_new`], which is the same to both who take part.
    pub fn events(&self, message: &Message, shown: &Arc<str>) -> [UserEvent; 2] {
        let seq = message.seq.unwrap_or_default();
        let counts = Counts {
            conversation_id: message.conversation_id,
            unread: self.unread,
            last_seq: seq,
            read_seq: self.read_seq,
            as_of_seq: seq,
        };
        let event = |offset, kind, payload| UserEvent {
            user_id: self.user_id,
            offset,
            kind,
            payload,
        };
        [
            event(
                self.offset.saturating_sub(1),
                EventKind::MessageNew,
                Arc::clone(shown),
            ),
            event(self.offset, EventKind::ConversationUpdated, written(&counts)),
        ]
    }
}

/// The payload of `message.new`: `{message, durability}`.
pub fn message_new(message: &Message) -> Arc<str> {
    let durability = message.durability();
    let shown = Shown {
        id: message.id,
        conversation_id: message.conversation_id,
        seq: message.seq,
        sender_id: message.sender_id,
        client_message_id: message.client_message_id,
        content: message.content.as_str(),
        created_at: message.created_at,
        durability,
    };
    written(&New {
        message: shown,
        durability,
    })
}

fn written(payload: &impl Serialize) -> Arc<str> {
    let text = serde_json::to_string(payload).expect("texts and numbers can be written as JSON");
    Arc::from(text)
}

#[derive(Serialize)]
struct New<'a> {
    message: Shown<'a>,
    durability: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: ChatMessageId,
    conversation_id: ConversationId,
    seq: Option<u64>,
    sender_id: UserId,
    client_message_id: Uuid,
    content: &'a str,
    created_at: Timestamp,
    durability: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    conversation_id: ConversationId,
    unread: u64,
    last_seq: u64,
    read_seq: u64,
    as_of_seq: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Content;
    use serde_json::{Value, json};

    fn message(seq: Option<u64>) -> Message {
        let sender = UserId(Uuid::from_u128(1));
        Message {
            id: ChatMessageId(Uuid::from_u128(7)),
            conversation_id: ConversationId(Uuid::from_u128(5)),
            seq,
            sender_id: sender,
            client_message_id: Uuid::from_u128(9),
            content: Content::parse("a \"quote\",\na line").unwrap(),
            created_at: Timestamp::from_millis(1_700_000_000_120),
            recipient: None,
            events: Vec::new(),
            is_repeat: false,
        }
    }

    fn parsed(payload: &str) -> Value {
        serde_json::from_str(payload).unwrap()
    }

    #[test]
    fn a_stored_message_is_two_entries_at_offsets_that_follow_each_other() {
        let logged = LoggedMessage {
            user_id: UserId(Uuid::from_u128(2)),
            offset: 12,
            unread: 3,
            read_seq: 1,
        };
        let message = message(Some(4));
        let [new, counts] = logged.events(&message, &message_new(&message));
        assert_eq!(
            [
                (new.user_id, new.offset, new.kind),
                (counts.user_id, counts.offset, counts.kind)
            ],
            [
                (logged.user_id, 11, EventKind::MessageNew),
                (logged.user_id, 12, EventKind::ConversationUpdated)
            ]
        );
        let shown = json!({
            "id": "00000000-0000-0000-0000-000000000007",
            "conversationId": "00000000-0000-0000-0000-000000000005",
            "seq": 4,
            "senderId": "00000000-0000-0000-0000-000000000001",
            "clientMessageId": "00000000-0000-0000-0000-000000000009",
            "content": "a \"quote\",\na line",
            "createdAt": "2023-11-14T22:13:20.120Z",
            "durability": "stored",
        });
        assert_eq!(
            parsed(&new.payload),
            json!({"message": shown, "durability": "stored"})
        );
        assert_eq!(
            parsed(&counts.payload),
            json!({"conversationId": "00000000-0000-0000-0000-000000000005", "unread": 3, "lastSeq": 4, "readSeq": 1, "asOfSeq": 4})
        );
    }

    #[test]
    fn a_message_that_is_accepted_only_has_no_place_yet() {
        let payload = parsed(&message_new(&message(None)));
        assert_eq!(payload["message"]["seq"], Value::Null);
        assert_eq!(payload["message"]["durability"], "accepted");
        assert_eq!(payload["durability"], "accepted");
    }
}
