//! The stream's finders: pages, details, changes and selections.

use crate::stream_world::{Given, World, filters, put, time};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::page::{PageKey, PageLimit};
use gravity_domain::stream::{Changes, ItemPriority, Selection, StreamFilter, StreamQuery, StreamStore};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const SOURCES: [&str; 3] = ["email", "chat", "social"];

fn some_items() -> Vec<Given> {
    (0..60)
        .map(|n| Given {
            source: SOURCES[n % 3],
            priority: ItemPriority::ALL[n / 3 % 3],
            unread: n % 2 == 0,
            archived: n % 5 == 0,
            removed: n % 11 == 0,
            // Several of the same millisecond.
            ..Given::new(n, i64::try_from(n / 4).unwrap())
        })
        .collect()
}

#[tokio::test]
async fn every_filter_shows_what_it_says_page_by_page() {
    let world = World::new().await;
    let (alice, bob) = (UserId::random(), UserId::random());
    let mut ids = Vec::new();
    for given in some_items() {
        world.put(bob, &given).await;
        let id = world.put(alice, &given).await;
        ids.extend(Some(id).filter(|_| !given.removed));
    }
    let mut all = world.stream.items(alice, &ids).await.unwrap();
    assert_eq!(all.len(), ids.len());
    all.sort_by_key(|item| std::cmp::Reverse(item.page_key()));
    let unread = all.iter().filter(|item| item.counts_as_unread()).count();
    for plain in filters() {
        for (since, until) in [
            (None, None),
            (Some(time(3)), None),
            (Some(time(3)), Some(time(9))),
        ] {
            let filter = StreamFilter {
                since,
                until,
                ..plain.clone()
            };
            let expected: Vec<ItemId> = all
                .iter()
                .filter(|item| filter.shows(item))
                .map(|item| item.id)
                .collect();
            for limit in [1, 7, 100] {
                let seen = world.walk(alice, &filter, limit).await;
                let seen: Vec<ItemId> = seen.iter().map(|item| item.id).collect();
                assert_eq!(seen, expected, "{filter:?} by {limit}");
            }
            let page = world.page(alice, &filter, None, 1).await;
            assert_eq!((page.version, page.unread_count), (60, unread as u64));
        }
    }
}

#[tokio::test]
async fn an_item_comes_with_its_people_in_order_and_its_newest_messages() {
    let world = World::new().await;
    let alice = UserId::random();
    let given = Given::new("one", 1);
    let id = world.put(alice, &given).await;
    let rows = format!(
        "UPDATE priority_items SET snippet = 'first words' WHERE id = '{id}';
        INSERT INTO people VALUES ('{0}', 'Zoe', NULL), ('{1}', 'Ann', 'https://example.com/a.png');
        INSERT INTO priority_item_participants VALUES ('{id}', '{0}', 0), ('{id}', '{1}', 1);
        INSERT INTO priority_item_messages (id, item_id, sender_id, sender_name, sender_type, content_type, content,
            message_timestamp, ai_insights)
        SELECT lpad(to_hex(n), 32, '0')::uuid, '{id}', '{0}', 'Zoe', 'other', 'text', 'say \"' || n || '\"',
            timestamptz '2024-01-01T00:00:00.123Z' + n / 2 * interval '1 second', '[{{\"confidence\": 0.5}}]'
        FROM generate_series(1, 53) AS n",
        Uuid::from_u128(1),
        Uuid::from_u128(2),
    );
    world.fixture.execute(&rows).await;

    let found = world.stream.detail(alice, id).await.unwrap();
    let detail = found.value.unwrap();
    assert_eq!((found.version, detail.item.version), (1, 1));
    let names: Vec<&str> = detail
        .item
        .participants
        .iter()
        .map(|person| person.name.as_str())
        .collect();
    assert_eq!(names, ["Zoe", "Ann"]);
    assert_eq!(detail.item.timestamp, given.timestamp());
    assert_eq!(
        detail.item.snippet.as_ref().map(|text| text.as_str()),
        Some("first words")
    );
    assert_eq!(detail.messages.len(), 50);
    let newest = &detail.messages[0];
    assert_eq!(newest.id.0, Uuid::from_u128(53));
    assert_eq!(newest.timestamp.to_string(), "2024-01-01T00:00:26.123Z");
    assert_eq!(newest.content.as_ref().unwrap().as_str(), "say \"53\"");
    assert_eq!(
        newest.ai_insights,
        Some(serde_json::json!([{ "confidence": 0.5 }]))
    );
    assert_eq!(newest.event_details, None);

    let mut walked = detail.messages.clone();
    let limit = PageLimit::new(2).unwrap();
    let rest = world.stream.messages(alice, id, detail.next, limit).await;
    let rest = rest.unwrap().unwrap();
    walked.extend(rest.items);
    let last = world.stream.messages(alice, id, rest.next, limit).await;
    let last = last.unwrap().unwrap();
    assert_eq!(last.next, None);
    walked.extend(last.items);
    let walked: Vec<u128> = walked.iter().map(|message| message.id.0.as_u128()).collect();
    assert_eq!(walked, (1..=53).rev().collect::<Vec<u128>>());

    let page = world.page(alice, &StreamFilter::default(), None, 5).await;
    assert_eq!(*page.items[0], detail.item);
    assert_eq!(world.item(alice, id).await, detail.item);
}

