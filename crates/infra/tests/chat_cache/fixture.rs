//! A store in memory, as one user sees it.

use async_trait::async_trait;
use gravity_domain::auth::Username;
use gravity_domain::chat::{
    BlockStatus, Blocked, ChatStore, Content, Conversation, EventCursor, EventKind, EventLog, Inbox, LogHead,
    LogReplay, Message, MessagePage, Opened, Person, UnreadTotals, UserEvent,
};
use gravity_domain::clock::{Hlc, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::sync::ports::Breaker;
use gravity_infra::chat::{CachedChat, ChatCachePorts, ChatCacheSettings};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;
use uuid::Uuid;

pub(crate) const ME: UserId = UserId(Uuid::from_u128(1));
pub(crate) const OPEN: usize = Semaphore::MAX_PERMITS / 2;

pub(crate) fn other(n: usize) -> UserId {
    UserId(Uuid::from_u128(100 + n as u128))
}

pub(crate) fn id(n: usize) -> ConversationId {
    ConversationId::of(ME, other(n))
}

/// Postgres, as one user sees it: how many messages each conversation has.
pub(crate) struct Fake {
    pub(crate) conversations: Mutex<Vec<usize>>,
    pub(crate) epoch: AtomicU64,
    pub(crate) offset: AtomicU64,
    pub(crate) heads: AtomicUsize,
    loads: AtomicUsize,
    /// Fails: `connect`, as an outage; else not at all.
    pub(crate) down: AtomicBool,
    pub(crate) refuses: AtomicBool,
    pub(crate) allows: AtomicBool,
    /// Loads wait for a permit.
    pub(crate) gate: Semaphore,
}

impl Fake {
    pub(crate) fn new(conversations: usize) -> Arc<Self> {
        Arc::new(Self {
            conversations: Mutex::new(vec![1; conversations]),
            epoch: AtomicU64::new(1),
            offset: AtomicU64::new(1),
            heads: AtomicUsize::new(0),
            loads: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            allows: AtomicBool::new(true),
            gate: Semaphore::new(OPEN),
        })
    }

    pub(crate) fn cache(self: &Arc<Self>) -> CachedChat {
        self.cache_of(ChatCacheSettings::default())
    }

    pub(crate) fn cache_of(self: &Arc<Self>, settings: ChatCacheSettings) -> CachedChat {
        let ports = ChatCachePorts {
            store: self.clone(),
            log: self.clone(),
            breaker: self.clone(),
        };
        CachedChat::new(settings, ports)
    }

    /// A message in conversation `n`; what its commit appended to the log.
    pub(crate) fn message(&self, n: usize) -> UserEvent {
        self.conversations.lock().unwrap()[n] += 1;
        UserEvent {
            user_id: ME,
            offset: self.offset.fetch_add(1, Ordering::SeqCst) + 1,
            kind: EventKind::MessageNew,
            payload: "{}".into(),
        }
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    pub(crate) fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.refuses.load(Ordering::SeqCst) {
            return Err(StoreError::Rejected {
                reason: "odd".to_owned(),
                source: None,
            });
        }
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::unavailable("connect"));
        }
        Ok(())
    }

    /// A load: sees what is there when it begins, answers when it may.
    async fn load<T>(&self, read: impl FnOnce(&[usize], u64) -> T) -> Result<T, StoreError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        let found = {
            let conversations = self.conversations.lock().unwrap();
            read(&conversations, self.offset.load(Ordering::SeqCst))
        };
        self.gate.acquire().await.unwrap().forget();
        Ok(found)
    }
}

