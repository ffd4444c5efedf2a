//! Messages.

use super::*;
use crate::chat::{GetMessage, ListMessages, MessageList, Which};
use gravity_domain::chat::MessageCursor;
use gravity_domain::sync::ReadError;
use proptest::prelude::*;

fn list(world: &World) -> ListMessages {
    ListMessages::new(
        Arc::new(world.store()),
        Arc::new(world.cache()),
        Arc::new(world.breaker()),
        Arc::new(world.buffer().0),
    )
}

async fn page(world: &World, which: Which, rows: usize) -> Result<(MessageList, Freshness), ReadError> {
    let read = list(world).run(ME, with(2), which, limit(rows)).await?;
    Ok((read.value, read.freshness))
}

fn before(seq: u64) -> Which {
    Which::Before(Some(MessageCursor {
        conversation_id: with(2),
        seq,
    }))
}

fn places(list: &MessageList) -> Vec<Option<u64>> {
    list.messages.iter().map(|message| message.seq).collect()
}

#[tokio::test]
async fn the_first_page_shows_what_waits_on_top_latest_first() {
    let waiting = vec![sending(2, 900), sending(3, 901), sending(2, 902)];
    let (list, freshness) = page(&World::new(true).pending(waiting), Which::Before(None), 4)
        .await
        .unwrap();
    let ids: Vec<_> = list.messages[..2]
        .iter()
        .map(|message| message.client_message_id)
        .collect();
    assert_eq!(ids, [client_id(902), client_id(900)]);
    assert_eq!(places(&list), [None, None, Some(10), Some(9)]);
    assert_eq!(freshness, Freshness::Pending);
    assert_eq!(list.next.map(|next| next.seq), Some(9));
    assert!(list.has_more);
}

#[tokio::test]
async fn later_pages_hold_stored_ones_only() {
    let world = World::new(true).pending(vec![sending(2, 900)]);
    let (list, freshness) = page(&world, before(3), 5).await.unwrap();
    assert_eq!(places(&list), [Some(2), Some(1)]);
    assert_eq!(
        (list.next, list.has_more, freshness),
        (None, false, Freshness::Current)
    );
}

#[tokio::test]
async fn catching_up_ends_with_what_waits_in_order_of_acceptance() {
    let world = World::new(true).pending(vec![sending(2, 900), sending(2, 901)]);
    let (list, freshness) = page(&world, Which::After(5), 3).await.unwrap();
    assert_eq!(places(&list), [Some(6), Some(7), Some(8)]);
    assert_eq!((list.has_more, freshness), (true, Freshness::Current));
    let (list, freshness) = page(&world, Which::After(8), 3).await.unwrap();
    assert_eq!(places(&list), [Some(9), Some(10), None, None]);
    assert_eq!(list.messages[3].client_message_id, client_id(901));
    assert_eq!((list.has_more, freshness), (false, Freshness::Pending));
}

#[tokio::test]
async fn a_message_that_was_stored_meanwhile_is_not_shown_twice() {
    let mut world = World::new(true).pending(vec![sending(2, 900), sending(2, 901)]);
    let mut message = None;
    Message::apply(&mut message, &world.pending[0]);
    world.messages.push(Message {
        seq: Some(11),
        ..message.unwrap()
    });
    let (newest, _) = page(&world, Which::Before(None), 2).await.unwrap();
    assert_eq!(places(&newest), [None, Some(11)]);
    let (later, _) = page(&world, Which::After(10), 5).await.unwrap();
    assert_eq!(places(&later), [Some(11), None]);
}