#[tokio::test]
async fn nobody_finds_anothers_items_nor_removed_ones() {
    let world = World::new().await;
    let (alice, bob) = (UserId::random(), UserId::random());
    let given = Given::new("one", 1);
    let id = world.put(alice, &given).await;
    let gone = world.put(alice, &Given::new("gone", 1).removed()).await;
    let limit = PageLimit::default();
    for (user, id, version) in [(bob, id, 0), (alice, gone, 2), (alice, ItemId(Uuid::now_v7()), 2)] {
        let found = world.stream.detail(user, id).await.unwrap();
        assert!(found.value.is_none());
        assert_eq!(found.version, version);
        assert_eq!(world.stream.items(user, &[id]).await.unwrap(), []);
        let messages = world.stream.messages(user, id, None, limit).await.unwrap();
        assert_eq!(messages, None);
    }
    assert_eq!(world.stream.items(alice, &[]).await.unwrap(), []);
    assert_eq!(world.stream.version(bob).await.unwrap(), 0);
    assert_eq!(world.stream.version(alice).await.unwrap(), 2);
    let empty = world.page(bob, &StreamFilter::default(), None, 5).await;
    assert_eq!((empty.version, empty.unread_count, empty.items.len()), (0, 0, 0));
    let selected = world
        .stream
        .select(bob, &StreamFilter::default(), Timestamp::MAX, 5)
        .await;
    assert_eq!(selected.unwrap().ids, []);
    let changes = world.stream.changes(bob, 0).await.unwrap().value.unwrap();
    assert_eq!((changes.changed, changes.version), (vec![], 0));
}

