//! Chat as JSON: what is answered.

use crate::respond::Sync;
use gravity_domain::auth::Username;
use gravity_domain::chat::{
    BlockState, BlockStatus, Blocked, Content, Conversation, Message, NotificationPreferences, Person,
    Presence, PresenceStatus, ReadMarker, Ticket, UnreadTotals,
};
use gravity_domain::clock::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// The other one.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OtherUserView<'a> {
    /// Who.
    pub id: Uuid,
    /// Absent for a user of an outside provider without one.
    #[schema(required = true, value_type = Option<String>, example = "grace")]
    pub username: Option<&'a str>,
    /// As the profile says.
    #[schema(required = true)]
    pub name: Option<&'a str>,
    /// As the profile says.
    #[schema(required = true, format = "uri")]
    pub avatar_url: Option<&'a str>,
}

impl<'a> OtherUserView<'a> {
    fn of(person: &'a Person) -> Self {
        Self {
            id: person.id.0,
            username: person.username.as_ref().map(Username::as_str),
            name: person.name.as_deref(),
            avatar_url: person.avatar_url.as_deref(),
        }
    }
}

/// How durable a message is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DurabilityName {
    /// Synced to a node's disk, on its way to Postgres.
    Accepted,
    /// In Postgres.
    Stored,
}

/// A message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChatMessageView<'a> {
    /// Its id: a function of sender and `clientMessageId`.
    pub id: Uuid,
    /// Of which conversation.
    pub conversation_id: Uuid,
    /// Its place in the conversation, from 1, without gaps; `null` while it is on its way.
    #[schema(required = true)]
    pub seq: Option<u64>,
    /// By whom.
    pub sender_id: Uuid,
    /// The sender's id for it.
    pub client_message_id: Uuid,
    /// What it says. Text, never markup.
    #[schema(value_type = String, example = "Hello")]
    pub content: &'a Content,
    /// When it was accepted.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// How durable it is.
    #[schema(value_type = DurabilityName)]
    pub durability: &'static str,
}

impl<'a> ChatMessageView<'a> {
    /// `message` as either of the two sees it.
    pub fn of(message: &'a Message) -> Self {
        Self {
            id: message.id.0,
            conversation_id: message.conversation_id.0,
            seq: message.seq,
            sender_id: message.sender_id.0,
            client_message_id: message.client_message_id,
            content: &message.content,
            created_at: message.created_at,
            durability: message.durability(),
        }
    }
}

/// A message that was sent.
#[derive(Debug, Serialize, ToSchema)]
pub struct SentMessageView<'a> {
    /// It.
    #[serde(flatten)]
    pub message: ChatMessageView<'a>,
    /// Whether it is in Postgres.
    pub sync: Sync,
}

impl<'a> SentMessageView<'a> {
    /// `message` as its sender sees it.
    pub fn of(message: &'a Message, sync: Sync) -> Self {
        Self {
            message: ChatMessageView::of(message),
            sync,
        }
    }
}

/// A conversation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConversationView<'a> {
    /// Its id.
    pub id: Uuid,
    /// With whom.
    pub other_user: OtherUserView<'a>,
    /// The newest message.
    #[schema(required = true)]
    pub last_message: Option<ChatMessageView<'a>>,
    /// Messages of the other after `readSeq`.
    pub unread_count: u64,
    /// The place of the newest message; 0 while there is none.
    pub last_seq: u64,
    /// How far one has read.
    pub read_seq: u64,
    /// One blocks the other.
    pub blocked_by_me: bool,
    /// The other blocks one.
    pub blocked_by_them: bool,
    /// When it was opened.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Its newest message, or its opening. The list is in this order.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl<'a> ConversationView<'a> {
    /// `conversation` as its user sees it.
    pub fn of(conversation: &'a Conversation) -> Self {
        Self {
            id: conversation.id.0,
            other_user: OtherUserView::of(&conversation.other),
            last_message: conversation.last_message.as_ref().map(ChatMessageView::of),
            unread_count: conversation.unread,
            last_seq: conversation.last_seq,
            read_seq: conversation.read_seq,
            blocked_by_me: conversation.blocks.blocked_by_me,
            blocked_by_them: conversation.blocks.blocked_by_them,
            created_at: conversation.created_at,
            updated_at: conversation.updated_at,
        }
    }
}

/// What there is to read.
#[derive(Debug, Serialize, ToSchema)]
pub struct UnreadView {
    /// Messages.
    pub total: u64,
    /// Conversations with at least one.
    pub conversations: u64,
}

impl From<UnreadTotals> for UnreadView {
    fn from(totals: UnreadTotals) -> Self {
        Self {
            total: totals.total,
            conversations: totals.conversations,
        }
    }
}

/// How far one has read.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadView {
    /// In which conversation.
    pub conversation_id: Uuid,
    /// Up to and including this place.
    pub read_seq: u64,
    /// Messages of the other after it.
    pub unread_count: u64,
    /// Whether it is in Postgres.
    pub sync: Sync,
}

