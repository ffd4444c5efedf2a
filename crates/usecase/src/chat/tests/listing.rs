//! Conversations and what is unread.

use super::*;
use crate::chat::{CountUnread, ListConversations};
use gravity_domain::sync::ReadError;
use proptest::prelude::*;

fn list(world: &World) -> ListConversations {
    ListConversations::new(
        Arc::new(world.store()),
        Arc::new(world.cache()),
        Arc::new(world.breaker()),
        Arc::new(world.buffer().0),
    )
}

async fn first(world: &World) -> (Vec<Conversation>, Freshness) {
    let read = list(world).run(ME, None, limit(20)).await.unwrap();
    (read.value.items, read.freshness)
}

async fn unread(world: &World) -> (UnreadTotals, Freshness) {
    let count = CountUnread::new(Arc::new(world.cache()), Arc::new(world.buffer().0));
    let read = count.run(ME).await.unwrap();
    (read.value, read.freshness)
}

#[tokio::test]
async fn while_nothing_waits_the_list_is_what_is_known_and_as_fresh() {
    for is_up in [true, false] {
        let world = World::new(is_up);
        let (items, freshness) = first(&world).await;
        assert_eq!(items, world.sorted());
        assert_eq!(freshness, world.freshness());
    }
}

#[tokio::test]
async fn a_message_that_waits_is_the_last_one_and_moves_its_conversation_up() {
    let world = World::new(false).pending(vec![sending(3, 900), sending(3, 901)]);
    let (items, freshness) = first(&world).await;
    let top = &items[0];
    assert_eq!((top.id, top.updated_at, top.last_seq), (with(3), at(901), 10));
    let last = top.last_message.as_ref().unwrap();
    assert_eq!((last.seq, last.client_message_id), (None, client_id(901)));
    assert_eq!((top.unread, top.read_seq), (0, 10), "sending reads");
    assert_eq!(items[1], conversation(2, 200));
    assert_eq!(freshness, Freshness::Pending);
}

#[tokio::test]
async fn a_message_that_was_stored_meanwhile_is_shown_stored() {
    let pending = sending(2, 900);
    let mut world = World::new(true).pending(vec![sending(2, 899), pending.clone()]);
    let mut message = None;
    Message::apply(&mut message, &pending);
    let message = Message {
        seq: Some(12),
        ..message.unwrap()
    };
    world.conversations[0].last_message = Some(message.clone());
    let (items, _) = first(&world).await;
    assert_eq!(items[0].last_message, Some(message));
}

#[tokio::test]
async fn marks_and_blocks_that_wait_are_in_the_list() {
    let mut world = World::new(false).pending(vec![
        marking(2, 900, 9),
        marking(3, 901, 10),
        blocking(3, 902, true),
    ]);
    world.conversations[1].blocks.blocked_by_them = true;
    let (items, freshness) = first(&world).await;
    assert_eq!(
        (items[0].read_seq, items[0].unread),
        (9, 1),
        "at most one is left after place 9"
    );
    assert_eq!((items[1].read_seq, items[1].unread), (10, 0));
    assert!(items[1].blocks.blocked_by_me && items[1].blocks.blocked_by_them);
    assert_eq!(freshness, Freshness::Pending);
}

#[tokio::test]
async fn the_latest_block_that_waits_says_whether_there_is_one() {
    let mut world = World::new(false).pending(vec![blocking(2, 900, true), blocking(2, 901, false)]);
    world.conversations[0].blocks.blocked_by_me = true;
    let (items, _) = first(&world).await;
    assert!(!items[0].blocks.blocked_by_me);
}

#[tokio::test]
async fn what_is_not_held_cannot_be_listed_in_the_dark() {
    let mut world = World::new(false);
    world.held = 1;
    let list = list(&world);
    let page = list.run(ME, None, limit(1)).await.unwrap().value;
    assert_eq!(page.items.len(), 1);
    let beyond = list.run(ME, page.next, limit(1)).await;
    assert!(page.next.is_some() && matches!(beyond, Err(ReadError::Unknown)));
}

#[tokio::test]
async fn nothing_is_listed_when_nothing_is_known() {
    let mut world = World::new(false);
    world.is_cold = true;
    let read = list(&world).run(ME, None, limit(20)).await;
    assert!(matches!(read, Err(ReadError::Unknown)));
}

#[tokio::test]
async fn what_waits_to_be_read_is_taken_off_the_totals() {
    let totals = |total, conversations| UnreadTotals { total, conversations };
    assert_eq!(
        unread(&World::new(true)).await,
        (totals(4, 2), Freshness::Current)
    );
    let world = World::new(false).pending(vec![marking(2, 900, 9), marking(3, 901, 10)]);
    assert_eq!(unread(&world).await, (totals(1, 1), Freshness::Pending));
    let mut world = World::new(false).pending(vec![sending(3, 900)]);
    world.held = 1;
    assert_eq!(unread(&world).await, (totals(2, 1), Freshness::Pending));
    let world = World::new(false).pending(vec![blocking(2, 900, true)]);
    assert_eq!(unread(&world).await, (totals(4, 2), Freshness::Stale));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pages_hold_every_conversation_once_in_order(
        times in prop::collection::vec(0i64..50, 0..30),
        held in 1usize..40,
        rows in 1usize..12,
        written in prop::collection::vec(0usize..30, 0..4),
    ) {
        let mut world = World::new(true);
        world.held = held;
        world.conversations = (10..).zip(&times).map(|(n, time)| conversation(n, *time)).collect();
        world.pending = (900..)
            .zip(&written)
            .filter(|(_, index)| **index < times.len())
            .map(|(wall_ms, index)| sending(10 + *index as u128, wall_ms))
            .collect();
        let list = list(&world);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let seen = runtime.block_on(async {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = list.run(ME, after, limit(rows)).await.unwrap().value;
                assert!(page.items.len() <= rows);
                seen.extend(page.items);
                after = page.next;
                if after.is_none() {
                    break seen;
                }
            }
        });
        prop_assert!(seen.is_sorted_by_key(|one| Reverse(one.key())));
        let mut ids: Vec<_> = seen.iter().map(|one| one.id).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), seen.len());
        prop_assert_eq!(ids.len(), times.len());
    }
}
