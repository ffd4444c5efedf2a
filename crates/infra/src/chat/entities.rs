//! Chat's entities as the write path knows them, before Postgres and in memory.
//!
//! What a commit has appended to the logs of users goes to the cache, which then knows what is out of date, and to the sockets,
//! here and on the other nodes. Nothing else is remembered here: a message is made once, a block needs no earlier value, and a
//! read marker is part of its conversation.

use super::postgres::PostgresChat;
use async_trait::async_trait;
use gravity_domain::chat::{BlockState, ChatCache, Live, Message, ReadMarker, Signal, UserEvent};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::sync::ports::{EntityCache, EntityStore};
use gravity_domain::sync::{Change, EntityState, Found, Operation};
use std::sync::Arc;
use uuid::Uuid;

/// Tells the cache and the sockets of what was committed.
#[derive(Clone)]
pub struct ChatEntities {
    cache: Arc<dyn ChatCache>,
    live: Arc<dyn Live>,
}

impl ChatEntities {
    /// Over these.
    pub fn new(cache: Arc<dyn ChatCache>, live: Arc<dyn Live>) -> Self {
        Self { cache, live }
    }

    /// Something of these was committed that nobody here has heard of, and maybe nobody anywhere.
    fn missed(&self, users: impl IntoIterator<Item = UserId>) {
        for user in users {
            self.cache.doubted(user);
            self.live.missed(user);
        }
    }

    /// The other one of a conversation, if that is known here.
    fn other(&self, user: UserId, id: ConversationId) -> Option<UserId> {
        let conversation = self.cache.known_conversation(user, id).flatten()?;
        Some(conversation.other.id)
    }

    /// The row that an operation of `owner` left, and what its commit appended. A row that came without entries was left by
    /// another commit, which may have gone unheard here.
    fn committed(&self, owner: UserId, events: &[UserEvent]) {
        if events.is_empty() {
            self.cache.doubted(owner);
        } else {
            self.tell(events);
        }
    }

    fn stored(&self, message: &Message) {
        if message.is_repeat {
            self.missed([message.sender_id].into_iter().chain(message.recipient));
        } else {
            self.committed(message.sender_id, &message.events);
        }
    }

    /// The cache first: who is told of a change must find it.
    fn tell(&self, events: &[UserEvent]) {
        self.cache.raised(events);
        self.live.committed(events);
    }

    /// As [`AppliedListener::applied`](gravity_domain::sync::ports::AppliedListener::applied).
    pub(crate) fn applied(&self, state: &EntityState) {
        let events = match state {
            EntityState::Message(message) => return self.stored(message),
            EntityState::ReadMarker(marker) => &marker.events,
            EntityState::Block(block) => &block.events,
            EntityState::Profile(_) | EntityState::Task(_) | EntityState::StreamAction(_) => return,
        };
        self.committed(state.owner(), events);
    }

    /// As [`AppliedListener::already_applied`](gravity_domain::sync::ports::AppliedListener::already_applied).
    pub(crate) fn already_applied(&self, operation: &Operation) {
        let user = operation.user_id;
        let other = match &operation.change {
            Change::Message { message, .. } => message
                .recipient
                .or_else(|| self.other(user, message.conversation_id)),
            Change::ReadMark(mark) => self.other(user, mark.conversation_id),
            Change::Block(change) => Some(change.blocked),
            _ => None,
        };
        self.missed(std::iter::once(user).chain(other));
    }

    /// As [`AppliedListener::set_aside`](gravity_domain::sync::ports::AppliedListener::set_aside).
    pub(crate) fn set_aside(&self, operation: &Operation, reason: &str, events: &[UserEvent]) {
        if !events.is_empty() {
            self.tell(events);
            return;
        }
        if let Change::Message { id, message } = &operation.change {
            let code = reason.split(':').next().unwrap_or(reason);
            let rejected = Signal::Rejected {
                client_message_id: message.client_message_id,
                message_id: *id,
                code: code.to_owned(),
            };
            self.live.signal(operation.user_id, rejected);
        }
    }
}

impl EntityCache<Message> for ChatEntities {
    fn find(&self, _: UserId, _: Uuid) -> Found<Message> {
        Found::Unknown
    }

    fn learn(&self, message: Message) {
        self.stored(&message);
    }

    fn mark(&self, _: UserId) -> u64 {
        0
    }

    fn learn_read(&self, _: Message, _: u64) {}
}

impl EntityCache<ReadMarker> for ChatEntities {
    fn find(&self, user: UserId, id: Uuid) -> Found<ReadMarker> {
        match self.cache.known_conversation(user, ConversationId(id)) {
            Some(Some(conversation)) => Found::Known(conversation.marker()),
            Some(None) => Found::Absent,
            None => Found::Unknown,
        }
    }

    fn learn(&self, marker: ReadMarker) {
        self.committed(marker.user_id, &marker.events);
    }

    fn mark(&self, _: UserId) -> u64 {
        0
    }

    fn learn_read(&self, _: ReadMarker, _: u64) {}
}

impl EntityCache<BlockState> for ChatEntities {
    /// Whatever there is, the last writer wins.
    fn find(&self, _: UserId, _: Uuid) -> Found<BlockState> {
        Found::Absent
    }

