//! Sessions that meet on one row or one operation. The row is held by a transaction of the test until both wait for it.

use crate::fixture::{Author, Fixture, at, task};
use gravity_domain::sync::ports::{EntityStore, OperationStore, ReplayStore};
use gravity_domain::sync::{Applied, BatchError, Operation, Verdict};
use gravity_domain::task::{TaskChange, TaskPatch, TaskStatus};
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

/// Holds the row until `release` (SQL, then a commit), which happens once `waiters` sessions wait for it.
async fn held(fixture: &Fixture, id: Uuid) -> Client {
    let holder = fixture.database.connect().await.unwrap();
    holder
        .batch_execute(&format!("BEGIN; SELECT FROM tasks WHERE id = '{id}' FOR UPDATE"))
        .await
        .unwrap();
    holder
}

async fn release(fixture: &Fixture, holder: &Client, waiters: i64, change: &str) {
    let watcher = fixture.database.connect().await.unwrap();
    let waiting = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let all_wait = async {
        while watcher.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) < waiters {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), all_wait)
        .await
        .expect("the sessions wait for the row");
    holder.batch_execute(&format!("{change}; COMMIT")).await.unwrap();
}

async fn fixture() -> Fixture {
    Fixture::with(|settings| {
        settings.deadline = Duration::from_secs(10);
        settings.lock_timeout = Duration::from_secs(9);
    })
    .await
}

