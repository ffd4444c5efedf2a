//! The statements that apply messages, read marks and blocks (see [`crate::sync::statement`]).
//!
//! Each calls a function of the database, which takes its locks first and then sees, statement by statement, what was committed
//! before it got them. Columns: the word, what was appended to the logs of users, the state.
//!
//! All locks are taken in one order: conversations by id, then logs by user. A batch takes those of all its operations at its
//! beginning ([`Locks`]), so batches and direct writes never wait for each other in a circle.

use crate::postgres::QueryError;
use crate::postgres::values::{At, Stamp};
use crate::sync::statement::{Call, read_events, read_stamp, read_version};
use gravity_domain::chat::{BlockChange, BlockState, Content, Message, NewMessage, ReadMark, ReadMarker};
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use gravity_domain::sync::{Change, EntityState, Lww, Operation};
use std::collections::BTreeSet;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

const CHAT_MESSAGE_SEND: &str =
    "SELECT word, events, id, conversation_id, seq, sender_id, client_message_id, content,
        created_at, recipient, is_repeat
    FROM chat_message_send($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

/// The same of many that are accepted now, each parameter an array: one row for each, in their order.
const CHAT_MESSAGES_SEND: &str =
    "SELECT sent.word, sent.events, sent.id, sent.conversation_id, sent.seq, sent.sender_id, sent.client_message_id,
        sent.content, sent.created_at, sent.recipient, sent.is_repeat
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bytea[], $5::timestamptz[], $6::integer[], $7::bytea[],
            $8::jsonb[], $9::uuid[], $10::uuid[], $11::text[]) WITH ORDINALITY
        AS one (operation, message, sender, stamp, at, attempts, fingerprint, answer, conversation, client, content, place)
        LEFT JOIN LATERAL chat_message_send(operation, message, sender, stamp, at, true, attempts, fingerprint, answer,
            conversation, client, one.content) AS sent ON true
    ORDER BY place";

