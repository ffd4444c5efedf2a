//! Snapshots that follow the log, against what the store had at each version.

use super::fixture::{Fake, ME, OPEN, blocked, conversation, id, inbox, page};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use gravity_domain::chat::{
    BlockStatus, Blocked, ChatCache as _, Conversation, EventKind, Inbox, MessagePage, UserEvent,
};
use gravity_domain::error::StoreError;
use gravity_domain::sync::Freshness;
use gravity_infra::chat::CachedChat;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const TALKS: usize = 3;
/// More entries than this, heard of while something is loaded, are not remembered.
const REMEMBERED: u64 = 16;

async fn all(cache: &CachedChat) {
    cache.inbox(ME).await.unwrap();
    cache.blocks(ME).await.unwrap();
    for n in 0..2 {
        cache.newest_messages(ME, id(n)).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_sent_is_there_when_postgres_goes_away_at_once() {
    let fake = Fake::new(3);
    let cache = fake.cache();
    all(&cache).await;
    cache.raised(&fake.send(0));
    fake.set_down(true);
    let known = cache.inbox(ME).await.unwrap();
    assert_eq!(known.freshness, Freshness::Stale);
    let first = &known.value.conversations[0];
    assert_eq!((first.id, first.unread, first.read_seq), (id(0), 0, 2));
    assert_eq!(first.last_message.as_ref().unwrap().sender_id, ME);
    assert_eq!(
        (known.value.unread.total, known.value.unread.conversations),
        (2, 2)
    );
    let known = cache.newest_messages(ME, id(0)).await.unwrap();
    assert_eq!(known.freshness, Freshness::Stale);
    assert_eq!(known.value.unwrap().messages[0].sender_id, ME);
    let known = cache.newest_messages(ME, id(1)).await.unwrap();
    assert_eq!(known.value.unwrap().messages.len(), 1);
    let known = cache.conversation(ME, id(0)).await.unwrap();
    assert_eq!(known.value.unwrap().last_seq, 2);
    assert!(cache.blocks(ME).await.unwrap().value.is_empty());
}

#[tokio::test]
async fn what_follows_the_log_is_not_loaded_again() {
    let fake = Fake::new(3);
    let cache = fake.cache();
    all(&cache).await;
    let loads = fake.loads();
    for n in 0..150 {
        cache.raised(&fake.send(n % 2));
        cache.raised(&fake.message(n % 2));
        cache.raised(&fake.notice(n % 2));
    }
    all(&cache).await;
    assert_eq!(fake.loads(), loads);
    let known = cache.newest_messages(ME, id(0)).await.unwrap().value.unwrap();
    assert_eq!((known.messages.len(), known.has_more), (100, true));
}

#[tokio::test]
async fn entries_that_come_in_another_order_are_followed() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    cache.inbox(ME).await.unwrap();
    let (first, second) = (fake.send(0), fake.message(0));
    cache.raised(&second);
    cache.raised(&first);
    fake.set_down(true);
    assert_eq!(cache.inbox(ME).await.unwrap().value.conversations[0].last_seq, 3);
}

/// The inbox of somebody to whom `events` happened, in the dark.
async fn inbox_after(fake: &Arc<Fake>, events: impl FnOnce(&Fake) -> Vec<UserEvent>) -> Option<Arc<Inbox>> {
    let cache = fake.cache();
    cache.inbox(ME).await.unwrap();
    cache.raised(&events(fake));
    fake.set_down(true);
    let known = cache.inbox(ME).await.ok();
    fake.set_down(false);
    known.map(|known| known.value)
}

#[tokio::test]
async fn what_an_entry_does_not_tell_whole_is_left_behind() {
    let fake = Fake::new(1);
    assert!(inbox_after(&fake, Fake::open).await.is_none());
    let odd = |fake: &Fake| {
        let mut events = fake.message(0);
        events[1].payload = "{}".into();
        events
    };
    assert!(inbox_after(&fake, odd).await.is_none());
    let notice = |fake: &Fake| {
        let mut events = fake.notice(0);
        events[0].kind = EventKind::NotificationNew;
        events
    };
    assert!(inbox_after(&fake, notice).await.is_some());
    let many = Fake::new(Inbox::SIZE + 1);
    let hidden = (0..=Inbox::SIZE).map(id).min().unwrap();
    let hidden = (0..=Inbox::SIZE).find(|n| id(*n) == hidden).unwrap();
    let block = |fake: &Fake| fake.block(hidden, BlockStatus::default());
    assert!(inbox_after(&many, block).await.is_some());
    let message = |fake: &Fake| fake.message(hidden);
    assert!(inbox_after(&many, message).await.is_none());
}

#[tokio::test]
async fn entries_of_an_earlier_life_of_the_log_are_not_followed() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    cache.newest_messages(ME, id(0)).await.unwrap();
    for _ in 0..3 {
        cache.raised(&fake.message(0));
    }
    fake.epoch.store(2, Ordering::SeqCst);
    fake.offset.store(1, Ordering::SeqCst);
    fake.cut(0, 1);
    let known = cache.newest_messages(ME, id(0)).await.unwrap();
    assert_eq!(known.value.unwrap().messages.len(), 1);
    fake.set_down(true);
    let known = cache.newest_messages(ME, id(0)).await.unwrap();
    assert_eq!(known.value.unwrap().messages.len(), 1);
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Inbox,
    Page(usize),
    Conversation(usize),
    Blocks,
}

