//! Logs: whole or not at all, and purged from their beginnings.

use crate::chat_world::{World, message_of, say};
use gravity_domain::chat::{EventCursor, EventLog, LogReplay, NotificationStore, PushKeys, PushSubscription};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::UserId;
use gravity_domain::sync::ports::ReplayStore as _;
use std::time::Duration;
use uuid::Uuid;

async fn since(world: &World, user: UserId, cursor: EventCursor, limit: usize) -> Option<Vec<u64>> {
    let head = world.log.head(user).await.unwrap();
    match world.log.since(user, cursor, limit).await.unwrap() {
        LogReplay::Events { events, head: told } => {
            assert_eq!(told, head);
            Some(events.iter().map(|event| event.offset).collect())
        }
        LogReplay::Reset { head: told } => {
            assert_eq!(told, head);
            None
        }
    }
}

#[tokio::test]
async fn a_replay_is_whole_or_a_reset() {
    let world = World::new().await;
    let pair = world.pair().await;
    for _ in 0..3 {
        world.send(pair.alice, pair.id, "more").await;
    }
    let head = world.log.head(pair.ben).await.unwrap();
    assert_eq!(head.offset, 7);
    let at = |offset| EventCursor { offset, ..head };
    assert_eq!(
        since(&world, pair.ben, at(0), 7).await,
        Some(vec![1, 2, 3, 4, 5, 6, 7])
    );
    assert_eq!(since(&world, pair.ben, at(0), 6).await, None);
    assert_eq!(since(&world, pair.ben, at(5), 2).await, Some(vec![6, 7]));
    // Between the two entries of a message.
    assert_eq!(since(&world, pair.ben, at(4), 3).await, Some(vec![5, 6, 7]));
    assert_eq!(since(&world, pair.ben, at(6), 1).await, Some(vec![7]));
    assert_eq!(since(&world, pair.ben, at(7), 0).await, Some(vec![]));
    assert_eq!(since(&world, pair.ben, at(8), 100).await, None);
    assert_eq!(since(&world, pair.ben, at(u64::MAX), 100).await, None);
    let elsewhere = EventCursor {
        epoch: head.epoch + 1,
        offset: 7,
        ..head
    };
    assert_eq!(since(&world, pair.ben, elsewhere, 100).await, None);

    let nobody = UserId::random();
    assert_eq!(
        world.log.head(nobody).await.unwrap(),
        EventCursor { offset: 0, ..head }
    );
    assert_eq!(since(&world, nobody, at(0), 10).await, Some(vec![]));
    assert_eq!(since(&world, nobody, at(1), 10).await, None);
    let heads = world.log.heads(&[pair.ben, nobody, pair.alice]).await.unwrap();
    assert_eq!(heads, [(pair.ben, at(7)), (nobody, at(0)), (pair.alice, at(7))]);
    assert_eq!(world.log.heads(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn what_is_replayed_of_a_message_is_what_was_told() {
    let world = World::new().await;
    let pair = world.pair().await;
    let start = world.log.head(pair.ben).await.unwrap();
    let told: Vec<_> = [
        world.send(pair.alice, pair.id, "one").await,
        world.send(pair.alice, pair.id, "a \"second\",\nlonger").await,
    ]
    .into_iter()
    .flat_map(|message| message.events)
    .collect();
    for user in [pair.alice, pair.ben] {
        let cursor = EventCursor { offset: 1, ..start };
        let LogReplay::Events { events, .. } = world.log.since(user, cursor, 10).await.unwrap() else {
            panic!("everything is kept");
        };
        let own: Vec<_> = told
            .iter()
            .filter(|event| event.user_id == user)
            .cloned()
            .collect();
        assert_eq!(events, own);
        assert_eq!(events.len(), 4);
    }
}

#[tokio::test]
async fn a_conversation_that_was_brought_from_elsewhere_begins_its_logs_with_a_message() {
    let world = World::new().await;
    let (pair, other) = (world.pair().await, world.pair().await);
    let forget = format!(
        "DELETE FROM user_events; DELETE FROM user_event_heads WHERE user_id <> '{}'",
        other.alice
    );
    world.fixture.execute(&forget).await;
    let first = say(pair.ben, pair.id, Uuid::now_v7(), "first");
    let second = say(other.ben, other.id, Uuid::now_v7(), "second");
    let verdicts = world.fixture.operations.replay(&[first, second]).await.unwrap();
    let stored: Vec<_> = verdicts.into_iter().map(message_of).collect();
    let offsets = stored[0].events.iter().map(|event| (event.user_id, event.offset));
    let expected = [pair.ben, pair.alice].map(|user| [(user, 1), (user, 2)]);
    assert!(offsets.eq(expected.into_iter().flatten()));
    let before = EventCursor {
        offset: 1,
        ..world.log.head(other.alice).await.unwrap()
    };
    assert_eq!(since(&world, other.alice, before, 10).await, Some(vec![2, 3]));
}

#[tokio::test]
async fn a_log_that_names_a_deleted_message_is_reset() {
    let world = World::new().await;
    let pair = world.pair().await;
    let start = world.log.head(pair.ben).await.unwrap();
    world.send(pair.alice, pair.id, "to be deleted").await;
    let between = world.log.head(pair.ben).await.unwrap();
    world.send(pair.alice, pair.id, "kept").await;
    world
        .fixture
        .execute("DELETE FROM messages WHERE content = 'to be deleted'")
        .await;
    assert_eq!(since(&world, pair.ben, start, 10).await, None);
    assert_eq!(since(&world, pair.ben, between, 10).await, Some(vec![4, 5]));
}

#[tokio::test]
async fn the_end_of_a_log_says_which_version_the_users_stream_has() {
    let world = World::new().await;
    let pair = world.pair().await;
    let cursor = world.log.head(pair.alice).await.unwrap();
    assert_eq!(cursor.stream, 0);
    let change = format!(
        "INSERT INTO stream_versions (user_id, version, changed_at) VALUES ('{}', 5, now())",
        pair.alice
    );
    world.fixture.execute(&change).await;
    let end = EventCursor { stream: 5, ..cursor };
    assert_eq!(world.log.head(pair.alice).await.unwrap(), end);
    let heads = world.log.heads(&[pair.alice]).await.unwrap();
    assert_eq!(heads, [(pair.alice, end)]);
    assert_eq!(since(&world, pair.alice, cursor, 10).await, Some(vec![]));
}

#[tokio::test]
async fn a_new_life_of_the_logs_resets_every_cursor() {
    let world = World::new().await;
    let pair = world.pair().await;
    let cursor = world.log.head(pair.alice).await.unwrap();
    assert_eq!(since(&world, pair.alice, cursor, 10).await, Some(vec![]));
    world
        .fixture
        .execute("UPDATE event_epoch SET epoch = epoch + 1")
        .await;
    assert_eq!(since(&world, pair.alice, cursor, 10).await, None);
}

#[tokio::test]
async fn old_entries_go_from_the_beginning_and_cursors_before_the_rest_are_reset() {
    let world = World::new().await;
    let pair = world.pair().await;
    for _ in 0..3 {
        world.send(pair.alice, pair.id, "more").await;
    }
    let old = format!(
        "UPDATE user_events SET created_at = now() - interval '8 days' WHERE \"offset\" IN (1, 5) AND user_id = '{}'",
        pair.ben
    );
    world.fixture.execute(&old).await;
    let week = Duration::from_secs(7 * 86_400);
    // What lies between old ones goes with them: what is left has no gap.
    assert_eq!(world.fixture.purge.purge_events(week).await.unwrap(), 3);
    assert_eq!(world.fixture.purge.purge_events(week).await.unwrap(), 0);
    let head = world.log.head(pair.ben).await.unwrap();
    let at = |offset| EventCursor { offset, ..head };
    assert_eq!(since(&world, pair.ben, at(4), 100).await, None);
    assert_eq!(since(&world, pair.ben, at(5), 100).await, Some(vec![6, 7]));
    assert_eq!(
        since(&world, pair.alice, EventCursor { offset: 0, ..at(0) }, 100)
            .await
            .map(|all| all.len()),
        Some(7)
    );

    assert_eq!(world.fixture.purge.purge_events(Duration::ZERO).await.unwrap(), 5);
    assert_eq!(world.log.head(pair.ben).await.unwrap(), head);
    assert_eq!(since(&world, pair.ben, at(7), 100).await, Some(vec![]));
    assert_eq!(since(&world, pair.ben, at(6), 100).await, None);
    world.send(pair.alice, pair.id, "after").await;
    assert_eq!(since(&world, pair.ben, at(7), 100).await, Some(vec![8, 9]));
}

#[tokio::test]
async fn a_purge_of_many_entries_goes_in_steps_and_leaves_logs_in_use_alone() {
    let world = World::new().await;
    let fill = "INSERT INTO user_event_heads (user_id, last_offset)
            SELECT lpad(to_hex(n), 32, '0')::uuid, 1000 FROM generate_series(1, 5) AS n;
        INSERT INTO user_events (user_id, \"offset\", type, payload, created_at)
            SELECT lpad(to_hex(n), 32, '0')::uuid, place, 'notification.new', '{}', now() - interval '9 days'
            FROM generate_series(1, 5) AS n, generate_series(1, 1000) AS place";
    world.fixture.execute(fill).await;
    let week = Duration::from_secs(7 * 86_400);
    assert_eq!(world.fixture.purge.purge_events(week).await.unwrap(), 5_000);
    let kept = "SELECT count(*) FROM user_event_heads WHERE first_offset = 1001 AND last_offset = 1000";
    assert_eq!(world.fixture.count(kept).await, 5);

    world.fixture.execute("DELETE FROM user_event_heads").await;
    world.fixture.execute(fill).await;
    let holder = world.fixture.database.connect().await.unwrap();
    holder
        .batch_execute("BEGIN; SELECT FROM user_event_heads FOR NO KEY UPDATE")
        .await
        .unwrap();
    assert_eq!(world.fixture.purge.purge_events(week).await.unwrap(), 0);
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(world.fixture.purge.purge_events(week).await.unwrap(), 5_000);
}

fn subscription(user: UserId, endpoint: &str, at: i64) -> PushSubscription {
    PushSubscription {
        id: Uuid::now_v7(),
        user_id: user,
        endpoint: endpoint.to_owned(),
        keys: PushKeys {
            p256dh: vec![4; 65],
            auth: vec![7; 16],
        },
        created_at: Timestamp::from_millis(1_700_000_000_000 + at),
    }
}

#[tokio::test]
async fn an_endpoint_is_subscribed_once_and_the_oldest_of_too_many_make_room() {
    let world = World::new().await;
    let (alice, ben) = (UserId::random(), UserId::random());
    let store = &world.notifications;
    assert!(
        store
            .subscribe(&subscription(alice, "https://push/0", 0))
            .await
            .unwrap()
    );
    assert!(
        !store
            .subscribe(&subscription(ben, "https://push/0", 1))
            .await
            .unwrap()
    );
    assert!(!store.unsubscribe(alice, "https://push/0").await.unwrap());
    assert!(store.unsubscribe(ben, "https://push/0").await.unwrap());
    assert!(!store.unsubscribe(ben, "https://push/0").await.unwrap());
    for number in 0..23 {
        let endpoint = format!("https://push/{number}");
        assert!(
            store
                .subscribe(&subscription(alice, &endpoint, number))
                .await
                .unwrap()
        );
    }
    let count = "SELECT count(*) FROM push_subscriptions";
    assert_eq!(world.fixture.count(count).await, 20);
    assert!(!store.unsubscribe(alice, "https://push/2").await.unwrap());
    assert!(store.unsubscribe(alice, "https://push/3").await.unwrap());
}
