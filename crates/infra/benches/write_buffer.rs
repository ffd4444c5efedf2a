//! Appends by 1, 8, 64 and 256 callers at once, on both stores, beside a plain file that is appended to and synced in
//! groups in the same way: the floor that this disk sets.
#![allow(missing_docs, reason = "criterion's macros")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use gravity_domain::clock::{Hlc, NodeId, SystemClock};
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::sync::ports::{DrainBuffer, WriteBuffer};
use gravity_domain::sync::{Change, Operation};
use gravity_domain::task::{NewTask, TaskChange, TaskStatus, Title};
use gravity_infra::write_buffer::{BufferEngine, BufferSettings, DurableBuffer};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

fn operation() -> Operation {
    let id = OperationId::random();
    let task = NewTask {
        title: Title::parse("Buy milk, bread and whatever else is needed").expect("a title"),
        description: None,
        status: TaskStatus::Pending,
    };
    Operation::new(
        id,
        UserId::random(),
        Change::Task {
            id: TaskId(id.created_entity()),
            change: TaskChange::Create(task),
        },
        Hlc {
            wall_ms: 1,
            counter: 0,
            node: NodeId(1),
        },
    )
}

/// A file with a writer that takes what waits, writes it and syncs once.
#[derive(Clone)]
struct RawFile(mpsc::Sender<(Vec<u8>, oneshot::Sender<()>)>);

impl RawFile {
    fn open(path: &Path) -> Self {
        let (sender, mut jobs) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>(4_096);
        let mut file = File::create(path).expect("a file");
        std::thread::spawn(move || {
            while let Some(first) = jobs.blocking_recv() {
                let mut group = vec![first];
                while let Ok(next) = jobs.try_recv() {
                    group.push(next);
                }
                let bytes: Vec<u8> = group.iter().flat_map(|(bytes, _)| bytes).copied().collect();
                file.write_all(&bytes)
                    .and_then(|()| file.sync_data())
                    .expect("a write");
                for (_, answer) in group {
                    let _ = answer.send(());
                }
            }
        });
        Self(sender)
    }

    async fn append(&self, operation: Operation) {
        let bytes = serde_json::to_vec(&operation).expect("JSON");
        let (answer, done) = oneshot::channel();
        self.0.send((bytes, answer)).await.expect("the writer lives");
        done.await.expect("an answer");
    }
}

#[derive(Clone)]
enum Target {
    Raw(RawFile),
    Buffer(DurableBuffer),
}

impl Target {
    async fn append(&self, operation: Operation) {
        match self {
            Self::Raw(file) => file.append(operation).await,
            Self::Buffer(buffer) => buffer.append(operation).await.expect("room"),
        }
    }

    async fn empty(&self) {
        let Self::Buffer(buffer) = self else { return };
        loop {
            let batch = buffer.peek(None, 500).await.expect("open");
            if batch.is_empty() {
                return;
            }
            let parcels = batch.into_iter().map(|entry| entry.parcel).collect();
            buffer.remove(parcels).await.expect("open");
        }
    }
}

/// The time that `callers` take to append `number` operations between them, each waiting for its answer.
async fn appends(target: &Target, callers: u64, number: u64) -> Duration {
    let operations = (0..callers).map(|caller| {
        let mine = number / callers + u64::from(caller < number % callers);
        (0..mine).map(|_| operation()).collect::<Vec<_>>()
    });
    let operations: Vec<_> = operations.collect();
    let started = Instant::now();
    let tasks = operations.into_iter().map(|mine| {
        let target = target.clone();
        tokio::spawn(async move {
            for operation in mine {
                target.append(operation).await;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("no panic");
    }
    let took = started.elapsed();
    target.empty().await;
    took
}

fn append(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    // Not in memory: the sync is what is measured.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(1)).sample_size(10);
    group
        .measurement_time(Duration::from_secs(3))
        .warm_up_time(Duration::from_secs(1));
    let buffer = |engine: BufferEngine| {
        let _inside = runtime.enter();
        let settings = BufferSettings {
            engine,
            reserve_bytes: 0,
            ..BufferSettings::new(&dir.path().join(engine.as_str()))
        };
        let buffer = DurableBuffer::open(settings, Arc::new(SystemClock));
        assert!(runtime.block_on(buffer.wait_until_open(Duration::from_secs(30))));
        Target::Buffer(buffer)
    };
    let targets = [
        ("file", Target::Raw(RawFile::open(&dir.path().join("raw")))),
        ("sled", buffer(BufferEngine::Sled)),
        ("redb", buffer(BufferEngine::Redb)),
    ];
    for callers in [1, 8, 64, 256] {
        for (name, target) in &targets {
            group.bench_function(BenchmarkId::new(*name, callers), |bencher| {
                bencher.iter_custom(|number| runtime.block_on(appends(target, callers, number)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
