//! The whole drain: a write buffer on disk, a real Postgres, its monitor, and the processor between them.

use gravity_domain::chat::UserEvent;
use gravity_domain::clock::{Hlc, NodeId, SystemClock, WallClock};
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::sync::policy::RetryPolicy;
use gravity_domain::sync::ports::{AppliedListener, Breaker as _, WriteBuffer as _};
use gravity_domain::sync::{Change, EntityState, Operation};
use gravity_domain::task::{NewTask, TaskChange, TaskPatch, TaskStatus, Title};
use gravity_infra::monitor::{Monitor, MonitorSettings};
use gravity_infra::postgres::probe::PostgresProbe;
use gravity_infra::postgres::{Pool, PostgresSettings, migrate};
use gravity_infra::processor::{Processor, ProcessorHandle, ProcessorPorts, ProcessorSettings};
use gravity_infra::sync::PostgresOperations;
use gravity_infra::write_buffer::{BufferSettings, DurableBuffer};
use gravity_test_support::services::Postgres;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Counter {
    applied: AtomicU64,
    already: AtomicU64,
}

impl AppliedListener for Counter {
    fn applied(&self, _: EntityState) {
        self.applied.fetch_add(1, Ordering::SeqCst);
    }
    fn already_applied(&self, _: &Operation) {
        self.already.fetch_add(1, Ordering::SeqCst);
    }
    fn set_aside(&self, _: &Operation, _: &str, _: &[UserEvent]) {}
}

struct Node {
    server: Arc<Postgres>,
    monitor: Monitor,
    buffer: Arc<DurableBuffer>,
    listener: Arc<Counter>,
    processor: ProcessorHandle,
    _dir: TempDir,
}

async fn node() -> Node {
    let server = Arc::new(Postgres::start_private().unwrap());
    let settings = PostgresSettings::from_url(server.url("postgres"));
    migrate(&settings, &Handle::current()).await.unwrap();
    let monitor = Monitor::spawn(
        "postgres",
        Arc::new(PostgresProbe::new(&settings, Handle::current()).unwrap()),
        MonitorSettings::default(),
        Arc::new(SystemClock),
        CancellationToken::new(),
    );
    let dir = tempfile::tempdir().unwrap();
    let home = BufferSettings {
        min_free_bytes: 0,
        reserve_bytes: 64 << 10,
        ..BufferSettings::new(&dir.path().join("buffer"))
    };
    let buffer = Arc::new(DurableBuffer::open(home, Arc::new(SystemClock)));
    assert!(buffer.wait_until_open(30 * SECOND).await);
    let listener = Arc::new(Counter::default());
    let pool = Pool::new(&settings, Handle::current()).unwrap();
    let ports = ProcessorPorts {
        buffer: buffer.clone(),
        store: Arc::new(PostgresOperations::new(pool)),
        breaker: Arc::new(monitor.clone()),
        listener: listener.clone(),
        clock: Arc::new(SystemClock),
        monitor: monitor.subscribe(),
    };
    let policy = RetryPolicy {
        max_attempts: 3,
        retention_ms: 86_400_000,
    };
    Node {
        processor: Processor::spawn(ports, policy, ProcessorSettings::default()),
        server,
        monitor,
        buffer,
        listener,
        _dir: dir,
    }
}

impl Node {
    /// Stops Postgres, so that what is appended stays until [`Self::back`].
    async fn away(&self) {
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.kill()).await.unwrap();
        self.monitor
            .failed(&gravity_domain::error::StoreError::unavailable("closed"));
        let mut states = self.monitor.subscribe();
        states.wait_for(|state| !state.condition.is_up()).await.unwrap();
    }

    async fn back(&self) {
        let server = Arc::clone(&self.server);
        tokio::task::spawn_blocking(move || server.start().unwrap())
            .await
            .unwrap();
    }

    /// `users` lanes, each a task and then its changes, `each` operations in all; every lane appended in its order.
    async fn append(&self, users: u64, each: u64) {
        let lanes = (0..users).map(|_| async {
            let user = UserId::random();
            let create = operation(user, None, 0);
            let task = TaskId(create.entity_id());
            self.buffer.append(create).await.unwrap();
            for number in 1..each {
                self.buffer
                    .append(operation(user, Some(task), number))
                    .await
                    .unwrap();
            }
        });
        futures_util::future::join_all(lanes).await;
    }

    async fn drained(&self) {
        let deadline = Instant::now() + 120 * SECOND;
        while !self.processor.drain_now(deadline).await {
            assert!(
                Instant::now() < deadline,
                "not drained: {:?}",
                self.buffer.status()
            );
            tokio::time::sleep(SECOND / 10).await;
        }
        let status = self.buffer.status();
        assert_eq!((status.size, status.dead_letters), (0, 0));
    }

    async fn number(&self, sql: &str) -> u64 {
        let (client, connection) = tokio_postgres::connect(&self.server.url("postgres"), NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let number: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        number.unsigned_abs()
    }
}

fn operation(user: UserId, task: Option<TaskId>, number: u64) -> Operation {
    let id = OperationId::random();
    let title = Title::parse(&format!("number {number}")).unwrap();
    let change = match task {
        None => TaskChange::Create(NewTask {
            title,
            description: None,
            status: TaskStatus::Pending,
        }),
        Some(_) => TaskChange::Update(TaskPatch {
            title: Some(title),
            ..TaskPatch::default()
        }),
    };
    Operation::new(
        id,
        user,
        Change::Task {
            id: task.unwrap_or_else(|| TaskId(id.created_entity())),
            change,
        },
        Hlc {
            wall_ms: SystemClock.now().millis().unsigned_abs() + number,
            counter: 0,
            node: NodeId(1),
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_drains_once_postgres_is_back() {
    let node = node().await;
    node.away().await;
    node.append(100, 100).await;
    assert_eq!(node.buffer.status().size, 10_000);
    node.back().await;
    let began = Instant::now();
    node.drained().await;
    println!(
        "10,000 operations drained {:?} after Postgres was back",
        began.elapsed()
    );
    assert_eq!(
        node.number("SELECT count(*) FROM applied_operations").await,
        10_000
    );
    assert_eq!(
        node.number("SELECT count(*) FROM tasks WHERE version = 100 AND title = 'number 99'")
            .await,
        100
    );
    assert_eq!(node.listener.applied.load(Ordering::SeqCst), 10_000);
    node.processor.stop(5 * SECOND).await;
    node.buffer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_again_and_again_during_a_drain_gets_every_operation_once_and_in_order() {
    let node = node().await;
    node.away().await;
    node.append(60, 100).await;
    for part in 1..4 {
        node.back().await;
        let enough = part * 1_500;
        while node.buffer.status().drained < enough {
            tokio::time::sleep(SECOND / 500).await;
        }
        node.away().await;
    }
    node.back().await;
    node.drained().await;
    assert_eq!(
        node.number("SELECT count(*) FROM applied_operations").await,
        6_000
    );
    assert_eq!(
        node.number("SELECT count(*) FROM tasks WHERE version = 100 AND title = 'number 99'")
            .await,
        60
    );
    let heard = node.listener.applied.load(Ordering::SeqCst) + node.listener.already.load(Ordering::SeqCst);
    assert!(heard >= 6_000, "{heard}");
    node.processor.stop(5 * SECOND).await;
    node.buffer.close().await;
}