fn conversation(n: usize, messages: usize) -> Conversation {
    Conversation {
        id: id(n),
        user_id: ME,
        other: person(n),
        last_message: Some(message(n, messages)),
        unread: messages as u64,
        last_seq: messages as u64,
        read_seq: 0,
        marked: Hlc::ZERO,
        blocks: BlockStatus::default(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}

pub(crate) fn person(n: usize) -> Person {
    Person {
        id: other(n),
        username: None,
        name: Some(format!("Number {n}")),
        avatar_url: None,
    }
}

fn message(n: usize, seq: usize) -> Message {
    let client_message_id = Uuid::from_u128(seq as u128);
    Message {
        id: ChatMessageId::of(other(n), client_message_id),
        conversation_id: id(n),
        seq: Some(seq as u64),
        sender_id: other(n),
        client_message_id,
        content: Content::parse("hello").unwrap(),
        created_at: Timestamp::EPOCH,
        recipient: None,
        events: Vec::new(),
        is_repeat: false,
    }
}

fn place(count: usize, wanted: ConversationId) -> Option<usize> {
    (0..count).find(|n| id(*n) == wanted)
}

#[async_trait]
impl ChatStore for Fake {
    async fn person(&self, username: &Username) -> Result<Option<Person>, StoreError> {
        let is_known = username.as_str() == "known";
        self.load(|_, _| is_known.then(|| person(0))).await
    }
    async fn find_with(&self, _: UserId, _: UserId) -> Result<Option<Conversation>, StoreError> {
        unreachable!()
    }
    async fn open(&self, _: UserId, _: UserId) -> Result<Opened, StoreError> {
        unreachable!()
    }
    async fn inbox(&self, _: UserId) -> Result<Inbox, StoreError> {
        self.load(|counts, version| Inbox {
            version,
            unread: UnreadTotals::default(),
            conversations: (0..counts.len()).map(|n| conversation(n, counts[n])).collect(),
            has_more: false,
        })
        .await
    }
    async fn conversations(
        &self,
        _: UserId,
        _: Option<PageKey>,
        _: PageLimit,
    ) -> Result<Page<Conversation>, StoreError> {
        unreachable!()
    }
    async fn conversation(&self, _: UserId, id: ConversationId) -> Result<Option<Conversation>, StoreError> {
        self.load(|counts, _| place(counts.len(), id).map(|n| conversation(n, counts[n])))
            .await
    }
    async fn messages(
        &self,
        _: UserId,
        id: ConversationId,
        before: Option<u64>,
        limit: PageLimit,
    ) -> Result<Option<MessagePage>, StoreError> {
        assert_eq!((before, limit.get()), (None, PageLimit::MAX));
        self.load(|counts, _| {
            place(counts.len(), id).map(|n| MessagePage {
                messages: (1..=counts[n]).rev().map(|seq| message(n, seq)).collect(),
                has_more: false,
            })
        })
        .await
    }
    async fn messages_after(
        &self,
        _: UserId,
        _: ConversationId,
        _: u64,
        _: PageLimit,
    ) -> Result<Option<MessagePage>, StoreError> {
        unreachable!()
    }
    async fn message(&self, _: UserId, _: ChatMessageId) -> Result<Option<Message>, StoreError> {
        unreachable!()
    }
    async fn blocks(&self, _: UserId) -> Result<Vec<Blocked>, StoreError> {
        self.load(|_, _| Vec::new()).await
    }
    async fn block_status(&self, _: UserId, _: UserId) -> Result<BlockStatus, StoreError> {
        unreachable!()
    }
}

#[async_trait]
impl EventLog for Fake {
    async fn head(&self, _: UserId) -> Result<LogHead, StoreError> {
        self.heads.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        Ok(LogHead {
            epoch: self.epoch.load(Ordering::SeqCst),
            offset: self.offset.load(Ordering::SeqCst),
        })
    }
    async fn heads(&self, _: &[UserId]) -> Result<Vec<(UserId, u64)>, StoreError> {
        unreachable!()
    }
    async fn since(&self, _: UserId, _: EventCursor, _: usize) -> Result<LogReplay, StoreError> {
        unreachable!()
    }
}

impl Breaker for Fake {
    fn allows_writes(&self) -> bool {
        self.allows_reads()
    }
    fn allows_reads(&self) -> bool {
        self.allows.load(Ordering::SeqCst)
    }
    fn failed(&self, _: &StoreError) {}
}