#[tokio::test]
async fn in_the_dark_the_newest_are_shown_as_far_as_they_reach() {
    let mut world = World::new(false);
    world.newest = 4;
    let (list, freshness) = page(&world, Which::Before(None), 2).await.unwrap();
    assert_eq!(
        (places(&list), freshness),
        (vec![Some(10), Some(9)], Freshness::Stale)
    );
    let (list, freshness) = page(&world, before(9), 2).await.unwrap();
    assert_eq!(
        (places(&list), freshness),
        (vec![Some(8), Some(7)], Freshness::Stale)
    );
    assert!(list.has_more && list.next.map(|next| next.seq) == Some(7));
    let beyond = page(&world, before(8), 2).await;
    assert!(matches!(beyond, Err(ReadError::Unknown)));
    let (list, _) = page(&world, Which::After(6), 3).await.unwrap();
    assert_eq!(
        (places(&list), list.has_more),
        (vec![Some(7), Some(8), Some(9)], true)
    );
    let beyond = page(&world, Which::After(5), 3).await;
    assert!(matches!(beyond, Err(ReadError::Unknown)), "place 6 is not known");
}

#[tokio::test]
async fn nobody_reads_the_conversations_of_others() {
    for is_up in [true, false] {
        let world = World::new(is_up);
        for which in [Which::Before(None), before(5), Which::After(1)] {
            let read = list(&world).run(ME, with(4), which, limit(5)).await;
            assert!(matches!(read, Err(ReadError::NotFound)));
        }
    }
}

#[tokio::test]
async fn nothing_is_read_when_nothing_is_known() {
    let mut world = World::new(false);
    world.is_cold = true;
    for which in [Which::Before(None), before(5), Which::After(1)] {
        assert!(matches!(page(&world, which, 5).await, Err(ReadError::Unknown)));
    }
}

#[tokio::test]
async fn one_message_is_found_stored_or_waiting() {
    let get = |world: &World| {
        GetMessage::new(
            Arc::new(world.store()),
            Arc::new(world.breaker()),
            Arc::new(world.buffer().0),
        )
    };
    let waiting = ChatMessageId::of(ME, client_id(900));
    let (kept, nobodys) = (stored(2, user(2), 4), ChatMessageId(Uuid::from_u128(77)));
    for is_up in [true, false] {
        let world = World::new(is_up).pending(vec![sending(2, 900)]);
        let read = get(&world).run(ME, waiting).await.unwrap();
        assert_eq!((read.value.seq, read.freshness), (None, Freshness::Pending));
        let read = get(&world).run(ME, kept.id).await;
        let missing = get(&world).run(ME, nobodys).await;
        if is_up {
            assert_eq!(read.unwrap().value, kept);
            assert!(matches!(missing, Err(ReadError::NotFound)));
        } else {
            assert!(matches!(read, Err(ReadError::Unknown)));
            assert!(matches!(missing, Err(ReadError::Unknown)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pages_hold_every_message_once_newest_first(
        count in 0u64..130,
        waiting in 0u64..15,
        rows in 1usize..30,
    ) {
        let mut world = World::new(true);
        world.messages = (1..=count).map(|seq| stored(2, user(2), seq)).collect();
        world.pending = (0..waiting).map(|n| sending(2, 900 + n)).collect();
        let list = list(&world);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let seen: Vec<Message> = runtime.block_on(async {
            let (mut seen, mut cursor) = (Vec::new(), None);
            loop {
                let page = list.run(ME, with(2), Which::Before(cursor), limit(rows)).await.unwrap().value;
                assert!(page.messages.len() <= rows);
                assert_eq!(page.next.is_some(), page.has_more);
                seen.extend(page.messages);
                let Some(next) = page.next else { break seen };
                cursor = Some(MessageCursor::decode(with(2), &next.encode()).unwrap());
            }
        });
        let accepted: Vec<_> = (0..waiting).rev().map(|n| client_id(900 + n)).collect();
        let at_the_top: Vec<_> = seen[..accepted.len()].iter().map(|one| one.client_message_id).collect();
        prop_assert_eq!(at_the_top, accepted);
        let below: Vec<_> = seen[usize::try_from(waiting).unwrap()..].iter().map(|one| one.seq.unwrap()).collect();
        prop_assert_eq!(below, (1..=count).rev().collect::<Vec<_>>());
    }
}
