//! Pages of conversations and messages, and what Postgres does for them.

use crate::chat_world::World;
use crate::fixture::Fixture;
use gravity_domain::auth::Username;
use gravity_domain::chat::{ChatStore, EventCursor, EventLog, Inbox};
use gravity_domain::id::{ConversationId, UserId};
use gravity_domain::page::{PageKey, PageLimit};
use serde_json::Value;
use std::collections::HashSet;
use std::time::Duration;
use uuid::Uuid;

#[tokio::test]
async fn pages_of_messages_lead_from_end_to_end_both_ways() {
    let world = World::new().await;
    let pair = world.pair().await;
    let two = PageLimit::new(2).unwrap();
    let empty = world
        .chat
        .messages(pair.alice, pair.id, None, two)
        .await
        .unwrap()
        .unwrap();
    assert!(empty.messages.is_empty() && !empty.has_more);
    for text in ["1", "2", "3", "4", "5"] {
        world.send(pair.alice, pair.id, text).await;
    }
    let mut down = Vec::new();
    let mut before = None;
    loop {
        let page = world
            .chat
            .messages(pair.ben, pair.id, before, two)
            .await
            .unwrap()
            .unwrap();
        down.extend(page.messages.iter().map(|message| message.seq.unwrap()));
        before = down.last().copied();
        if !page.has_more {
            break;
        }
    }
    assert_eq!(down, [5, 4, 3, 2, 1]);
    let up = world
        .chat
        .messages_after(pair.ben, pair.id, 2, two)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(up.messages[0].seq, Some(3));
    assert!(up.has_more);
    let rest = world
        .chat
        .messages_after(pair.ben, pair.id, 4, two)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((rest.messages.len(), rest.has_more), (1, false));
}

#[tokio::test]
async fn conversations_come_newest_activity_first_and_pages_have_no_gap() {
    let world = World::new().await;
    let alice = world.user().await;
    let mut opened = Vec::new();
    for _ in 0..7 {
        let other = world.user().await;
        opened.push(world.chat.open(alice, other).await.unwrap().conversation);
    }
    // Some at the same time.
    let times = "UPDATE conversations SET updated_at = '2024-01-01T00:00:00Z'::timestamptz
        + (last_seq % 3) * interval '1 hour'";
    world.fixture.execute(times).await;
    world.send(opened[3].other.id, opened[3].id, "newest").await;
    world
        .fixture
        .execute("UPDATE conversations SET updated_at = now() WHERE last_seq > 0")
        .await;
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = world
            .chat
            .conversations(alice, after, PageLimit::new(3).unwrap())
            .await
            .unwrap();
        listed.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let keys: Vec<PageKey> = listed.iter().map(|conversation| conversation.key()).collect();
    let distinct: HashSet<ConversationId> = listed.iter().map(|conversation| conversation.id).collect();
    assert_eq!((keys.len(), distinct.len()), (7, 7));
    assert!(keys.is_sorted_by(|one, next| one > next));
    assert_eq!(listed[0].id, opened[3].id);
    let inbox = world.chat.inbox(alice).await.unwrap();
    assert_eq!((&inbox.conversations, inbox.has_more), (&listed, false));
    assert_eq!((inbox.unread.total, inbox.unread.conversations), (1, 1));
    assert_eq!(inbox.version, world.head(alice).await);
    let nobody = world.chat.inbox(UserId::random()).await.unwrap();
    assert_eq!((nobody.version, nobody.conversations.len()), (0, 0));
}

#[tokio::test]
async fn a_person_is_found_by_username_with_what_the_profile_says() {
    let world = World::new().await;
    let user = world.user().await;
    let sql = format!("UPDATE users SET username = 'ada', name = 'Ada' WHERE id = '{user}'");
    world.fixture.execute(&sql).await;
    let ada = Username::parse("ada").unwrap();
    let person = world.chat.person(&ada).await.unwrap().unwrap();
    assert_eq!((person.id, person.name.as_deref()), (user, Some("Ada")));
    assert_eq!(person.username, Some(ada));
    let nobody = Username::parse("nobody").unwrap();
    assert_eq!(world.chat.person(&nobody).await.unwrap(), None);
}

const BUSY: u128 = 1;

