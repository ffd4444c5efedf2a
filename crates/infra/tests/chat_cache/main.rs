//! The cache before chat, over a store in memory that can be slow, down, or have gone back to an earlier life.

mod fixture;
mod following;

use fixture::{Fake, ME, OPEN, id, other, person};
use gravity_domain::auth::Username;
use gravity_domain::chat::ChatCache as _;
use gravity_domain::error::StoreError;
use gravity_domain::sync::Freshness;
use gravity_infra::chat::{CachedChat, ChatCacheSettings};
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The newest place in conversation `n`, as the messages tell it, and how fresh.
async fn newest(cache: &CachedChat, n: usize) -> Result<(u64, Freshness), StoreError> {
    let known = cache.newest_messages(ME, id(n)).await?;
    Ok((known.value.unwrap().messages[0].seq.unwrap(), known.freshness))
}

async fn last_seq(cache: &CachedChat, n: usize) -> Result<(u64, Freshness), StoreError> {
    let known = cache.inbox(ME).await?;
    Ok((known.value.find(id(n)).unwrap().last_seq, known.freshness))
}

#[tokio::test]
async fn a_snapshot_is_read_once_while_the_log_ends_where_it_was() {
    let fake = Fake::new(2);
    let cache = fake.cache();
    for _ in 0..3 {
        assert_eq!(newest(&cache, 0).await.unwrap(), (1, Freshness::Current));
        assert_eq!(last_seq(&cache, 0).await.unwrap(), (1, Freshness::Current));
        assert!(cache.blocks(ME).await.unwrap().value.is_empty());
    }
    assert_eq!(fake.loads(), 3);
    fake.message(0);
    assert_eq!(newest(&cache, 0).await.unwrap(), (2, Freshness::Current));
    assert_eq!(last_seq(&cache, 0).await.unwrap(), (2, Freshness::Current));
    assert_eq!(fake.loads(), 5);
}

#[tokio::test]
async fn what_another_node_wrote_is_seen_without_being_told() {
    let fake = Fake::new(1);
    let (one, two) = (fake.cache(), fake.cache());
    last_seq(&one, 0).await.unwrap();
    two.raised(&fake.message(0));
    assert_eq!(last_seq(&one, 0).await.unwrap(), (2, Freshness::Current));
}

#[tokio::test]
async fn a_conversation_of_a_current_inbox_is_not_loaded_by_itself() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    cache.inbox(ME).await.unwrap();
    let found = cache.conversation(ME, id(0)).await.unwrap();
    assert_eq!(found.value.unwrap().last_seq, 1);
    assert_eq!(fake.loads(), 1);
    fake.message(0);
    let found = cache.conversation(ME, id(0)).await.unwrap();
    assert_eq!(found.value.unwrap().last_seq, 2);
    cache.conversation(ME, id(0)).await.unwrap();
    assert_eq!(fake.loads(), 2);
}

#[tokio::test]
async fn what_is_not_there_is_not_remembered() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    cache.inbox(ME).await.unwrap();
    assert!(cache.conversation(ME, id(1)).await.unwrap().value.is_none());
    assert!(cache.newest_messages(ME, id(1)).await.unwrap().value.is_none());
    assert_eq!(cache.known_conversation(ME, id(1)), None);
    fake.add();
    assert!(cache.conversation(ME, id(1)).await.unwrap().value.is_some());
    assert!(cache.newest_messages(ME, id(1)).await.unwrap().value.is_some());
    assert!(cache.known_conversation(ME, id(1)).unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_no_log_tells_of_is_read_again_after_a_while_or_a_doubt() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    cache.inbox(ME).await.unwrap();
    fake.add();
    assert_eq!(cache.inbox(ME).await.unwrap().value.conversations.len(), 1);
    cache.doubted(ME);
    assert_eq!(cache.inbox(ME).await.unwrap().value.conversations.len(), 2);
    fake.add();
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(cache.inbox(ME).await.unwrap().value.conversations.len(), 3);
}

#[tokio::test]
async fn of_many_callers_one_loads() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    fake.gate.forget_permits(OPEN);
    let calls = (0..20).map(|_| cache.inbox(ME));
    let release = async {
        while fake.loads() == 0 {
            tokio::task::yield_now().await;
        }
        fake.gate.add_permits(1);
    };
    let all = async { tokio::join!(futures_util::future::try_join_all(calls), release).0 };
    let found = tokio::time::timeout(Duration::from_secs(10), all).await;
    assert_eq!(found.expect("one load answers all").unwrap().len(), 20);
    assert_eq!(fake.loads(), 1);
}

