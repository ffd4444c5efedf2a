//! The conversation with somebody.

use super::*;
use crate::chat::{ChatError, OpenConversation, OpenedConversation};
use gravity_domain::chat::ports::MockLive;
use gravity_domain::sync::ReadError;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Opening {
    result: Result<OpenedConversation, ChatError>,
    left: u32,
    told: usize,
}

async fn open_over(world: &World, store: MockChatStore, calls: u32, n: u128) -> Opening {
    let (limiter, left) = limiter(calls);
    let (mut live, told) = (MockLive::new(), Arc::new(AtomicUsize::new(0)));
    let sink = Arc::clone(&told);
    live.expect_committed().returning(move |events| {
        sink.fetch_add(events.len(), Ordering::SeqCst);
    });
    let open = OpenConversation::new(
        Arc::new(store),
        Arc::new(world.cache()),
        Arc::new(world.breaker()),
        Arc::new(world.buffer().0),
        Arc::new(live),
        Arc::new(limiter),
        OpenConversation::per_minute(10),
    );
    let result = open.run(ME, &name_of(n)).await;
    let left = *left.lock().unwrap();
    let told = told.load(Ordering::SeqCst);
    Opening { result, left, told }
}

async fn open(world: &World, n: u128) -> Opening {
    open_over(world, world.store(), 3, n).await
}

#[tokio::test]
async fn one_that_is_there_is_found_and_does_not_count() {
    let Opening { result, left, .. } = open(&World::new(true), 2).await;
    let opened = result.unwrap();
    assert_eq!(opened.read.value, conversation(2, 200));
    assert_eq!((opened.is_new, opened.rate, left), (false, None, 3));
}

#[tokio::test]
async fn one_that_is_not_there_is_made_and_counts() {
    let Opening { result, left, told } = open(&World::new(true), 4).await;
    let opened = result.unwrap();
    assert_eq!(told, 1, "the logs of both tell of it");
    assert_eq!((opened.read.value.id, opened.is_new, left), (with(4), true, 2));
    assert_eq!(opened.rate.unwrap().remaining, 2);
}

#[tokio::test]
async fn one_that_somebody_else_made_meanwhile_does_not_count() {
    let mut store = MockChatStore::new();
    store.expect_open().returning(|_, _| {
        Ok(Opened {
            conversation: conversation(4, 1),
            is_new: false,
            events: Vec::new(),
        })
    });
    let Opening { result, left, .. } = open_over(&World::new(true), store, 3, 4).await;
    assert_eq!((result.unwrap().is_new, left), (false, 3));
}

#[tokio::test]
async fn one_that_could_not_be_made_does_not_count() {
    let mut store = MockChatStore::new();
    store.expect_open().returning(|_, _| Err(away()));
    let Opening { result, left, .. } = open_over(&World::new(true), store, 3, 4).await;
    assert!(matches!(result, Err(ChatError::Read(ReadError::Unknown))));
    assert_eq!(left, 3);
}

#[tokio::test]
async fn too_many_new_ones_are_refused_while_old_ones_are_found() {
    let world = World::new(true);
    let refused = open_over(&world, world.store(), 0, 4).await.result;
    assert!(matches!(refused, Err(ChatError::RateLimited(rate)) if rate.quota.name == "chat_conversations"));
    assert!(open_over(&world, world.store(), 0, 2).await.result.is_ok());
}

#[tokio::test]
async fn nobody_talks_to_themselves_or_to_nobody() {
    let world = World::new(true);
    assert!(matches!(open(&world, 1).await.result, Err(ChatError::Oneself)));
    let nobody = open(&world, 9).await.result;
    assert!(matches!(nobody, Err(ChatError::Read(ReadError::NotFound))));
}

#[tokio::test]
async fn in_the_dark_a_known_one_is_found_by_the_others_name_and_no_other() {
    let world = World::new(false).pending(vec![sending(2, 900)]);
    let opened = open(&world, 2).await.result.unwrap();
    assert_eq!(opened.read.freshness, Freshness::Pending);
    assert_eq!(opened.read.value.updated_at, at(900));
    let Opening { result, left, .. } = open(&world, 4).await;
    assert!(matches!(result, Err(ChatError::Read(ReadError::Unknown))));
    assert_eq!(left, 3);
}

#[tokio::test]
async fn one_that_was_not_there_when_last_looked_at_is_not_made_in_the_dark() {
    let mut world = World::new(false);
    world.blocks = vec![blocked(4, 1)];
    let Opening { result, left, .. } = open(&world, 4).await;
    assert!(matches!(result, Err(ChatError::Read(ReadError::Unknown))));
    assert_eq!(left, 3);
}
