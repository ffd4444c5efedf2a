//! What Postgres does for the stream's statements, among a million items.
//!
//! The statements are those that the adapter has prepared on the pool's only connection, run there under EXPLAIN, with the
//! plans for these parameters and with the ones for any.

use crate::fixture::Fixture;
use crate::stream_world::{World, filters};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::page::{PageKey, PageLimit};
use gravity_domain::stream::{ItemPriority, StreamFilter, StreamQuery, StreamStore, View};
use gravity_infra::postgres::Session;
use gravity_infra::stream::PostgresStream;
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

/// The user with a hundred thousand items; every other has ninety.
const BUSY: Uuid = Uuid::from_u128(1);
const LIMIT: u64 = 20;

/// Indexes are made after the rows, as fast as can be, and as the migrations say.
const MILLION: &str = "
    SET session_replication_role = replica;
    SET maintenance_work_mem = '256MB';
    SET max_parallel_maintenance_workers = 2;
    CREATE TEMP TABLE indexes AS SELECT indexname, indexdef FROM pg_indexes
        WHERE tablename IN ('priority_items', 'priority_item_messages') AND indexname NOT LIKE '%pkey';
    DO $$ DECLARE name text; BEGIN
        FOR name IN SELECT indexname FROM indexes LOOP EXECUTE 'DROP INDEX ' || name; END LOOP;
    END $$;
    INSERT INTO priority_items (id, user_id, external_id, title, source, priority, is_unread, is_archived,
        item_timestamp, arrived_at, version, unread_stamp, archived_stamp, removed_at)
    SELECT lpad(to_hex(n), 32, '0')::uuid,
        lpad(to_hex(CASE WHEN n % 10 = 0 THEN 1 ELSE 2 + n % 9999 END), 32, '0')::uuid, n, 'title',
        (ARRAY['email', 'chat', 'social', 'tasks', 'calendar'])[1 + n / 10 % 5],
        (ARRAY['high', 'medium', 'low'])[1 + n / 50 % 3],
        n / 150 % 2 = 0, n / 300 % 4 = 0,
        timestamptz '2024-01-01' + n * interval '1 second', '2024-01-01', n,
        decode(repeat('00', 16), 'hex'), decode(repeat('00', 16), 'hex'),
        CASE WHEN n / 1200 % 20 = 0 THEN now() END
    FROM generate_series(1, 1000000) AS n;
    INSERT INTO stream_versions (user_id, version)
    SELECT user_id, max(version) FROM priority_items GROUP BY user_id;
    INSERT INTO people (id, name)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'name' FROM generate_series(1, 20000) AS n;
    INSERT INTO priority_item_participants (item_id, person_id, position)
    SELECT lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(1 + (n + side * 7) % 20000), 32, '0')::uuid, side
    FROM generate_series(950001, 1000000) AS n, generate_series(0, 1) AS side;
    INSERT INTO priority_item_messages (id, item_id, sender_type, content_type, message_timestamp)
    SELECT lpad(to_hex(n), 32, '0')::uuid, lpad(to_hex(1000000 - n % 500), 32, '0')::uuid, 'other', 'text',
        timestamptz '2024-01-01' + n * interval '1 second'
    FROM generate_series(1, 100000) AS n;
    DO $$ DECLARE definition text; BEGIN
        FOR definition IN SELECT indexdef FROM indexes LOOP EXECUTE definition; END LOOP;
    END $$";
/// So that counting unread items needs no more than their index.
const VACUUM: &str = "VACUUM (ANALYZE) priority_items, stream_versions, people, priority_item_participants, priority_item_messages";

/// A node of a plan, with those below it.
#[derive(Debug)]
struct Node {
    kind: String,
    index: Option<String>,
    relation: Option<String>,
    condition: String,
    parent: String,
    filtered: u64,
    loops: u64,
    /// All loops together, up to rounding.
    rows: u64,
    /// Per loop.
    rows_per_loop: u64,
    /// Rows of the node below.
    rows_below: u64,
}

fn nodes(plan: &Value, parent: &str, into: &mut Vec<Node>) {
    let text = |key: &str| plan[key].as_str().map(str::to_owned);
    let count = |plan: &Value, key: &str| plan[key].as_f64().map_or(0, |n| n.round() as u64);
    let rows = |plan: &Value| count(plan, "Actual Rows") * count(plan, "Actual Loops");
    let kind = text("Node Type").unwrap();
    let below = plan["Plans"].as_array().cloned().unwrap_or_default();
    into.push(Node {
        index: text("Index Name"),
        relation: text("Relation Name"),
        condition: text("Index Cond").unwrap_or_default(),
        parent: parent.to_owned(),
        filtered: count(plan, "Rows Removed by Filter") * count(plan, "Actual Loops"),
        loops: count(plan, "Actual Loops"),
        rows: rows(plan),
        rows_per_loop: count(plan, "Actual Rows"),
        rows_below: below.first().map_or(0, rows),
        kind: kind.clone(),
    });
    for child in &below {
        nodes(child, &kind, into);
    }
}

struct Plans {
    session: Session,
    /// Name and text of what is prepared.
    prepared: Vec<(String, String)>,
}

