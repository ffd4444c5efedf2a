//! What becomes of messages, read marks and blocks, direct and replayed, and what users are told.

use crate::chat_world::{World, applied, block, block_of, mark, marker_of, message_of, refused, say};
use crate::fixture::{at, keyed};
use gravity_domain::chat::{BlockStatus, ChatStore, NotificationPreferences, NotificationStore};
use gravity_domain::id::{ChatMessageId, ConversationId, OperationId, UserId, block_id};
use gravity_domain::sync::ports::{EntityStore, OperationStore, ReplayStore};
use gravity_domain::sync::{EntityState, Refusal, Verdict};
use serde_json::json;
use uuid::Uuid;

#[tokio::test]
async fn a_message_takes_the_next_place_and_both_are_told_at_once() {
    let world = World::new().await;
    let pair = world.pair().await;
    let before = world.head(pair.alice).await;
    let client_id = Uuid::now_v7();
    let message = message_of(
        world
            .apply(&say(pair.alice, pair.id, client_id, "Hello\n\"you\""))
            .await,
    );
    assert_eq!(message.id, ChatMessageId::of(pair.alice, client_id));
    assert_eq!((message.seq, message.recipient), (Some(1), Some(pair.ben)));
    assert_eq!(
        (message.created_at, message.is_repeat),
        (at(1).timestamp(), false)
    );
    let shown = json!({
        "id": message.id, "conversationId": pair.id, "seq": 1, "senderId": pair.alice,
        "clientMessageId": client_id, "content": "Hello\n\"you\"", "createdAt": at(1).timestamp(), "durability": "stored",
    });
    let new = json!({"message": shown, "durability": "stored"});
    let counts = |unread: u64, read: u64| json!({"conversationId": pair.id, "unread": unread, "lastSeq": 1, "readSeq": read, "asOfSeq": 1});
    assert_eq!(
        world.told(pair.alice, before).await,
        [
            ("message.new", new.clone()),
            ("conversation.updated", counts(0, 1))
        ]
    );
    assert_eq!(
        world.told(pair.ben, before).await,
        [("message.new", new), ("conversation.updated", counts(1, 0))]
    );
    let mut logged = world.events(pair.alice).await.split_off(1);
    logged.extend(world.events(pair.ben).await.split_off(1));
    assert_eq!(message.events, logged);

    let (mine, theirs) = (
        world.seen(pair.alice, pair.id).await,
        world.seen(pair.ben, pair.id).await,
    );
    assert_eq!((mine.unread, mine.read_seq, mine.last_seq), (0, 1, 1));
    assert_eq!((theirs.unread, theirs.read_seq, theirs.last_seq), (1, 0, 1));
    assert_eq!((mine.other.id, theirs.other.id), (pair.ben, pair.alice));
    assert_eq!(theirs.last_message.unwrap().id, message.id);
    let jobs = format!(
        "SELECT count(*) FROM notification_jobs WHERE message_id = '{}' AND user_id = '{}' AND run_at > now()",
        message.id, pair.ben
    );
    assert_eq!(world.fixture.count(&jobs).await, 1);
}

#[tokio::test]
async fn a_conversation_is_as_new_as_its_newest_message_or_its_opening() {
    let world = World::new().await;
    let pair = world.pair().await;
    let opened = world.seen(pair.alice, pair.id).await;
    assert_eq!(opened.updated_at, opened.created_at);
    world
        .fixture
        .execute("UPDATE conversations SET created_at = '2020-01-01', updated_at = '2020-01-01'")
        .await;
    let mut later = say(pair.alice, pair.id, Uuid::now_v7(), "later");
    later.accepted_at = at(500);
    message_of(world.apply(&later).await);
    world
        .send(pair.ben, pair.id, "accepted before, stored after")
        .await;
    assert_eq!(
        world.seen(pair.alice, pair.id).await.updated_at,
        at(500).timestamp()
    );
}

