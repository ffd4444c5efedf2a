//! The stream as JSON.

use gravity_domain::clock::Timestamp;
use gravity_domain::id::ItemId;
use gravity_domain::page::PageKey;
use gravity_domain::stream::{Changes, Item, Message, MessageBody, Person, PersonName, Snippet, StreamPage};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// How much an item matters.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemPriorityName {
    /// Now.
    High,
    /// Today.
    Medium,
    /// Some day.
    Low,
}

/// Which part of a stream.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamFilterName {
    /// What is not archived.
    All,
    /// What is unread and not archived.
    Unread,
    /// What is archived.
    Archived,
}

/// Who sent a message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SenderTypeName {
    /// The owner of the stream.
    User,
    /// Somebody else.
    Other,
    /// A machine.
    System,
}

/// What a message holds.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContentTypeName {
    /// Words.
    Text,
    /// Something with a time and a place.
    Event,
    /// Something published.
    Social,
}

/// Somebody who takes part in an item.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PersonView<'a> {
    /// The person, as this stream's source knows them; no user.
    pub id: Uuid,
    /// What they are called.
    #[schema(example = "Ada")]
    pub name: &'a str,
    /// Their picture.
    #[schema(required = true, format = "uri")]
    pub avatar_url: Option<&'a str>,
}

impl<'a> PersonView<'a> {
    fn of(person: &'a Person) -> Self {
        Self {
            id: person.id.0,
            name: person.name.as_str(),
            avatar_url: person.avatar_url.as_ref().map(|url| url.as_str()),
        }
    }
}

/// One thing that needs attention.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PriorityItem<'a> {
    /// Its id.
    pub id: Uuid,
    /// What it is about.
    #[schema(example = "Review of the budget")]
    pub title: &'a str,
    /// Where it comes from: `email`, `calendar`, `social`, `chat`, `tasks`, or any other.
    #[schema(example = "email")]
    pub source: &'a str,
    /// How much it matters.
    #[schema(value_type = ItemPriorityName)]
    pub priority: &'static str,
    /// Whether it is unread.
    pub is_unread: bool,
    /// Whether it is put away.
    pub is_archived: bool,
    /// Its first words.
    #[schema(required = true)]
    pub snippet: Option<&'a str>,
    /// When it happened, as its source says. The list is in this order.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// Who takes part, in the source's order.
    pub participants: Vec<PersonView<'a>>,
    /// The version of the stream at which it was changed last.
    pub version: u64,
}

impl<'a> PriorityItem<'a> {
    /// `item` as its owner sees it.
    pub fn of(item: &'a Item) -> Self {
        Self {
            id: item.id.0,
            title: item.title.as_str(),
            source: item.source.as_str(),
            priority: item.priority.as_str(),
            is_unread: item.unread.value,
            is_archived: item.archived.value,
            snippet: item.snippet.as_ref().map(Snippet::as_str),
            timestamp: item.timestamp,
            participants: item.participants.iter().map(PersonView::of).collect(),
            version: item.version,
        }
    }
}

/// A page of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamPageView<'a> {
    /// The items, newest first.
    pub data: Vec<PriorityItem<'a>>,
    /// Where the list goes on, and what the stream is at.
    pub meta: StreamMeta,
}

/// Where the list goes on, and what the stream is at.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamMeta {
    /// The `cursor` of the next page; `null` on the last.
    #[schema(required = true, example = "AQAAAZmjwnweAZmjwnwefV6PADsfDC1OXxI0Vng")]
    pub next_cursor: Option<String>,
    /// Whether there is a next page.
    pub has_more: bool,
    /// The stream's version, for `changes` and `minVersion`.
    pub version: u64,
    /// How many items are unread and not archived, whatever the filter.
    pub unread_count: u64,
    /// For actions: what had not arrived by then is left alone.
    #[schema(value_type = String, format = DateTime)]
    pub as_of: Timestamp,
}

impl<'a> StreamPageView<'a> {
    /// `page` as its owner sees it.
    pub fn of(page: &'a StreamPage) -> Self {
        Self {
            data: page.items.iter().map(|item| PriorityItem::of(item)).collect(),
            meta: StreamMeta {
                next_cursor: page.next.map(PageKey::encode),
                has_more: page.next.is_some(),
                version: page.version,
                unread_count: page.unread_count,
                as_of: page.as_of,
            },
        }
    }
}