fn restatus(author: Author, stamp: u64, id: Uuid) -> Operation {
    let patch = TaskPatch {
        status: Some(TaskStatus::Completed),
        ..TaskPatch::default()
    };
    author.operation(at(stamp), task(id, TaskChange::Update(patch)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_writes_to_one_row_both_take_effect_on_what_the_other_left() {
    let fixture = fixture().await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    let id = create.entity_id();
    fixture.apply(&create).await;
    let holder = held(&fixture, id).await;
    let replayed = [alice.retitle(at(3), id, "two")];
    let direct = restatus(alice, 4, id);
    let (verdicts, verdict, ()) = tokio::join!(
        fixture.operations.replay(&replayed),
        fixture.operations.apply(&direct),
        release(&fixture, &holder, 2, "SELECT 1"),
    );
    assert!(matches!(verdicts.unwrap()[..], [Verdict::Applied(_)]));
    assert!(matches!(
        verdict.unwrap(),
        Verdict::Applied(Applied {
            superseded: false,
            ..
        })
    ));
    let row = fixture.tasks.find(alice.0, id).await.unwrap().unwrap();
    assert_eq!((row.version, row.title.value.as_str()), (3, "two"));
    assert_eq!(row.status.value, TaskStatus::Completed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_waited_is_judged_by_the_row_as_it_is_then() {
    let fixture = fixture().await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    let id = create.entity_id();
    fixture.apply(&create).await;
    let holder = held(&fixture, id).await;
    let newer = format!(
        "UPDATE tasks SET title = 'newer', title_stamp = '\\x{}', version = version + 1 WHERE id = '{id}'",
        at(9)
    );
    let mut demanding = restatus(alice, 10, id);
    demanding.precondition = Some(1);
    let replayed = [alice.retitle(at(5), id, "older")];
    let direct = alice.retitle(at(5), id, "older");
    let (verdicts, late, failed, ()) = tokio::join!(
        fixture.operations.replay(&replayed),
        fixture.operations.apply(&direct),
        fixture.operations.apply(&demanding),
        release(&fixture, &holder, 3, &newer),
    );
    match &verdicts.unwrap()[..] {
        [Verdict::Applied(Applied { superseded: true, .. })] => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(late.unwrap(), Verdict::Late { newest: at(9) });
    assert_eq!(failed.unwrap(), Verdict::PreconditionFailed { current: 2 });
    let row = fixture.tasks.find(alice.0, id).await.unwrap().unwrap();
    assert_eq!((row.version, row.title.value.as_str()), (2, "newer"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_operation_in_two_sessions_at_once_takes_effect_once() {
    let fixture = fixture().await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    let id = create.entity_id();
    fixture.apply(&create).await;
    // The same stamp (a resend), a later one (two nodes, one key), and a precondition that the first one uses up.
    for (round, (second_stamp, precondition)) in [(0, None), (1, None), (0, Some(3)), (1, Some(4))]
        .into_iter()
        .enumerate()
    {
        let stamp = 10 * (round as u64 + 1);
        let mut first = alice.retitle(at(stamp), id, &format!("round {round}"));
        first.precondition = precondition;
        let mut second = first.clone();
        second.accepted_at = at(stamp + second_stamp);
        let holder = held(&fixture, id).await;
        let (one, two, ()) = tokio::join!(
            fixture.operations.apply(&first),
            fixture.operations.apply(&second),
            release(&fixture, &holder, 2, "SELECT 1"),
        );
        match (one.unwrap(), two.unwrap()) {
            (Verdict::Applied(_), Verdict::Duplicate(record))
            | (Verdict::Duplicate(record), Verdict::Applied(_)) => assert_eq!(record.id, first.id),
            other => panic!("round {round}: {other:?}"),
        }
        let row = fixture.tasks.find(alice.0, id).await.unwrap().unwrap();
        assert_eq!(row.version, round as u64 + 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_create_in_many_sessions_at_once_makes_one_row() {
    let fixture = fixture().await;
    let alice = Author::new();
    for n in 0..25 {
        let create = alice.create(at(n), "one");
        let batch = [create.clone()];
        let (one, two, replayed) = tokio::join!(
            fixture.operations.apply(&create),
            fixture.operations.apply(&create),
            fixture.operations.replay(&batch),
        );
        let mut applied = 0;
        for verdict in [one.unwrap(), two.unwrap()] {
            match verdict {
                Verdict::Applied(_) => applied += 1,
                Verdict::Duplicate(record) => assert_eq!(record.id, create.id),
                other => panic!("{other:?}"),
            }
        }
        match replayed {
            Ok(verdicts) => {
                applied += verdicts
                    .iter()
                    .filter(|verdict| matches!(verdict, Verdict::Applied(_)))
                    .count();
            }
            // It goes on with the next try.
            Err(BatchError::Transient(error)) => assert!(!error.is_outage(), "{error:?}"),
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!(applied, 1);
    }
    assert_eq!(fixture.count("SELECT count(*) FROM tasks").await, 25);
    assert_eq!(fixture.count("SELECT count(*) FROM applied_operations").await, 25);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_meet_in_opposite_order_get_through_by_trying_again() {
    let fixture = fixture().await;
    let alice = Author::new();
    let mut ids = Vec::new();
    for n in 0..30 {
        let create = alice.create(at(n), "one");
        ids.push(create.entity_id());
        fixture.apply(&create).await;
    }
    let forth: Vec<_> = ids
        .iter()
        .map(|id| alice.retitle(at(100), *id, "forth"))
        .collect();
    let back: Vec<_> = ids.iter().rev().map(|id| restatus(alice, 101, *id)).collect();
    let insist = async |batch: &[Operation]| loop {
        match fixture.operations.replay(batch).await {
            Ok(verdicts) => return verdicts,
            Err(BatchError::Transient(error)) => assert!(!error.is_outage(), "{error:?}"),
            Err(error) => panic!("{error:?}"),
        }
    };
    let (one, two) = tokio::join!(insist(&forth), insist(&back));
    assert!(
        one.iter()
            .chain(&two)
            .all(|verdict| matches!(verdict, Verdict::Applied(_)))
    );
    let done = "SELECT count(*) FROM tasks WHERE title = 'forth' AND status = 'completed' AND version = 3";
    assert_eq!(fixture.count(done).await, 30);
}