#[tokio::test]
async fn a_message_is_stored_once_however_it_comes_again() {
    let world = World::new().await;
    let pair = world.pair().await;
    let (client_id, first_place) = (Uuid::now_v7(), Some(1));
    let first = say(pair.alice, pair.id, client_id, "once");
    let stored = message_of(world.apply(&first).await);
    let head = world.head(pair.ben).await;
    assert!(matches!(world.apply(&first).await, Verdict::Duplicate(_)));
    assert!(matches!(world.replay(&first).await, Verdict::Duplicate(_)));

    for direct in [true, false] {
        let again = say(pair.alice, pair.id, client_id, "once");
        let verdict = if direct {
            world.apply(&again).await
        } else {
            world.replay(&again).await
        };
        let repeat = applied(verdict);
        assert!(repeat.superseded);
        let EntityState::Message(repeat) = repeat.state else {
            panic!()
        };
        assert!(repeat.is_repeat && repeat.events.is_empty());
        assert_eq!((repeat.id, repeat.seq), (stored.id, first_place));
        assert!(matches!(world.apply(&again).await, Verdict::Duplicate(_)));
    }

    let elsewhere = world
        .chat
        .open(pair.alice, world.user().await)
        .await
        .unwrap()
        .conversation
        .id;
    for other in [
        say(pair.alice, pair.id, client_id, "twice"),
        say(pair.alice, elsewhere, client_id, "once"),
    ] {
        for verdict in [world.apply(&other).await, world.replay(&other).await] {
            let refused = refused(verdict);
            assert_eq!(
                (refused.refusal, refused.events),
                (Refusal::MessageIdReused, vec![])
            );
        }
        assert!(
            world
                .fixture
                .operations
                .find(pair.alice, other.id)
                .await
                .unwrap()
                .is_none()
        );
    }
    assert_eq!(world.head(pair.ben).await, head);
    assert_eq!(world.fixture.count("SELECT count(*) FROM messages").await, 1);
}

#[tokio::test]
async fn nobody_writes_or_reads_in_a_conversation_of_others() {
    let world = World::new().await;
    let pair = world.pair().await;
    let eve = world.user().await;
    let message = world.send(pair.alice, pair.id, "private").await;
    let nowhere = ConversationId(Uuid::now_v7());
    for operation in [
        say(eve, pair.id, Uuid::now_v7(), "hi"),
        say(eve, nowhere, Uuid::now_v7(), "hi"),
        mark(eve, pair.id, None, 1, 1),
        mark(eve, nowhere, Some(message.id), 1, 1),
    ] {
        assert_eq!(world.apply(&operation).await, Verdict::Missing);
        assert_eq!(world.replay(&operation).await, Verdict::Missing);
    }
    let limit = Default::default();
    assert_eq!(world.chat.conversation(eve, pair.id).await.unwrap(), None);
    assert_eq!(
        world.chat.messages(eve, pair.id, None, limit).await.unwrap(),
        None
    );
    assert_eq!(
        world.chat.messages_after(eve, pair.id, 0, limit).await.unwrap(),
        None
    );
    assert_eq!(world.chat.message(eve, message.id).await.unwrap(), None);
    assert!(world.chat.message(pair.ben, message.id).await.unwrap().is_some());
    assert_eq!(world.head(eve).await, 0);
}

#[tokio::test]
async fn neither_side_of_a_block_can_send_and_a_replayed_message_is_refused_in_the_log() {
    let world = World::new().await;
    let pair = world.pair().await;
    applied(world.apply(&block(pair.alice, pair.ben, true, 2)).await);
    for sender in [pair.alice, pair.ben] {
        let head = world.head(sender).await;
        let client_id = Uuid::now_v7();
        let direct = refused(world.apply(&say(sender, pair.id, client_id, "no")).await);
        assert_eq!((direct.refusal, direct.events), (Refusal::Blocked, vec![]));
        assert_eq!(world.head(sender).await, head);

        let replayed = refused(world.replay(&say(sender, pair.id, client_id, "no")).await);
        assert_eq!(replayed.refusal, Refusal::Blocked);
        assert_eq!(world.events(sender).await.split_off(1 + 1), replayed.events);
        let (kind, payload) = world.told(sender, head).await.remove(0);
        assert_eq!(kind, "message.ack");
        assert_eq!(
            payload,
            json!({
                "status": "rejected", "clientMessageId": client_id, "messageId": ChatMessageId::of(sender, client_id),
                "conversationId": pair.id, "seq": null, "createdAt": at(1).timestamp(),
                "error": {"code": "blocked", "message": "One of you blocks the other."},
            })
        );
    }
    applied(world.apply(&block(pair.alice, pair.ben, false, 3)).await);
    let message = world.send(pair.ben, pair.id, "now").await;
    assert_eq!(message.seq, Some(1));
}