#[derive(Debug, PartialEq)]
enum Seen {
    Inbox(Arc<Inbox>),
    Page(Arc<MessagePage>),
    Conversation(Arc<Conversation>),
    Blocks(Arc<Vec<Blocked>>),
}

/// When this node hears of a commit.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Heard {
    Now,
    /// After the next one that it hears of.
    Late,
    Never,
}

#[derive(Debug, Clone, Copy)]
enum Write {
    Send(usize),
    Receive(usize),
    Read(usize),
    Block(usize, BlockStatus),
    Notice(usize),
    Open,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(Write, Heard),
    Read(What),
    ReadInTheDark(What),
    /// Begins a load, lets it see, lets it answer.
    Load(What),
}

fn write() -> impl Strategy<Value = Write> {
    let flags = (any::<bool>(), any::<bool>());
    let block = (0..TALKS, flags).prop_map(|(n, (blocked_by_me, blocked_by_them))| {
        let blocks = BlockStatus {
            blocked_by_me,
            blocked_by_them,
        };
        Write::Block(n, blocks)
    });
    prop_oneof![
        6 => (0..TALKS).prop_map(Write::Send),
        6 => (0..TALKS).prop_map(Write::Receive),
        4 => (0..TALKS).prop_map(Write::Read),
        3 => block,
        2 => (0..TALKS).prop_map(Write::Notice),
        1 => Just(Write::Open),
    ]
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        3 => Just(What::Inbox),
        3 => (0..TALKS).prop_map(What::Page),
        2 => (0..TALKS).prop_map(What::Conversation),
        1 => Just(What::Blocks),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let heard = prop_oneof![12 => Just(Heard::Now), 1 => Just(Heard::Late), 1 => Just(Heard::Never)];
    prop_oneof![
        6 => (write(), heard).prop_map(|(write, heard)| Step::Write(write, heard)),
        2 => what().prop_map(Step::Read),
        4 => what().prop_map(Step::ReadInTheDark),
        4 => what().prop_map(Step::Load),
    ]
}

async fn see(cache: &CachedChat, what: What) -> Result<(Seen, Freshness), StoreError> {
    Ok(match what {
        What::Inbox => {
            let known = cache.inbox(ME).await?;
            (Seen::Inbox(known.value), known.freshness)
        }
        What::Page(n) => {
            let known = cache.newest_messages(ME, id(n)).await?;
            (Seen::Page(known.value.unwrap()), known.freshness)
        }
        What::Conversation(n) => {
            let known = cache.conversation(ME, id(n)).await?;
            (Seen::Conversation(known.value.unwrap()), known.freshness)
        }
        What::Blocks => {
            let known = cache.blocks(ME).await?;
            (Seen::Blocks(known.value), known.freshness)
        }
    })
}

struct Loading<'a> {
    what: What,
    answer: BoxFuture<'a, Result<(Seen, Freshness), StoreError>>,
    has_seen: bool,
    began: u64,
    is_clean: bool,
}

/// A run of steps, and what must be true of it.
struct Run<'a> {
    fake: &'a Fake,
    cache: &'a CachedChat,
    acknowledged: u64,
    late: Vec<Vec<UserEvent>>,
    loading: Option<Loading<'a>>,
    /// Must be known in the dark, as it is in the store.
    follows: Vec<What>,
}

impl<'a> Run<'a> {
    fn write(&mut self, write: Write, heard: Heard) {
        let fake = self.fake;
        let events = match write {
            Write::Send(n) => fake.send(n),
            Write::Receive(n) => fake.message(n),
            Write::Read(n) => fake.read(n),
            Write::Block(n, blocks) => fake.block(n, blocks),
            Write::Notice(n) => fake.notice(n),
            Write::Open => fake.open(),
        };
        match write {
            Write::Open => self.loses(What::Inbox),
            Write::Block(..) => self.loses(What::Blocks),
            _ => {}
        }
        match heard {
            Heard::Now => {
                self.hear(&events);
                for events in std::mem::take(&mut self.late) {
                    self.hear(&events);
                }
                return;
            }
            Heard::Late => self.late.push(events),
            Heard::Never => {}
        }
        self.follows.clear();
        if let Some(loading) = &mut self.loading {
            loading.is_clean = false;
        }
    }

