//! Direct writes that come at the same time.

use crate::chat_world::{World, block, message_of, refused, say};
use crate::fixture::{Author, Fixture, at, task_of};
use gravity_domain::chat::ChatStore as _;
use gravity_domain::error::StoreError;
use gravity_domain::sync::ports::OperationStore as _;
use gravity_domain::sync::{Operation, Verdict};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use uuid::Uuid;

type Asked = JoinHandle<Result<Verdict, StoreError>>;

/// Writers wait; readers, and whoever locks rows, do not.
const WRITERS_WAIT: &str = "BEGIN; LOCK TABLE tasks IN SHARE ROW EXCLUSIVE MODE";
const LOCK_WAITS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";

async fn patient() -> Fixture {
    Fixture::with(|settings| settings.deadline = Duration::from_secs(20)).await
}

async fn begin(fixture: &Fixture, sql: &str) -> Client {
    let client = fixture.database.connect().await.unwrap();
    client.batch_execute(sql).await.unwrap();
    client
}

fn ask(fixture: &Fixture, operation: Operation) -> Asked {
    let operations = fixture.operations.clone();
    tokio::spawn(async move { operations.apply(&operation).await })
}

/// One that is under way and waits.
async fn busy(fixture: &Fixture) -> Asked {
    let busy = ask(fixture, Author::new().create(at(1), "busy"));
    while fixture.count(LOCK_WAITS).await == 0 {
        tokio::task::yield_now().await;
    }
    busy
}

async fn all_under_way() {
    // They were spawned before, on this thread.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn they_share_a_transaction_and_each_gets_its_own_verdict() {
    let fixture = patient().await;
    let alice = Author::new();
    let known = alice.create(at(1), "known");
    fixture.apply(&known).await;
    let writers = begin(&fixture, WRITERS_WAIT).await;
    let first = busy(&fixture).await;
    let creates: Vec<Operation> = (0..20)
        .map(|n| Author::new().create(at(2), &format!("title {n}")))
        .collect();
    let asked: Vec<Asked> = creates
        .iter()
        .map(|create| ask(&fixture, create.clone()))
        .collect();
    let missing = ask(
        &fixture,
        Author::new().retitle(at(2), known.entity_id(), "not mine"),
    );
    all_under_way().await;
    writers.batch_execute("COMMIT").await.unwrap();
    first.await.unwrap().unwrap();
    for (create, asked) in creates.iter().zip(asked) {
        let task = task_of(asked.await.unwrap().unwrap());
        assert_eq!(task.id.0, create.entity_id());
    }
    assert_eq!(missing.await.unwrap().unwrap(), Verdict::Missing);
    let transactions = "SELECT count(DISTINCT xmin::text) FROM tasks";
    assert_eq!(fixture.count(transactions).await, 1 + 1 + 1);
    assert_eq!(fixture.count("SELECT count(*) FROM tasks").await, 1 + 1 + 20);
}