#[tokio::test]
async fn a_marker_only_moves_forward_and_the_other_is_told() {
    let world = World::new().await;
    let pair = world.pair().await;
    let mut messages = Vec::new();
    for text in ["one", "two", "three"] {
        messages.push(world.send(pair.alice, pair.id, text).await);
    }
    let heads = (world.head(pair.alice).await, world.head(pair.ben).await);
    let marker = marker_of(
        world
            .apply(&mark(pair.ben, pair.id, Some(messages[1].id), 0, 2))
            .await,
    );
    assert_eq!((marker.read_seq, marker.unread, marker.last_seq), (2, 1, 3));
    assert_eq!((marker.marked, marker.events.len()), (at(2), 2));
    assert_eq!(
        world.told(pair.ben, heads.1).await,
        [(
            "conversation.updated",
            json!({"conversationId": pair.id, "unread": 1, "lastSeq": 3, "readSeq": 2, "asOfSeq": 3})
        )]
    );
    assert_eq!(
        world.told(pair.alice, heads.0).await,
        [(
            "message.read",
            json!({"conversationId": pair.id, "userId": pair.ben, "readSeq": 2})
        )]
    );
    let back = mark(pair.ben, pair.id, Some(messages[0].id), 0, 3);
    let kept = applied(world.apply(&back).await);
    assert!(kept.superseded);
    let EntityState::ReadMarker(kept) = kept.state else {
        panic!()
    };
    assert_eq!((kept.read_seq, kept.events.len()), (2, 0));
    let unknown = mark(
        pair.ben,
        pair.id,
        Some(ChatMessageId::of(pair.ben, Uuid::nil())),
        3,
        4,
    );
    assert_eq!(world.apply(&unknown).await, Verdict::Missing);
    let all = marker_of(world.apply(&mark(pair.ben, pair.id, None, 0, 5)).await);
    assert_eq!((all.read_seq, all.unread), (3, 0));
    let found: Option<gravity_domain::chat::ReadMarker> = world.chat.find(pair.ben, pair.id.0).await.unwrap();
    assert_eq!(found.unwrap().read_seq, 3);
}

#[tokio::test]
async fn a_message_read_before_it_was_stored_is_read_once_it_is() {
    let world = World::new().await;
    let pair = world.pair().await;
    world.send(pair.alice, pair.id, "stored").await;
    let ahead = say(pair.alice, pair.id, Uuid::now_v7(), "on its way");
    let id = ChatMessageId(ahead.entity_id());
    let marker = marker_of(world.replay(&mark(pair.ben, pair.id, Some(id), 9, 2)).await);
    // What is not there cannot be read yet.
    assert_eq!((marker.read_seq, marker.unread), (1, 0));
    let heads = (world.head(pair.alice).await, world.head(pair.ben).await);
    message_of(world.replay(&ahead).await);
    assert_eq!(world.seen(pair.ben, pair.id).await.read_seq, 2);
    let (_, counts) = world.told(pair.ben, heads.1).await.pop().unwrap();
    assert_eq!(counts["unread"], 0);
    let (kind, read) = world.told(pair.alice, heads.0).await.pop().unwrap();
    assert_eq!((kind, &read["readSeq"]), ("message.read", &json!(2)));
    let next = world.send(pair.alice, pair.id, "not read").await;
    assert_eq!(next.seq, Some(3));
    assert_eq!(world.seen(pair.ben, pair.id).await.unread, 1);
}

#[tokio::test]
async fn reading_across_a_block_is_told_to_nobody_else() {
    let world = World::new().await;
    let pair = world.pair().await;
    world.send(pair.alice, pair.id, "one").await;
    applied(world.apply(&block(pair.alice, pair.ben, true, 2)).await);
    let head = world.head(pair.alice).await;
    let marker = marker_of(world.apply(&mark(pair.ben, pair.id, None, 0, 3)).await);
    assert_eq!((marker.read_seq, marker.events.len()), (1, 1));
    assert_eq!(world.head(pair.alice).await, head);
}

