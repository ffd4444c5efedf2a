//! Chat over mocks: what is known, what waits, and what becomes of it.

mod blocking;
mod listing;
mod marking;
mod opening;
mod presence;
mod reading;
mod sending;
mod settings;

use gravity_domain::auth::{MockRateLimiter, RateDecision, Username};
use gravity_domain::chat::ports::{MockChatCache, MockChatStore};
use gravity_domain::chat::{
    BlockChange, BlockState, BlockStatus, Blocked, Content, Conversation, EventKind, Inbox, Known, Message,
    MessagePage, NewMessage, Opened, Person, ReadMark, ReadMarker, UnreadTotals, UserEvent,
};
use gravity_domain::clock::{Hlc, HybridClock, MockClock, NodeId, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ChatMessageId, ConversationId, OperationId, UserId};
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::sync::ports::{
    MockAppliedListener, MockBreaker, MockEntityCache, MockEntityStore, MockOperationStore, MockWriteBuffer,
    WritePorts,
};
use gravity_domain::sync::{Change, Entity, Found, Freshness, Operation, Pending};
use std::cmp::Reverse;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use uuid::Uuid;

use crate::sync::{EntityReader, WriteRequest, WriteSettings, Writer};

const ME: UserId = UserId(Uuid::from_u128(1));

fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(n))
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn name_of(n: u128) -> Username {
    Username::parse(&format!("user_{n}")).unwrap()
}

fn person(n: u128) -> Person {
    Person {
        id: user(n),
        username: Some(name_of(n)),
        name: None,
        avatar_url: None,
    }
}

/// The conversation of [`ME`] with this user.
fn with(n: u128) -> ConversationId {
    ConversationId::of(ME, user(n))
}

fn limit(rows: usize) -> PageLimit {
    PageLimit::new(rows).unwrap()
}

/// A stored message of the conversation with `n`, by `sender`.
fn stored(n: u128, sender: UserId, seq: u64) -> Message {
    let client_message_id = Uuid::from_u128(u128::from(seq) * 1_000 + n);
    Message {
        id: ChatMessageId::of(sender, client_message_id),
        conversation_id: with(n),
        seq: Some(seq),
        sender_id: sender,
        client_message_id,
        content: Content::parse(&format!("stored {seq}")).unwrap(),
        created_at: at(i64::try_from(seq).unwrap()),
        recipient: None,
        events: Vec::new(),
        is_repeat: false,
    }
}

/// The conversation with `n`, whose newest message is the other's, at this time and place. Two of the other's are unread.
fn conversation(n: u128, time: i64) -> Conversation {
    let last = Message {
        created_at: at(time),
        ..stored(n, user(n), 10)
    };
    Conversation {
        id: with(n),
        user_id: ME,
        other: person(n),
        last_message: Some(last),
        unread: 2,
        last_seq: 10,
        read_seq: 7,
        marked: Hlc::ZERO,
        blocks: BlockStatus::default(),
        created_at: at(0),
        updated_at: at(time),
    }
}

fn stamp(wall_ms: u64) -> Hlc {
    Hlc {
        wall_ms,
        counter: 0,
        node: NodeId(1),
    }
}

/// An operation of [`ME`], accepted at this time.
fn operation(wall_ms: u64, change: Change) -> Operation {
    Operation::new(
        OperationId(Uuid::from_u128(u128::from(wall_ms))),
        ME,
        change,
        stamp(wall_ms),
    )
}

fn content(text: &str) -> Content {
    Content::parse(text).unwrap()
}

fn client_id(wall_ms: u64) -> Uuid {
    Uuid::from_u128(0xc0_0000 + u128::from(wall_ms))
}

/// A message of [`ME`] to `n` that was accepted at this time.
fn sending(n: u128, wall_ms: u64) -> Operation {
    let message = NewMessage {
        conversation_id: with(n),
        client_message_id: client_id(wall_ms),
        content: content("waits"),
        recipient: Some(user(n)),
    };
    let id = ChatMessageId::of(ME, message.client_message_id);
    operation(wall_ms, Change::Message { id, message })
}

