//! The shapes of what services feed in, for the document only: `ingest_dto.rs` reads them field by field, because one
//! bad item fails alone.

use gravity_domain::clock::Timestamp;
use utoipa::ToSchema;
use uuid::Uuid;

/// An item, as its source tells it. Named by user, source and external id: the same again changes nothing.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct IngestItem {
    /// The owner.
    pub user_id: Uuid,
    /// Where it comes from: `email`, `calendar`, `social`, `chat`, `tasks`, or any other.
    #[schema(min_length = 1, max_length = 50, example = "email")]
    pub source: String,
    /// What the source calls it.
    #[schema(min_length = 1, max_length = 255, example = "m-4711")]
    pub external_id: String,
    /// What it is about.
    #[schema(min_length = 1, max_length = 255, example = "Review of the budget")]
    pub title: String,
    /// How much it matters.
    #[schema(value_type = super::dto::ItemPriorityName)]
    pub priority: String,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// A new item is unread; without it an item keeps what it is.
    pub is_unread: Option<bool>,
    /// A new item is not archived; without it an item keeps what it is.
    pub is_archived: Option<bool>,
    /// The first words.
    #[schema(max_length = 500)]
    pub snippet: Option<String>,
    /// Who takes part, merged by external id.
    #[schema(max_items = 50)]
    pub participants: Option<Vec<IngestPerson>>,
    /// Its messages, merged by external id.
    #[schema(max_items = 200)]
    pub messages: Option<Vec<IngestMessage>>,
}

/// Somebody who takes part.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct IngestPerson {
    /// What the source calls them; without it the name stands for the person.
    #[schema(min_length = 1, max_length = 255)]
    pub external_id: Option<String>,
    /// What they are called.
    #[schema(min_length = 1, max_length = 255, example = "Ada")]
    pub name: String,
    /// Their picture.
    #[schema(format = "uri", max_length = 2048)]
    pub avatar_url: Option<String>,
}

/// A message.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct IngestMessage {
    /// What the source calls it.
    #[schema(min_length = 1, max_length = 255)]
    pub external_id: String,
    /// What the source calls its sender.
    #[schema(min_length = 1, max_length = 255)]
    pub sender_external_id: Option<String>,
    /// What the sender is called.
    #[schema(min_length = 1, max_length = 255)]
    pub sender_name: Option<String>,
    /// What the sender is.
    #[schema(value_type = super::dto::SenderTypeName)]
    pub sender_type: String,
    /// What it holds.
    #[schema(value_type = super::dto::ContentTypeName)]
    pub content_type: String,
    /// Its text.
    #[schema(max_length = 100_000)]
    pub content: Option<String>,
    /// Its HTML: what could run or load is taken out.
    #[schema(max_length = 500_000)]
    pub full_content_html: Option<String>,
    /// When it was sent.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// Of an event; at most 64 KiB, as the next three.
    pub event_details: Option<EventDetails>,
    /// Of something published.
    pub social_details: Option<SocialDetails>,
    /// What is attached.
    pub attachments: Option<Vec<Attachment>>,
    /// What machines make of it.
    pub ai_insights: Option<Vec<AiInsight>>,
}

/// Something with a time and a place.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct EventDetails {
    /// When it begins.
    #[schema(value_type = String, format = DateTime)]
    pub starts_at: Timestamp,
    /// When it ends.
    #[schema(value_type = Option<String>, format = DateTime, nullable = false)]
    pub ends_at: Option<Timestamp>,
    /// Whether it takes whole days.
    #[schema(nullable = false)]
    pub all_day: Option<bool>,
    /// Where.
    #[schema(nullable = false)]
    pub location: Option<String>,
    /// Who invites.
    #[schema(nullable = false)]
    pub organizer: Option<String>,
    /// Who is invited.
    pub attendees: Vec<Attendee>,
    /// Where to join.
    #[schema(nullable = false, format = "uri")]
    pub join_url: Option<String>,
}

/// Somebody who is invited.
#[derive(Debug, ToSchema)]
pub struct Attendee {
    /// What they are called.
    pub name: String,
    /// What they answered.
    #[schema(nullable = false)]
    pub status: Option<String>,
}

/// Something published.
#[derive(Debug, ToSchema)]
pub struct SocialDetails {
    /// Where.
    #[schema(example = "mastodon")]
    pub platform: String,
    /// By whom.
    pub author: SocialAuthor,
    /// Its address.
    #[schema(nullable = false, format = "uri")]
    pub url: Option<String>,
    /// How many like it.
    #[schema(nullable = false)]
    pub likes: Option<u64>,
    /// How many shared it.
    #[schema(nullable = false)]
    pub shares: Option<u64>,
    /// How many comments there are.
    #[schema(nullable = false)]
    pub comments: Option<u64>,
}

/// Who published something.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct SocialAuthor {
    /// What they are called.
    pub name: String,
    /// What they are called there.
    #[schema(nullable = false)]
    pub handle: Option<String>,
    /// Their picture.
    #[schema(nullable = false, format = "uri")]
    pub avatar_url: Option<String>,
}

/// Something attached.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Attachment {
    /// What it is called.
    pub name: String,
    /// Its address.
    #[schema(format = "uri")]
    pub url: String,
    /// What it is.
    #[schema(example = "application/pdf")]
    pub mime_type: String,
    /// How large it is.
    pub size_bytes: u64,
    /// A small picture of it.
    #[schema(nullable = false, format = "uri")]
    pub thumbnail_url: Option<String>,
}

/// What a machine makes of a message.
#[derive(Debug, ToSchema)]
pub struct AiInsight {
    /// What kind of insight.
    #[schema(example = "summary")]
    pub kind: String,
    /// The insight.
    pub text: String,
    /// How sure it is.
    #[schema(nullable = false, minimum = 0, maximum = 1)]
    pub confidence: Option<f64>,
}

/// What names an item outside.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct IngestKey {
    /// The owner.
    pub user_id: Uuid,
    /// Where it comes from.
    #[schema(min_length = 1, max_length = 50, example = "email")]
    pub source: String,
    /// What the source calls it.
    #[schema(min_length = 1, max_length = 255, example = "m-4711")]
    pub external_id: String,
}