#[tokio::test]
async fn the_last_word_on_a_block_counts_and_both_are_told() {
    let world = World::new().await;
    let pair = world.pair().await;
    let heads = (world.head(pair.alice).await, world.head(pair.ben).await);
    let state = block_of(world.apply(&block(pair.alice, pair.ben, true, 5)).await);
    assert_eq!((state.is_blocked.value, state.events.len()), (true, 2));
    let (_, mine) = world.told(pair.alice, heads.0).await.remove(0);
    let (_, theirs) = world.told(pair.ben, heads.1).await.remove(0);
    assert_eq!(
        (&mine["userId"], &mine["conversationId"]),
        (&json!(pair.ben), &json!(pair.id))
    );
    assert_eq!(
        (&mine["blockedByMe"], &mine["blockedByThem"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(
        (&theirs["blockedByMe"], &theirs["blockedByThem"]),
        (&json!(false), &json!(true))
    );
    assert!(theirs["username"].is_string());

    let late = world.apply(&block(pair.alice, pair.ben, false, 4)).await;
    assert_eq!(late, Verdict::Late { newest: at(5) });
    assert!(applied(world.replay(&block(pair.alice, pair.ben, false, 4)).await).superseded);
    let status = BlockStatus {
        blocked_by_me: true,
        blocked_by_them: false,
    };
    assert_eq!(
        world.chat.block_status(pair.alice, pair.ben).await.unwrap(),
        status
    );
    assert!(
        world
            .chat
            .block_status(pair.ben, pair.alice)
            .await
            .unwrap()
            .blocked_by_them
    );
    assert!(world.seen(pair.ben, pair.id).await.blocks.blocked_by_them);
    assert_eq!(world.chat.blocks(pair.alice).await.unwrap()[0].user_id, pair.ben);
    assert_eq!(world.chat.blocks(pair.ben).await.unwrap(), []);

    let again = block_of(world.apply(&block(pair.alice, pair.ben, true, 6)).await);
    assert_eq!(again.events, []);
    let back = block_of(world.apply(&block(pair.alice, pair.ben, false, 7)).await);
    assert_eq!((back.is_blocked.value, back.events.len()), (false, 2));
    assert_eq!(world.chat.blocks(pair.alice).await.unwrap(), []);
    let found: Option<gravity_domain::chat::BlockState> = world
        .chat
        .find(pair.alice, block_id(pair.alice, pair.ben))
        .await
        .unwrap();
    assert_eq!(found.unwrap().is_blocked.stamp, at(7));
}

#[tokio::test]
async fn the_answer_kept_for_a_key_is_the_state_that_was_shown() {
    let world = World::new().await;
    let pair = world.pair().await;
    let operations = [
        keyed(say(pair.alice, pair.id, Uuid::now_v7(), "one"), None),
        keyed(mark(pair.ben, pair.id, None, 0, 2), None),
        keyed(block(pair.ben, pair.alice, true, 3), None),
    ];
    for operation in operations {
        let state = applied(world.apply(&operation).await).state;
        let record = world
            .fixture
            .operations
            .find(operation.user_id, operation.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(record.entity, operation.entity());
        assert_eq!(record.kind, operation.kind());
        assert_eq!(record.entity_id, operation.entity_id());
        assert_eq!(record.answer, Some(serde_json::to_value(&state).unwrap()));
    }
}

#[tokio::test]
async fn a_batch_that_comes_again_changes_nothing() {
    let world = World::new().await;
    let pair = world.pair().await;
    let said = say(pair.alice, pair.id, Uuid::now_v7(), "one");
    let batch = [
        said.clone(),
        mark(pair.ben, pair.id, Some(ChatMessageId(said.entity_id())), 0, 2),
        say(pair.ben, pair.id, Uuid::now_v7(), "two"),
        block(pair.ben, pair.alice, true, 3),
    ];
    for verdict in world.fixture.operations.replay(&batch).await.unwrap() {
        assert!(!applied(verdict).superseded);
    }
    let heads = (world.head(pair.alice).await, world.head(pair.ben).await);
    let seen = world.seen(pair.alice, pair.id).await;
    for verdict in world.fixture.operations.replay(&batch).await.unwrap() {
        assert!(matches!(verdict, Verdict::Duplicate(_)), "{verdict:?}");
    }
    assert_eq!((world.head(pair.alice).await, world.head(pair.ben).await), heads);
    assert_eq!(world.seen(pair.alice, pair.id).await, seen);
}

#[tokio::test]
async fn an_operation_id_is_good_once_whatever_it_is_for() {
    let world = World::new().await;
    let pair = world.pair().await;
    let id = OperationId::random();
    let mut said = say(pair.alice, pair.id, Uuid::now_v7(), "one");
    let mut blocked = block(pair.alice, pair.ben, true, 2);
    (said.id, blocked.id) = (id, id);
    applied(world.apply(&said).await);
    assert!(matches!(world.apply(&blocked).await, Verdict::Duplicate(_)));
    assert_eq!(world.chat.blocks(pair.alice).await.unwrap(), []);
}

#[tokio::test]
async fn who_wants_no_notifications_gets_no_job() {
    let world = World::new().await;
    let pair = world.pair().await;
    let silent = NotificationPreferences {
        chat_messages: false,
        ..NotificationPreferences::default()
    };
    world
        .notifications
        .set_preferences(pair.ben, silent)
        .await
        .unwrap();
    assert_eq!(world.notifications.preferences(pair.ben).await.unwrap(), silent);
    assert_eq!(
        world.notifications.preferences(pair.alice).await.unwrap(),
        NotificationPreferences::default()
    );
    world.send(pair.alice, pair.id, "psst").await;
    assert_eq!(
        world
            .fixture
            .count("SELECT count(*) FROM notification_jobs")
            .await,
        0
    );
    world.send(pair.ben, pair.id, "hey").await;
    assert_eq!(
        world
            .fixture
            .count("SELECT count(*) FROM notification_jobs")
            .await,
        1
    );
}

#[tokio::test]
async fn a_user_who_has_no_row_takes_part_nameless() {
    let world = World::new().await;
    let (alice, stranger) = (world.user().await, UserId::random());
    let id = world.chat.open(alice, stranger).await.unwrap().conversation.id;
    world.send(stranger, id, "hello").await;
    let seen = world.seen(alice, id).await;
    assert_eq!((seen.other.id, seen.other.username), (stranger, None));
    assert_eq!(seen.unread, 1);
}
