//! The log of a user: what sockets deliver, and what a client that was away replays.
//!
//! Offsets of a user count from 1 without gaps, in commit order. A cursor names an offset in an epoch; a log that begins anew
//! (a database restored from a backup) gets another epoch, and cursors of the old one lead to a reset, never to a gap.
//!
//! That the user's stream has changed is in no log: only its newest version matters, so a cursor says which one its client was
//! told of, and whoever resumes with an older one is told the newest.

use crate::id::UserId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// What happened. The name is the frame's `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// A message was stored: `{message, durability}`.
    #[serde(rename = "message.new")]
    MessageNew,
    /// A message that this user sent was refused when it was to be stored: `{clientMessageId, messageId, status: rejected, …}`.
    #[serde(rename = "message.ack")]
    MessageAck,
    /// The other has read: `{conversationId, userId, readSeq}`.
    #[serde(rename = "message.read")]
    MessageRead,
    /// Counts of a conversation: `{conversationId, unread, lastSeq, readSeq, asOfSeq}`.
    #[serde(rename = "conversation.updated")]
    ConversationUpdated,
    /// Who blocks whom: `{userId, username, blockedByMe, blockedByThem}`.
    #[serde(rename = "block.updated")]
    BlockUpdated,
    /// A notice for the user.
    #[serde(rename = "notification.new")]
    NotificationNew,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::MessageNew,
        Self::MessageAck,
        Self::MessageRead,
        Self::ConversationUpdated,
        Self::BlockUpdated,
        Self::NotificationNew,
    ];

    /// The frame's `type`, and the name in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MessageNew => "message.new",
            Self::MessageAck => "message.ack",
            Self::MessageRead => "message.read",
            Self::ConversationUpdated => "conversation.updated",
            Self::BlockUpdated => "block.updated",
            Self::NotificationNew => "notification.new",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One entry of a user's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserEvent {
    /// Whose log.
    pub user_id: UserId,
    /// Its place, from 1, without gaps.
    pub offset: u64,
    /// What happened.
    pub kind: EventKind,
    /// The frame's `payload`: JSON. What is told at once and what is replayed are the same, for it is as Postgres keeps it, or
    /// written of what Postgres keeps ([`LoggedMessage`](super::logged::LoggedMessage)).
    #[serde(with = "shared_text")]
    pub payload: Arc<str>,
}

mod shared_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::sync::Arc;

    pub(super) fn serialize<S: Serializer>(text: &Arc<str>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(from).map(Arc::from)
    }
}

/// Where a client is in its log. Clients store the text and give it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EventCursor {
    /// Of which life of the log.
    pub epoch: u64,
    /// The last entry seen; 0 before the first.
    pub offset: u64,
    /// The version of the user's stream that was told; 0 before the first.
    pub stream: u64,
}

/// A text that is no cursor of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the cursor is not one this API gave out")]
pub struct InvalidEventCursor;

impl fmt::Display for EventCursor {
    /// `<epoch>.<offset>.<stream>`, all in lower-case hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:x}", self.epoch, self.offset, self.stream)
    }
}

impl FromStr for EventCursor {
    type Err = InvalidEventCursor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, rest) = text.split_once('.').ok_or(InvalidEventCursor)?;
        let (offset, stream) = rest.split_once('.').ok_or(InvalidEventCursor)?;
        Ok(Self {
            epoch: number(epoch)?,
            offset: number(offset)?,
            stream: number(stream)?,
        })
    }
}

fn number(text: &str) -> Result<u64, InvalidEventCursor> {
    let is_ours = text
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && (text == "0" || !text.starts_with('0'));
    if !is_ours {
        return Err(InvalidEventCursor);
    }
    u64::from_str_radix(text, 16).map_err(|_| InvalidEventCursor)
}

/// The end of a user's log: the version of all that the user sees of chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// Of which life of the log.
    pub epoch: u64,
    /// The newest entry; 0 before the first.
    pub offset: u64,
}

impl From<EventCursor> for LogHead {
    fn from(end: EventCursor) -> Self {
        Self {
            epoch: end.epoch,
            offset: end.offset,
        }
    }
}

/// What a client has missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogReplay {
    /// Everything after the cursor, in order, without gaps, up to `head`.
    Events {
        /// The entries.
        events: Vec<UserEvent>,
        /// The end of the log, and the version of the stream, in the same snapshot.
        head: EventCursor,
    },
    /// Too much, no longer kept, of another epoch, or beyond the end: the client begins anew from `head`.
    Reset {
        /// The end of the log, and the version of the stream.
        head: EventCursor,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_cursor_leads_back_to_its_place(epoch in any::<u64>(), offset in any::<u64>(), stream in any::<u64>()) {
            let cursor = EventCursor { epoch, offset, stream };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn a_text_that_is_taken_is_the_one_that_is_given_out(text in "[0-9a-f.+A-Z-]{0,20}") {
            if let Ok(cursor) = text.parse::<EventCursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }

    #[test]
    fn kinds_are_found_by_the_names_of_their_frames() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::parse(kind.as_str()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
