//! The write path over mocks: what is tried, what is buffered, and what is refused.

use super::*;
use gravity_domain::clock::{Hlc, HybridClock, MockClock, NodeId, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::sync::ports::{
    MockAppliedListener, MockBreaker, MockEntityCache, MockEntityStore, MockOperationStore, MockWriteBuffer,
    WritePorts,
};
use gravity_domain::sync::{
    Applied, AppliedRecord, BufferError, Change, Entity, EntityKind, Fingerprint, Found, Operation,
    OperationKind, Pending, Verdict, WriteError, WriteOutcome,
};
use gravity_domain::task::{NewTask, Task, TaskChange, TaskPatch, TaskStatus, Title};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct World {
    store: MockOperationStore,
    breaker: MockBreaker,
    buffer: MockWriteBuffer,
    rows: MockEntityStore<Task>,
    cache: MockEntityCache<Task>,
    known: MockAppliedListener,
}

impl World {
    fn new(is_up: bool) -> Self {
        let mut world = Self::default();
        world.breaker.expect_allows_writes().return_const(is_up);
        world.breaker.expect_allows_reads().return_const(is_up);
        world.buffer.expect_find_dead().returning(|_| Ok(None));
        world
    }

    fn lane(mut self, length: u64) -> Self {
        self.buffer.expect_lane_length().returning(move |_| Ok(length));
        self
    }

    fn pending(mut self, operations: Vec<Operation>) -> Self {
        let found = operations.clone();
        let numbered = move || {
            (1..)
                .zip(operations.clone())
                .map(|(sequence, operation)| Pending { sequence, operation })
        };
        self.buffer
            .expect_pending_on()
            .returning(move |_, _, _| Ok(numbered().collect()));
        self.buffer.expect_find().returning(move |id| {
            Ok(found.iter().find(|o| o.id == id).map(|o| Pending {
                sequence: 1,
                operation: o.clone(),
            }))
        });
        self
    }

    fn cached(mut self, found: Found<Task>) -> Self {
        self.cache.expect_find().returning(move |_, _| found.clone());
        self
    }

    fn appends(mut self) -> (Self, Arc<Mutex<Vec<Operation>>>) {
        let appended = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&appended);
        self.buffer.expect_append().returning(move |operation| {
            sink.lock().unwrap().push(operation);
            Ok(())
        });
        (self, appended)
    }

    fn build(self) -> (Arc<Writer>, Arc<EntityReader<Task>>) {
        let (breaker, buffer) = (Arc::new(self.breaker), Arc::new(self.buffer));
        let ports = WritePorts {
            store: Arc::new(self.store),
            breaker: breaker.clone(),
            buffer: buffer.clone(),
            known: Arc::new(self.known),
        };
        let clock = HybridClock::new(
            NodeId(7),
            0,
            60_000,
            Arc::new(MockClock::at(1_000_000)),
            Arc::new(()),
        );
        let writer = Writer::new(
            ports,
            Arc::new(clock),
            WriteSettings {
                deadline: Duration::from_millis(50),
            },
        );
        let reader = EntityReader::new(Arc::new(self.rows), Arc::new(self.cache), breaker, buffer);
        (Arc::new(writer), Arc::new(reader))
    }
}

fn request(user: UserId, key: Option<(&str, u8)>) -> WriteRequest {
    let key = key.map(|(key, body)| IdempotencyKey {
        key: key.to_owned(),
        fingerprint: Fingerprint([body; 32]),
    });
    WriteRequest {
        user,
        key,
        expected_version: None,
        must_commit: false,
    }
}

fn create(title: &str) -> impl FnOnce(OperationId) -> Change + use<> {
    let new = NewTask {
        title: Title::parse(title).unwrap(),
        description: None,
        status: TaskStatus::Pending,
    };
    |id| Change::Task {
        id: TaskId(id.created_entity()),
        change: TaskChange::Create(new),
    }
}

