//! A store in memory, as one user sees it.

use async_trait::async_trait;
use gravity_domain::auth::Username;
use gravity_domain::chat::{
    BlockStatus, Blocked, ChatStore, Content, Conversation, EventCursor, EventKind, EventLog, Inbox,
    LogReplay, Message, MessagePage, Opened, Person, UnreadTotals, UserEvent,
};
use gravity_domain::clock::{Hlc, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::sync::ports::Breaker;
use gravity_infra::chat::{CachedChat, ChatCachePorts, ChatCacheSettings};
use serde_json::{Value, json};
use std::collections::BTreeMap;
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

/// A conversation in Postgres.
#[derive(Clone)]
pub(crate) struct Talk {
    messages: Vec<Message>,
    read_seq: u64,
    blocks: BlockStatus,
    updated_at: Timestamp,
}

/// Postgres, as one user sees it.
pub(crate) struct Fake {
    talks: Mutex<Vec<Talk>>,
    /// What was there at each version that a commit made.
    pub(crate) history: Mutex<BTreeMap<u64, Vec<Talk>>>,
    pub(crate) epoch: AtomicU64,
    pub(crate) offset: AtomicU64,
    pub(crate) heads: AtomicUsize,
    loads: AtomicUsize,
    /// Fails: `connect`, as an outage; else not at all.
    pub(crate) down: AtomicBool,
    pub(crate) refuses: AtomicBool,
    pub(crate) allows: AtomicBool,
    /// Loads wait for a permit to begin, and for one to answer.
    pub(crate) door: Semaphore,
    pub(crate) gate: Semaphore,
}

impl Fake {
    pub(crate) fn new(conversations: usize) -> Arc<Self> {
        let talks: Vec<Talk> = (0..conversations).map(Talk::begun).collect();
        Arc::new(Self {
            history: Mutex::new(BTreeMap::from([(1, talks.clone())])),
            talks: Mutex::new(talks),
            epoch: AtomicU64::new(1),
            offset: AtomicU64::new(1),
            heads: AtomicUsize::new(0),
            loads: AtomicUsize::new(0),
            down: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            allows: AtomicBool::new(true),
            door: Semaphore::new(OPEN),
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

    /// A message of the other in conversation `n`; what its commit appended to the log.
    pub(crate) fn message(&self, n: usize) -> Vec<UserEvent> {
        self.say(n, other(n))
    }

    /// A message of mine.
    pub(crate) fn send(&self, n: usize) -> Vec<UserEvent> {
        self.say(n, ME)
    }

    /// A message that was accepted at any time.
    fn say(&self, n: usize, sender: UserId) -> Vec<UserEvent> {
        let accepted = self.offset.load(Ordering::SeqCst) * 7_919 % 1_000;
        self.commit(|talks| {
            let talk = &mut talks[n];
            let seq = talk.last_seq() + 1;
            let created_at = Timestamp::from_millis(i64::try_from(accepted).unwrap());
            let message = message(n, seq, sender, created_at);
            let payload = json!({"durability": "stored", "message": {
                "id": message.id, "conversationId": id(n), "seq": seq, "senderId": sender,
                "clientMessageId": message.client_message_id, "content": message.content.as_str(),
                "createdAt": created_at, "durability": "stored"}});
            talk.messages.push(message);
            talk.updated_at = talk.updated_at.max(created_at);
            if sender == ME {
                talk.read_seq = seq;
            }
            vec![(EventKind::MessageNew, payload), talk.counts(n)]
        })
    }

    /// I read all of it.
    pub(crate) fn read(&self, n: usize) -> Vec<UserEvent> {
        self.commit(|talks| {
            talks[n].read_seq = talks[n].last_seq();
            vec![talks[n].counts(n)]
        })
    }

    pub(crate) fn block(&self, n: usize, blocks: BlockStatus) -> Vec<UserEvent> {
        self.commit(|talks| {
            talks[n].blocks = blocks;
            let payload = json!({"userId": other(n), "conversationId": id(n), "username": null,
                "blockedByMe": blocks.blocked_by_me, "blockedByThem": blocks.blocked_by_them});
            vec![(EventKind::BlockUpdated, payload)]
        })
    }

    /// The other reads.
    pub(crate) fn notice(&self, n: usize) -> Vec<UserEvent> {
        let payload = json!({"conversationId": id(n), "userId": other(n), "readSeq": 1});
        self.commit(|_| vec![(EventKind::MessageRead, payload)])
    }

    pub(crate) fn open(&self) -> Vec<UserEvent> {
        self.commit(|talks| {
            talks.push(Talk::opened());
            vec![Talk::opened().counts(talks.len() - 1)]
        })
    }

    fn commit(&self, act: impl FnOnce(&mut Vec<Talk>) -> Vec<(EventKind, Value)>) -> Vec<UserEvent> {
        let mut talks = self.talks.lock().unwrap();
        let events = act(&mut talks).into_iter().map(|(kind, payload)| UserEvent {
            user_id: ME,
            offset: self.offset.fetch_add(1, Ordering::SeqCst) + 1,
            kind,
            payload: payload.to_string().into(),
        });
        let events = events.collect();
        let version = self.offset.load(Ordering::SeqCst);
        self.history.lock().unwrap().insert(version, talks.clone());
        events
    }

    /// A conversation that no log tells of.
    pub(crate) fn add(&self) {
        let mut talks = self.talks.lock().unwrap();
        let talk = Talk::begun(talks.len());
        talks.push(talk);
    }

    /// Only so many messages are left.
    pub(crate) fn cut(&self, n: usize, messages: usize) {
        self.talks.lock().unwrap()[n].messages.truncate(messages);
    }

    pub(crate) fn last_seq(&self, n: usize) -> u64 {
        self.talks.lock().unwrap()[n].last_seq()
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
    async fn load<T>(&self, read: impl FnOnce(&[Talk], u64) -> T) -> Result<T, StoreError> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        self.door.acquire().await.unwrap().forget();
        let found = {
            let talks = self.talks.lock().unwrap();
            read(&talks, self.offset.load(Ordering::SeqCst))
        };
        self.gate.acquire().await.unwrap().forget();
        Ok(found)
    }
}

impl Talk {
    fn opened() -> Self {
        Self {
            messages: Vec::new(),
            read_seq: 0,
            blocks: BlockStatus::default(),
            updated_at: Timestamp::EPOCH,
        }
    }

    fn begun(n: usize) -> Self {
        Self {
            messages: vec![message(n, 1, other(n), Timestamp::EPOCH)],
            ..Self::opened()
        }
    }

    fn last_seq(&self) -> u64 {
        self.messages.len() as u64
    }

    fn unread(&self) -> u64 {
        let after = self.messages.iter().skip(usize::try_from(self.read_seq).unwrap());
        after.filter(|message| message.sender_id != ME).count() as u64
    }

    fn counts(&self, n: usize) -> (EventKind, Value) {
        let last_seq = self.last_seq();
        let payload = json!({"conversationId": id(n), "unread": self.unread(), "lastSeq": last_seq,
            "readSeq": self.read_seq, "asOfSeq": last_seq});
        (EventKind::ConversationUpdated, payload)
    }
}

pub(crate) fn conversation(n: usize, talk: &Talk) -> Conversation {
    Conversation {
        id: id(n),
        user_id: ME,
        other: person(n),
        last_message: talk.messages.last().cloned(),
        unread: talk.unread(),
        last_seq: talk.last_seq(),
        read_seq: talk.read_seq,
        marked: Hlc::ZERO,
        blocks: talk.blocks,
        created_at: Timestamp::EPOCH,
        updated_at: talk.updated_at,
    }
}

pub(crate) fn inbox(talks: &[Talk], version: u64) -> Inbox {
    let all = talks.iter().enumerate().map(|(n, talk)| conversation(n, talk));
    let mut conversations: Vec<_> = all.collect();
    conversations.sort_by_key(|conversation| std::cmp::Reverse(conversation.key()));
    conversations.truncate(Inbox::SIZE);
    Inbox {
        version,
        unread: UnreadTotals {
            total: talks.iter().map(Talk::unread).sum(),
            conversations: talks.iter().filter(|talk| talk.unread() > 0).count() as u64,
        },
        conversations,
        has_more: talks.len() > Inbox::SIZE,
    }
}

pub(crate) fn page(talk: &Talk) -> MessagePage {
    MessagePage {
        messages: talk.messages.iter().rev().take(PageLimit::MAX).cloned().collect(),
        has_more: talk.messages.len() > PageLimit::MAX,
    }
}

pub(crate) fn blocked(talks: &[Talk]) -> Vec<Blocked> {
    let mine = talks
        .iter()
        .enumerate()
        .filter(|(_, talk)| talk.blocks.blocked_by_me);
    mine.map(|(n, _)| Blocked {
        user_id: other(n),
        username: None,
        name: None,
        avatar_url: None,
        created_at: Timestamp::EPOCH,
    })
    .collect()
}

pub(crate) fn person(n: usize) -> Person {
    Person {
        id: other(n),
        username: None,
        name: Some(format!("Number {n}")),
        avatar_url: None,
    }
}

fn message(n: usize, seq: u64, sender: UserId, created_at: Timestamp) -> Message {
    let client_message_id = Uuid::from_u128((n as u128) << 64 | u128::from(seq));
    Message {
        id: ChatMessageId::of(sender, client_message_id),
        conversation_id: id(n),
        seq: Some(seq),
        sender_id: sender,
        client_message_id,
        content: Content::parse(&format!("Hello, number {n}: {seq}")).unwrap(),
        created_at,
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
        self.load(inbox).await
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
        self.load(|talks, _| place(talks.len(), id).map(|n| conversation(n, &talks[n])))
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
        self.load(|talks, _| place(talks.len(), id).map(|n| page(&talks[n])))
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
        self.load(|talks, _| blocked(talks)).await
    }
    async fn block_status(&self, _: UserId, _: UserId) -> Result<BlockStatus, StoreError> {
        unreachable!()
    }
}

#[async_trait]
impl EventLog for Fake {
    async fn head(&self, _: UserId) -> Result<EventCursor, StoreError> {
        self.heads.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        Ok(EventCursor {
            epoch: self.epoch.load(Ordering::SeqCst),
            offset: self.offset.load(Ordering::SeqCst),
            stream: 0,
        })
    }
    async fn heads(&self, _: &[UserId]) -> Result<Vec<(UserId, EventCursor)>, StoreError> {
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
