//! Batches of items that services tell, and removals.

use crate::fixture::{Author, Fixture, at};
use gravity_domain::clock::{Hlc, Timestamp};
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::profile::AvatarUrl;
use gravity_domain::stream::{
    Action, ContentType, ExternalId, Flags, HtmlSanitizer, Ingested, Item, ItemChange, ItemDetail, ItemKey,
    ItemPriority, ItemTitle, MessageBody, NewItem, NewMessage, NewPerson, PersonName, SenderType, Snippet,
    Source, StreamAction, StreamStore,
};
use gravity_domain::sync::Change;
use gravity_domain::sync::ports::OperationStore;
use gravity_infra::stream::{AllowList, PostgresStream};
use serde_json::json;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use ItemChange::{Created, Unchanged, Updated};

struct World {
    fixture: Fixture,
    store: PostgresStream,
}

impl World {
    async fn new() -> Self {
        let fixture = Fixture::with(|settings| {
            settings.deadline = Duration::from_secs(20);
            settings.lock_timeout = Duration::from_secs(19);
        })
        .await;
        let store = PostgresStream::new(fixture.pool.clone());
        Self { fixture, store }
    }

    /// What became of each, and the version of the first item's user.
    async fn ingest(&self, stamp: u64, items: &[NewItem]) -> (Vec<ItemChange>, u64) {
        let done = self.store.ingest(items, at(stamp)).await.unwrap();
        let ids: Vec<ItemId> = items.iter().map(|item| item.key.item_id()).collect();
        assert_eq!(done.changes.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
        (changes(&done), version_of(&done, items[0].key.user_id))
    }

    async fn detail(&self, item: &NewItem) -> ItemDetail {
        let found = self
            .store
            .detail(item.key.user_id, item.key.item_id())
            .await
            .unwrap();
        found.value.expect("the item is there")
    }

    async fn item(&self, item: &NewItem) -> Item {
        self.detail(item).await.item
    }
}

fn changes(done: &Ingested) -> Vec<ItemChange> {
    done.changes.iter().map(|(_, change)| *change).collect()
}

fn version_of(done: &Ingested, user: UserId) -> u64 {
    let of_user: Vec<u64> = done
        .versions
        .iter()
        .filter(|(id, _)| *id == user)
        .map(|(_, version)| *version)
        .collect();
    assert_eq!(of_user.len(), 1, "each user once");
    of_user[0]
}

fn item(user: UserId, name: &str) -> NewItem {
    NewItem {
        key: ItemKey {
            user_id: user,
            source: Source::parse("email").unwrap(),
            external_id: external(name),
        },
        title: ItemTitle::parse(name).unwrap(),
        priority: ItemPriority::Medium,
        timestamp: Timestamp::from_millis(1_700_000_000_123),
        flags: Flags::default(),
        snippet: Some(Snippet::parse("first words").unwrap()),
        participants: Vec::new(),
        messages: Vec::new(),
    }
}

fn external(name: &str) -> ExternalId {
    ExternalId::parse(name).unwrap()
}

fn person(id: &str, name: &str) -> NewPerson {
    NewPerson {
        external_id: Some(external(id)),
        name: PersonName::parse(name).unwrap(),
        avatar_url: None,
    }
}

fn message(name: &str, text: &str) -> NewMessage {
    NewMessage {
        external_id: external(name),
        sender_external_id: Some(external("ada")),
        sender_name: Some(PersonName::parse("Ada").unwrap()),
        sender_type: SenderType::Other,
        content_type: ContentType::Text,
        content: Some(MessageBody::parse(text).unwrap()),
        full_content_html: None,
        timestamp: Timestamp::from_millis(1_700_000_000_000),
        event_details: None,
        social_details: None,
        attachments: None,
        ai_insights: Some(json!([{"kind": "summary", "text": "x", "confidence": 0.1}])),
    }
}

fn flags(is_unread: Option<bool>, is_archived: Option<bool>) -> Flags {
    Flags {
        is_unread,
        is_archived,
    }
}

fn names(item: &Item) -> Vec<&str> {
    item.participants
        .iter()
        .map(|person| person.name.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_item_is_created_told_again_is_unchanged_and_told_otherwise_is_updated() {
    let world = World::new().await;
    let user = UserId::random();
    let mut told = item(user, "a");
    told.participants = vec![person("ada", "Ada")];
    told.messages = vec![message("m1", "hello")];
    assert_eq!(world.ingest(1, &[told.clone()]).await, (vec![Created], 1));
    let created = world.detail(&told).await;
    assert_eq!(created.item.title, told.title);
    assert_eq!(created.item.snippet, told.snippet);
    assert_eq!(created.item.timestamp, told.timestamp);
    assert!(created.item.unread.value && !created.item.archived.value);
    assert_eq!((names(&created.item), created.item.version), (vec!["Ada"], 1));
    assert_eq!(created.messages.len(), 1);
    assert_eq!(created.messages[0].ai_insights, told.messages[0].ai_insights);
    assert_eq!(
        created.messages[0].sender_id,
        Some(created.item.participants[0].id)
    );

    assert_eq!(world.ingest(2, &[told.clone()]).await, (vec![Unchanged], 1));
    assert_eq!(world.item(&told).await, created.item);

    let otherwise: [fn(&mut NewItem); 10] = [
        |item| item.title = ItemTitle::parse("other").unwrap(),
        |item| item.priority = ItemPriority::High,
        |item| item.timestamp = item.timestamp.plus_millis(1),
        |item| item.snippet = None,
        |item| item.participants[0].name = PersonName::parse("Ada L.").unwrap(),
        |item| item.participants[0].avatar_url = AvatarUrl::parse("https://a.example.com/a.png").ok(),
        |item| item.participants.push(person("ben", "Ben")),
        |item| item.messages[0].full_content_html = Some("<p>hello</p>".to_owned()),
        |item| item.messages[0].ai_insights = Some(json!([])),
        |item| item.messages.push(message("m2", "again")),
    ];
    for (change, version) in otherwise.into_iter().zip(2..) {
        change(&mut told);
        assert_eq!(world.ingest(3, &[told.clone()]).await, (vec![Updated], version));
        assert_eq!(world.ingest(4, &[told.clone()]).await, (vec![Unchanged], version));
        let now = world.item(&told).await;
        assert_eq!((now.version, now.arrived_at), (version, created.item.arrived_at));
    }
    let last = world.detail(&told).await;
    assert_eq!(names(&last.item), ["Ada L.", "Ben"]);
    assert!(last.item.participants[0].avatar_url.is_some());
    assert_eq!(last.messages.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn participants_told_come_first_and_those_there_are_follow_up_to_fifty() {
    let world = World::new().await;
    let mut told = item(UserId::random(), "a");
    told.participants = vec![
        person("ada", "Ada"),
        person("ben", "Ben"),
        person("chloe", "Chloé"),
    ];
    world.ingest(1, &[told.clone()]).await;
    told.participants = vec![person("chloe", "Chloé"), person("dmitri", "Dmitri")];
    assert_eq!(world.ingest(2, &[told.clone()]).await, (vec![Updated], 2));
    assert_eq!(names(&world.item(&told).await), ["Chloé", "Dmitri", "Ada", "Ben"]);
    told.participants = Vec::new();
    assert_eq!(world.ingest(3, &[told.clone()]).await, (vec![Unchanged], 2));
    assert_eq!(world.item(&told).await.participants.len(), 4);

    told.participants = (0..48)
        .map(|n| person(&format!("p{n}"), &format!("P{n}")))
        .collect();
    assert_eq!(world.ingest(4, &[told.clone()]).await, (vec![Updated], 3));
    let now = world.item(&told).await;
    assert_eq!(now.participants.len(), 50);
    assert_eq!(names(&now)[47..], ["P47", "Chloé", "Dmitri"]);
    let rows = "SELECT count(*) FROM priority_item_participants";
    assert_eq!(world.fixture.count(rows).await, 50);
    assert_eq!(world.ingest(5, &[told.clone()]).await, (vec![Unchanged], 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_without_an_external_id_is_known_by_name_and_a_picture_not_told_stays() {
    let world = World::new().await;
    let mut told = item(UserId::random(), "a");
    let mut ada = person("ada", "Ada");
    ada.external_id = None;
    ada.avatar_url = AvatarUrl::parse("https://a.example.com/a.png").ok();
    told.participants = vec![ada.clone()];
    told.messages = vec![message("m1", "x")];
    told.messages[0].sender_external_id = None;
    world.ingest(1, &[told.clone()]).await;
    told.participants[0].avatar_url = None;
    assert_eq!(world.ingest(2, &[told.clone()]).await, (vec![Unchanged], 1));
    let now = world.detail(&told).await;
    assert_eq!(now.item.participants[0].avatar_url, ada.avatar_url);
    assert_eq!(now.messages[0].sender_id, Some(now.item.participants[0].id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_merged_and_those_not_told_stay() {
    let world = World::new().await;
    let mut told = item(UserId::random(), "a");
    told.messages = vec![message("m1", "one"), message("m2", "two")];
    world.ingest(1, &[told.clone()]).await;
    let mut event = message("m3", "three");
    event.content_type = ContentType::Event;
    event.event_details = Some(json!({"startsAt": "2026-03-01T10:00:00Z", "attendees": []}));
    // Told twice, the last counts.
    told.messages = vec![message("m2", "ignored"), message("m2", "zwei"), event.clone()];
    assert_eq!(world.ingest(2, &[told.clone()]).await, (vec![Updated], 2));
    let found = world.detail(&told).await.messages;
    let mut texts: Vec<&str> = found
        .iter()
        .map(|m| m.content.as_ref().unwrap().as_str())
        .collect();
    texts.sort_unstable();
    assert_eq!(texts, ["one", "three", "zwei"]);
    assert!(found.iter().any(|m| m.event_details == event.event_details));
    told.messages = Vec::new();
    assert_eq!(world.ingest(3, &[told.clone()]).await, (vec![Unchanged], 2));
    assert_eq!(world.detail(&told).await.messages.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_told_are_set_with_the_later_stamp_and_flags_not_told_stay() {
    let world = World::new().await;
    let mut told = item(UserId::random(), "a");
    told.flags = flags(None, Some(true));
    world.ingest(5, &[told.clone()]).await;
    let seen = |item: &Item| {
        (
            (item.unread.value, item.unread.stamp),
            (item.archived.value, item.archived.stamp),
            item.version,
        )
    };
    assert_eq!(
        seen(&world.item(&told).await),
        ((true, Hlc::ZERO), (true, at(5)), 1)
    );
    told.flags = flags(Some(false), None);
    assert_eq!(world.ingest(7, &[told.clone()]).await, (vec![Updated], 2));
    assert_eq!(seen(&world.item(&told).await), ((false, at(7)), (true, at(5)), 2));
    // The same value again is no change, and the later stamp is kept.
    told.flags = flags(Some(false), Some(true));
    assert_eq!(world.ingest(6, &[told.clone()]).await, (vec![Unchanged], 2));
    assert_eq!(seen(&world.item(&told).await), ((false, at(7)), (true, at(6)), 2));
    told.flags = flags(Some(true), Some(false));
    assert_eq!(world.ingest(3, &[told.clone()]).await, (vec![Unchanged], 2));
    assert_eq!(seen(&world.item(&told).await), ((false, at(7)), (true, at(6)), 2));
    told.flags = Flags::default();
    told.snippet = None;
    assert_eq!(world.ingest(9, &[told.clone()]).await, (vec![Updated], 3));
    assert_eq!(seen(&world.item(&told).await), ((false, at(7)), (true, at(6)), 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_raises_each_version_once_and_only_of_users_of_whom_something_changed() {
    let world = World::new().await;
    let (alice, bob) = (UserId::random(), UserId::random());
    let mut batch = vec![
        item(alice, "a"),
        item(bob, "a"),
        item(alice, "b"),
        item(alice, "c"),
    ];
    let done = world.store.ingest(&batch, at(1)).await.unwrap();
    assert_eq!(changes(&done), [Created; 4]);
    assert_eq!((version_of(&done, alice), version_of(&done, bob)), (1, 1));
    let raised_at = "SELECT count(*) FROM stream_versions JOIN priority_items USING (user_id)
        WHERE changed_at = arrived_at AND date_trunc('milliseconds', changed_at) = changed_at";
    assert_eq!(world.fixture.count(raised_at).await, 4);

    batch[0].priority = ItemPriority::Low;
    batch[3].messages = vec![message("m", "new")];
    batch.push(item(alice, "d"));
    let done = world.store.ingest(&batch, at(2)).await.unwrap();
    assert_eq!(changes(&done), [Updated, Unchanged, Unchanged, Updated, Created]);
    assert_eq!((version_of(&done, alice), version_of(&done, bob)), (2, 1));
    let mut versions = Vec::new();
    for item in &batch {
        versions.push(world.item(item).await.version);
    }
    assert_eq!(versions, [2, 1, 1, 2, 2]);
    let (old, new) = (world.item(&batch[0]).await, world.item(&batch[4]).await);
    assert!(old.arrived_at < new.arrived_at);
    assert_eq!(changes(&world.store.ingest(&[], at(3)).await.unwrap()), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_is_called_otherwise_changes_the_items_of_the_batch_that_name_them() {
    let world = World::new().await;
    let user = UserId::random();
    let mut batch = [item(user, "a"), item(user, "b"), item(user, "c")];
    batch[0].participants = vec![person("ada", "Ada")];
    batch[1].participants = vec![person("ada", "Ada"), person("ben", "Ben")];
    batch[2].participants = vec![person("ben", "Ben")];
    world.ingest(1, &batch).await;
    batch[1].participants[0].name = PersonName::parse("Ada L.").unwrap();
    let (changes, version) = world.ingest(2, &batch).await;
    // The last name told counts, for all of them.
    assert_eq!((changes, version), (vec![Updated, Updated, Unchanged], 2));
    assert_eq!(names(&world.item(&batch[0]).await), ["Ada L."]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_is_called_otherwise_changes_every_item_that_shows_them() {
    let world = World::new().await;
    let (user, other) = (UserId::random(), UserId::random());
    let mut batch = [
        item(user, "a"),
        item(user, "b"),
        item(user, "c"),
        item(other, "a"),
    ];
    for told in &mut batch[1..] {
        told.participants = vec![person("ada", "Ada")];
    }
    batch[0].participants = vec![person("ben", "Ben"), person("ada", "Ada")];
    world.ingest(1, &batch).await;
    let mut told = batch[1].clone();
    told.participants[0].name = PersonName::parse("Ada L.").unwrap();
    assert_eq!(world.ingest(2, &[told]).await, (vec![Updated], 2));
    for (at, version) in [(0, 2), (1, 2), (2, 2), (3, 1)] {
        let found = world.item(&batch[at]).await;
        assert_eq!(found.version, version, "item {at}");
        assert_eq!(names(&found).contains(&"Ada L."), version == 2);
    }
    let changes = world.store.changes(user, 1).await.unwrap().value.unwrap();
    assert_eq!(changes.changed.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_told_do_not_overwrite_what_was_done_later() {
    let world = World::new().await;
    let user = UserId::random();
    let mut told = item(user, "a");
    world.ingest(1, &[told.clone()]).await;
    let id = told.key.item_id();
    let action = StreamAction {
        action: Action::Archive,
        ids: vec![id],
        as_of: None,
        judged: Vec::new(),
    };
    let action = Author(user).operation(at(9), Change::StreamAction(action));
    world.fixture.operations.apply(&action).await.unwrap();
    told.flags = flags(Some(false), Some(false));
    assert_eq!(world.ingest(5, &[told.clone()]).await, (vec![Updated], 3));
    let found = world.item(&told).await;
    assert_eq!((found.unread.value, found.unread.stamp), (false, at(5)));
    assert_eq!((found.archived.value, found.archived.stamp), (true, at(9)));
    assert_eq!(world.ingest(6, &[told.clone()]).await, (vec![Unchanged], 3));
    assert_eq!(world.ingest(10, &[told.clone()]).await, (vec![Updated], 4));
    let found = world.item(&told).await;
    assert_eq!((found.archived.value, found.archived.stamp), (false, at(10)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_whom_no_item_shows_are_purged_and_come_back() {
    let world = World::new().await;
    let user = UserId::random();
    let (mut a, mut b) = (item(user, "a"), item(user, "b"));
    a.participants = vec![person("ada", "Ada"), person("ben", "Ben")];
    b.participants = vec![person("ada", "Ada")];
    world.ingest(1, &[a.clone(), b]).await;
    world.store.remove(&[a.key.clone()]).await.unwrap();
    let purge = || world.fixture.purge.purge_tombstones(Duration::from_secs(3_600));
    assert_eq!(purge().await.unwrap(), 1);
    assert_eq!(world.fixture.count("SELECT count(*) FROM people").await, 1);
    assert_eq!(purge().await.unwrap(), 0);
    assert_eq!(world.ingest(2, &[a.clone()]).await, (vec![Created], 3));
    assert_eq!(names(&world.item(&a).await), ["Ada", "Ben"]);
}

/// As large as a request may be.
fn largest(user: UserId) -> Vec<NewItem> {
    let text = "word ".repeat(80);
    let all = (0..500).map(|n| {
        let mut told = item(user, &n.to_string());
        told.participants = (0..5).map(|p| person(&format!("{n}-{p}"), "Ada")).collect();
        told.messages = (0..12)
            .map(|m| NewMessage {
                full_content_html: Some(format!("<p>{text}</p>")),
                ..message(&m.to_string(), &text)
            })
            .collect();
        told
    });
    all.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_as_large_as_may_be_has_a_longer_limit_and_no_outage_is_made_of_it() {
    let fixture = Fixture::with(|settings| {
        settings.deadline = Duration::from_millis(250);
        settings.lock_timeout = Duration::from_millis(100);
        settings.statement_timeout = Duration::from_millis(200);
        settings.batch_deadline = Duration::from_secs(20);
    })
    .await;
    let store = PostgresStream::new(fixture.pool.clone());
    let batch = largest(UserId::random());
    let done = store.ingest(&batch, at(1)).await.unwrap();
    assert_eq!(changes(&done), [Created; 500]);

    let fixture = Fixture::with(|settings| settings.batch_deadline = Duration::from_millis(20)).await;
    let store = PostgresStream::new(fixture.pool.clone());
    let refused = store.ingest(&batch, at(1)).await.unwrap_err();
    assert!(refused.is_transient() && !refused.is_outage(), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_item_is_gone_once_and_comes_back_as_a_new_one() {
    let world = World::new().await;
    let (alice, bob) = (UserId::random(), UserId::random());
    let mut told = item(alice, "a");
    told.participants = vec![person("ada", "Ada")];
    told.messages = vec![message("m1", "one")];
    told.flags = flags(Some(false), Some(true));
    let kept = item(alice, "b");
    world.ingest(1, &[told.clone(), kept.clone()]).await;
    let first = world.item(&told).await;

    let keys = [told.key.clone(), item(bob, "a").key, item(alice, "unknown").key];
    let done = world.store.remove(&keys).await.unwrap();
    assert_eq!(done.removed, [true, false, false]);
    let versions: HashMap<UserId, u64> = done.versions.into_iter().collect();
    assert_eq!(versions, HashMap::from([(alice, 2), (bob, 0)]));
    let found = world.store.detail(alice, told.key.item_id()).await.unwrap();
    assert_eq!((found.value.is_none(), found.version), (true, 2));
    let left = "SELECT (SELECT count(*) FROM priority_item_messages) + (SELECT count(*) FROM priority_item_participants)
        + (SELECT count(*) FROM stream_versions WHERE version = 0)";
    assert_eq!(world.fixture.count(left).await, 0);
    let tombstones = "SELECT count(*) FROM priority_items WHERE removed_at IS NOT NULL AND version = 2 AND snippet IS NULL";
    assert_eq!(world.fixture.count(tombstones).await, 1);
    assert_eq!(world.item(&kept).await.version, 1);

    let again = world.store.remove(&keys[..1]).await.unwrap();
    assert_eq!((again.removed, again.versions), (vec![false], vec![(alice, 2)]));

    told.flags = Flags::default();
    told.messages.clear();
    told.participants.clear();
    assert_eq!(world.ingest(3, &[told.clone()]).await, (vec![Created], 3));
    let back = world.detail(&told).await;
    assert!(back.item.unread.value && !back.item.archived.value);
    assert!(back.item.arrived_at > first.arrived_at);
    assert!(back.item.participants.is_empty() && back.messages.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_postgres_refuses_leaves_nothing_behind() {
    let world = World::new().await;
    let user = UserId::random();
    let mut bad = item(user, "bad");
    bad.messages = vec![message("m", "x")];
    bad.messages[0].full_content_html = Some("a\0".to_owned());
    let refused = world.store.ingest(&[item(user, "good"), bad], at(1)).await;
    assert!(refused.is_err_and(|error| !error.is_outage()));
    let rows = "SELECT (SELECT count(*) FROM priority_items) + (SELECT count(*) FROM stream_versions)";
    assert_eq!(world.fixture.count(rows).await, 0);
    assert_eq!(world.ingest(2, &[item(user, "good")]).await, (vec![Created], 1));
}

/// 500 items of five users, with two participants and four messages each.
fn large_batch(users: &[UserId]) -> Vec<NewItem> {
    let of = |n: usize| {
        let mut told = item(users[n % users.len()], &format!("item {n}"));
        told.participants = vec![
            person(&format!("p{}", n % 40), "Ada"),
            person(&format!("q{}", n % 7), "Ben"),
        ];
        told.messages = (0..4)
            .map(|m| message(&format!("m{m}"), &"text ".repeat(100)))
            .collect();
        told
    };
    (0..500).map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_items_with_messages_take_one_statement_after_one_that_locks() {
    let fixture = Fixture::with(|settings| {
        settings.deadline = Duration::from_secs(20);
        settings.max_connections = 1;
    })
    .await;
    let store = PostgresStream::new(fixture.pool.clone());
    let users: Vec<UserId> = (0..5).map(|_| UserId::random()).collect();
    let mut batch = large_batch(&users);
    let prepared =
        "SELECT count(*) FROM pg_prepared_statements WHERE statement NOT LIKE '%pg_prepared_statements%'";
    let mut last = 0;
    for round in 0..8_u64 {
        if round > 0 {
            batch[7].title = ItemTitle::parse(&format!("round {round}")).unwrap();
        }
        let started = Instant::now();
        let done = store.ingest(&batch, at(round)).await.unwrap();
        last = u64::try_from(started.elapsed().as_millis()).unwrap();
        let changed = done
            .changes
            .iter()
            .filter(|(_, change)| *change != Unchanged)
            .count();
        assert_eq!(changed, if round == 0 { 500 } else { 1 });
        assert_eq!(version_of(&done, users[7 % 5]), round + 1);
    }
    let session = fixture.pool.session("look").await.unwrap();
    let rows = session
        .within(session.client().query(prepared, &[]))
        .await
        .unwrap();
    assert_eq!(
        rows[0].get::<_, i64>(0),
        2,
        "one statement locks and one does the work"
    );
    let _ = session.finish(Ok(()));
    assert!(last < 5_000, "{last} ms");
    assert_eq!(
        fixture.count("SELECT count(*) FROM priority_item_messages").await,
        2_000
    );
    assert_eq!(
        fixture
            .count("SELECT count(*) FROM priority_item_participants")
            .await,
        1_000
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_waited_is_compared_with_what_the_other_left() {
    let world = World::new().await;
    let user = UserId::random();
    world.ingest(1, &[item(user, "first")]).await;
    let holder = world.fixture.database.connect().await.unwrap();
    let lock = format!("BEGIN; SELECT FROM stream_versions WHERE user_id = '{user}' FOR UPDATE");
    holder.batch_execute(&lock).await.unwrap();
    let mut told = item(user, "second");
    told.participants = vec![person("ada", "Ada")];
    told.messages = vec![message("m", "x")];
    let batch = [told];
    let release = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let both = async {
            while world.fixture.count(waiting).await < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), both)
            .await
            .expect("both wait for the row");
        holder.batch_execute("COMMIT").await.unwrap();
    };
    let (one, two, ()) = tokio::join!(
        world.store.ingest(&batch, at(2)),
        world.store.ingest(&batch, at(3)),
        release,
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    let (one, two) = if changes(&one) == [Created] {
        (one, two)
    } else {
        (two, one)
    };
    assert_eq!((changes(&one), version_of(&one, user)), (vec![Created], 2));
    assert_eq!((changes(&two), version_of(&two, user)), (vec![Unchanged], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_on_the_same_users_at_once_lose_nothing_and_never_deadlock() {
    let world = World::new().await;
    let users: Vec<UserId> = (0..6).map(|_| UserId::random()).collect();
    for round in 0..15_u64 {
        let batch = |writer: &str, reversed: bool| {
            let mut items: Vec<NewItem> = users
                .iter()
                .flat_map(|user| {
                    let mut shared = item(*user, "shared");
                    shared.participants = vec![person("ada", "Ada"), person(writer, writer)];
                    shared.messages = vec![message(&format!("{writer} {round}"), writer)];
                    [shared, item(*user, &format!("{writer} {round}"))]
                })
                .collect();
            if reversed {
                items.reverse();
            }
            items
        };
        let (one, two, three) = (batch("one", false), batch("two", true), batch("three", false));
        let stamp = at(round);
        let keys: Vec<ItemKey> = users.iter().rev().map(|user| item(*user, "gone").key).collect();
        let (a, b, c, removed) = tokio::join!(
            world.store.ingest(&one, stamp),
            world.store.ingest(&two, stamp),
            world.store.ingest(&three, stamp),
            world.store.remove(&keys),
        );
        removed.unwrap();
        let mut versions = Vec::new();
        for done in [a.unwrap(), b.unwrap(), c.unwrap()] {
            assert_eq!(done.versions.len(), users.len());
            versions.push(version_of(&done, users[0]));
        }
        versions.sort_unstable();
        assert_eq!(versions, [3 * round + 1, 3 * round + 2, 3 * round + 3]);
    }
    let shared = world.detail(&item(users[3], "shared")).await;
    assert_eq!((shared.messages.len(), shared.item.participants.len()), (45, 4));
    let own = "SELECT count(*) FROM priority_items";
    assert_eq!(world.fixture.count(own).await, 6 + 6 * 45);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn html_that_is_cleaned_comes_back_without_what_runs() {
    let world = World::new().await;
    let mut told = item(UserId::random(), "a");
    let html = "<p style=\"x\">a<script>b</script></p><img src=\"https://e.example.com/i.png\" onerror=\"c()\"><a href=\"javascript:d()\">e</a>\0";
    told.messages = vec![message("m", "x")];
    told.messages[0].full_content_html = Some(AllowList::new().clean(html));
    world.ingest(1, &[told.clone()]).await;
    let stored = world.detail(&told).await.messages[0]
        .full_content_html
        .clone()
        .unwrap();
    for runs in ["script", "style", "onerror", "javascript", "c()", "d()"] {
        assert!(!stored.contains(runs), "{stored}");
    }
    assert!(
        stored.starts_with("<p>a</p><img src=\"https://e.example.com/i.png\">"),
        "{stored}"
    );
}
