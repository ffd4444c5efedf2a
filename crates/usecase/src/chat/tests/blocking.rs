//! Blocks.

use super::*;
use crate::chat::{BlockUser, ChatError, GetBlockStatus, ListBlocks, UnblockUser};
use gravity_domain::sync::{Applied, ReadError, Verdict, WriteOutcome};

fn commits() -> MockOperationStore {
    let mut store = MockOperationStore::new();
    store.expect_apply().returning(|operation| {
        let mut state = None;
        BlockState::apply(&mut state, operation);
        Ok(Verdict::Applied(Applied {
            superseded: false,
            state: state.unwrap().into_state(),
        }))
    });
    store
}

fn block(world: &World) -> (BlockUser, Appended) {
    let (buffer, lane) = world.buffer();
    let buffer = Arc::new(buffer);
    let writer = world.writer(&buffer, commits());
    let block = BlockUser::new(
        writer,
        world.block_states(&buffer),
        Arc::new(world.cache()),
        buffer.clone(),
    );
    (block, lane)
}

fn unblock(world: &World) -> (UnblockUser, Appended) {
    let (buffer, lane) = world.buffer();
    let buffer = Arc::new(buffer);
    let writer = world.writer(&buffer, commits());
    let unblock = UnblockUser::new(
        writer,
        world.block_states(&buffer),
        Arc::new(world.cache()),
        buffer.clone(),
    );
    (unblock, lane)
}

async fn listed(world: &World) -> (Vec<Blocked>, Freshness) {
    let list = ListBlocks::new(Arc::new(world.cache()), Arc::new(world.buffer().0));
    let read = list.run(ME).await.unwrap();
    (read.value, read.freshness)
}

async fn status(world: &World, n: u128) -> Result<(BlockStatus, Freshness), ChatError> {
    let status = GetBlockStatus::new(
        Arc::new(world.store()),
        Arc::new(world.cache()),
        Arc::new(world.breaker()),
        Arc::new(world.buffer().0),
    );
    let read = status.run(ME, &name_of(n)).await?;
    Ok((read.value, read.freshness))
}

#[tokio::test]
async fn somebody_is_blocked_and_it_is_told_whether_that_is_new() {
    let mut world = World::new(true);
    let done = block(&world).0.run(request(), &name_of(4)).await.unwrap();
    assert_eq!((done.person, done.is_new), (person(4), true));
    assert!(matches!(done.written.outcome, WriteOutcome::Committed(state) if state.is_blocked.value));
    world.blocks = vec![blocked(4, 1)];
    let again = block(&world).0.run(request(), &name_of(4)).await.unwrap();
    assert!(!again.is_new);
    let world = World::new(true).pending(vec![blocking(4, 900, true)]);
    let again = block(&world).0.run(request(), &name_of(4)).await.unwrap();
    assert!(!again.is_new && matches!(again.written.outcome, WriteOutcome::Buffered(_)));
}

#[tokio::test]
async fn nobody_blocks_themselves_or_nobody() {
    let world = World::new(true);
    let oneself = block(&world).0.run(request(), &name_of(1)).await;
    assert!(matches!(oneself, Err(ChatError::Oneself)));
    let nobody = unblock(&world).0.run(request(), &name_of(9)).await;
    assert!(matches!(nobody, Err(ChatError::Read(ReadError::NotFound))));
}

#[tokio::test]
async fn in_the_dark_those_can_be_blocked_who_are_known() {
    let mut world = World::new(false);
    world.blocks = vec![blocked(4, 1)];
    let (block, lane) = block(&world);
    let done = block.run(request(), &name_of(2)).await.unwrap();
    assert!(done.is_new && matches!(done.written.outcome, WriteOutcome::Buffered(_)));
    let (unblock, _) = unblock(&world);
    let done = unblock.run(request(), &name_of(4)).await.unwrap();
    assert!(done.written.is_some());
    let unknown = block.run(request(), &name_of(5)).await;
    assert!(matches!(unknown, Err(ChatError::Read(ReadError::Unknown))));
    assert_eq!(lane.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_block_that_is_not_there_is_taken_back_without_a_write_when_that_is_sure() {
    let world = World::new(true);
    let done = unblock(&world).0.run(request(), &name_of(2)).await.unwrap();
    assert_eq!((done.written, done.person), (None, person(2)));
    let (unblock, lane) = unblock(&World::new(false));
    let done = unblock.run(request(), &name_of(2)).await.unwrap();
    assert!(done.written.is_some(), "what is remembered may be old");
    assert_eq!(lane.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_block_that_waits_is_taken_back_by_a_write() {
    let world = World::new(true).pending(vec![blocking(2, 900, true)]);
    let (unblock, lane) = unblock(&world);
    let done = unblock.run(request(), &name_of(2)).await.unwrap();
    assert!(done.written.is_some());
    assert_eq!(lane.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn the_list_has_what_waits_in_it_latest_first() {
    let mut world = World::new(false);
    world.blocks = vec![blocked(3, 20), blocked(4, 10)];
    assert_eq!(listed(&world).await, (world.blocks.clone(), Freshness::Stale));
    world.pending = vec![
        blocking(4, 900, false),
        blocking(2, 901, true),
        blocking(5, 902, true),
        blocking(5, 903, false),
        blocking(3, 904, true),
    ];
    let (list, freshness) = listed(&world).await;
    assert_eq!(list, [blocked(2, 901), blocked(3, 20)]);
    assert_eq!(freshness, Freshness::Pending);
}

#[tokio::test]
async fn the_status_is_of_both_and_has_what_waits_in_it() {
    let mut world = World::new(true);
    world.conversations[0].blocks.blocked_by_them = true;
    let both = |blocked_by_me| BlockStatus {
        blocked_by_me,
        blocked_by_them: true,
    };
    assert_eq!(
        status(&world, 2).await.unwrap(),
        (both(false), Freshness::Current)
    );
    world.is_up = false;
    assert_eq!(status(&world, 2).await.unwrap(), (both(false), Freshness::Stale));
    world.pending = vec![blocking(2, 900, true)];
    assert_eq!(status(&world, 2).await.unwrap(), (both(true), Freshness::Pending));
    let oneself = status(&World::new(true), 1).await;
    assert!(matches!(oneself, Err(ChatError::Oneself)));
    world.blocks = vec![blocked(4, 1)];
    let unknown = status(&world, 4).await;
    assert!(matches!(unknown, Err(ChatError::Read(ReadError::Unknown))));
}