fn rename(id: TaskId, title: &str) -> impl FnOnce(OperationId) -> Change + use<> {
    let patch = TaskPatch {
        title: Some(Title::parse(title).unwrap()),
        ..TaskPatch::default()
    };
    move |_| Change::Task {
        id,
        change: TaskChange::Update(patch),
    }
}

fn operation(user: UserId, wall_ms: u64, change: impl FnOnce(OperationId) -> Change) -> Operation {
    let id = OperationId::random();
    Operation {
        id,
        user_id: user,
        change: change(id),
        accepted_at: Hlc {
            wall_ms,
            counter: 0,
            node: NodeId(1),
        },
        priority: gravity_domain::sync::Priority::default(),
        precondition: None,
        replay: None,
        attempts: 0,
        last_error: None,
        retried: false,
    }
}

fn task(user: UserId, wall_ms: u64) -> Task {
    let mut task = None;
    Task::apply(&mut task, &operation(user, wall_ms, create("old")));
    task.unwrap()
}

fn applied(operation: &Operation, base: Option<Task>) -> Verdict {
    let mut current = base;
    Task::apply(&mut current, operation);
    Verdict::Applied(Applied {
        superseded: false,
        state: current.unwrap().into_state(),
    })
}

#[tokio::test]
async fn a_write_is_committed_directly_when_postgres_is_up_and_the_lane_is_empty() {
    let mut world = World::new(true).lane(0).cached(Found::Unknown);
    world
        .store
        .expect_apply()
        .times(1)
        .returning(|operation| Ok(applied(operation, None)));
    world.cache.expect_learn().times(1).return_const(());
    let (writer, reader) = world.build();
    let written = writer
        .write(request(UserId::random(), None), &reader, create("t"))
        .await
        .unwrap();
    assert!(matches!(written.outcome, WriteOutcome::Committed(task) if task.title.value.as_str() == "t"));
}

#[tokio::test]
async fn when_the_answer_is_lost_the_very_same_operation_is_buffered_and_the_breaker_is_told() {
    let tried = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&tried);
    let (mut world, appended) = World::new(true)
        .lane(0)
        .cached(Found::Unknown)
        .pending(vec![])
        .appends();
    world.store.expect_apply().times(1).returning(move |operation| {
        *seen.lock().unwrap() = Some(operation.clone());
        Err(StoreError::unavailable("closed"))
    });
    world.breaker.expect_failed().times(1).return_const(());
    let (writer, reader) = world.build();
    let written = writer
        .write(request(UserId::random(), None), &reader, create("t"))
        .await
        .unwrap();
    assert!(matches!(written.outcome, WriteOutcome::Buffered(_)));
    assert_eq!(
        tried.lock().unwrap().clone().unwrap(),
        appended.lock().unwrap()[0]
    );
}

