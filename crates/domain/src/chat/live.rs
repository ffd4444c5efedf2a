//! What goes to sockets at once: entries of logs, and what is told only to those who are there.

use super::event::UserEvent;
use super::message::Message;
use super::presence::PresenceStatus;
use crate::clock::Timestamp;
use crate::id::{ChatMessageId, ConversationId, UserId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What nodes tell each other, and their own hub, about one user. A hint may be lost, repeated or reordered without harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// Entries of the user's log, in order, in this epoch.
    Events(Vec<UserEvent>),
    /// Something that is in no log.
    Signal(Signal),
    /// The log may have entries that nobody told of: it is to be looked at.
    Missed,
}

/// What is told to the sockets that are there, and is in no log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// `message.new` of a message that is accepted and not stored yet.
    Accepted(Message),
    /// `message.ack` with `rejected`: an accepted message was set aside without reaching Postgres.
    Rejected {
        /// The client's id for it.
        client_message_id: Uuid,
        /// The message.
        message_id: ChatMessageId,
        /// Why, as an error code of the API.
        code: String,
    },
    /// Somebody is typing.
    Typing {
        /// Where.
        conversation_id: ConversationId,
        /// Who.
        user_id: UserId,
    },
    /// Somebody came or went.
    Presence {
        /// Who.
        user_id: UserId,
        /// Which.
        status: PresenceStatus,
        /// For `offline`: when last here.
        last_seen: Option<Timestamp>,
    },
    /// The user's stream is at this version.
    StreamChanged {
        /// The version.
        version: u64,
    },
}
