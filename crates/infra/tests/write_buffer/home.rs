//! A buffer's directory for one test, and operations to put into it.

use gravity_domain::clock::{Hlc, NodeId, SystemClock};
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::sync::ports::{DrainBuffer, WriteBuffer};
use gravity_domain::sync::{BufferStatus, Change, Entry, Operation, Priority};
use gravity_domain::task::{Description, NewTask, TaskChange, TaskPatch, Title};
use gravity_infra::write_buffer::{BufferEngine, BufferSettings, DurableBuffer};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) struct Home {
    dir: TempDir,
    pub(crate) settings: BufferSettings,
}

pub(crate) fn settings(path: &Path, engine: BufferEngine) -> BufferSettings {
    BufferSettings {
        engine,
        min_free_bytes: 0,
        reserve_bytes: 64 << 10,
        ..BufferSettings::new(path)
    }
}

impl Home {
    pub(crate) fn new(engine: BufferEngine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(&dir.path().join("buffer"), engine);
        Self { dir, settings }
    }

    pub(crate) fn store(&self) -> PathBuf {
        let name = format!("store-{}", self.settings.engine.as_str());
        self.settings.path.join(name)
    }

    /// The file in which the store keeps everything.
    pub(crate) fn file(&self) -> PathBuf {
        self.store().join(match self.settings.engine {
            BufferEngine::Sled => "db",
            BufferEngine::Redb => "store.redb",
        })
    }

    pub(crate) fn start(&self) -> DurableBuffer {
        assert!(self.dir.path().exists());
        DurableBuffer::open(self.settings.clone(), Arc::new(SystemClock))
    }

    pub(crate) async fn open(&self) -> DurableBuffer {
        let buffer = self.start();
        assert!(buffer.wait_until_open(Duration::from_secs(30)).await);
        buffer
    }
}

pub(crate) fn user(n: u128) -> UserId {
    UserId(Uuid::from_u128(0xAA00 + n))
}

pub(crate) fn task(n: u128) -> TaskId {
    TaskId(Uuid::from_u128(0xBB00 + n))
}

fn operation(id: OperationId, user_id: UserId, wall_ms: u64, change: Change) -> Operation {
    Operation::new(
        id,
        user_id,
        change,
        Hlc {
            wall_ms,
            counter: 0,
            node: NodeId(7),
        },
    )
}

/// The `n`th update of a task: its id, its title and its time tell which.
pub(crate) fn update(user: UserId, id: TaskId, n: u64) -> Operation {
    let patch = TaskPatch {
        title: Some(Title::parse(&format!("title {n}")).unwrap()),
        ..TaskPatch::default()
    };
    let change = TaskChange::Update(patch);
    let name = OperationId(Uuid::from_u128(0xCC00_0000 + u128::from(n)));
    operation(name, user, 1_000 + n, Change::Task { id, change })
}

/// As [`update`], with a priority.
pub(crate) fn urgent(user: UserId, id: TaskId, n: u64, priority: u8) -> Operation {
    Operation {
        priority: Priority::new(priority).unwrap(),
        ..update(user, id, n)
    }
}

/// Creates a task whose description has so many characters.
pub(crate) fn large(user: UserId, id: TaskId, n: u64, length: usize) -> Operation {
    let task = NewTask {
        title: Title::parse("large").unwrap(),
        description: Some(Description::parse(&"x".repeat(length.min(10_000))).unwrap()),
        status: Default::default(),
    };
    let change = Change::Task {
        id,
        change: TaskChange::Create(task),
    };
    Operation {
        last_error: (length > 10_000).then(|| "y".repeat(length - 10_000)),
        change,
        ..update(user, id, n)
    }
}

/// Everything that waits, in drain order.
pub(crate) async fn all(buffer: &DurableBuffer) -> Vec<Entry> {
    let (mut entries, mut after) = (Vec::new(), None);
    loop {
        let batch = buffer.peek(after, 7).await.unwrap();
        let Some(last) = batch.last() else { return entries };
        after = Some(last.parcel);
        entries.extend(batch);
    }
}

/// The ids of everything that waits, in drain order.
pub(crate) async fn ids(buffer: &DurableBuffer) -> Vec<OperationId> {
    let entries = all(buffer).await;
    entries
        .into_iter()
        .map(|entry| entry.operation.unwrap().id)
        .collect()
}

/// Removes everything that waits.
pub(crate) async fn drain(buffer: &DurableBuffer) {
    let parcels: Vec<_> = all(buffer).await.into_iter().map(|entry| entry.parcel).collect();
    buffer.remove(parcels).await.unwrap();
}

/// Waits until the status is as wanted.
pub(crate) async fn until(buffer: &DurableBuffer, wanted: impl Fn(&BufferStatus) -> bool) -> BufferStatus {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let status = buffer.status();
        if wanted(&status) {
            return status;
        }
        assert!(std::time::Instant::now() < deadline, "still {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