fn marking(n: u128, wall_ms: u64, up_to: u64) -> Operation {
    operation(
        wall_ms,
        Change::ReadMark(ReadMark {
            conversation_id: with(n),
            message_id: None,
            up_to,
        }),
    )
}

fn blocking(n: u128, wall_ms: u64, is_blocked: bool) -> Operation {
    operation(
        wall_ms,
        Change::Block(BlockChange {
            blocked: user(n),
            is_blocked,
        }),
    )
}

fn blocked(n: u128, time: i64) -> Blocked {
    Blocked {
        user_id: user(n),
        username: Some(name_of(n)),
        name: None,
        avatar_url: None,
        created_at: at(time),
    }
}

fn away() -> StoreError {
    StoreError::unavailable("connect")
}

fn known<T>(value: T, freshness: Freshness) -> Known<T> {
    Known { value, freshness }
}

/// What there is: in Postgres while it is up, and what a node remembers of it.
#[derive(Clone)]
struct World {
    is_up: bool,
    conversations: Vec<Conversation>,
    /// How many of them an inbox holds.
    held: usize,
    messages: Vec<Message>,
    /// How many of them are remembered.
    newest: usize,
    blocks: Vec<Blocked>,
    people: Vec<Person>,
    pending: Vec<Operation>,
    /// The node has just started: nothing is remembered.
    is_cold: bool,
}

impl World {
    /// Postgres is up, or the node remembers what was there.
    fn new(is_up: bool) -> Self {
        Self {
            is_up,
            conversations: vec![conversation(2, 200), conversation(3, 100)],
            held: Inbox::SIZE,
            messages: (1..=10).map(|seq| stored(2, user(2), seq)).collect(),
            newest: PageLimit::MAX,
            blocks: Vec::new(),
            people: vec![person(1), person(2), person(3), person(4)],
            pending: Vec::new(),
            is_cold: false,
        }
    }

    fn pending(mut self, operations: Vec<Operation>) -> Self {
        self.pending = operations;
        self
    }

    fn freshness(&self) -> Freshness {
        if self.is_up {
            Freshness::Current
        } else {
            Freshness::Stale
        }
    }

    fn breaker(&self) -> MockBreaker {
        let mut breaker = MockBreaker::new();
        breaker.expect_allows_reads().return_const(self.is_up);
        breaker.expect_allows_writes().return_const(self.is_up);
        breaker.expect_failed().return_const(());
        breaker
    }

    fn sorted(&self) -> Vec<Conversation> {
        let mut sorted = self.conversations.clone();
        sorted.sort_by_key(|one| Reverse(one.key()));
        sorted
    }

    fn inbox(&self) -> Inbox {
        let mut sorted = self.sorted();
        let has_more = sorted.len() > self.held;
        let unread = UnreadTotals {
            total: sorted.iter().map(|one| one.unread).sum(),
            conversations: sorted.iter().filter(|one| one.unread > 0).count() as u64,
        };
        sorted.truncate(self.held);
        Inbox {
            version: 1,
            unread,
            conversations: sorted,
            has_more,
        }
    }

    fn find(&self, id: ConversationId) -> Option<Conversation> {
        self.conversations.iter().find(|one| one.id == id).cloned()
    }

    fn page(&self, keep: impl Fn(u64) -> bool, newest_first: bool, rows: usize) -> MessagePage {
        let mut messages = self.messages.clone();
        messages.retain(|message| keep(message.seq.unwrap()));
        messages.sort_by_key(|message| message.seq);
        if newest_first {
            messages.reverse();
        }
        let has_more = messages.len() > rows;
        messages.truncate(rows);
        MessagePage { messages, has_more }
    }