    fn loses(&mut self, lost: What) {
        self.follows.retain(|what| *what != lost);
        if let Some(loading) = self.loading.as_mut().filter(|loading| loading.what == lost) {
            loading.is_clean = false;
        }
    }

    fn hear(&mut self, events: &[UserEvent]) {
        self.cache.raised(events);
        self.acknowledged = self.acknowledged.max(events.last().unwrap().offset);
    }

    async fn read(&mut self, what: What) {
        if self.loading.is_some() {
            return;
        }
        let (fake, cache) = (self.fake, self.cache);
        fake.door.add_permits(1);
        fake.gate.add_permits(1);
        let (seen, freshness) = see(cache, what).await.unwrap();
        fake.door.forget_permits(1);
        fake.gate.forget_permits(1);
        assert_eq!(freshness, Freshness::Current);
        self.is_of(&seen, what, self.version());
        // One that is listed in a current inbox is not kept by itself.
        if !matches!(what, What::Conversation(_)) {
            self.follows.push(what);
        }
    }

    async fn read_in_the_dark(&self, what: What) {
        let (fake, cache) = (self.fake, self.cache);
        fake.set_down(true);
        let found = see(cache, what).await;
        fake.set_down(false);
        match found {
            Ok((seen, freshness)) => {
                assert_eq!(freshness, Freshness::Stale);
                let least = if self.follows.contains(&what) {
                    self.version()
                } else {
                    self.acknowledged
                };
                self.is_of(&seen, what, least);
            }
            Err(_) => assert!(!self.follows.contains(&what), "{what:?} is followed"),
        }
    }

    async fn load(&mut self, what: What) {
        let (fake, cache) = (self.fake, self.cache);
        let Some(mut loading) = self.loading.take() else {
            let mut answer = see(cache, what).boxed();
            let began = self.version();
            if futures_util::poll!(&mut answer).is_pending() {
                self.loading = Some(Loading {
                    what,
                    answer,
                    has_seen: false,
                    began,
                    is_clean: true,
                });
            }
            return;
        };
        if !loading.has_seen {
            fake.door.add_permits(1);
            assert!(futures_util::poll!(&mut loading.answer).is_pending());
            loading.has_seen = true;
            self.loading = Some(loading);
            return;
        }
        fake.gate.add_permits(1);
        let (seen, freshness) = loading.answer.await.unwrap();
        assert_eq!(freshness, Freshness::Current);
        self.is_of(&seen, loading.what, loading.began);
        if loading.is_clean && self.version() - loading.began <= REMEMBERED {
            self.follows.push(loading.what);
        }
    }

    fn version(&self) -> u64 {
        self.fake.offset.load(Ordering::SeqCst)
    }

    /// What was seen was there at `least` or later; an inbox at its very version.
    fn is_of(&self, seen: &Seen, what: What, least: u64) {
        let history = self.fake.history.lock().unwrap();
        let mut since = history.range(least..);
        let is_there = match (seen, what) {
            (Seen::Inbox(seen), What::Inbox) => {
                assert!(seen.version >= least);
                **seen == inbox(&history[&seen.version], seen.version)
            }
            (Seen::Page(seen), What::Page(n)) => since.any(|(_, talks)| **seen == page(&talks[n])),
            (Seen::Blocks(seen), What::Blocks) => since.any(|(_, talks)| **seen == blocked(talks)),
            (Seen::Conversation(seen), What::Conversation(n)) => {
                // Blocks are in no order with messages.
                let at = |talks| Conversation {
                    blocks: seen.blocks,
                    ..conversation(n, talks)
                };
                since.clone().any(|(_, talks)| **seen == at(&talks[n]))
                    && since.any(|(_, talks)| seen.blocks == conversation(n, &talks[n]).blocks)
            }
            _ => false,
        };
        assert!(is_there, "{what:?} at {least}: {seen:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_follows_the_log_is_what_the_store_had(steps in prop::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let fake = Fake::new(TALKS);
            fake.door.forget_permits(OPEN);
            fake.gate.forget_permits(OPEN);
            let cache = fake.cache();
            let mut run = Run {
                fake: &fake,
                cache: &cache,
                acknowledged: 0,
                late: Vec::new(),
                loading: None,
                follows: Vec::new(),
            };
            for step in steps {
                match step {
                    Step::Write(write, heard) => run.write(write, heard),
                    Step::Read(what) => run.read(what).await,
                    Step::ReadInTheDark(what) => run.read_in_the_dark(what).await,
                    Step::Load(what) => run.load(what).await,
                }
            }
        });
    }
}
