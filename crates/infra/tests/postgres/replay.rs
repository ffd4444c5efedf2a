//! Batches of the drain.

use crate::fixture::{Author, Fixture, at, keyed};
use gravity_domain::profile::ProfilePatch;
use gravity_domain::sync::ports::{EntityStore, OperationStore, ReplayStore};
use gravity_domain::sync::{Applied, BatchError, EntityState, Verdict};
use std::time::Instant;
use uuid::Uuid;

#[tokio::test]
async fn a_batch_is_applied_in_order_each_with_its_own_verdict() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    let id = create.entity_id();
    let mut failing = alice.retitle(at(3), id, "never");
    failing.precondition = Some(9);
    let batch = [
        create.clone(),
        alice.retitle(at(5), id, "five"),
        alice.retitle(at(4), id, "four"),
        failing,
        alice.retitle(at(6), Uuid::now_v7(), "nowhere"),
        create,
        alice.profile(at(6), ProfilePatch::default()),
        alice.delete(at(2), id),
        alice.retitle(at(9), id, "after its delete"),
    ];
    let verdicts = fixture.operations.replay(&batch).await.unwrap();
    let words: Vec<&str> = verdicts
        .iter()
        .map(|verdict| match verdict {
            Verdict::Applied(Applied {
                superseded: false, ..
            }) => "applied",
            Verdict::Applied(_) => "superseded",
            Verdict::Duplicate(_) => "duplicate",
            Verdict::Missing => "missing",
            Verdict::PreconditionFailed { current: 2 } => "precondition",
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        "applied",
        "applied",
        "superseded",
        "precondition",
        "missing",
        "duplicate",
        "missing",
        "applied",
        "superseded",
    ];
    assert_eq!(words, expected);
    let task = fixture.tasks.find(alice.0, id).await.unwrap().unwrap();
    assert_eq!((task.title.value.as_str(), task.deleted), ("five", Some(at(2))));
    assert_eq!(fixture.count("SELECT count(*) FROM applied_operations").await, 5);
    assert_eq!(fixture.operations.replay(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_refused_operation_is_named_and_the_rest_of_the_batch_is_undone() {
    let fixture = Fixture::new().await;
    fixture
        .execute("ALTER TABLE tasks ADD CONSTRAINT tasks_no_bad CHECK (title <> 'bad')")
        .await;
    let alice = Author::new();
    let batch: Vec<_> = (0..40u64)
        .map(|n| alice.create(at(n), if n == 17 { "bad" } else { "good" }))
        .collect();
    let error = fixture.operations.replay(&batch).await.unwrap_err();
    match error {
        BatchError::Operation { index, reason } => {
            assert_eq!(
                (index, reason.as_str()),
                (17, "rejected: check_violation (tasks_no_bad)")
            );
        }
        BatchError::Transient(error) => panic!("{error:?}"),
    }
    assert_eq!(fixture.count("SELECT count(*) FROM tasks").await, 0);

    // The connection is as good as new.
    assert_eq!(fixture.pool.status().available, 1);
    let rest: Vec<_> = batch
        .into_iter()
        .enumerate()
        .filter(|(n, _)| *n != 17)
        .map(|(_, op)| op)
        .collect();
    assert_eq!(fixture.operations.replay(&rest).await.unwrap().len(), 39);
}

#[tokio::test]
async fn a_missing_table_is_nobodys_fault() {
    let fixture = Fixture::new().await;
    fixture.execute("ALTER TABLE tasks RENAME TO elsewhere").await;
    let error = fixture
        .operations
        .replay(&[Author::new().create(at(1), "one")])
        .await
        .unwrap_err();
    assert!(matches!(error, BatchError::Transient(_)), "{error:?}");
}

#[tokio::test]
async fn a_replayed_operation_keeps_the_answer_that_its_client_got() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let shown = serde_json::json!({"kind": "task", "as": "the 202 showed it"});
    let create = keyed(alice.create(at(1), "one"), Some(shown.clone()));
    fixture
        .operations
        .replay(std::slice::from_ref(&create))
        .await
        .unwrap();
    let record = fixture
        .operations
        .find(alice.0, create.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((record.answer, record.buffered), (Some(shown), true));
}

#[tokio::test]
async fn statements_prepared_before_a_change_of_the_schema_are_prepared_again() {
    let fixture = Fixture::with(|settings| settings.max_connections = 1).await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    fixture.apply(&create).await;
    fixture.tasks.find(alice.0, create.entity_id()).await.unwrap();
    fixture
        .execute("ALTER TABLE tasks ALTER COLUMN title TYPE varchar(300)")
        .await;
    let first = fixture.tasks.find(alice.0, create.entity_id()).await;
    assert!(first.is_err_and(|error| error.is_transient() && !error.is_outage()));
    assert!(
        fixture
            .tasks
            .find(alice.0, create.entity_id())
            .await
            .unwrap()
            .is_some()
    );
    fixture
        .apply(&alice.retitle(at(2), create.entity_id(), "two"))
        .await;
}

/// A floor far below what is wanted of a release build, so that it only fails when batches stop being pipelined.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_drain_fast() {
    const OPERATIONS: usize = 10_000;
    const BATCH: usize = 500;
    let fixture = Fixture::new().await;
    let authors: Vec<Author> = (0..50).map(|_| Author::new()).collect();
    let mut created = Vec::new();
    let mut operations = Vec::with_capacity(OPERATIONS);
    for n in 0..OPERATIONS {
        let stamp = at(n as u64);
        if n % 2 == 0 {
            let author = authors[n % authors.len()];
            let create = author.create(stamp, "a task of the drain");
            created.push((author, create.entity_id()));
            operations.push(create);
        } else {
            let (author, id) = created[(n * 7) % created.len()];
            operations.push(author.retitle(stamp, id, "another title"));
        }
    }
    let started = Instant::now();
    for batch in operations.chunks(BATCH) {
        for verdict in fixture.operations.replay(batch).await.unwrap() {
            assert!(matches!(verdict, Verdict::Applied(_)));
        }
    }
    let elapsed = started.elapsed();
    let rate = OPERATIONS as f64 / elapsed.as_secs_f64();
    println!("{OPERATIONS} operations in {elapsed:?}: {rate:.0}/s");
    assert!(rate > 1_000.0, "{rate:.0} operations/s");
}

#[tokio::test]
async fn a_direct_write_whose_answer_was_lost_is_remembered_as_the_202_that_was_answered() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let mut create = keyed(alice.create(at(1), "one"), None);
    let direct = fixture.apply(&create).await;
    let answered = serde_json::to_value(EntityState::Task(direct)).unwrap();
    create.replay.as_mut().unwrap().accepted = Some(answered.clone());

    let verdicts = fixture.operations.replay(&[create.clone()]).await.unwrap();
    assert!(matches!(&verdicts[..], [Verdict::Duplicate(_)]));
    let record = fixture
        .operations
        .find(alice.0, create.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((record.buffered, record.answer), (true, Some(answered)));
}
