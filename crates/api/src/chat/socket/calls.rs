//! What a socket asks of the use cases, as one port: sessions and the hub are tested without the rest.

use crate::error::ApiError;
use async_trait::async_trait;
use gravity_domain::chat::{ConnectionId, EventCursor, LogReplay, Message};
use gravity_domain::clock::Timestamp;
use gravity_domain::error::StoreError;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};

use super::protocol::SendFrame;

/// Whom a token or a ticket lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// Who.
    pub user_id: UserId,
    /// The end of the token.
    pub expires_at: Timestamp,
}

/// A message that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// As it is, or will be.
    pub message: Message,
    /// Committed; else synced to this node's disk.
    pub is_stored: bool,
    /// It had been taken before: nothing is told of it again.
    pub is_repeat: bool,
}

/// The use cases behind a socket.
///
/// # Errors
/// [`ApiError`]: as the call of the same name over HTTP. [`StoreError`]: the log cannot be read now.
#[async_trait]
pub trait SocketCalls: Send + Sync {
    /// Whom an access token lets in.
    async fn admit(&self, token: &str) -> Result<Guest, ApiError>;

    /// Whom a ticket lets in; it is spent.
    async fn redeem(&self, ticket: &str) -> Result<Guest, ApiError>;

    /// Whether the user may no longer do anything.
    async fn is_suspended(&self, user: UserId) -> bool;

    /// Sends a message.
    async fn send(&self, user: UserId, message: SendFrame) -> Result<Taken, ApiError>;

    /// Marks as read; how far that is now.
    async fn read(
        &self,
        user: UserId,
        conversation: ConversationId,
        up_to: Option<ChatMessageId>,
    ) -> Result<u64, ApiError>;

    /// Tells the other that the user types.
    async fn typing(&self, user: UserId, conversation: ConversationId) -> Result<(), ApiError>;

    /// The end of the user's log, for a client that begins.
    async fn connect(&self, user: UserId) -> Result<EventCursor, StoreError>;

    /// What follows a cursor.
    async fn replay(&self, user: UserId, cursor: EventCursor) -> Result<LogReplay, StoreError>;

    /// The ends of the logs of these users.
    async fn heads(&self, users: &[UserId]) -> Result<Vec<(UserId, EventCursor)>, StoreError>;

    /// A socket opened.
    async fn arrived(&self, user: UserId, connection: ConnectionId);

    /// A socket has been gone for the time of grace.
    async fn left(&self, user: UserId, connection: ConnectionId);

    /// These are still here.
    async fn renew(&self, connections: &[(UserId, ConnectionId)]);
}