/// A message of an item.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageView<'a> {
    /// Its id.
    pub id: Uuid,
    /// Who sent it, when the source says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub sender_id: Option<Uuid>,
    /// What the sender is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub sender_name: Option<&'a str>,
    /// What the sender is.
    #[schema(value_type = SenderTypeName)]
    pub sender_type: &'static str,
    /// What it holds.
    #[schema(value_type = ContentTypeName)]
    pub content_type: &'static str,
    /// Its text.
    #[schema(required = true)]
    pub content: Option<&'a str>,
    /// Its HTML, with nothing in it that runs; pictures stay, and load from where they are. Only for a place that shows HTML.
    #[schema(required = true)]
    pub full_content_html: Option<&'a str>,
    /// When it was sent.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// Of an event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::ingest_shape::EventDetails>, nullable = false)]
    pub event_details: Option<&'a Value>,
    /// Of something published.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<super::ingest_shape::SocialDetails>, nullable = false)]
    pub social_details: Option<&'a Value>,
    /// What is attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<super::ingest_shape::Attachment>>, nullable = false)]
    pub attachments: Option<&'a Value>,
    /// What machines make of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<super::ingest_shape::AiInsight>>, nullable = false)]
    pub ai_insights: Option<&'a Value>,
}

impl<'a> MessageView<'a> {
    /// `message` as its item's owner sees it.
    pub fn of(message: &'a Message) -> Self {
        Self {
            id: message.id.0,
            sender_id: message.sender_id.map(|id| id.0),
            sender_name: message.sender_name.as_ref().map(PersonName::as_str),
            sender_type: message.sender_type.as_str(),
            content_type: message.content_type.as_str(),
            content: message.content.as_ref().map(MessageBody::as_str),
            full_content_html: message.full_content_html.as_deref(),
            timestamp: message.timestamp,
            event_details: message.event_details.as_ref(),
            social_details: message.social_details.as_ref(),
            attachments: message.attachments.as_ref(),
            ai_insights: message.ai_insights.as_ref(),
        }
    }
}

/// An item with its newest messages.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemDetailView<'a> {
    /// The item.
    #[serde(flatten)]
    pub item: PriorityItem<'a>,
    /// Its newest messages, newest first: at most 50.
    pub messages: Vec<MessageView<'a>>,
}

/// Where an item's messages go on, and what the stream is at.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ItemMeta {
    /// The `cursor` for `/messages`; `null` when these are all.
    #[schema(required = true)]
    pub messages_cursor: Option<String>,
    /// The version at which the item was changed last.
    pub version: u64,
}

/// The envelope of an item.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemDetailEnvelope<'a> {
    /// The item.
    pub data: ItemDetailView<'a>,
    /// Where its messages go on.
    pub meta: ItemMeta,
}

impl<'a> ItemDetailEnvelope<'a> {
    /// These as their owner sees them.
    pub fn of(item: &'a Item, messages: &'a [Message], next: Option<PageKey>) -> Self {
        Self {
            data: ItemDetailView {
                item: PriorityItem::of(item),
                messages: messages.iter().map(MessageView::of).collect(),
            },
            meta: ItemMeta {
                messages_cursor: next.map(PageKey::encode),
                version: item.version,
            },
        }
    }
}

/// What has changed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangesView {
    /// Items that are new or changed, archived ones too, each once.
    #[schema(value_type = Vec<Uuid>)]
    pub changed: Vec<ItemId>,
    /// Items that are gone.
    #[schema(value_type = Vec<Uuid>)]
    pub removed: Vec<ItemId>,
    /// The next `since`.
    pub version: u64,
    /// Whether there is more after it.
    pub has_more: bool,
}

impl From<Changes> for ChangesView {
    fn from(changes: Changes) -> Self {
        Self {
            changed: changes.changed,
            removed: changes.removed,
            version: changes.version,
            has_more: changes.has_more,
        }
    }
}
