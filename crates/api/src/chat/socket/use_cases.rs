//! The use cases behind a socket, as the server builds them.

use super::calls::{Guest, SocketCalls, Taken};
use super::protocol::SendFrame;
use crate::error::{ApiError, ErrorCode};
use async_trait::async_trait;
use gravity_domain::auth::UserStatus;
use gravity_domain::chat::{ConnectionId, EventCursor, LogReplay, Ticket};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use gravity_domain::sync::WriteOutcome;
use gravity_usecase::auth::{Authenticate, Identities, Known};
use gravity_usecase::chat::{
    Connect, MarkRead, NewSend, RedeemTicket, ReplayLog, SendMessage, TellPresence, TellTyping,
};
use gravity_usecase::sync::WriteRequest;
use std::sync::Arc;

/// What a socket works with.
pub struct UseCases {
    /// Checks tokens.
    pub authenticate: Arc<Authenticate>,
    /// Knows who is suspended.
    pub identities: Arc<Identities>,
    /// Spends tickets.
    pub redeem: RedeemTicket,
    /// `message.send`.
    pub send: Arc<SendMessage>,
    /// `message.read`.
    pub read: Arc<MarkRead>,
    /// `typing`.
    pub typing: TellTyping,
    /// Who comes and goes.
    pub presence: TellPresence,
    /// A client that begins.
    pub connect: Connect,
    /// A client that resumes, and what is missing.
    pub replay: ReplayLog,
}

fn write(user: UserId) -> WriteRequest {
    WriteRequest {
        user,
        key: None,
        expected_version: None,
        must_commit: false,
    }
}

#[async_trait]
impl SocketCalls for UseCases {
    async fn admit(&self, token: &str) -> Result<Guest, ApiError> {
        let admitted = self.authenticate.admit(token).await?;
        Ok(Guest {
            user_id: admitted.principal.user_id,
            expires_at: admitted.expires_at,
        })
    }

    async fn redeem(&self, ticket: &str) -> Result<Guest, ApiError> {
        let holder = self.redeem.run(&Ticket::new(ticket.to_owned())).await;
        let holder =
            holder.map_err(|error| ApiError::new(ErrorCode::SessionsUnavailable).caused_by(error))?;
        let holder = holder.ok_or_else(|| ApiError::new(ErrorCode::Unauthenticated))?;
        Ok(Guest {
            user_id: holder.principal.user_id,
            expires_at: holder.expires_at,
        })
    }

    async fn is_suspended(&self, user: UserId) -> bool {
        matches!(
            self.identities.find(user).await,
            Known::Present(identity) if identity.status == UserStatus::Suspended
        )
    }

    async fn send(&self, user: UserId, message: SendFrame) -> Result<Taken, ApiError> {
        let send = NewSend {
            conversation_id: message.conversation_id,
            client_message_id: Some(message.client_message_id),
            content: message.content,
        };
        let sent = self.send.run(write(user), send).await?;
        let is_stored = matches!(sent.outcome, WriteOutcome::Committed(_));
        let message = sent.outcome.into_inner();
        Ok(Taken {
            is_repeat: sent.is_replay || message.is_repeat,
            is_stored,
            message,
        })
    }

    async fn read(
        &self,
        user: UserId,
        conversation: ConversationId,
        up_to: Option<ChatMessageId>,
    ) -> Result<u64, ApiError> {
        let written = self.read.run(write(user), conversation, up_to).await?;
        Ok(written.outcome.into_inner().read_seq)
    }

    async fn typing(&self, user: UserId, conversation: ConversationId) -> Result<(), ApiError> {
        Ok(self.typing.run(user, conversation).await?)
    }

    async fn connect(&self, user: UserId) -> Result<EventCursor, StoreError> {
        self.connect.run(user).await
    }

    async fn replay(&self, user: UserId, cursor: EventCursor) -> Result<LogReplay, StoreError> {
        self.replay.run(user, cursor).await
    }

    async fn heads(&self, users: &[UserId]) -> Result<Vec<(UserId, EventCursor)>, StoreError> {
        self.replay.heads(users).await
    }

    async fn arrived(&self, user: UserId, connection: ConnectionId) {
        self.presence.arrived(user, connection).await;
    }

    async fn left(&self, user: UserId, connection: ConnectionId) {
        self.presence.left(user, connection).await;
    }

    async fn renew(&self, connections: &[(UserId, ConnectionId)]) {
        self.presence.renew(connections).await;
    }
}