#[tokio::test]
async fn one_that_is_refused_and_one_that_is_there_already_take_no_other_along() {
    let fixture = patient().await;
    let no_secrets = "ALTER TABLE tasks ADD CONSTRAINT tasks_no_secret CHECK (title <> 'hunter2')";
    fixture.execute(no_secrets).await;
    let known = Author::new().create(at(1), "known");
    fixture.apply(&known).await;
    let writers = begin(&fixture, WRITERS_WAIT).await;
    let first = busy(&fixture).await;
    let again = ask(&fixture, known.clone());
    let asked: Vec<Asked> = (0..10)
        .map(|n| {
            let title = if n == 3 { "hunter2" } else { "fine" };
            ask(&fixture, Author::new().create(at(2), title))
        })
        .collect();
    all_under_way().await;
    writers.batch_execute("COMMIT").await.unwrap();
    first.await.unwrap().unwrap();
    for (n, asked) in asked.into_iter().enumerate() {
        match asked.await.unwrap() {
            Ok(verdict) => assert_eq!((n == 3, task_of(verdict).title.value.as_str()), (false, "fine")),
            Err(StoreError::Rejected { reason, .. }) => {
                assert_eq!((n, reason.as_str()), (3, "check_violation (tasks_no_secret)"));
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(matches!(again.await.unwrap(), Ok(Verdict::Duplicate(record)) if record.id == known.id));
    assert_eq!(fixture.count("SELECT count(*) FROM tasks").await, 2 + 9);
    assert_eq!(
        fixture.count("SELECT count(*) FROM applied_operations").await,
        2 + 9
    );
}

#[tokio::test]
async fn one_that_is_recorded_and_one_whose_task_is_there_leave_the_others_their_transaction() {
    let fixture = patient().await;
    let (known, purged) = (
        Author::new().create(at(1), "known"),
        Author::new().create(at(1), "purged"),
    );
    fixture.apply(&known).await;
    fixture.apply(&purged).await;
    let forget = format!("DELETE FROM applied_operations WHERE id = '{}'", purged.id.0);
    fixture.execute(&forget).await;
    let writers = begin(&fixture, WRITERS_WAIT).await;
    let first = busy(&fixture).await;
    let (again, reused) = (ask(&fixture, known.clone()), ask(&fixture, purged));
    let others: Vec<Asked> = (0..10)
        .map(|_| ask(&fixture, Author::new().create(at(2), "new")))
        .collect();
    all_under_way().await;
    writers.batch_execute("COMMIT").await.unwrap();
    for asked in std::iter::once(first).chain(others) {
        asked.await.unwrap().unwrap();
    }
    assert!(matches!(again.await.unwrap(), Ok(Verdict::Duplicate(record)) if record.id == known.id));
    match reused.await.unwrap() {
        Err(StoreError::Rejected { reason, .. }) => assert_eq!(reason, "idempotency_key_reused"),
        other => panic!("{other:?}"),
    }
    let transactions = "SELECT count(DISTINCT xmin::text) FROM tasks WHERE title = 'new'";
    assert_eq!(fixture.count(transactions).await, 1);
    assert_eq!(
        fixture.count("SELECT count(*) FROM applied_operations").await,
        1 + 1 + 10
    );
}

#[tokio::test]
async fn one_that_waits_for_somebodys_lock_lets_the_others_go() {
    let fixture = patient().await;
    let alice = Author::new();
    let held = alice.create(at(1), "held");
    fixture.apply(&held).await;
    let writers = begin(&fixture, WRITERS_WAIT).await;
    let row = format!(
        "BEGIN; SELECT FROM tasks WHERE id = '{}' FOR UPDATE",
        held.entity_id()
    );
    let row = begin(&fixture, &row).await;
    let first = busy(&fixture).await;
    let waits = ask(&fixture, alice.retitle(at(2), held.entity_id(), "later"));
    let others: Vec<Asked> = (0..10)
        .map(|_| ask(&fixture, Author::new().create(at(2), "now")))
        .collect();
    all_under_way().await;
    writers.batch_execute("COMMIT").await.unwrap();
    for asked in std::iter::once(first).chain(others) {
        asked.await.unwrap().unwrap();
    }
    assert!(!waits.is_finished());
    row.batch_execute("COMMIT").await.unwrap();
    assert_eq!(
        task_of(waits.await.unwrap().unwrap()).title.value.as_str(),
        "later"
    );
}

#[tokio::test]
async fn messages_share_a_transaction_and_a_blocked_one_takes_no_place() {
    let world = World::over(patient().await);
    let (pair, cara) = (world.pair().await, world.user().await);
    let blocked = world.chat.open(pair.alice, cara).await.unwrap().conversation.id;
    world.apply(&block(cara, pair.alice, true, 1)).await;
    let before = world.head(pair.alice).await;
    let writers = begin(&world.fixture, WRITERS_WAIT).await;
    let first = busy(&world.fixture).await;
    let asked = [
        say(pair.alice, blocked, Uuid::now_v7(), "refused"),
        say(pair.alice, pair.id, Uuid::now_v7(), "one"),
        say(pair.ben, pair.id, Uuid::now_v7(), "two"),
    ]
    .map(|operation| ask(&world.fixture, operation));
    all_under_way().await;
    writers.batch_execute("COMMIT").await.unwrap();
    first.await.unwrap().unwrap();
    let [refusal, one, two] = asked;
    assert_eq!(refused(refusal.await.unwrap().unwrap()).events, []);
    let mut places = Vec::new();
    for asked in [one, two] {
        let message = message_of(asked.await.unwrap().unwrap());
        let own = message.events.iter().filter(|event| event.user_id == pair.alice);
        places.push((message.seq, own.map(|event| event.offset).collect::<Vec<_>>()));
    }
    places.sort();
    let expected = [
        (Some(1), vec![before + 1, before + 2]),
        (Some(2), vec![before + 3, before + 4]),
    ];
    assert_eq!(places, expected);
    let transactions = "SELECT count(DISTINCT xmin::text) FROM messages";
    assert_eq!(world.fixture.count(transactions).await, 1);
}