#[tokio::test]
async fn what_is_not_on_a_page_has_arrived_later_than_the_page_says() {
    let world = World::new().await;
    let alice = UserId::random();
    for n in 0..200 {
        let id = world.put(alice, &Given::new(n, 1)).await;
        let page = world.page(alice, &StreamFilter::default(), None, 1).await;
        let next = world.put(alice, &Given::new(n + 1_000, 1)).await;
        assert!(world.item(alice, id).await.arrived_at <= page.as_of);
        assert!(world.item(alice, next).await.arrived_at > page.as_of);
    }
    // A stream at rest: what has not been seen can still be under way, but not for long.
    world
        .fixture
        .execute("UPDATE stream_versions SET changed_at = changed_at - interval '1 day'")
        .await;
    let page = world.page(alice, &StreamFilter::default(), None, 1).await;
    let now = world
        .fixture
        .count("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        .await;
    let age = now - page.as_of.millis();
    assert!((4_900..60_000).contains(&age), "{age} ms");
}

#[tokio::test]
async fn a_selection_leaves_out_what_is_newer_than_its_time() {
    let world = World::new().await;
    let alice = UserId::random();
    let mut ids = Vec::new();
    for n in 0..6 {
        ids.push(world.put(alice, &Given::new(n, n)).await);
    }
    let late = format!(
        "UPDATE priority_items SET arrived_at = '{}' WHERE id = '{}';
        UPDATE priority_items SET arrived_at = '2024-01-01' WHERE id <> '{1}'",
        Timestamp::MAX,
        ids[1]
    );
    world.fixture.execute(&late).await;
    let limited = |ids: &[ItemId], has_more| Selection {
        ids: ids.to_vec(),
        has_more,
    };
    let all = limited(&[ids[5], ids[4], ids[3], ids[2], ids[0]], false);
    for filter in filters().into_iter().take(8) {
        let select = async |as_of, limit| world.stream.select(alice, &filter, as_of, limit).await.unwrap();
        // Every one of them is in the past, and unread.
        assert_eq!(select(time(100_000_000_000), 10).await, all, "{filter:?}");
        assert!(!select(time(100_000_000_000), 5).await.has_more);
        assert_eq!(
            select(time(100_000_000_000), 2).await,
            limited(&all.ids[..2], true)
        );
    }
    world
        .fixture
        .execute("UPDATE priority_items SET arrived_at = '2020-01-01'")
        .await;
    let until = StreamFilter {
        until: Some(time(4)),
        since: Some(time(1)),
        ..StreamFilter::default()
    };
    let found = world.stream.select(alice, &until, time(3), 10).await.unwrap();
    assert_eq!(found.ids, [ids[3], ids[2], ids[1]]);
    let found = world.stream.select(alice, &until, time(2), 10).await.unwrap();
    assert_eq!(found.ids, [ids[2], ids[1]]);
}

#[tokio::test]
async fn changes_are_told_once_in_order_of_their_version() {
    let world = World::new().await;
    let alice = UserId::random();
    let one = world.put(alice, &Given::new("one", 1)).await;
    let two = world.put(alice, &Given::new("two", 2)).await;
    let three = world.put(alice, &Given::new("three", 3).archived()).await;
    world.put(alice, &Given::new("one", 1).read()).await;
    world.put(alice, &Given::new("two", 2).removed()).await;
    let told = async |since| world.stream.changes(alice, since).await.unwrap();
    let changes = |changed: &[ItemId], removed: &[ItemId]| {
        Some(Changes {
            changed: changed.to_vec(),
            removed: removed.to_vec(),
            version: 5,
            has_more: false,
        })
    };
    assert_eq!(told(0).await.value, changes(&[three, one], &[]));
    assert_eq!(told(1).await.value, changes(&[three, one], &[two]));
    assert_eq!(told(3).await.value, changes(&[one], &[two]));
    assert_eq!(told(5).await.value, changes(&[], &[]));
    assert_eq!(told(5).await.version, 5);
    assert_eq!(told(6).await.value, None);
}

/// `of_each` items at each of `versions` versions.
async fn many_versions(world: &World, user: UserId, versions: u32, of_each: u32) {
    let rows = format!(
        "INSERT INTO priority_items (id, user_id, external_id, title, source, priority, is_unread, is_archived,
            item_timestamp, arrived_at, version, unread_stamp, archived_stamp)
        SELECT gen_random_uuid(), '{user}', v || '-' || n, 'title', 'email', 'low', true, false, now(), now(), v,
            decode(repeat('00', 16), 'hex'), decode(repeat('00', 16), 'hex')
        FROM generate_series(1, {versions}) AS v, generate_series(1, {of_each}) AS n;
        INSERT INTO stream_versions (user_id, version) VALUES ('{user}', {versions})"
    );
    world.fixture.execute(&rows).await;
}

#[tokio::test]
async fn many_changes_come_in_whole_versions_until_they_are_too_many() {
    let world = World::new().await;
    let (alice, bob) = (UserId::random(), UserId::random());
    many_versions(&world, alice, 25, 200).await;
    let mut seen = BTreeSet::new();
    let mut since = 0;
    let mut pages = Vec::new();
    loop {
        let told = world.stream.changes(alice, since).await.unwrap().value.unwrap();
        pages.push((told.version, told.changed.len()));
        for id in told.changed {
            assert!(seen.insert(id));
        }
        since = told.version;
        if !told.has_more {
            break;
        }
    }
    assert_eq!(seen.len(), 5_000);
    assert_eq!(pages[..2], [(3, 600), (6, 600)]);
    assert_eq!(pages.last(), Some(&(25, 200)));

    many_versions(&world, bob, 1, 5_001).await;
    let too_many = world.stream.changes(bob, 0).await.unwrap();
    assert_eq!((too_many.value, too_many.version), (None, 1));
}