#[tokio::test]
async fn a_load_under_way_does_not_answer_who_knows_of_more() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    fake.gate.forget_permits(OPEN);
    let early = last_seq(&cache, 0);
    let late = async {
        while fake.loads() == 0 {
            tokio::task::yield_now().await;
        }
        fake.message(0);
        let late = last_seq(&cache, 0);
        let release = async { fake.gate.add_permits(2) };
        tokio::join!(late, release).0
    };
    let (early, late) = tokio::join!(early, late);
    assert_eq!(early.unwrap().0, 1);
    assert_eq!(late.unwrap(), (2, Freshness::Current));
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_the_load_to_the_next() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    fake.gate.forget_permits(OPEN);
    {
        let mut first = Box::pin(cache.inbox(ME));
        assert!(futures_util::poll!(&mut first).is_pending());
    }
    fake.gate.add_permits(1);
    cache.inbox(ME).await.unwrap();
    assert_eq!(fake.loads(), 2);
}

#[tokio::test]
async fn in_the_dark_the_last_known_is_given_as_stale() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    newest(&cache, 0).await.unwrap();
    last_seq(&cache, 0).await.unwrap();
    cache.blocks(ME).await.unwrap();
    fake.set_down(true);
    assert_eq!(newest(&cache, 0).await.unwrap(), (1, Freshness::Stale));
    assert_eq!(last_seq(&cache, 0).await.unwrap(), (1, Freshness::Stale));
    assert_eq!(cache.blocks(ME).await.unwrap().freshness, Freshness::Stale);
    let found = cache.conversation(ME, id(0)).await.unwrap();
    assert_eq!(found.freshness, Freshness::Stale);
    assert!(cache.conversation(ME, id(1)).await.is_err());
    assert!(cache.newest_messages(ME, id(1)).await.is_err());
    assert!(cache.inbox(other(1)).await.is_err());
    fake.set_down(false);
    assert_eq!(newest(&cache, 0).await.unwrap(), (1, Freshness::Current));
}

#[tokio::test]
async fn nothing_older_than_what_was_acknowledged_here_is_given() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    newest(&cache, 0).await.unwrap();
    cache.inbox(ME).await.unwrap();
    fake.message(0);
    cache.raised(&fake.message(0));
    fake.set_down(true);
    assert!(newest(&cache, 0).await.is_err());
    assert!(cache.inbox(ME).await.is_err());
    assert!(cache.conversation(ME, id(0)).await.is_err());
    let known = cache.known_conversation(ME, id(0)).unwrap().unwrap();
    assert_eq!(known.other, person(0));
    fake.set_down(false);
    newest(&cache, 0).await.unwrap();
    fake.message(0);
    fake.set_down(true);
    assert_eq!(newest(&cache, 0).await.unwrap(), (3, Freshness::Stale));
    assert!(cache.inbox(ME).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn in_doubt_nothing_is_given_until_postgres_was_asked() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    newest(&cache, 0).await.unwrap();
    cache.doubted(ME);
    fake.set_down(true);
    assert!(newest(&cache, 0).await.is_err());
    fake.set_down(false);
    tokio::time::advance(Duration::from_secs(3)).await;
    newest(&cache, 0).await.unwrap();
    fake.set_down(true);
    assert_eq!(newest(&cache, 0).await.unwrap(), (1, Freshness::Stale));
}

#[tokio::test]
async fn an_open_breaker_spares_postgres_and_a_refusal_is_told() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    newest(&cache, 0).await.unwrap();
    let heads = fake.heads.load(Ordering::SeqCst);
    fake.allows.store(false, Ordering::SeqCst);
    assert_eq!(newest(&cache, 0).await.unwrap(), (1, Freshness::Stale));
    assert_eq!(fake.heads.load(Ordering::SeqCst), heads);
    fake.allows.store(true, Ordering::SeqCst);
    fake.refuses.store(true, Ordering::SeqCst);
    assert!(matches!(
        newest(&cache, 0).await,
        Err(StoreError::Rejected { .. })
    ));
}