    fn cache(&self) -> MockChatCache {
        let mut cache = MockChatCache::new();
        let freshness = self.freshness();
        macro_rules! answer {
            ($expect:ident, |$world:ident, $($arg:pat_param),*| $value:expr) => {
                let $world = self.clone();
                cache.$expect().returning(move |$($arg),*| {
                    if $world.is_cold && !$world.is_up {
                        return Err(away());
                    }
                    Ok(known($value, freshness))
                });
            };
        }
        answer!(expect_inbox, |world, _| Arc::new(world.inbox()));
        answer!(expect_conversation, |world, _, id| world.find(id).map(Arc::new));
        answer!(expect_newest_messages, |world, _, id| world
            .find(id)
            .map(|_| Arc::new(world.page(|_| id == with(2), true, world.newest))));
        answer!(expect_blocks, |world, _| Arc::new(world.blocks.clone()));
        let world = self.clone();
        cache.expect_person().returning(move |username| {
            let found = world
                .people
                .iter()
                .find(|one| one.username.as_ref() == Some(username));
            if world.is_up {
                Ok(found.cloned())
            } else {
                Err(away())
            }
        });
        let world = self.clone();
        cache
            .expect_known_conversation()
            .returning(move |_, id| (!world.is_cold).then(|| world.find(id).map(Arc::new)));
        cache.expect_doubted().return_const(());
        cache.expect_raised().return_const(());
        cache.expect_warm().return_const(());
        cache
    }

    fn store(&self) -> MockChatStore {
        let mut store = MockChatStore::new();
        macro_rules! answer {
            ($expect:ident, |$world:ident, $($arg:pat_param),*| $value:expr) => {
                let $world = self.clone();
                store.$expect().returning(move |$($arg),*| {
                    if $world.is_up { Ok($value) } else { Err(away()) }
                });
            };
        }
        answer!(expect_conversations, |world, _, after, rows| {
            let mut rest = world.sorted();
            rest.retain(|one| after.is_none_or(|after: PageKey| one.key() < after));
            let has_more = rest.len() > rows.get();
            rest.truncate(rows.get());
            let next = rest.last().filter(|_| has_more).map(Conversation::key);
            Page { items: rest, next }
        });
        answer!(expect_messages, |world, _, id, before, rows| world.find(id).map(
            |_| world.page(
                |seq| id == with(2) && before.is_none_or(|before| seq < before),
                true,
                rows.get()
            )
        ));
        answer!(expect_messages_after, |world, _, id, after, rows| world
            .find(id)
            .map(|_| world.page(
                |seq| id == with(2) && seq > after,
                false,
                rows.get()
            )));
        answer!(expect_message, |world, _, id| world
            .messages
            .iter()
            .find(|message| message.id == id)
            .cloned());
        answer!(expect_open, |_world, _, other| Opened {
            conversation: Conversation {
                last_message: None,
                unread: 0,
                last_seq: 0,
                read_seq: 0,
                ..conversation(other.0.as_u128(), 500)
            },
            is_new: true,
            events: vec![UserEvent {
                user_id: ME,
                offset: 2,
                kind: EventKind::ConversationUpdated,
                payload: Arc::from("{}"),
            }],
        });
        answer!(expect_block_status, |world, _, other| world
            .find(ConversationId::of(ME, other))
            .map_or_else(BlockStatus::default, |one| one.blocks));
        store
    }

    /// The buffer, and what is appended to it.
    fn buffer(&self) -> (MockWriteBuffer, Appended) {
        let mut buffer = MockWriteBuffer::new();
        let lane: Appended = Arc::new(Mutex::new(Vec::new()));
        let (waiting, appended) = (self.pending.clone(), Arc::clone(&lane));
        let all = Arc::new(move || -> Vec<Pending> {
            let later = appended.lock().unwrap().clone();
            (1..)
                .zip(waiting.iter().cloned().chain(later))
                .map(|(sequence, operation)| Pending { sequence, operation })
                .collect()
        });
        let of = Arc::clone(&all);
        buffer.expect_pending_of().returning(move |user, kind| {
            let mine = |one: &Pending| one.operation.user_id == user && one.operation.entity() == kind;
            Ok(of().into_iter().filter(mine).collect())
        });
        let on = Arc::clone(&all);
        buffer.expect_pending_on().returning(move |user, kind, id| {
            let mine = |one: &Pending| {
                let operation = &one.operation;
                operation.user_id == user && operation.entity() == kind && operation.entity_id() == id
            };
            Ok(on().into_iter().filter(mine).collect())
        });
        let found = Arc::clone(&all);
        buffer
            .expect_find()
            .returning(move |id| Ok(found().into_iter().find(|one| one.operation.id == id)));
        buffer.expect_find_dead().returning(|_| Ok(None));
        buffer
            .expect_lane_length()
            .returning(move |_| Ok(all().len() as u64));
        let sink = Arc::clone(&lane);
        buffer.expect_append().returning(move |operation| {
            sink.lock().unwrap().push(operation);
            Ok(())
        });
        (buffer, lane)
    }