#[tokio::test]
async fn what_was_purged_cannot_be_told_but_a_start_from_nothing_is_led_past_it() {
    let world = World::new().await;
    let (alice, bob) = (UserId::random(), UserId::random());
    many_versions(&world, alice, 600, 1).await;
    let kept = world.put(alice, &Given::new("kept", 1)).await;
    let gone = world.put(alice, &Given::new("gone", 1).removed()).await;
    let recent = world.put(alice, &Given::new("recent", 1).removed()).await;
    let bobs = world.put(bob, &Given::new("gone", 1).removed()).await;
    let old = format!(
        "UPDATE priority_items SET removed_at = now() - interval '2 days' WHERE id IN ('{gone}', '{bobs}')"
    );
    world.fixture.execute(&old).await;
    let purge = async || {
        let retention = Duration::from_secs(86_400);
        world.fixture.purge.purge_tombstones(retention).await.unwrap()
    };

    // Whoever is changing a stream is not waited for.
    world.client.batch_execute("BEGIN").await.unwrap();
    let lock = format!("SELECT FROM stream_versions WHERE user_id = '{alice}' FOR NO KEY UPDATE");
    world.client.batch_execute(&lock).await.unwrap();
    assert_eq!(purge().await, 1);
    world.client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(purge().await, 1);
    assert_eq!(purge().await, 0);

    let told = async |since| world.stream.changes(alice, since).await.unwrap().value;
    assert_eq!(told(601).await, None);
    let after = told(602).await.unwrap();
    assert_eq!(
        (after.changed, after.removed, after.version),
        (vec![], vec![recent], 603)
    );
    let start = told(0).await.unwrap();
    assert_eq!(
        (start.changed.len(), start.version, start.has_more),
        (601, 603, false)
    );
    assert_eq!(start.changed.last(), Some(&kept));
    assert_eq!(world.stream.changes(bob, 1).await.unwrap().version, 1);
}

/// What happens to a stream between two of its pages.
#[derive(Debug, Clone)]
enum Event {
    Insert(i64),
    Touch(usize),
    Archive(usize),
    Remove(usize),
    Move(usize, i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0i64..12).prop_map(Event::Insert),
        any::<usize>().prop_map(Event::Touch),
        any::<usize>().prop_map(Event::Archive),
        any::<usize>().prop_map(Event::Remove),
        (any::<usize>(), 0i64..12).prop_map(|(n, to)| Event::Move(n, to)),
    ]
}

#[derive(Default)]
struct Moves {
    items: Vec<Given>,
    /// Items that may have left the list, or (true) have another place in it.
    touched: BTreeMap<ItemId, bool>,
}

impl Moves {
    /// Puts what the event leaves, and remembers whose place in the list it may have changed.
    async fn happen(&mut self, world: &World, user: UserId, event: &Event) {
        let (n, moves) = match *event {
            Event::Insert(at) => {
                self.items.push(Given::new(self.items.len(), at));
                (self.items.len() - 1, false)
            }
            Event::Touch(n) | Event::Archive(n) | Event::Remove(n) | Event::Move(n, _) => {
                if self.items.is_empty() {
                    return;
                }
                (n % self.items.len(), !matches!(event, Event::Touch(_)))
            }
        };
        let given = &mut self.items[n];
        match *event {
            Event::Insert(_) => {}
            Event::Touch(_) => given.unread = !given.unread,
            Event::Archive(_) => given.archived = !given.archived,
            Event::Remove(_) => given.removed = !given.removed,
            Event::Move(_, to) => given.millis = to,
        }
        if moves {
            *self.touched.entry(given.id(user)).or_default() |= matches!(event, Event::Move(..));
        }
        world.put(user, given).await;
    }
}

