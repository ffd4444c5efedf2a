//! A message of an item.

use super::item::PersonName;
use crate::clock::Timestamp;
use crate::id::{MessageId, PersonId};
use crate::page::PageKey;
use crate::text::{long_text, text_type};
use serde::{Deserialize, Serialize};
use serde_json::Value;

text_type!(
    /// The text of a message: 0..=100,000 code points.
    MessageBody,
    |raw| long_text(raw, 100_000)
);

/// Who sent a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SenderType {
    /// The owner of the stream.
    User,
    /// Somebody else.
    Other,
    /// A machine.
    System,
}

impl SenderType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::User, Self::Other, Self::System];

    /// The name in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Other => "other",
            Self::System => "system",
        }
    }

    /// The type of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What a message holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContentType {
    /// Words.
    Text,
    /// Something with a time and a place.
    Event,
    /// Something published.
    Social,
}

impl ContentType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::Text, Self::Event, Self::Social];

    /// The name in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Event => "event",
            Self::Social => "social",
        }
    }

    /// The type of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One message. The four details are JSON of the documented shapes, checked when ingested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Derived from the item and the external id.
    pub id: MessageId,
    /// Who sent it, when the source says.
    pub sender_id: Option<PersonId>,
    /// What they are called.
    pub sender_name: Option<PersonName>,
    /// What they are.
    pub sender_type: SenderType,
    /// What it holds.
    pub content_type: ContentType,
    /// Its text.
    pub content: Option<MessageBody>,
    /// Its HTML, sanitised when ingested.
    pub full_content_html: Option<String>,
    /// When it was sent.
    pub timestamp: Timestamp,
    /// `eventDetails` as ingested.
    pub event_details: Option<Value>,
    /// `socialDetails` as ingested.
    pub social_details: Option<Value>,
    /// `attachments` as ingested.
    pub attachments: Option<Value>,
    /// `aiInsights` as ingested.
    pub ai_insights: Option<Value>,
}

impl Message {
    /// Its place in its item's conversation.
    pub fn page_key(&self) -> PageKey {
        PageKey {
            at: self.timestamp,
            id: self.id.0,
        }
    }
}
