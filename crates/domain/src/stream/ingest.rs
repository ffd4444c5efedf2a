//! What services feed into streams.

use super::item::{ExternalId, ItemPriority, ItemTitle, PersonName, Snippet, Source};
use super::message::{ContentType, MessageBody, SenderType};
use crate::clock::Timestamp;
use crate::id::{ItemId, UserId};
use crate::profile::AvatarUrl;
use serde_json::Value;

/// What names an item outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ItemKey {
    /// The owner.
    pub user_id: UserId,
    /// Where it comes from.
    pub source: Source,
    /// What the source calls it.
    pub external_id: ExternalId,
}

impl ItemKey {
    /// The item's id.
    pub fn item_id(&self) -> ItemId {
        ItemId::of(self.user_id, self.source.as_str(), self.external_id.as_str())
    }
}

/// Flags as the source sees them; an absent one keeps its value (a new item is unread, and not archived).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// Whether it is unread.
    pub is_unread: Option<bool>,
    /// Whether it is archived.
    pub is_archived: Option<bool>,
}

/// Somebody who takes part, as the source tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPerson {
    /// What the source calls them; without it the name stands for the person.
    pub external_id: Option<ExternalId>,
    /// What they are called.
    pub name: PersonName,
    /// Their picture.
    pub avatar_url: Option<AvatarUrl>,
}

/// A message, as the source tells. Merged by its external id.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    /// What the source calls it.
    pub external_id: ExternalId,
    /// What the source calls its sender.
    pub sender_external_id: Option<ExternalId>,
    /// What the sender is called.
    pub sender_name: Option<PersonName>,
    /// What the sender is.
    pub sender_type: SenderType,
    /// What it holds.
    pub content_type: ContentType,
    /// Its text.
    pub content: Option<MessageBody>,
    /// Its HTML, sanitised.
    pub full_content_html: Option<String>,
    /// When it was sent.
    pub timestamp: Timestamp,
    /// Checked JSON of the documented shape.
    pub event_details: Option<Value>,
    /// The same.
    pub social_details: Option<Value>,
    /// The same.
    pub attachments: Option<Value>,
    /// The same.
    pub ai_insights: Option<Value>,
}

/// An item, as the source tells.
#[derive(Debug, Clone, PartialEq)]
pub struct NewItem {
    /// Its name outside.
    pub key: ItemKey,
    /// What it is about.
    pub title: ItemTitle,
    /// How much it matters.
    pub priority: ItemPriority,
    /// When it happened.
    pub timestamp: Timestamp,
    /// Its flags.
    pub flags: Flags,
    /// Its first words.
    pub snippet: Option<Snippet>,
    /// Who takes part, merged by external id; absent keeps those there are. At most 50.
    pub participants: Vec<NewPerson>,
    /// Its messages, merged by external id; those there are and not named stay. At most 200.
    pub messages: Vec<NewMessage>,
}

/// What an ingest did to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemChange {
    /// It is new (or back after a removal).
    Created,
    /// Something of it is different.
    Updated,
    /// Nothing is different, and its user's version stays.
    Unchanged,
}

/// A user whose version was raised, and to what.
pub type Raised = (UserId, u64);

/// What a batch did, in the order of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ingested {
    /// Each item.
    pub changes: Vec<(ItemId, ItemChange)>,
    /// The version of every user named in the batch, raised or not, each once.
    pub versions: Vec<Raised>,
}

/// What a removal did, in the order of the batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// True for an item that was there.
    pub removed: Vec<bool>,
    /// The version of every user named in the batch, raised or not, each once.
    pub versions: Vec<Raised>,
}