impl Plans {
    async fn of(world: &World) -> Self {
        let session = world.fixture.pool.session("plans").await.unwrap();
        let rows = session
            .client()
            .query("SELECT name, statement FROM pg_prepared_statements", &[])
            .await
            .unwrap();
        let prepared = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        Self { session, prepared }
    }

    fn named(&self, holds: &[&str], lacks: &[&str]) -> &str {
        let mut found = self.prepared.iter().filter(|(_, text)| {
            holds.iter().all(|part| text.contains(part)) && !lacks.iter().any(|part| text.contains(part))
        });
        let (name, _) = found.next().unwrap();
        assert!(found.next().is_none());
        name
    }

    async fn explain(&self, name: &str, arguments: &str) -> Vec<Node> {
        let sql = format!("EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE {name} ({arguments})");
        let row = self.session.client().query_one(&sql, &[]).await.unwrap();
        let plan: Value = row.get(0);
        let mut all = Vec::new();
        nodes(&plan[0]["Plan"], "", &mut all);
        for node in &all {
            let is_slow = node.kind.contains("Seq Scan") || node.kind.contains("Hash");
            assert!(!is_slow, "{name} ({arguments}): {all:#?}");
        }
        all
    }
}

async fn prepare_all(world: &World, user: UserId) -> ItemId {
    for filter in filters() {
        world.page(user, &filter, None, 1).await;
        world
            .stream
            .select(user, &filter, Timestamp::MAX, 1)
            .await
            .unwrap();
    }
    let page = world.page(user, &StreamFilter::default(), None, 1).await;
    let query = StreamQuery {
        filter: StreamFilter::default(),
        after: None,
        limit: PageLimit::default(),
    };
    world.stream.page_since(user, &query, &page).await.unwrap();
    let id = page.items[0].id;
    assert_eq!(page.items[0].participants.len(), 2);
    assert_eq!(
        world
            .stream
            .detail(user, id)
            .await
            .unwrap()
            .value
            .unwrap()
            .messages
            .len(),
        50
    );
    world.stream.items(user, &[id]).await.unwrap();
    world
        .stream
        .messages(user, id, None, PageLimit::default())
        .await
        .unwrap();
    world.stream.changes(user, 999_000).await.unwrap();
    id
}

/// The arguments of a page and the number of its parts.
fn page_arguments(
    user: UserId,
    filter: &StreamFilter,
    after: Option<PageKey>,
    since: Option<Timestamp>,
) -> (String, u64) {
    let array = |items: Vec<String>, kind: &str| format!("ARRAY[{}]::{kind}[]", items.join(", "));
    let views: &[i16] = match filter.view {
        View::All => &[0, 1],
        View::Unread => &[0],
        View::Archived => &[2],
    };
    let quoted = |text: &str| format!("'{text}'");
    let priorities: Vec<String> = match filter.priorities.is_empty() {
        true => ItemPriority::ALL
            .map(|priority| quoted(priority.as_str()))
            .to_vec(),
        false => filter
            .priorities
            .iter()
            .map(|priority| quoted(priority.as_str()))
            .collect(),
    };
    let sources: Vec<String> = filter
        .sources
        .iter()
        .map(|source| quoted(source.as_str()))
        .collect();
    let mut arguments = format!(
        "'{user}', {}, {}, {}, {}, {}",
        array(views.iter().map(i16::to_string).collect(), "smallint"),
        after.map_or("NULL".to_owned(), |key| format!("'{}'", key.at)),
        after.map_or("NULL".to_owned(), |key| format!("'{}'", key.id)),
        since.map_or("NULL".to_owned(), |since| format!("'{since}'")),
        LIMIT + 1,
    );
    let mut parts = views.len();
    if !filter.priorities.is_empty() || !filter.sources.is_empty() {
        parts *= priorities.len();
        arguments += &format!(", {}", array(priorities, "text"));
    }
    if !filter.sources.is_empty() {
        parts *= sources.len();
        arguments += &format!(", {}", array(sources, "text"));
    }
    (arguments, parts as u64)
}

/// One index scan for each part, of no more rows than are asked for; and nothing else is looked at, but to count.
fn assert_bounded(plan: &[Node], index: &str, parts: u64, what: &str) {
    let mut scans = 0;
    for node in plan {
        let on_items = node.relation.as_deref() == Some("priority_items");
        if node.kind == "Sort" || node.kind == "Incremental Sort" {
            assert!(node.rows_below <= parts * (LIMIT + 1), "{what}: {plan:#?}");
        }
        if !on_items || (node.parent == "Aggregate" && node.condition.contains("view = 0")) {
            continue;
        }
        assert!(node.kind.starts_with("Index"), "{what}: {plan:#?}");
        assert_eq!(node.filtered, 0, "{what}: {plan:#?}");
        if node.index.as_deref() == Some("priority_items_pkey") {
            assert!(
                node.loops <= LIMIT + 1 && node.rows_per_loop <= 1,
                "{what}: {plan:#?}"
            );
            continue;
        }
        assert_eq!(node.index.as_deref(), Some(index), "{what}: {plan:#?}");
        assert_eq!(node.parent, "Limit", "{what}: {plan:#?}");
        assert!(
            node.loops == parts && node.rows_per_loop <= LIMIT + 1,
            "{what}: {plan:#?}"
        );
        // Of the busy user, there are such items.
        assert!(
            node.rows > 0 || !what.contains(&BUSY.to_string()),
            "{what}: {plan:#?}"
        );
        scans += 1;
    }
    assert_eq!(scans, 1, "{what}: {plan:#?}");
}

