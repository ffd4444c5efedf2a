//! A database of a test's own, and operations to put into it.

use gravity_domain::clock::{Hlc, NodeId};
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::profile::ProfilePatch;
use gravity_domain::sync::ports::OperationStore;
use gravity_domain::sync::{Applied, Change, EntityState, Fingerprint, Operation, Replay, Verdict};
use gravity_domain::task::{NewTask, Task, TaskChange, TaskPatch, TaskStatus, Title};
use gravity_infra::postgres::{Pool, PostgresSettings, migrate, schema_digest};
use gravity_infra::profile::PostgresProfiles;
use gravity_infra::sync::{PostgresOperations, RowsPurge};
use gravity_infra::task::PostgresTasks;
use gravity_test_support::services::databases::{DatabaseError, TestDatabase};
use gravity_test_support::services::shared;
use tokio::runtime::Handle;
use uuid::Uuid;

/// A migrated database and every adapter over it.
pub(crate) struct Fixture {
    pub(crate) pool: Pool,
    pub(crate) operations: PostgresOperations,
    pub(crate) tasks: PostgresTasks,
    pub(crate) profiles: PostgresProfiles,
    pub(crate) purge: RowsPurge,
    pub(crate) settings: PostgresSettings,
    pub(crate) database: TestDatabase,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut PostgresSettings)) -> Self {
        Self::on(shared::postgres(), change).await
    }

    pub(crate) async fn on(server: &str, change: impl FnOnce(&mut PostgresSettings)) -> Self {
        let template = format!("infra_{:016x}", schema_digest());
        let database = TestDatabase::create(server, &template, migrated).await.unwrap();
        let mut settings = PostgresSettings::from_url(database.url());
        change(&mut settings);
        let pool = Pool::new(&settings, Handle::current()).unwrap();
        Self {
            operations: PostgresOperations::new(pool.clone()),
            tasks: PostgresTasks::new(pool.clone()),
            profiles: PostgresProfiles::new(pool.clone()),
            purge: RowsPurge::new(pool.clone()),
            pool,
            settings,
            database,
        }
    }

    /// A direct write that must succeed; the row it left.
    pub(crate) async fn apply(&self, operation: &Operation) -> Task {
        task_of(self.operations.apply(operation).await.unwrap())
    }

    pub(crate) async fn insert_user(&self, user: UserId) {
        let sql = format!(
            "INSERT INTO users (id, username, created_at, updated_at) VALUES ('{0}', 'u{1}',
                '2024-01-01T00:00:00.123Z', '2024-01-01T00:00:00.123Z')",
            user,
            &user.0.simple().to_string()[..20],
        );
        self.execute(&sql).await;
    }

    pub(crate) async fn execute(&self, sql: &str) {
        self.database
            .connect()
            .await
            .unwrap()
            .batch_execute(sql)
            .await
            .unwrap();
    }

    pub(crate) async fn count(&self, sql: &str) -> i64 {
        let client = self.database.connect().await.unwrap();
        client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

async fn migrated(url: String) -> Result<(), DatabaseError> {
    migrate(&PostgresSettings::from_url(url), &Handle::current()).await?;
    Ok(())
}

pub(crate) fn task_of(verdict: Verdict) -> Task {
    match verdict {
        Verdict::Applied(Applied {
            state: EntityState::Task(task),
            ..
        }) => task,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn at(wall_ms: u64) -> Hlc {
    Hlc {
        wall_ms: 1_700_000_000_000 + wall_ms,
        counter: 0,
        node: NodeId(1),
    }
}

/// A user's operations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Author(pub(crate) UserId);

impl Author {
    pub(crate) fn new() -> Self {
        Self(UserId::random())
    }

    pub(crate) fn operation(self, stamp: Hlc, change: Change) -> Operation {
        Operation::new(OperationId::random(), self.0, change, stamp)
    }

    pub(crate) fn create(self, stamp: Hlc, title: &str) -> Operation {
        let new = NewTask {
            title: Title::parse(title).unwrap(),
            description: None,
            status: TaskStatus::Pending,
        };
        let mut operation = self.operation(stamp, task(Uuid::nil(), TaskChange::Create(new.clone())));
        operation.change = task(operation.id.created_entity(), TaskChange::Create(new));
        operation
    }

    pub(crate) fn retitle(self, stamp: Hlc, id: Uuid, title: &str) -> Operation {
        let patch = TaskPatch {
            title: Some(Title::parse(title).unwrap()),
            ..TaskPatch::default()
        };
        self.operation(stamp, task(id, TaskChange::Update(patch)))
    }

    pub(crate) fn delete(self, stamp: Hlc, id: Uuid) -> Operation {
        self.operation(stamp, task(id, TaskChange::Delete))
    }

    pub(crate) fn profile(self, stamp: Hlc, patch: ProfilePatch) -> Operation {
        self.operation(stamp, Change::Profile(patch))
    }
}

pub(crate) fn task(id: Uuid, change: TaskChange) -> Change {
    Change::Task {
        id: TaskId(id),
        change,
    }
}

pub(crate) fn keyed(mut operation: Operation, accepted: Option<serde_json::Value>) -> Operation {
    operation.replay = Some(Replay {
        fingerprint: Fingerprint::of("POST", "/x", None),
        accepted,
    });
    operation
}