async fn a_known_page_leads_to_the_same(events: Vec<Event>) {
    let world = World::new().await;
    let user = UserId::random();
    let mut moves = Moves::default();
    let query = StreamQuery {
        filter: StreamFilter::default(),
        after: None,
        limit: PageLimit::new(4).unwrap(),
    };
    let mut known = world.stream.page(user, &query).await.unwrap();
    for event in &events {
        moves.happen(&world, user, event).await;
        let whole = world.stream.page(user, &query).await.unwrap();
        let since = world.stream.page_since(user, &query, &known).await.unwrap();
        assert_eq!(
            (since.version, since.unread_count, &since.items, since.next),
            (whole.version, whole.unread_count, &whole.items, whole.next)
        );
        for item in since.items.iter().filter(|item| item.version <= known.version) {
            let held = known.items.iter().find(|held| held.id == item.id);
            assert!(
                held.is_none_or(|held| Arc::ptr_eq(held, item)),
                "it is read again"
            );
        }
        known = since;
    }
}

#[test]
fn a_page_that_is_known_of_an_earlier_version_leads_to_the_same_page() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = ProptestConfig {
        cases: 12,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(events in proptest::collection::vec(event(), 1..25))| {
        runtime.block_on(a_known_page_leads_to_the_same(events));
    });
}

#[test]
fn paging_neither_repeats_nor_skips_what_stays_while_the_stream_changes() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let world = runtime.block_on(World::new());
    let config = ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let turns = || proptest::collection::vec(proptest::collection::vec(event(), 0..4), 1..12);
    proptest!(config, |(first in proptest::collection::vec(0i64..12, 0..25), turns in turns(), limit in 1usize..6)| {
        runtime.block_on(async {
            let alice = UserId::random();
            let mut moves = Moves::default();
            for at in first {
                moves.happen(&world, alice, &Event::Insert(at)).await;
            }
            let stays: Vec<Given> = moves.items.clone();
            let mut seen: Vec<PageKey> = Vec::new();
            let mut after = None;
            let mut turns = turns.iter();
            loop {
                let page = world.page(alice, &StreamFilter::default(), after, limit).await;
                seen.extend(page.items.iter().map(|item| item.page_key()));
                after = page.next;
                if after.is_none() {
                    break;
                }
                for event in turns.next().into_iter().flatten() {
                    moves.happen(&world, alice, event).await;
                }
            }
            assert!(seen.is_sorted_by(|left, right| left > right), "{seen:?}");
            let moved = |id: &Uuid| moves.touched.get(&ItemId(*id)) == Some(&true);
            let ids: Vec<Uuid> = seen.iter().map(|key| key.id).filter(|id| !moved(id)).collect();
            let unique: BTreeSet<Uuid> = ids.iter().copied().collect();
            assert_eq!(unique.len(), ids.len(), "repeated");
            for given in stays.iter().filter(|given| !moves.touched.contains_key(&given.id(alice))) {
                assert!(seen.contains(&given.page_key(alice)), "skipped {given:?}");
            }
        });
    });
    drop(world);
}

#[tokio::test(flavor = "multi_thread")]
async fn paging_stays_whole_while_others_write_at_the_same_time() {
    let world = World::new().await;
    let alice = UserId::random();
    let mut stays = BTreeSet::new();
    for n in 0..40 {
        stays.insert(world.put(alice, &Given::new(n, n / 3)).await);
    }
    let client = world.fixture.database.connect().await.unwrap();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let mut n = 0;
        while stopped.try_recv().is_err() {
            let given = Given::new(format!("new {}", n % 30), n % 14);
            let given = match n % 3 {
                0 => given.removed(),
                1 => given.archived(),
                _ => given,
            };
            put(&client, alice, &given).await;
            n += 1;
        }
        n
    });
    for _ in 0..20 {
        let seen = world.walk(alice, &StreamFilter::default(), 3).await;
        let mut once = BTreeSet::new();
        for item in seen.iter().filter(|item| stays.contains(&item.id)) {
            assert!(once.insert(item.id));
        }
        assert_eq!(once, stays);
    }
    stop.send(()).unwrap();
    assert!(writing.await.unwrap() > 20);
}