async fn pages_are_bounded(plans: &Plans, user: UserId, middle: PageKey) {
    for filter in filters() {
        let by_priority = !filter.priorities.is_empty();
        let (index, holds, lacks): (_, &[&str], &[&str]) = match (by_priority, filter.sources.is_empty()) {
            (false, true) => ("priority_items_list_index", &[], &["of_priority", "<> ALL"]),
            (true, true) => ("priority_items_priority_index", &["of_priority"], &["of_source"]),
            (_, false) => ("priority_items_source_index", &["of_source"], &[]),
        };
        let day = PageKey {
            id: Uuid::nil(),
            ..middle
        };
        let since = Some(middle.at.plus_millis(-100_000_000));
        for (after, since) in [(None, None), (Some(middle), None), (Some(day), since)] {
            let (arguments, parts) = page_arguments(user, &filter, after, since);
            let name = plans.named(&[&["AS unread"], holds].concat(), lacks);
            let plan = plans.explain(name, &arguments).await;
            assert_bounded(&plan, index, parts, &format!("page {filter:?} {arguments}"));
            if !by_priority && filter.sources.is_empty() {
                let name = plans.named(&["<> ALL"], &[]);
                let arguments = format!("{arguments}, ARRAY['{}']::uuid[], 5", Uuid::nil());
                let plan = plans.explain(name, &arguments).await;
                assert_bounded(&plan, index, parts, &format!("page since {filter:?} {arguments}"));
            }
            if user.0 != BUSY {
                // Of so few items, some may as well be sorted as be read in order, where more than the index is needed.
                continue;
            }
            let name = plans.named(
                &[&["item.arrived_at <="], holds].concat(),
                &[&["AS unread"], lacks].concat(),
            );
            let plan = plans.explain(name, &format!("{arguments}, now()")).await;
            assert_bounded(&plan, index, parts, &format!("select {filter:?} {arguments}"));
        }
    }
}

/// Of one item, its people and messages: by their keys.
async fn the_rest_is_bounded(plans: &Plans, user: UserId, id: ItemId) {
    let detail = plans.named(&["AS messages", "AS participants"], &[]);
    let plan = plans.explain(detail, &format!("'{user}', '{id}'")).await;
    assert!(plan.iter().all(|node| node.rows <= 51), "{plan:#?}");
    let items = plans.named(&["= ANY"], &[]);
    let plan = plans
        .explain(items, &format!("'{user}', ARRAY['{id}']::uuid[]"))
        .await;
    assert!(plan.iter().all(|node| node.rows <= 2), "{plan:#?}");
    let messages = plans.named(&["AS messages"], &["AS participants"]);
    let plan = plans
        .explain(messages, &format!("'{user}', '{id}', NULL, NULL, 21"))
        .await;
    assert!(plan.iter().all(|node| node.rows <= 21), "{plan:#?}");
    let changes = plans.named(&["purged_version"], &[]);
    let plan = plans
        .explain(changes, &format!("'{user}', 999000, 5000, 500"))
        .await;
    assert!(plan.iter().all(|node| node.rows <= 101), "{plan:#?}");
    let plan = plans.explain(changes, &format!("'{user}', 0, 5000, 500")).await;
    assert!(plan.iter().all(|node| node.rows <= 5_001), "{plan:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn among_a_million_items_no_statement_looks_at_more_than_it_answers() {
    let fixture = Fixture::with(|settings| {
        settings.max_connections = 1;
        settings.deadline = Duration::from_secs(30);
        settings.statement_timeout = Duration::from_secs(30);
    })
    .await;
    fixture.execute(MILLION).await;
    fixture.execute(VACUUM).await;
    let world = World {
        stream: PostgresStream::new(fixture.pool.clone()),
        client: fixture.database.connect().await.unwrap(),
        fixture,
    };
    let busy = UserId(BUSY);
    let newest = prepare_all(&world, busy).await;
    let usual = UserId(Uuid::from_u128(17));
    let middle = |millis| PageKey {
        at: Timestamp::parse("2024-01-01T00:00:00Z")
            .unwrap()
            .plus_millis(millis),
        id: Uuid::max(),
    };
    let plans = Plans::of(&world).await;
    for mode in ["force_custom_plan", "force_generic_plan"] {
        let set = format!("SET plan_cache_mode = {mode}");
        plans.session.client().batch_execute(&set).await.unwrap();
        pages_are_bounded(&plans, busy, middle(500_000_000)).await;
        pages_are_bounded(&plans, usual, middle(900_000_000)).await;
        the_rest_is_bounded(&plans, busy, newest).await;
    }
}