const CHAT_READ: &str = "SELECT word, events, conversation_id, user_id, read_seq, unread, last_seq, marked
    FROM chat_read($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

const CHAT_BLOCK: &str = "SELECT word, events, blocker, blocked, is_blocked, stamp
    FROM chat_block($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";

/// `$1` conversations, `$2` users.
pub(crate) const CHAT_LOCK: &str = "SELECT chat_lock($1, $2)";

/// What a batch locks before anything else.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    pub(crate) conversations: Vec<Uuid>,
    /// Besides those who take part in the conversations.
    pub(crate) users: Vec<Uuid>,
}

impl Locks {
    /// Those of these operations; `None` when none of them is about chat.
    pub(crate) fn of(operations: &[Operation]) -> Option<Self> {
        let (mut conversations, mut users) = (BTreeSet::new(), BTreeSet::new());
        for operation in operations {
            match &operation.change {
                Change::Message { message, .. } => {
                    conversations.insert(message.conversation_id.0);
                }
                Change::ReadMark(mark) => {
                    conversations.insert(mark.conversation_id.0);
                }
                Change::Block(change) => users.extend([operation.user_id.0, change.blocked.0]),
                Change::Profile(_) | Change::Task { .. } | Change::StreamAction(_) => {}
            }
        }
        if conversations.is_empty() && users.is_empty() {
            return None;
        }
        Some(Self {
            conversations: conversations.into_iter().collect(),
            users: users.into_iter().collect(),
        })
    }
}

/// The statement that sends `message`.
pub(crate) fn send<'a>(operation: &'a Operation, message: &'a NewMessage, direct: bool) -> Call<'a> {
    Call::new(
        "chat_message_send",
        CHAT_MESSAGE_SEND,
        read_message_state,
        operation,
        direct,
    )
    .with(message.conversation_id.0)
    .with(message.client_message_id)
    .with(message.content.as_str())
}

/// The statement that sends all these, as they are accepted.
pub(crate) fn send_all<'a>(messages: &[(&'a Operation, &'a NewMessage)]) -> Call<'a> {
    let replays = || messages.iter().map(|(operation, _)| operation.replay.as_ref());
    let uuids = |of: fn(&Operation, &NewMessage) -> Uuid| -> Vec<Uuid> {
        messages
            .iter()
            .map(|(operation, message)| of(operation, message))
            .collect()
    };
    let stamps = messages.iter().map(|(operation, _)| operation.accepted_at);
    let attempts = messages
        .iter()
        .map(|(operation, _)| operation.attempts.saturating_add(1));
    let fingerprints = replays().map(|replay| replay.map(|replay| &replay.fingerprint.0[..]));
    let answers = replays().map(|replay| replay.and_then(|replay| replay.accepted.as_ref()).map(Json));
    Call::of_many("chat_messages_send", CHAT_MESSAGES_SEND, read_message_state)
        .with(uuids(|operation, _| operation.id.0))
        .with(uuids(|operation, _| operation.entity_id()))
        .with(uuids(|operation, _| operation.user_id.0))
        .with(stamps.clone().map(Stamp).collect::<Vec<_>>())
        .with(stamps.map(|stamp| At(stamp.timestamp())).collect::<Vec<_>>())
        .with(
            attempts
                .map(|attempts| i32::try_from(attempts).unwrap_or(i32::MAX))
                .collect::<Vec<_>>(),
        )
        .with(fingerprints.collect::<Vec<_>>())
        .with(answers.collect::<Vec<_>>())
        .with(uuids(|_, message| message.conversation_id.0))
        .with(uuids(|_, message| message.client_message_id))
        .with(
            messages
                .iter()
                .map(|(_, message)| message.content.as_str())
                .collect::<Vec<_>>(),
        )
}

/// The statement that moves the user's marker.
pub(crate) fn mark<'a>(operation: &'a Operation, mark: &'a ReadMark, direct: bool) -> Call<'a> {
    Call::new("chat_read", CHAT_READ, read_marker_state, operation, direct)
        .with(mark.message_id.map(|id| id.0))
        .with(place(mark.up_to))
}

/// The statement that blocks or unblocks.
pub(crate) fn block<'a>(operation: &'a Operation, change: &'a BlockChange, direct: bool) -> Call<'a> {
    Call::new("chat_block", CHAT_BLOCK, read_block_state, operation, direct)
        .with(change.blocked.0)
        .with(change.is_blocked)
}

/// A place or an offset as Postgres counts.
pub(crate) fn place(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn read_message_state(row: &Row, at: usize) -> Result<EntityState, QueryError> {
    Ok(EntityState::Message(Message {
        recipient: row.try_get::<_, Option<Uuid>>(at + 8)?.map(UserId),
        events: read_events(row, at)?,
        is_repeat: row.try_get(at + 9)?,
        ..read_message(row, at + 1)?
    }))
}

/// The message whose first column is at `at`: id, conversation, seq, sender, client's id, content, time.
pub(crate) fn read_message(row: &Row, at: usize) -> Result<Message, QueryError> {
    Ok(Message {
        id: ChatMessageId(row.try_get(at)?),
        conversation_id: ConversationId(row.try_get(at + 1)?),
        seq: Some(read_version(row, at + 2)?),
        sender_id: UserId(row.try_get(at + 3)?),
        client_message_id: row.try_get(at + 4)?,
        content: Content::parse(row.try_get(at + 5)?).map_err(|_| QueryError::Row("messages.content"))?,
        created_at: row.try_get::<_, At>(at + 6)?.0,
        recipient: None,
        events: Vec::new(),
        is_repeat: false,
    })
}

fn read_marker_state(row: &Row, at: usize) -> Result<EntityState, QueryError> {
    Ok(EntityState::ReadMarker(ReadMarker {
        conversation_id: ConversationId(row.try_get(at + 1)?),
        user_id: UserId(row.try_get(at + 2)?),
        read_seq: read_version(row, at + 3)?,
        unread: read_version(row, at + 4)?,
        last_seq: read_version(row, at + 5)?,
        marked: read_stamp(row, at + 6)?,
        events: read_events(row, at)?,
    }))
}

fn read_block_state(row: &Row, at: usize) -> Result<EntityState, QueryError> {
    Ok(EntityState::Block(BlockState {
        blocker: UserId(row.try_get(at + 1)?),
        blocked: UserId(row.try_get(at + 2)?),
        is_blocked: Lww::new(row.try_get(at + 3)?, read_stamp(row, at + 4)?),
        events: read_events(row, at)?,
    }))
}