    /// The write path over this buffer and this store of operations.
    fn writer(&self, buffer: &Arc<MockWriteBuffer>, mut store: MockOperationStore) -> Arc<Writer> {
        let mut listener = MockAppliedListener::new();
        listener.expect_already_applied().return_const(());
        store.expect_find().returning(|_, _| Ok(None));
        let ports = WritePorts {
            store: Arc::new(store),
            breaker: Arc::new(self.breaker()),
            buffer: buffer.clone(),
            known: Arc::new(listener),
        };
        let clock = HybridClock::new(
            NodeId(7),
            0,
            60_000,
            Arc::new(MockClock::at(1_000_000)),
            Arc::new(()),
        );
        let settings = WriteSettings {
            deadline: Duration::from_secs(10),
        };
        Arc::new(Writer::new(ports, Arc::new(clock), settings))
    }

    fn reader<E: Entity>(
        &self,
        buffer: &Arc<MockWriteBuffer>,
        find: impl Fn(Uuid) -> Option<E> + Clone + Send + Sync + 'static,
    ) -> EntityReader<E> {
        let (mut rows, mut cache) = (MockEntityStore::<E>::new(), MockEntityCache::<E>::new());
        let (found, is_up, is_cold) = (find.clone(), self.is_up, self.is_cold);
        rows.expect_find()
            .returning(move |_, id| if is_up { Ok(found(id)) } else { Err(away()) });
        cache.expect_find().returning(move |_, id| {
            if is_cold {
                return Found::Unknown;
            }
            find(id).map_or(Found::Absent, Found::Known)
        });
        cache.expect_mark().return_const(0u64);
        cache.expect_learn().return_const(());
        cache.expect_learn_read().return_const(());
        EntityReader::new(
            Arc::new(rows),
            Arc::new(cache),
            Arc::new(self.breaker()),
            buffer.clone(),
        )
    }

    fn markers(&self, buffer: &Arc<MockWriteBuffer>) -> Arc<EntityReader<ReadMarker>> {
        let world = self.clone();
        Arc::new(self.reader(buffer, move |id| {
            world.find(ConversationId(id)).map(|one| one.marker())
        }))
    }

    fn block_states(&self, buffer: &Arc<MockWriteBuffer>) -> Arc<EntityReader<BlockState>> {
        Arc::new(self.reader(buffer, |_| None))
    }
}

type Appended = Arc<Mutex<Vec<Operation>>>;

fn request() -> WriteRequest {
    WriteRequest {
        user: ME,
        key: None,
        expected_version: None,
        must_commit: false,
    }
}

/// A limiter that has so many calls left, and how many are left.
fn limiter(left: u32) -> (MockRateLimiter, Arc<Mutex<u32>>) {
    let mut limiter = MockRateLimiter::new();
    let calls = Arc::new(Mutex::new(left));
    let counted = Arc::clone(&calls);
    limiter.expect_check().returning(move |quota, _| {
        let mut left = counted.lock().unwrap();
        let allowed = *left > 0;
        *left = left.saturating_sub(1);
        RateDecision {
            allowed,
            quota: *quota,
            remaining: *left,
            reset: Duration::from_secs(7),
        }
    });
    let returned = Arc::clone(&calls);
    limiter
        .expect_give_back()
        .returning(move |_, _| *returned.lock().unwrap() += 1);
    (limiter, calls)
}
