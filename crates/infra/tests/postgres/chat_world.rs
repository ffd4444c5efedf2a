//! Conversations of a test, and operations on them.

use crate::fixture::{Author, Fixture, at};
use gravity_domain::chat::{
    BlockChange, BlockState, ChatStore, Content, Conversation, EventCursor, EventLog, LogReplay, Message,
    NewMessage, ReadMark, ReadMarker, UserEvent,
};
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use gravity_domain::sync::ports::{OperationStore, ReplayStore};
use gravity_domain::sync::{Applied, Change, EntityState, Operation, Refused, Verdict};
use gravity_infra::chat::{PostgresChat, PostgresEventLog, PostgresNotifications};
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

pub(crate) struct World {
    pub(crate) fixture: Fixture,
    pub(crate) chat: PostgresChat,
    pub(crate) log: PostgresEventLog,
    pub(crate) notifications: PostgresNotifications,
}

/// Two who talk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) alice: UserId,
    pub(crate) ben: UserId,
    pub(crate) id: ConversationId,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::over(
            Fixture::with(|settings| {
                settings.deadline = Duration::from_secs(20);
                settings.batch_deadline = Duration::from_secs(20);
                settings.statement_timeout = Duration::from_secs(20);
                settings.lock_timeout = Duration::from_secs(15);
                settings.max_connections = 12;
            })
            .await,
        )
    }

    pub(crate) fn over(fixture: Fixture) -> Self {
        Self {
            chat: PostgresChat::new(fixture.pool.clone()),
            log: PostgresEventLog::new(fixture.pool.clone()),
            notifications: PostgresNotifications::new(fixture.pool.clone()),
            fixture,
        }
    }

    pub(crate) async fn user(&self) -> UserId {
        let user = UserId::random();
        self.fixture.insert_user(user).await;
        user
    }

    pub(crate) async fn pair(&self) -> Pair {
        let (alice, ben) = (self.user().await, self.user().await);
        let opened = self.chat.open(alice, ben).await.unwrap();
        Pair {
            alice,
            ben,
            id: opened.conversation.id,
        }
    }

    pub(crate) async fn apply(&self, operation: &Operation) -> Verdict {
        self.fixture.operations.apply(operation).await.unwrap()
    }

    pub(crate) async fn replay(&self, operation: &Operation) -> Verdict {
        let mut verdicts = self
            .fixture
            .operations
            .replay(std::slice::from_ref(operation))
            .await
            .unwrap();
        verdicts.remove(0)
    }

    pub(crate) async fn send(&self, user: UserId, id: ConversationId, text: &str) -> Message {
        message_of(self.apply(&say(user, id, Uuid::now_v7(), text)).await)
    }

    pub(crate) async fn seen(&self, user: UserId, id: ConversationId) -> Conversation {
        self.chat.conversation(user, id).await.unwrap().unwrap()
    }

    /// The whole log of the user.
    pub(crate) async fn events(&self, user: UserId) -> Vec<UserEvent> {
        let head = self.log.head(user).await.unwrap();
        let start = EventCursor { offset: 0, ..head };
        match self.log.since(user, start, usize::MAX).await.unwrap() {
            LogReplay::Events { events, .. } => events,
            LogReplay::Reset { head } => panic!("{head:?}"),
        }
    }

    /// Kinds and payloads of the user's log after an offset.
    pub(crate) async fn told(&self, user: UserId, after: u64) -> Vec<(&'static str, Value)> {
        let events = self.events(user).await;
        let later = events.into_iter().filter(|event| event.offset > after);
        later
            .map(|event| (event.kind.as_str(), serde_json::from_str(&event.payload).unwrap()))
            .collect()
    }

    pub(crate) async fn head(&self, user: UserId) -> u64 {
        self.log.head(user).await.unwrap().offset
    }
}

pub(crate) fn say(user: UserId, id: ConversationId, client_message_id: Uuid, text: &str) -> Operation {
    let message = NewMessage {
        conversation_id: id,
        client_message_id,
        content: Content::parse(text).unwrap(),
        recipient: None,
    };
    let change = Change::Message {
        id: ChatMessageId::of(user, client_message_id),
        message,
    };
    Author(user).operation(at(1), change)
}

pub(crate) fn mark(
    user: UserId,
    id: ConversationId,
    message: Option<ChatMessageId>,
    up_to: u64,
    stamp: u64,
) -> Operation {
    let mark = ReadMark {
        conversation_id: id,
        message_id: message,
        up_to,
    };
    Author(user).operation(at(stamp), Change::ReadMark(mark))
}

pub(crate) fn block(user: UserId, blocked: UserId, is_blocked: bool, stamp: u64) -> Operation {
    let change = BlockChange { blocked, is_blocked };
    Author(user).operation(at(stamp), Change::Block(change))
}

pub(crate) fn applied(verdict: Verdict) -> Applied {
    match verdict {
        Verdict::Applied(applied) => applied,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn message_of(verdict: Verdict) -> Message {
    match applied(verdict).state {
        EntityState::Message(message) => message,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn marker_of(verdict: Verdict) -> ReadMarker {
    match applied(verdict).state {
        EntityState::ReadMarker(marker) => marker,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn block_of(verdict: Verdict) -> BlockState {
    match applied(verdict).state {
        EntityState::Block(state) => state,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn refused(verdict: Verdict) -> Refused {
    match verdict {
        Verdict::Refused(refused) => refused,
        other => panic!("{other:?}"),
    }
}