    fn learn(&self, state: BlockState) {
        self.committed(state.blocker, &state.events);
    }

    fn mark(&self, _: UserId) -> u64 {
        0
    }

    fn learn_read(&self, _: BlockState, _: u64) {}
}

#[async_trait]
impl EntityStore<Message> for PostgresChat {
    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<Message>, StoreError> {
        self.sent_by(user, id).await
    }
}

#[async_trait]
impl EntityStore<ReadMarker> for PostgresChat {
    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<ReadMarker>, StoreError> {
        self.marker(user, id).await
    }
}

#[async_trait]
impl EntityStore<BlockState> for PostgresChat {
    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<BlockState>, StoreError> {
        self.block(user, id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_domain::chat::ports::{MockChatCache, MockLive};
    use gravity_domain::chat::{BlockChange, Content, EventKind, NewMessage};
    use gravity_domain::clock::{Hlc, NodeId};
    use gravity_domain::id::{ChatMessageId, OperationId};
    use gravity_domain::sync::Lww;

    use std::sync::Mutex;

    /// What was told, in order.
    type Told = Arc<Mutex<Vec<String>>>;

    fn user(number: u128) -> UserId {
        UserId(Uuid::from_u128(number))
    }

    fn entities() -> (ChatEntities, Told) {
        let told = Told::default();
        let (mut cache, mut live) = (MockChatCache::new(), MockLive::new());
        let note = |told: &Told| {
            let told = Arc::clone(told);
            move |what: String| told.lock().unwrap().push(what)
        };
        let (raised, doubted, committed, signal) = (note(&told), note(&told), note(&told), note(&told));
        cache
            .expect_raised()
            .returning(move |events| raised(format!("raised {}", events.len())));
        cache
            .expect_doubted()
            .returning(move |user| doubted(format!("doubted {}", user.0.as_u128())));
        let missed = note(&told);
        live.expect_missed()
            .returning(move |user| missed(format!("missed {}", user.0.as_u128())));
        live.expect_committed()
            .returning(move |events| committed(format!("committed {}", events.len())));
        live.expect_signal().returning(move |user, told| match told {
            Signal::Rejected { code, .. } => signal(format!("rejected {} {code}", user.0.as_u128())),
            other => panic!("{other:?}"),
        });
        (ChatEntities::new(Arc::new(cache), Arc::new(live)), told)
    }

    fn event() -> UserEvent {
        UserEvent {
            user_id: user(1),
            offset: 1,
            kind: EventKind::BlockUpdated,
            payload: Arc::from("{}"),
        }
    }

    fn state(events: Vec<UserEvent>) -> BlockState {
        BlockState {
            blocker: user(1),
            blocked: user(2),
            is_blocked: Lww::new(true, Hlc::ZERO),
            events,
        }
    }

    fn operation(change: Change) -> Operation {
        Operation::new(
            OperationId(Uuid::nil()),
            user(1),
            change,
            Hlc {
                wall_ms: 1,
                counter: 0,
                node: NodeId(0),
            },
        )
    }

    fn message(recipient: Option<UserId>) -> Operation {
        operation(Change::Message {
            id: ChatMessageId::of(user(1), Uuid::nil()),
            message: NewMessage {
                conversation_id: ConversationId::of(user(1), user(2)),
                client_message_id: Uuid::nil(),
                content: Content::parse("hello").unwrap(),
                recipient,
            },
        })
    }

    #[test]
    fn a_commit_is_known_to_the_cache_before_anybody_is_told() {
        let (entities, told) = entities();
        EntityCache::<BlockState>::learn(&entities, state(vec![event()]));
        entities.applied(&EntityState::Block(state(vec![event()])));
        let expected = ["raised 1", "committed 1", "raised 1", "committed 1"];
        assert_eq!(*told.lock().unwrap(), expected);
    }

    #[test]
    fn what_another_commit_left_unseen_is_no_longer_current() {
        let (entities, told) = entities();
        EntityCache::<BlockState>::learn(&entities, state(vec![]));
        entities.already_applied(&message(Some(user(2))));
        entities.already_applied(&operation(Change::Block(BlockChange {
            blocked: user(3),
            is_blocked: true,
        })));
        let mut expected = vec!["doubted 1"];
        expected.extend(["doubted 1", "missed 1", "doubted 2", "missed 2"]);
        expected.extend(["doubted 1", "missed 1", "doubted 3", "missed 3"]);
        assert_eq!(*told.lock().unwrap(), expected);
    }

    #[test]
    fn the_sender_of_a_message_that_is_set_aside_is_told_by_the_log_or_else_at_once() {
        let (entities, told) = entities();
        entities.set_aside(&message(None), "blocked", &[event()]);
        entities.set_aside(&message(None), "rejected: check_violation (x)", &[]);
        let block = Change::Block(BlockChange {
            blocked: user(2),
            is_blocked: true,
        });
        entities.set_aside(&operation(block), "expired", &[]);
        let expected = ["raised 1", "committed 1", "rejected 1 rejected"];
        assert_eq!(*told.lock().unwrap(), expected);
    }
}
