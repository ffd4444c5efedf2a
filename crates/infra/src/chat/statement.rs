//! The statements that apply messages, read marks and blocks (see [`crate::sync::statement`]).
//!
//! Each calls a function of the database, which takes its locks first and then sees, statement by statement, what was committed
//! before it got them. Columns: the word, what was appended to the logs of users, the state; of a message, what its rows in the logs say.
//!
//! All locks are taken in one order: conversations by id, then logs by user. A batch takes those of all its operations at its
//! beginning ([`Locks`]), so batches and direct writes never wait for each other in a circle.

use crate::postgres::QueryError;
use crate::postgres::values::At;
use crate::sync::statement::{Call, column, read_events, read_stamp, read_version};
use gravity_domain::chat::{
    BlockChange, BlockState, Content, LoggedMessage, Message, NewMessage, ReadMark, ReadMarker, UserEvent,
    message_new,
};
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use gravity_domain::sync::{Change, EntityState, Lww, Operation};
use std::collections::BTreeSet;
use tokio_postgres::Row;
use uuid::Uuid;

/// Of many, each parameter but the sixth an array: one row for each, in their order.
const CHAT_MESSAGES_SEND: &str =
    "SELECT word, events, id, conversation_id, seq, sender_id, client_message_id, content,
        created_at, recipient, is_repeat, \"offset\", their_offset, unread, read_seq
    FROM chat_messages_send($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

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

/// The statement that sends all these, in this order. Each has an id of its own.
pub(crate) fn send<'a>(messages: &[(&'a Operation, &'a NewMessage)], direct: bool) -> Call<'a> {
    let operations = column(messages, |(operation, _)| *operation);
    let (read, created) = (read_message_state, Vec::new());
    Call::of_many(
        "chat_messages_send",
        CHAT_MESSAGES_SEND,
        read,
        &operations,
        created,
        direct,
    )
    .with(column(messages, |(_, message)| message.conversation_id.0))
    .with(column(messages, |(_, message)| message.client_message_id))
    .with(column(messages, |(_, message)| message.content.as_str()))
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
    let message = Message {
        recipient: row.try_get::<_, Option<Uuid>>(at + 8)?.map(UserId),
        is_repeat: row.try_get(at + 9)?,
        ..read_message(row, at + 1)?
    };
    let mut events = match message.recipient {
        Some(recipient) if !message.is_repeat => read_entries(row, at + 10, &message, recipient)?,
        _ => Vec::new(),
    };
    events.extend(read_events(row, at)?);
    Ok(EntityState::Message(Message { events, ..message }))
}

/// What the rows in both logs say: the sender's offset, who has read it and all before it, the receiver's, what that one has
/// not read, and up to where.
fn read_entries(
    row: &Row,
    at: usize,
    message: &Message,
    recipient: UserId,
) -> Result<Vec<UserEvent>, QueryError> {
    let sent = LoggedMessage {
        user_id: message.sender_id,
        offset: read_version(row, at)?,
        unread: 0,
        read_seq: message.seq.unwrap_or_default(),
    };
    let received = LoggedMessage {
        user_id: recipient,
        offset: read_version(row, at + 1)?,
        unread: read_version(row, at + 2)?,
        read_seq: read_version(row, at + 3)?,
    };
    let shown = message_new(message);
    let events = [sent, received].map(|logged| logged.events(message, &shown));
    Ok(events.into_iter().flatten().collect())
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
