//! Marks.

use super::*;
use crate::chat::MarkRead;
use crate::sync::Written;
use gravity_domain::sync::{WriteError, WriteOutcome};

async fn mark(
    world: &World,
    n: u128,
    message: Option<ChatMessageId>,
) -> (Result<Written<ReadMarker>, WriteError>, Option<ReadMark>) {
    let (buffer, lane) = world.buffer();
    let buffer = Arc::new(buffer);
    let mark = MarkRead::new(
        world.writer(&buffer, MockOperationStore::new()),
        world.markers(&buffer),
        Arc::new(world.cache()),
        Arc::new(world.breaker()),
        buffer.clone(),
    );
    let result = mark.run(request(), with(n), message).await;
    let written = lane.lock().unwrap().pop().map(|operation| operation.change);
    let made = written.and_then(|change| match change {
        Change::ReadMark(mark) => Some(mark),
        _ => None,
    });
    (result, made)
}

/// Up to which place a mark of this message reaches, and what the marker then says.
async fn reach(world: &World, message: Option<ChatMessageId>) -> (u64, u64, u64) {
    let (result, made) = mark(world, 2, message).await;
    let (Ok(written), Some(made)) = (result, made) else {
        panic!("it was not accepted")
    };
    assert_eq!(made.message_id, message);
    let WriteOutcome::Buffered(marker) = written.outcome else {
        panic!("it was not buffered")
    };
    (made.up_to, marker.read_seq, marker.unread)
}

#[tokio::test]
async fn without_a_message_all_that_is_known_is_read() {
    assert_eq!(reach(&World::new(false), None).await, (10, 10, 0));
    let waits = World::new(false).pending(vec![sending(2, 900)]);
    assert_eq!(
        reach(&waits, None).await,
        (10, 10, 0),
        "what waits has no place yet"
    );
}

#[tokio::test]
async fn a_known_message_is_read_up_to_its_place_and_never_backwards() {
    let world = World::new(false);
    let at = |seq| Some(stored(2, user(2), seq).id);
    assert_eq!(reach(&world, at(10)).await, (10, 10, 0));
    assert_eq!(reach(&world, at(9)).await, (9, 9, 2));
    assert_eq!(reach(&world, at(3)).await, (3, 7, 2));
}

#[tokio::test]
async fn a_message_that_waits_is_newer_than_all_that_are_stored() {
    let mine = ChatMessageId::of(ME, client_id(900));
    let mut theirs = sending(2, 901);
    theirs.user_id = user(2);
    let their_id = ChatMessageId::of(user(2), client_id(901));
    if let Change::Message { id, .. } = &mut theirs.change {
        *id = their_id;
    }
    let mut world = World::new(false).pending(vec![sending(2, 900), theirs]);
    world.newest = 5;
    for id in [mine, their_id] {
        assert_eq!(reach(&world, Some(id)).await, (10, 10, 0));
    }
}

#[tokio::test]
async fn nothing_is_read_for_a_message_that_may_be_any() {
    let mut world = World::new(false);
    let unknown = Some(ChatMessageId(Uuid::from_u128(77)));
    assert_eq!(
        reach(&world, unknown).await.0,
        10,
        "it is newer than all, which are known"
    );
    world.newest = 5;
    assert_eq!(reach(&world, unknown).await, (0, 7, 2));
}

#[tokio::test]
async fn nothing_is_marked_where_the_reader_is_not_known_to_take_part() {
    let (elsewhere, made) = mark(&World::new(false), 4, None).await;
    assert!(matches!(elsewhere, Err(WriteError::NotFound)) && made.is_none());
    let mut world = World::new(false);
    world.is_cold = true;
    let (unknown, made) = mark(&world, 2, None).await;
    assert!(matches!(unknown, Err(WriteError::Unknown)) && made.is_none());
}