/// User 1 talks with 300 others, every other with ten; two conversations are long.
const MANY: &str = "
    SET session_replication_role = replica;
    CREATE FUNCTION numbered(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$;
    CREATE TABLE met AS
        SELECT row_number() OVER () AS n, one, other, CASE WHEN one = 1 AND other <= 3 THEN 30000 ELSE 10 END AS length FROM (
            SELECT 1 AS one, other FROM generate_series(2, 301) AS other
            UNION ALL
            SELECT one, one + step FROM generate_series(2, 4000) AS one, generate_series(1, 5) AS step
        ) AS pairs;
    INSERT INTO users (id, username, created_at, updated_at)
        SELECT numbered(n), 'user' || n, now(), now() FROM generate_series(1, 4005) AS n;
    INSERT INTO conversations (id, direct_key, last_seq, updated_at)
        SELECT numbered(n), one || ':' || other, length, timestamptz '2024-01-01' + n * interval '1 second' FROM met;
    INSERT INTO conversation_participants (conversation_id, user_id, sent, read_seq, read_count)
        SELECT numbered(n), numbered(one), length / 2, length, length / 2 FROM met
        UNION ALL SELECT numbered(n), numbered(other), length / 2, 0, 0 FROM met;
    INSERT INTO messages (id, conversation_id, seq, sender_id, sender_seq, client_message_id, content, created_at)
        SELECT numbered(n * 100000 + seq), numbered(n), seq, numbered(CASE WHEN seq % 2 = 0 THEN one ELSE other END),
            (seq + 1) / 2, numbered(n * 100000 + seq), 'text', timestamptz '2024-01-01' + seq * interval '1 second'
        FROM met, generate_series(1, length) AS seq;
    INSERT INTO blocks (blocker, blocked, is_blocked, stamp, created_at)
        SELECT numbered(one), numbered(other), true, '\\x00', now() FROM met WHERE n % 7 = 0;
    INSERT INTO user_event_heads (user_id, last_offset) SELECT numbered(n), 20 FROM generate_series(1, 4005) AS n;
    INSERT INTO user_events (user_id, \"offset\", type, payload)
        SELECT numbered(n), place, 'notification.new', '{}' FROM generate_series(1, 4005) AS n, generate_series(1, 12) AS place;
    INSERT INTO user_events (user_id, \"offset\", type, message_id, unread, read_seq)
        SELECT numbered(n), 12 + 2 * place, 'message.new', numbered(n * 100000 + place), 0, place
        FROM generate_series(1, 4005) AS n, generate_series(1, 4) AS place";
const VACUUM: &str = "VACUUM (ANALYZE) users, conversations, conversation_participants, messages, blocks, user_event_heads, user_events";

/// Fails on a scan of a whole table; the most rows that a node gave, all loops together.
fn greatest(plan: &Value, what: &str) -> u64 {
    let kind = plan["Node Type"].as_str().unwrap();
    let is_tiny = plan["Relation Name"] == "event_epoch";
    assert!(kind != "Seq Scan" || is_tiny, "{what}: {plan:#}");
    let count = |key: &str| plan[key].as_f64().unwrap_or(0.0);
    let looked_at = (count("Actual Rows") + count("Rows Removed by Filter")) * count("Actual Loops");
    let below = plan["Plans"].as_array().into_iter().flatten();
    below
        .map(|child| greatest(child, what))
        .max()
        .unwrap_or(0)
        .max(looked_at.round() as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn among_many_conversations_no_statement_looks_at_more_than_those_of_the_user() {
    let fixture = Fixture::with(|settings| {
        settings.max_connections = 1;
        settings.deadline = Duration::from_secs(60);
        settings.statement_timeout = Duration::from_secs(60);
    })
    .await;
    fixture.execute(MANY).await;
    fixture.execute(VACUUM).await;
    let world = World::over(fixture);
    let busy = UserId(Uuid::from_u128(BUSY));
    let long = ConversationId(Uuid::from_u128(1));
    let limit = PageLimit::default();
    let inbox = world.chat.inbox(busy).await.unwrap();
    assert_eq!((inbox.conversations.len(), inbox.has_more), (Inbox::SIZE, true));
    world.chat.conversations(busy, None, limit).await.unwrap();
    world.chat.conversation(busy, long).await.unwrap().unwrap();
    world
        .chat
        .messages(busy, long, None, limit)
        .await
        .unwrap()
        .unwrap();
    world
        .chat
        .messages_after(busy, long, 5, limit)
        .await
        .unwrap()
        .unwrap();
    let message = inbox.conversations[0].last_message.as_ref().unwrap().id;
    world.chat.message(busy, message).await.unwrap().unwrap();
    world.chat.blocks(busy).await.unwrap();
    let head = world.log.head(busy).await.unwrap();
    let cursor = EventCursor { offset: 5, ..head };
    world.log.since(busy, cursor, 1_000).await.unwrap();

    let session = world.fixture.pool.session("plans").await.unwrap();
    let client = session.client();
    let prepared = client
        .query("SELECT name, statement FROM pg_prepared_statements", &[])
        .await
        .unwrap();
    let named = |part: &str| -> String {
        let mut found = prepared.iter().filter(|row| row.get::<_, &str>(1).contains(part));
        let name = found.next().unwrap_or_else(|| panic!("{part}")).get(0);
        assert!(found.next().is_none(), "{part}");
        name
    };
    let cases = [
        (named("total.messages"), format!("'{busy}', 201"), 600),
        (
            named("LIMIT $4::bigint\n    )"),
            format!("'{busy}', NULL, NULL, 21"),
            600,
        ),
        (
            named("LIMIT $4::bigint\n    )"),
            format!("'{busy}', '2024-01-01T00:01:00Z', '{}', 21", Uuid::nil()),
            600,
        ),
        (
            named("me.conversation_id = $2::uuid)"),
            format!("'{busy}', '{long}'"),
            2,
        ),
        (named("seq < $3"), format!("'{busy}', '{long}', 20000, 21"), 21),
        (named("seq > $3"), format!("'{busy}', '{long}', 20000, 21"), 21),
        (
            named("WHERE message.id = $2"),
            format!("'{busy}', '{message}'"),
            1,
        ),
        (named("AND block.is_blocked"), format!("'{busy}'"), 50),
        (
            named("event.\"offset\""),
            format!("ARRAY['{busy}']::uuid[], ARRAY[5]::bigint[], 1000"),
            20,
        ),
        (
            named("ORDER BY wanted.place"),
            format!("ARRAY['{busy}']::uuid[]"),
            1,
        ),
    ];
    for mode in ["force_custom_plan", "force_generic_plan"] {
        client
            .batch_execute(&format!("SET plan_cache_mode = {mode}"))
            .await
            .unwrap();
        for (name, arguments, most) in &cases {
            let sql = format!("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE {name} ({arguments})");
            let plan: Value = client.query_one(&sql, &[]).await.unwrap().get(0);
            let what = format!("{mode} {name} ({arguments})");
            let greatest = greatest(&plan[0]["Plan"], &what);
            assert!(greatest <= *most, "{what}: {greatest} {plan:#}");
        }
    }
}
