//! Sessions that meet in a conversation or a log.

use crate::chat_world::{Pair, World, applied, block, mark, message_of, say};
use gravity_domain::chat::{ChatStore, UserEvent};
use gravity_domain::id::{ChatMessageId, UserId};
use gravity_domain::sync::ports::{OperationStore, ReplayStore};
use gravity_domain::sync::{Operation, Verdict};
use std::sync::Arc;
use uuid::Uuid;

/// Offsets from 1 without gaps, and places of each conversation too, in the order in which they were stored.
fn assert_whole(user: UserId, events: &[UserEvent]) {
    let mut places = std::collections::HashMap::new();
    for (index, event) in events.iter().enumerate() {
        assert_eq!((event.user_id, event.offset), (user, index as u64 + 1));
        if event.kind.as_str() == "message.new" {
            let payload: serde_json::Value = serde_json::from_str(&event.payload).unwrap();
            let message = &payload["message"];
            let last = places
                .entry(message["conversationId"].to_string())
                .or_insert(0u64);
            *last += 1;
            assert_eq!(message["seq"].as_u64(), Some(*last));
        }
    }
}

async fn places_are_whole(world: &World, pair: Pair, expected: i64) {
    let sql = format!(
        "SELECT CASE WHEN count(*) = max(seq) AND min(seq) = 1 THEN count(*) ELSE -1 END FROM messages
        WHERE conversation_id = '{}'",
        pair.id
    );
    assert_eq!(world.fixture.count(&sql).await, expected);
    let by_sender = format!(
        "SELECT count(*) FROM (SELECT sender_seq, row_number() OVER (PARTITION BY sender_id ORDER BY seq) AS nth
            FROM messages WHERE conversation_id = '{}') AS own WHERE sender_seq <> nth",
        pair.id
    );
    assert_eq!(world.fixture.count(&by_sender).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn places_have_no_gaps_when_both_talk_at_once() {
    const EACH: usize = 40;
    let world = Arc::new(World::new().await);
    let pair = world.pair().await;
    let mut talkers = Vec::new();
    for session in 0..4 {
        let world = Arc::clone(&world);
        let sender = if session % 2 == 0 { pair.alice } else { pair.ben };
        talkers.push(tokio::spawn(async move {
            for _ in 0..EACH {
                message_of(
                    world
                        .apply(&say(sender, pair.id, Uuid::now_v7(), "at once"))
                        .await,
                );
            }
        }));
    }
    for talker in talkers {
        talker.await.unwrap();
    }
    places_are_whole(&world, pair, 4 * EACH as i64).await;
    for user in [pair.alice, pair.ben] {
        let events = world.events(user).await;
        assert_eq!(events.len(), 1 + 2 * 4 * EACH);
        assert_whole(user, &events);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_from_many_sessions_is_stored_once() {
    let world = Arc::new(World::new().await);
    let pair = world.pair().await;
    for round in 0..10 {
        let client_id = Uuid::now_v7();
        let same = say(pair.alice, pair.id, client_id, "once");
        let mut tries = Vec::new();
        for number in 0..8 {
            let world = Arc::clone(&world);
            let operation = match number % 4 {
                0 | 1 => same.clone(),
                _ => say(pair.alice, pair.id, client_id, "once"),
            };
            tries.push(tokio::spawn(async move {
                if number % 2 == 0 {
                    world.apply(&operation).await
                } else {
                    world.replay(&operation).await
                }
            }));
        }
        let mut stored = 0;
        for outcome in tries {
            match outcome.await.unwrap() {
                Verdict::Applied(applied) => stored += usize::from(!applied.superseded),
                Verdict::Duplicate(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(stored, 1);
        places_are_whole(&world, pair, round + 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_open_a_conversation_at_once_open_one() {
    let world = Arc::new(World::new().await);
    for _ in 0..10 {
        let (alice, ben) = (world.user().await, world.user().await);
        let (one, other) = tokio::join!(world.chat.open(alice, ben), world.chat.open(ben, alice));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one.conversation.id, other.conversation.id);
        assert!(one.is_new ^ other.is_new);
        assert_eq!(one.events.len() + other.events.len(), 2);
        assert_eq!(world.chat.inbox(alice).await.unwrap().version, 1);
        let found = world.chat.find_with(ben, alice).await.unwrap().unwrap();
        assert_eq!(found, world.seen(ben, one.conversation.id).await);
    }
}

fn busy_operation(users: &[UserId], pairs: &[Pair], number: usize, session: usize) -> Operation {
    let pair = pairs[(number * 7 + session * 3) % pairs.len()];
    let (one, other) = if (number + session).is_multiple_of(2) {
        (pair.alice, pair.ben)
    } else {
        (pair.ben, pair.alice)
    };
    match number % 5 {
        3 => mark(one, pair.id, None, u64::MAX, number as u64),
        4 => {
            let stranger = users[(number + session) % users.len()];
            let whom = if stranger == one { other } else { stranger };
            // It takes nothing back, but locks two logs that no conversation here need have in common.
            block(one, whom, false, (number * 8 + session) as u64)
        }
        _ => say(one, pair.id, Uuid::now_v7(), "in a crowd"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_and_direct_writes_that_cross_never_wait_in_a_circle() {
    const BATCHES: usize = 12;
    const SIZE: usize = 40;
    let world = Arc::new(World::new().await);
    let mut users = Vec::new();
    for _ in 0..5 {
        users.push(world.user().await);
    }
    let mut pairs = Vec::new();
    for (index, alice) in users.iter().enumerate() {
        for ben in &users[index + 1..] {
            let id = world.chat.open(*alice, *ben).await.unwrap().conversation.id;
            pairs.push(Pair {
                alice: *alice,
                ben: *ben,
                id,
            });
        }
    }
    let (users, pairs) = (Arc::new(users), Arc::new(pairs));
    let mut sessions = Vec::new();
    for session in 0..6 {
        let (world, users, pairs) = (Arc::clone(&world), Arc::clone(&users), Arc::clone(&pairs));
        sessions.push(tokio::spawn(async move {
            let operations: Vec<Operation> = (0..BATCHES * SIZE)
                .map(|number| busy_operation(&users, &pairs, number, session))
                .collect();
            if session % 2 == 0 {
                for batch in operations.chunks(SIZE) {
                    for verdict in world.fixture.operations.replay(batch).await.unwrap() {
                        applied(verdict);
                    }
                }
            } else {
                for operation in &operations {
                    let verdict = world.fixture.operations.apply(operation).await.unwrap();
                    assert!(
                        matches!(verdict, Verdict::Applied(_) | Verdict::Late { .. }),
                        "{verdict:?}"
                    );
                }
            }
        }));
    }
    for session in sessions {
        session.await.unwrap();
    }
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(world.fixture.count(deadlocks).await, 0);
    for user in users.iter() {
        assert_whole(*user, &world.events(*user).await);
    }
    for pair in pairs.iter() {
        for user in [pair.alice, pair.ben] {
            unread_is_counted(&world, user, *pair).await;
        }
    }
}

async fn unread_is_counted(world: &World, user: UserId, pair: Pair) {
    let seen = world.seen(user, pair.id).await;
    let sql = format!(
        "SELECT count(*) FROM messages WHERE conversation_id = '{}' AND sender_id <> '{user}' AND seq > {}",
        pair.id, seen.read_seq
    );
    assert_eq!(
        world.fixture.count(&sql).await,
        i64::try_from(seen.unread).unwrap()
    );
}

#[tokio::test]
async fn a_batch_finds_what_its_own_operations_left() {
    let world = World::new().await;
    let pair = world.pair().await;
    let said = say(pair.alice, pair.id, Uuid::now_v7(), "one");
    let id = ChatMessageId(said.entity_id());
    let batch = [
        said,
        block(pair.ben, pair.alice, true, 2),
        say(pair.alice, pair.id, Uuid::now_v7(), "two"),
        mark(pair.ben, pair.id, Some(id), 0, 3),
        block(pair.ben, pair.alice, false, 4),
        say(pair.alice, pair.id, Uuid::now_v7(), "three"),
    ];
    let verdicts = world.fixture.operations.replay(&batch).await.unwrap();
    let words: Vec<bool> = verdicts
        .iter()
        .map(|verdict| matches!(verdict, Verdict::Applied(_)))
        .collect();
    assert_eq!(words, [true, true, false, true, true, true]);
    let seen = world.seen(pair.ben, pair.id).await;
    assert_eq!((seen.last_seq, seen.read_seq, seen.unread), (2, 1, 1));
    assert_whole(pair.alice, &world.events(pair.alice).await);
}

#[tokio::test]
async fn what_of_a_set_is_not_stored_takes_no_place_from_the_others() {
    let world = World::new().await;
    let (pair, stranger) = (world.pair().await, world.user().await);
    let (recorded, taken) = (
        say(pair.alice, pair.id, Uuid::now_v7(), "recorded"),
        Uuid::now_v7(),
    );
    world.replay(&recorded).await;
    world.replay(&say(pair.ben, pair.id, taken, "taken")).await;
    let batch = [
        say(pair.alice, pair.id, Uuid::now_v7(), "one"),
        recorded,
        say(stranger, pair.id, Uuid::now_v7(), "not mine"),
        say(pair.ben, pair.id, taken, "another text"),
        say(pair.ben, pair.id, Uuid::now_v7(), "two"),
        say(pair.ben, pair.id, taken, "taken"),
        say(pair.alice, pair.id, Uuid::now_v7(), "three"),
    ];
    let verdicts = world.fixture.operations.replay(&batch).await.unwrap();
    let told: Vec<String> = verdicts
        .into_iter()
        .map(|verdict| match verdict {
            Verdict::Applied(applied) => {
                let message = message_of(Verdict::Applied(applied));
                format!("{} {}", message.seq.unwrap(), message.events.len())
            }
            Verdict::Refused(refused) => refused.refusal.as_str().to_owned(),
            Verdict::Missing => "missing".to_owned(),
            Verdict::Duplicate(_) => "duplicate".to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        "3 4",
        "duplicate",
        "missing",
        "message_id_reused",
        "4 4",
        "2 0",
        "5 4",
    ];
    assert_eq!(told, expected);
    let seen = world.seen(pair.ben, pair.id).await;
    assert_eq!((seen.last_seq, seen.read_seq, seen.unread), (5, 4, 1));
    let seen = world.seen(pair.alice, pair.id).await;
    assert_eq!((seen.last_seq, seen.read_seq, seen.unread), (5, 5, 0));
    for user in [pair.alice, pair.ben] {
        let events = world.events(user).await;
        assert_whole(user, &events);
        assert_eq!(events.len(), 1 + 5 * 2);
    }
}