impl ReadView {
    /// `marker` as its user sees it.
    pub fn of(marker: &ReadMarker, sync: Sync) -> Self {
        Self {
            conversation_id: marker.conversation_id.0,
            read_seq: marker.read_seq,
            unread_count: marker.unread,
            sync,
        }
    }
}

/// Somebody who is blocked.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockView<'a> {
    /// The name to unblock them by; absent for a user without one.
    #[schema(required = true, value_type = Option<String>, example = "grace")]
    pub username: Option<&'a str>,
    /// As the profile says.
    #[schema(required = true)]
    pub name: Option<&'a str>,
    /// As the profile says.
    #[schema(required = true, format = "uri")]
    pub avatar_url: Option<&'a str>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl<'a> BlockView<'a> {
    /// `blocked` as who blocks them sees them.
    pub fn of(blocked: &'a Blocked) -> Self {
        Self {
            username: blocked.username.as_ref().map(Username::as_str),
            name: blocked.name.as_deref(),
            avatar_url: blocked.avatar_url.as_deref(),
            created_at: blocked.created_at,
        }
    }
}

/// Somebody who was blocked just now.
#[derive(Debug, Serialize, ToSchema)]
pub struct BlockedView<'a> {
    /// Whom.
    #[serde(flatten)]
    pub block: BlockView<'a>,
    /// Whether it is in Postgres.
    pub sync: Sync,
}

impl<'a> BlockedView<'a> {
    /// `person`, blocked as `state` says.
    pub fn of(person: &'a Person, state: &BlockState, sync: Sync) -> Self {
        Self {
            block: BlockView {
                username: person.username.as_ref().map(Username::as_str),
                name: person.name.as_deref(),
                avatar_url: person.avatar_url.as_deref(),
                created_at: state.is_blocked.stamp.timestamp(),
            },
            sync,
        }
    }
}

/// Somebody who will be blocked no more.
#[derive(Debug, Serialize, ToSchema)]
pub struct UnblockedView<'a> {
    /// Whom.
    pub username: &'a str,
    /// Always `pending`.
    pub sync: Sync,
}

/// Who of two blocks whom.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockStatusView {
    /// One blocks the other.
    pub blocked_by_me: bool,
    /// The other blocks one.
    pub blocked_by_them: bool,
}

impl From<BlockStatus> for BlockStatusView {
    fn from(status: BlockStatus) -> Self {
        Self {
            blocked_by_me: status.blocked_by_me,
            blocked_by_them: status.blocked_by_them,
        }
    }
}

/// Whether somebody is there.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PresenceName {
    /// At least one socket.
    Online,
    /// None for a while.
    Offline,
    /// It cannot be told now, or not to the caller.
    Unknown,
}

impl From<PresenceStatus> for PresenceName {
    fn from(status: PresenceStatus) -> Self {
        match status {
            PresenceStatus::Online => Self::Online,
            PresenceStatus::Offline => Self::Offline,
            PresenceStatus::Unknown => Self::Unknown,
        }
    }
}

/// Whether a user is there.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresenceView {
    /// Who.
    pub user_id: Uuid,
    /// Which.
    pub status: PresenceName,
    /// When last here, if it is known and they are not.
    #[schema(required = true, value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
}

impl From<&Presence> for PresenceView {
    fn from(presence: &Presence) -> Self {
        Self {
            user_id: presence.user_id.0,
            status: presence.status.into(),
            last_seen: presence.last_seen,
        }
    }
}

/// A ticket to open a socket with.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TicketView<'a> {
    /// For `?ticket=`; good once.
    pub ticket: &'a str,
    /// For how long.
    #[schema(example = 30)]
    pub expires_in_seconds: u64,
}

impl<'a> TicketView<'a> {
    /// `ticket` for who has bought it.
    pub fn of(ticket: &'a Ticket) -> Self {
        Self {
            ticket: ticket.expose(),
            expires_in_seconds: Ticket::SECONDS,
        }
    }
}

/// What one wants to be told of, and how.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreferencesView {
    /// Of messages at all.
    pub chat_messages: bool,
    /// By Web Push.
    pub web_push: bool,
    /// By the operator's webhook.
    pub webhook: bool,
}

impl From<NotificationPreferences> for PreferencesView {
    fn from(preferences: NotificationPreferences) -> Self {
        Self {
            chat_messages: preferences.chat_messages,
            web_push: preferences.web_push,
            webhook: preferences.webhook,
        }
    }
}

/// A browser that is told.
#[derive(Debug, Serialize, ToSchema)]
pub struct SubscriptionView<'a> {
    /// The push service's address for it.
    #[schema(format = "uri")]
    pub endpoint: &'a str,
}

/// The key of Web Push.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VapidKeyView<'a> {
    /// `applicationServerKey`: an uncompressed P-256 point in base64url.
    pub public_key: &'a str,
}