#[tokio::test]
async fn another_life_of_the_log_is_read_anew() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    for _ in 0..5 {
        cache.raised(&fake.message(0));
    }
    newest(&cache, 0).await.unwrap();
    fake.epoch.store(2, Ordering::SeqCst);
    fake.offset.store(3, Ordering::SeqCst);
    fake.cut(0, 3);
    assert_eq!(last_seq(&cache, 0).await.unwrap(), (3, Freshness::Current));
    fake.set_down(true);
    assert_eq!(last_seq(&cache, 0).await.unwrap(), (3, Freshness::Stale));
    assert!(newest(&cache, 0).await.is_err(), "of the earlier life");
    fake.set_down(false);
    assert_eq!(newest(&cache, 0).await.unwrap(), (3, Freshness::Current));
}

#[tokio::test(start_paused = true)]
async fn a_person_is_remembered_for_a_minute_and_in_the_dark_for_longer() {
    let fake = Fake::new(1);
    let cache = fake.cache();
    let known = Username::parse("known").unwrap();
    let unknown = Username::parse("unknown").unwrap();
    for _ in 0..3 {
        assert_eq!(cache.person(&known).await.unwrap(), Some(person(0)));
    }
    assert_eq!(fake.loads(), 1);
    for _ in 0..2 {
        assert_eq!(cache.person(&unknown).await.unwrap(), None);
    }
    assert_eq!(fake.loads(), 3);
    tokio::time::advance(Duration::from_secs(60)).await;
    cache.person(&known).await.unwrap();
    assert_eq!(fake.loads(), 4);
    tokio::time::advance(Duration::from_secs(3_600)).await;
    fake.set_down(true);
    assert_eq!(cache.person(&known).await.unwrap(), Some(person(0)));
    assert!(cache.person(&unknown).await.is_err());
}

#[tokio::test]
async fn warming_up_loads_the_inbox_and_the_first_conversations() {
    let fake = Fake::new(8);
    let cache = fake.cache();
    cache.warm(ME).await;
    assert_eq!((fake.loads(), fake.heads.load(Ordering::SeqCst)), (6, 1));
    let inbox = cache.inbox(ME).await.unwrap().value;
    let (first, rest) = inbox.conversations.split_at(5);
    for conversation in first {
        cache.newest_messages(ME, conversation.id).await.unwrap();
    }
    assert_eq!(fake.loads(), 6);
    cache.newest_messages(ME, rest[0].id).await.unwrap();
    assert_eq!(fake.loads(), 7);
    fake.set_down(true);
    cache.warm(ME).await;
}

#[tokio::test]
async fn no_more_is_kept_than_there_is_room_for() {
    let fake = Fake::new(1_000);
    let cache = fake.cache_of(ChatCacheSettings {
        bytes: 200_000,
        ..ChatCacheSettings::default()
    });
    for n in 0..1_000 {
        newest(&cache, n).await.unwrap();
    }
    let bytes = cache.bytes();
    assert!((10_000..=200_000).contains(&bytes), "{bytes}");
}

#[derive(Debug, Clone)]
enum Step {
    Message { n: usize, is_here: bool },
    Read(usize),
    ReadMessages(usize),
    Dark(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3usize, any::<bool>()).prop_map(|(n, is_here)| Step::Message { n, is_here }),
        (0..3usize).prop_map(Step::Read),
        (0..3usize).prop_map(Step::ReadMessages),
        any::<bool>().prop_map(Step::Dark),
    ]
}

proptest! {
    #[test]
    fn current_is_what_is_there_and_stale_has_all_that_was_acknowledged(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let fake = Fake::new(3);
            let cache = fake.cache();
            let mut acknowledged = [0u64; 3];
            for step in steps {
                let (n, read) = match step {
                    Step::Dark(dark) => {
                        fake.set_down(dark);
                        continue;
                    }
                    Step::Message { n, is_here } => {
                        let event = fake.message(n);
                        if is_here {
                            cache.raised(&event);
                            acknowledged[n] = fake.last_seq(n);
                        }
                        continue;
                    }
                    Step::Read(n) => (n, last_seq(&cache, n).await),
                    Step::ReadMessages(n) => (n, newest(&cache, n).await),
                };
                let there = fake.last_seq(n);
                match read {
                    Ok((seq, Freshness::Current)) => assert_eq!(seq, there),
                    Ok((seq, _)) => assert!((acknowledged[n]..=there).contains(&seq)),
                    Err(_) => assert!(fake.down.load(Ordering::SeqCst)),
                }
            }
        });
    }
}
