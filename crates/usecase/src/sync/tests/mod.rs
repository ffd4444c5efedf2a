//! The write path over mocks: what is tried, what is buffered, and what is refused.

mod dark;
mod deadline;
mod retries;

use super::*;
use gravity_domain::clock::{Hlc, HybridClock, MockClock, NodeId, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::sync::ports::{
    MockAppliedListener, MockBreaker, MockEntityCache, MockEntityStore, MockOperationStore, MockWriteBuffer,
    OperationStore, WriteBuffer, WritePorts,
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

    fn build(mut self) -> (Arc<Writer>, Arc<EntityReader<Task>>) {
        let (store, buffer) = (std::mem::take(&mut self.store), std::mem::take(&mut self.buffer));
        self.build_over(Arc::new(store), Arc::new(buffer))
    }

    fn build_over(
        self,
        store: Arc<dyn OperationStore>,
        buffer: Arc<dyn WriteBuffer>,
    ) -> (Arc<Writer>, Arc<EntityReader<Task>>) {
        let breaker = Arc::new(self.breaker);
        let ports = WritePorts {
            store,
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
                deadline: Duration::from_secs(10),
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
    Operation::new(
        id,
        user,
        change(id),
        Hlc {
            wall_ms,
            counter: 0,
            node: NodeId(1),
        },
    )
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