#[tokio::test]
async fn a_newer_write_never_overtakes_an_older_one_in_the_lane() {
    let user = UserId::random();
    let known = task(user, 5);
    let id = known.id;
    let older = operation(user, 10, rename(id, "older"));
    let (mut world, appended) = World::new(true).lane(1).pending(vec![older]).appends();
    world.store.expect_apply().never();
    world
        .rows
        .expect_find()
        .returning(move |_, _| Ok(Some(known.clone())));
    world.cache.expect_mark().return_const(0u64);
    world.cache.expect_learn_read().return_const(());
    let (writer, reader) = world.build();
    let written = writer
        .write(request(user, None), &reader, rename(id, "newer"))
        .await
        .unwrap();
    let WriteOutcome::Buffered(task) = written.outcome else {
        panic!("it overtook")
    };
    assert_eq!((task.title.value.as_str(), task.version), ("newer", 3));
    assert_eq!(appended.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn while_the_lane_cannot_be_looked_into_nothing_is_written() {
    let mut world = World::new(true);
    let closed = || BufferError::Unavailable("opening".into());
    world
        .buffer
        .expect_lane_length()
        .returning(move |_| Err(closed()));
    world.buffer.expect_find().returning(move |_| Err(closed()));
    world.store.expect_apply().never();
    let (writer, reader) = world.build();
    let refused = writer
        .write(request(UserId::random(), None), &reader, create("t"))
        .await;
    assert!(matches!(
        refused,
        Err(WriteError::Buffer(BufferError::Unavailable(_)))
    ));
}

#[tokio::test]
async fn what_may_have_been_committed_is_never_answered_from_the_cache() {
    let (mut world, appended) = World::new(true)
        .lane(0)
        .cached(Found::Absent)
        .pending(vec![])
        .appends();
    world
        .store
        .expect_apply()
        .returning(|_| Err(StoreError::unavailable("closed")));
    world.breaker.expect_failed().return_const(());
    let (writer, reader) = world.build();
    let change = rename(TaskId(uuid::Uuid::now_v7()), "x");
    let unknown = writer
        .write(request(UserId::random(), None), &reader, change)
        .await;
    assert!(matches!(unknown, Err(WriteError::Unknown)));
    assert!(appended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_known_is_forgotten_when_another_node_committed_the_same_operation() {
    let user = UserId::random();
    let mut world = World::new(true).lane(0).cached(Found::Unknown);
    world.buffer.expect_find().returning(|_| Ok(None));
    world.store.expect_apply().returning(|operation| {
        let Verdict::Applied(first) = applied(operation, None) else {
            panic!("applied is applied")
        };
        Ok(Verdict::Duplicate(AppliedRecord {
            id: operation.id,
            user_id: operation.user_id,
            entity: operation.entity(),
            entity_id: operation.entity_id(),
            kind: operation.kind(),
            accepted_at: operation.accepted_at,
            applied_at: operation.accepted_at.timestamp(),
            attempts: 1,
            superseded: false,
            fingerprint: operation.replay.as_ref().map(|replay| replay.fingerprint),
            buffered: false,
            answer: serde_json::to_value(first.state).ok(),
        }))
    });
    world.known.expect_already_applied().times(1).return_const(());
    let (writer, reader) = world.build();
    let again = writer
        .write(request(user, Some(("key", 1))), &reader, create("t"))
        .await
        .unwrap();
    assert!(again.replayed);
}

#[tokio::test]
async fn a_refused_operation_is_answered_and_never_buffered() {
    let mut world = World::new(true).lane(0).cached(Found::Unknown);
    world.store.expect_apply().times(2).returning(|operation| {
        if operation.precondition.is_some() {
            Ok(Verdict::PreconditionFailed { current: 4 })
        } else {
            Ok(Verdict::Missing)
        }
    });
    let (writer, reader) = world.build();
    let id = TaskId(uuid::Uuid::now_v7());
    let missing = writer
        .write(request(UserId::random(), None), &reader, rename(id, "x"))
        .await;
    assert!(matches!(missing, Err(WriteError::NotFound)));
    let mut conditional = request(UserId::random(), None);
    conditional.expected_version = Some(3);
    let mismatch = writer.write(conditional, &reader, rename(id, "x")).await;
    assert!(matches!(
        mismatch,
        Err(WriteError::VersionMismatch { current: 4 })
    ));
}

#[tokio::test]
async fn in_the_dark_what_is_not_known_is_refused_and_what_is_known_is_judged() {
    let user = UserId::random();
    let known = task(user, 5);
    for (found, version, expected) in [
        (Found::Unknown, None, "unknown"),
        (Found::Absent, None, "not found"),
        (Found::Known(known.clone()), Some(9), "mismatch"),
        (Found::Known(known.clone()), Some(1), "buffered"),
    ] {
        let (world, appended) = World::new(false).lane(0).cached(found).pending(vec![]).appends();
        let (writer, reader) = world.build();
        let mut conditional = request(user, None);
        conditional.expected_version = version;
        let got = match writer.write(conditional, &reader, rename(known.id, "x")).await {
            Ok(written) if matches!(written.outcome, WriteOutcome::Buffered(_)) => "buffered",
            Err(WriteError::Unknown) => "unknown",
            Err(WriteError::NotFound) => "not found",
            Err(WriteError::VersionMismatch { current: 1 }) => "mismatch",
            other => panic!("{other:?}"),
        };
        assert_eq!(got, expected);
        assert_eq!(
            appended.lock().unwrap().len(),
            usize::from(expected == "buffered")
        );
    }
}

#[tokio::test]
async fn a_request_for_a_commit_is_never_buffered() {
    let (world, appended) = World::new(false)
        .lane(0)
        .cached(Found::Unknown)
        .pending(vec![])
        .appends();
    let (writer, reader) = world.build();
    let mut strict = request(UserId::random(), None);
    strict.must_commit = true;
    assert!(matches!(
        writer.write(strict, &reader, create("t")).await,
        Err(WriteError::NotCommittable)
    ));
    assert!(appended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_row_stamped_by_a_fast_clock_moves_this_nodes_clock_past_it() {
    let ahead = Hlc {
        wall_ms: 1_020_000,
        counter: 3,
        node: NodeId(9),
    };
    let mut world = World::new(true).lane(0).cached(Found::Unknown);
    world.store.expect_apply().times(2).returning(move |operation| {
        if operation.accepted_at > ahead {
            Ok(applied(operation, None))
        } else {
            Ok(Verdict::Late { newest: ahead })
        }
    });
    world.cache.expect_learn().return_const(());
    let (writer, reader) = world.build();
    assert!(
        writer
            .write(request(UserId::random(), None), &reader, create("t"))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_and_another_body_is_refused() {
    let user = UserId::random();
    let (mut world, appended) = World::new(false).lane(0).cached(Found::Unknown).appends();
    world.buffer.expect_pending_on().returning(|_, _, _| Ok(vec![]));
    world.buffer.expect_find().returning(|_| Ok(None));
    let (writer, reader) = world.build();
    let first = writer
        .write(request(user, Some(("k", 1))), &reader, create("t"))
        .await
        .unwrap();
    let again = writer
        .write(request(user, Some(("k", 1))), &reader, create("t"))
        .await
        .unwrap();
    assert_eq!((again.replayed, again.operation_id), (true, first.operation_id));
    assert_eq!(again.outcome, first.outcome);
    let other = writer
        .write(request(user, Some(("k", 2))), &reader, create("u"))
        .await;
    assert!(matches!(other, Err(WriteError::KeyReused)));
    assert_eq!(appended.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_retry_after_a_restart_gets_its_first_answer_from_the_buffer() {
    let user = UserId::random();
    let (world, appended) = World::new(false)
        .lane(0)
        .cached(Found::Unknown)
        .pending(vec![])
        .appends();
    let (writer, reader) = world.build();
    let first = writer
        .write(request(user, Some(("k", 1))), &reader, create("t"))
        .await
        .unwrap();
    let kept = appended.lock().unwrap().clone();
    let (mut world, appended) = World::new(true)
        .lane(1)
        .cached(Found::Unknown)
        .pending(kept)
        .appends();
    world.store.expect_apply().never();
    let (restarted, reader) = world.build();
    let again = restarted
        .write(request(user, Some(("k", 1))), &reader, create("t"))
        .await
        .unwrap();
    assert_eq!((again.replayed, &again.outcome), (true, &first.outcome));
    assert!(appended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_full_buffer_refuses_and_acknowledges_nothing() {
    let mut world = World::new(false).lane(0).cached(Found::Unknown).pending(vec![]);
    world.buffer.expect_append().returning(|_| Err(BufferError::Full));
    let (writer, reader) = world.build();
    let refused = writer
        .write(request(UserId::random(), Some(("k", 1))), &reader, create("t"))
        .await;
    assert!(matches!(refused, Err(WriteError::Buffer(BufferError::Full))));
}

#[tokio::test]
async fn a_refused_write_does_not_spend_its_key() {
    let user = UserId::random();
    let mut world = World::new(true).lane(0).cached(Found::Unknown).pending(vec![]);
    let mut verdicts = vec![true, false];
    world.store.expect_apply().times(2).returning(move |operation| {
        Ok(if verdicts.pop() == Some(false) {
            Verdict::Missing
        } else {
            applied(operation, None)
        })
    });
    world.cache.expect_learn().return_const(());
    let (writer, reader) = world.build();
    let refused = writer
        .write(request(user, Some(("k", 1))), &reader, create("t"))
        .await;
    assert!(matches!(refused, Err(WriteError::NotFound)));
    let taken = writer
        .write(request(user, Some(("k", 2))), &reader, create("u"))
        .await
        .unwrap();
    assert!(!taken.replayed);
}

#[tokio::test]
async fn concurrent_writes_of_one_user_are_stamped_in_the_order_they_are_acknowledged() {
    let user = UserId::random();
    let (world, appended) = World::new(false)
        .lane(0)
        .cached(Found::Unknown)
        .pending(vec![])
        .appends();
    let (writer, reader) = world.build();
    let writes = (0..50).map(|n| {
        let (writer, reader) = (Arc::clone(&writer), Arc::clone(&reader));
        tokio::spawn(async move {
            writer
                .write(request(user, None), &reader, create(&format!("t{n}")))
                .await
        })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    let stamps: Vec<_> = appended
        .lock()
        .unwrap()
        .iter()
        .map(|operation| operation.accepted_at)
        .collect();
    assert_eq!(stamps.len(), 50);
    assert!(stamps.is_sorted());
}

#[tokio::test]
async fn a_pending_delete_hides_the_task_from_reads_and_from_later_writes() {
    let user = UserId::random();
    let known = task(user, 5);
    let id = known.id;
    let delete = operation(user, 10, move |_| Change::Task {
        id,
        change: TaskChange::Delete,
    });
    let (world, appended) = World::new(false)
        .lane(1)
        .cached(Found::Known(known))
        .pending(vec![delete])
        .appends();
    let (writer, reader) = world.build();
    assert!(matches!(
        reader.get(user, id.0).await,
        Err(gravity_domain::sync::ReadError::NotFound)
    ));
    let late = writer.write(request(user, None), &reader, rename(id, "x")).await;
    assert!(matches!(late, Err(WriteError::NotFound)));
    assert!(appended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_retry_of_what_was_committed_gets_its_first_answer_though_the_lane_is_not_empty() {
    let user = UserId::random();
    let delete = |id| {
        move |_| Change::Task {
            id,
            change: TaskChange::Delete,
        }
    };
    let gone = task(user, 5);
    let record = AppliedRecord {
        id: OperationId::for_key(user, "k"),
        user_id: user,
        entity: EntityKind::Task,
        entity_id: gone.id.0,
        kind: OperationKind::Delete,
        accepted_at: Hlc::ZERO,
        applied_at: Timestamp::EPOCH,
        attempts: 1,
        superseded: false,
        fingerprint: Some(Fingerprint([1; 32])),
        buffered: false,
        answer: Some(serde_json::to_value(gone.clone().into_state()).unwrap()),
    };
    let (mut world, appended) = World::new(true).lane(3).pending(vec![]).appends();
    world
        .store
        .expect_find()
        .returning(move |_, _| Ok(Some(record.clone())));
    world.store.expect_apply().never();
    world.known.expect_already_applied().return_const(());
    let (writer, reader) = world.build();
    let again = writer
        .write(request(user, Some(("k", 1))), &reader, delete(gone.id))
        .await
        .unwrap();
    assert!(again.replayed && matches!(again.outcome, WriteOutcome::Committed(_)));
    let other = writer
        .write(request(user, Some(("k", 2))), &reader, delete(gone.id))
        .await;
    assert!(matches!(other, Err(WriteError::KeyReused)));
    assert!(appended.lock().unwrap().is_empty());
}
