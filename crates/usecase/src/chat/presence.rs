//! Who is there: told to and shown to those only who share a conversation with them, and never across a block.

use super::known::{Knowledge, unread};
use super::overlay::PendingChat;
use gravity_domain::chat::{
    ChatCache, ConnectionId, Conversation, Inbox, Live, Presence, PresenceBoard, PresenceStatus, Signal,
};
use gravity_domain::clock::{Timestamp, WallClock};
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::sync::ReadError;
use gravity_domain::sync::ports::WriteBuffer;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// `GET /api/chat/presence`.
pub struct LookUpPresence {
    known: Knowledge,
    board: Arc<dyn PresenceBoard>,
}

impl LookUpPresence {
    /// Over these ports.
    pub fn new(
        cache: Arc<dyn ChatCache>,
        buffer: Arc<dyn WriteBuffer>,
        board: Arc<dyn PresenceBoard>,
    ) -> Self {
        Self {
            known: Knowledge { cache, buffer },
            board,
        }
    }

    /// Whether these are there, in their order: unknown of those whom `user` may not see, and of all when it cannot be told.
    pub async fn run(&self, user: UserId, ids: &[UserId]) -> Vec<Presence> {
        let mut visible = self.visible(user, ids).await.unwrap_or_else(|error| {
            tracing::debug!(reason = %error, "presence is not shown");
            Vec::new()
        });
        visible.sort_unstable();
        visible.dedup();
        let found = if visible.is_empty() {
            Vec::new()
        } else {
            self.board.look_up(&visible).await.unwrap_or_else(|error| {
                tracing::debug!(reason = %error, "presence is unknown");
                Vec::new()
            })
        };
        let found: HashMap<_, _> = found.into_iter().map(|one| (one.user_id, one)).collect();
        let shown = |id: &UserId| found.get(id).cloned().unwrap_or_else(|| unknown(*id));
        ids.iter().map(shown).collect()
    }

    async fn visible(&self, user: UserId, ids: &[UserId]) -> Result<Vec<UserId>, ReadError> {
        let (pending, inbox) = self.known.inbox(user).await?;
        let mut visible = Vec::with_capacity(ids.len());
        for id in ids {
            if self.is_visible(user, *id, &pending, &inbox.value).await? {
                visible.push(*id);
            }
        }
        Ok(visible)
    }

    async fn is_visible(
        &self,
        user: UserId,
        other: UserId,
        pending: &PendingChat,
        inbox: &Inbox,
    ) -> Result<bool, ReadError> {
        let id = ConversationId::of(user, other);
        if let Some(held) = inbox.find(id) {
            return Ok(is_open(pending, held));
        }
        if !inbox.has_more || other == user {
            return Ok(false);
        }
        let found = self.known.cache.conversation(user, id).await;
        let conversation = found.map_err(unread)?.value;
        Ok(conversation.is_some_and(|conversation| is_open(pending, &conversation)))
    }
}

/// Keeps the leases of sockets, and tells who came and went.
pub struct TellPresence {
    known: Knowledge,
    board: Arc<dyn PresenceBoard>,
    live: Arc<dyn Live>,
    clock: Arc<dyn WallClock>,
    /// Whom to tell is looked up for one after the other, so that in a storm of connections nobody waits for it.
    turn: Semaphore,
}

impl TellPresence {
    /// Over these ports.
    pub fn new(
        cache: Arc<dyn ChatCache>,
        buffer: Arc<dyn WriteBuffer>,
        board: Arc<dyn PresenceBoard>,
        live: Arc<dyn Live>,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        Self {
            known: Knowledge { cache, buffer },
            board,
            live,
            clock,
            turn: Semaphore::new(1),
        }
    }

    /// A socket opened: for the user's first, anywhere, those who may know are told.
    pub async fn arrived(&self, user: UserId, connection: ConnectionId) {
        match self.board.arrived(user, connection).await {
            Ok(true) => self.tell(user, PresenceStatus::Online, None).await,
            Ok(false) => {}
            Err(error) => tracing::debug!(reason = %error, "an arrival is not told"),
        }
    }

    /// A socket has been gone for the time of grace: for the user's last, anywhere, those who may know are told.
    pub async fn left(&self, user: UserId, connection: ConnectionId) {
        match self.board.left(user, connection).await {
            Ok(true) => {
                let now = self.clock.now();
                self.tell(user, PresenceStatus::Offline, Some(now)).await;
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(reason = %error, "a departure is not told"),
        }
    }

    /// These sockets are still here.
    pub async fn renew(&self, connections: &[(UserId, ConnectionId)]) {
        if let Err(error) = self.board.renew(connections).await {
            tracing::debug!(reason = %error, "leases of presence are not renewed");
        }
    }

    async fn tell(&self, user: UserId, status: PresenceStatus, last_seen: Option<Timestamp>) {
        let Ok(_turn) = self.turn.acquire().await else {
            return;
        };
        let Ok((pending, inbox)) = self.known.inbox(user).await else {
            return;
        };
        let conversations = inbox.value.conversations.iter();
        for held in conversations.filter(|held| is_open(&pending, held)) {
            let signal = Signal::Presence {
                user_id: user,
                status,
                last_seen,
            };
            self.live.signal(held.other.id, signal);
        }
    }
}

fn is_open(pending: &PendingChat, conversation: &Conversation) -> bool {
    let mut blocks = conversation.blocks;
    blocks.blocked_by_me = pending
        .blocks(conversation.other.id)
        .unwrap_or(blocks.blocked_by_me);
    !blocks.is_blocked()
}

fn unknown(user_id: UserId) -> Presence {
    Presence {
        user_id,
        status: PresenceStatus::Unknown,
        last_seen: None,
    }
}
