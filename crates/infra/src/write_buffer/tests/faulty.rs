//! An engine that does as it is told to fail: a full disk, a lost disk, panics, damage met while reading.

use super::{operation, user};
use crate::write_buffer::engine::{Batch, BufferEngine, Engine, EngineError, OpenEngine, Reader, Visit};
use crate::write_buffer::{BufferSettings, DurableBuffer};
use gravity_domain::clock::SystemClock;
use gravity_domain::sync::ports::{DeadLetters, DrainBuffer, WriteBuffer};
use gravity_domain::sync::{BufferError, BufferState, BufferStatus};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The next commit fails so, after it was written or before.
    Commit(EngineError, bool),
    /// All appends fail for want of space.
    NoSpace,
    /// The next commit panics.
    Panic,
    /// The next read fails so.
    Read(EngineError),
    /// The next reads panic, so many times.
    ReadPanics(u32),
    /// The disk is gone: commits and openings fail.
    Gone,
    /// What holds this text is read with a flipped bit.
    Rot(&'static str),
    /// Scans from keys with this prefix last until it is healed, or ten seconds.
    Stall(Vec<u8>),
}

/// What is to fail, and how often the store was opened.
#[derive(Default)]
pub(super) struct Plan {
    fault: Option<Fault>,
    pub(super) opened: u32,
    /// The threads that have read.
    pub(super) readers: HashSet<ThreadId>,
    /// How often the writer's thread went over the whole index.
    pub(super) walks_of_the_writer: u32,
    /// Scans that last.
    stalled: u32,
    /// The next handle that is dropped empties the files it had open.
    empties_its_files: bool,
}

pub(super) type Faults = Arc<Mutex<Plan>>;

struct Faulty(BufferEngine, Faults);
struct FaultyEngine(
    Box<dyn Engine>,
    Faults,
    #[expect(dead_code, reason = "for its drop")] Files,
);
struct FaultyReader(Arc<dyn Reader>, Faults);

/// The files of an open store.
struct Files(Vec<File>, Faults);

impl Files {
    fn under(dir: &Path, faults: &Faults) -> Self {
        let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let open = |path: PathBuf| OpenOptions::new().write(true).open(path).unwrap();
        Self(
            paths.filter(|path| path.is_file()).map(open).collect(),
            faults.clone(),
        )
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if std::mem::take(&mut self.1.lock().unwrap().empties_its_files) {
            self.0.iter().for_each(|file| file.set_len(0).unwrap());
        }
    }
}

fn take_if(faults: &Faults, wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
    let mut plan = faults.lock().unwrap();
    if plan.fault.as_ref().is_some_and(wanted) {
        plan.fault.take()
    } else {
        None
    }
}

impl OpenEngine for Faulty {
    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        let mut plan = self.1.lock().unwrap();
        plan.opened += 1;
        if plan.fault == Some(Fault::Gone) {
            return Err(EngineError::Failed("no such device".into()));
        }
        drop(plan);
        let engine = self.0.open(dir)?;
        let files = Files::under(dir, &self.1);
        Ok(Box::new(FaultyEngine(engine, self.1.clone(), files)))
    }
}

impl Engine for FaultyEngine {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(FaultyReader(self.0.reader(), self.1.clone()))
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        if take_if(&self.1, |it| *it == Fault::Panic).is_some() {
            panic!("as planned");
        }
        if self.1.lock().unwrap().fault == Some(Fault::Gone) {
            return Err(EngineError::Failed("I/O error".into()));
        }
        let adds = batch.iter().any(|(key, value)| key[0] == b'q' && value.is_some());
        if adds && self.1.lock().unwrap().fault == Some(Fault::NoSpace) {
            return Err(EngineError::NoSpace("as planned".into()));
        }
        if let Some(Fault::Commit(error, written)) = take_if(&self.1, |it| matches!(it, Fault::Commit(..))) {
            if written {
                self.0.commit(batch)?;
            }
            return Err(error);
        }
        self.0.commit(batch)
    }

    fn disk_bytes(&self) -> u64 {
        self.0.disk_bytes()
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        self.0.close()
    }
}

impl Reader for FaultyReader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        self.note(key);
        self.0.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), EngineError> {
        self.note(from);
        self.stall(from);
        if let Some(Fault::Read(error)) = take_if(&self.1, |it| matches!(it, Fault::Read(_))) {
            return Err(error);
        }
        let mut plan = self.1.lock().unwrap();
        if let Some(Fault::ReadPanics(left @ 1..)) = &mut plan.fault {
            *left -= 1;
            return Err(EngineError::Panicked("as planned".into()));
        }
        let rot = match plan.fault {
            Some(Fault::Rot(text)) => Some(text.as_bytes()),
            _ => None,
        };
        drop(plan);
        let Some(rot) = rot else {
            return self.0.scan(from, to, visit);
        };
        self.0.scan(from, to, &mut |key, value| {
            let mut value = value.to_vec();
            if value.windows(rot.len()).any(|here| here == rot) {
                let middle = value.len() / 2;
                value[middle] ^= 1;
            }
            visit(key, &value)
        })
    }
}

impl FaultyReader {
    #[allow(clippy::disallowed_methods, reason = "a read that blocks its thread")]
    fn stall(&self, from: &[u8]) {
        let is_stalled =
            |fault: &Option<Fault>| matches!(fault, Some(Fault::Stall(prefix)) if from.starts_with(prefix));
        let until = Instant::now() + Duration::from_secs(10);
        if !is_stalled(&self.1.lock().unwrap().fault) {
            return;
        }
        self.1.lock().unwrap().stalled += 1;
        while is_stalled(&self.1.lock().unwrap().fault) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.1.lock().unwrap().stalled -= 1;
    }

    fn note(&self, from: &[u8]) {
        let (thread, mut plan) = (std::thread::current(), self.1.lock().unwrap());
        plan.readers.insert(thread.id());
        plan.walks_of_the_writer += u32::from(from == b"e" && thread.name() == Some("write-buffer"));
    }
}

pub(super) struct Bench {
    dir: tempfile::TempDir,
    pub(super) faults: Faults,
    pub(super) buffer: DurableBuffer,
}

impl Bench {
    pub(super) async fn new(engine: BufferEngine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        let buffer = Self::open(&dir, &faults, engine).await;
        Self { dir, faults, buffer }
    }

    async fn open(dir: &tempfile::TempDir, faults: &Faults, engine: BufferEngine) -> DurableBuffer {
        let settings = BufferSettings {
            engine,
            min_free_bytes: 0,
            reserve_bytes: 64 << 10,
            ..BufferSettings::new(&dir.path().join("buffer"))
        };
        let opener = Box::new(Faulty(engine, faults.clone()));
        let buffer = DurableBuffer::open_with(settings, Arc::new(SystemClock), opener);
        assert!(buffer.wait_until_open(Duration::from_secs(20)).await);
        buffer
    }

    /// Another buffer in its place, which was closed.
    pub(super) async fn reopened(&self, engine: BufferEngine) -> DurableBuffer {
        Self::open(&self.dir, &self.faults, engine).await
    }

    pub(super) fn store(&self, engine: BufferEngine) -> PathBuf {
        let name = format!("store-{}", engine.as_str());
        self.dir.path().join("buffer").join(name)
    }

    pub(super) fn fail(&self, fault: Fault) {
        self.faults.lock().unwrap().fault = Some(fault);
    }

    pub(super) fn stalled(&self) -> u32 {
        self.faults.lock().unwrap().stalled
    }

    pub(super) fn heal(&self) {
        self.faults.lock().unwrap().fault = None;
    }

    async fn append(&self, n: u64) -> Result<(), BufferError> {
        self.buffer.append(operation(n, "title")).await
    }

    /// Appends until it is taken.
    async fn append_at_last(&self, n: u64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = self.append(n).await {
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until(&self, wanted: impl Fn(&BufferStatus) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !wanted(&self.buffer.status()) {
            assert!(Instant::now() < deadline, "{:?}", self.buffer.status());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn size_after_reading(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.buffer.peek(None, 1_000).await {
                Ok(entries) => return entries.len(),
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) fn damaged_copies(&self) -> usize {
        let entries = std::fs::read_dir(self.dir.path().join("buffer")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".damaged-")).count()
    }
}

/// Runs a test on both engines.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sled { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::BufferEngine::Sled).await; })* }
        mod redb { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name(super::BufferEngine::Redb).await; })* }
    };
}

on_both!(
    a_failed_commit_acknowledges_nothing_and_the_store_is_opened_again,
    a_commit_that_failed_after_it_was_written_leaves_no_doubt_in_the_counts,
    a_full_disk_refuses_appends_lets_the_drain_go_on_and_heals,
    a_panic_of_the_store_is_survived,
    damage_met_while_reading_is_repaired_from_the_files,
    a_damaged_store_is_searched_before_its_handle_changes_its_files,
    a_store_that_keeps_panicking_is_taken_for_damaged,
    while_it_cannot_be_opened_only_what_may_be_in_it_is_refused,
);

async fn a_failed_commit_acknowledges_nothing_and_the_store_is_opened_again(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    bench.append(1).await.unwrap();
    bench.fail(Fault::Commit(EngineError::Failed("I/O error".into()), false));
    assert!(matches!(bench.append(2).await, Err(BufferError::Unavailable(_))));
    bench.append_at_last(3).await;
    assert_eq!(bench.faults.lock().unwrap().opened, 2);
    assert_eq!(bench.size_after_reading().await, 2);
    assert_eq!(bench.damaged_copies(), 0);
}

async fn a_commit_that_failed_after_it_was_written_leaves_no_doubt_in_the_counts(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    bench.fail(Fault::Commit(EngineError::Failed("I/O error".into()), true));
    assert!(bench.append(1).await.is_err());
    bench.until(|_| bench.faults.lock().unwrap().opened == 2).await;
    bench
        .until(|status| (status.state, status.size) == (BufferState::Processing, 1))
        .await;
    assert_eq!(bench.buffer.lane_length(user(1)).await, Ok(1));
    bench.append_at_last(1).await;
    assert_eq!(
        (bench.buffer.status().size, bench.size_after_reading().await),
        (1, 1)
    );
}

async fn a_full_disk_refuses_appends_lets_the_drain_go_on_and_heals(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    let reserve = bench.dir.path().join("buffer").join("reserve");
    for n in 0..4 {
        bench.append(n).await.unwrap();
    }
    assert!(reserve.exists());
    bench.fail(Fault::NoSpace);
    assert_eq!(bench.append(4).await, Err(BufferError::Full));
    let entries = loop {
        if let Ok(entries) = bench.buffer.peek(None, 10).await {
            break entries;
        }
    };
    assert_eq!(entries.len(), 4);
    bench.buffer.remove(vec![entries[0].parcel]).await.unwrap();
    assert_eq!(bench.buffer.status().size, 3);
    bench.heal();
    bench.append_at_last(5).await;
    bench
        .until(|status| status.state == BufferState::Processing)
        .await;
    assert!(reserve.exists());
    assert_eq!(bench.size_after_reading().await, 4);
}

async fn a_panic_of_the_store_is_survived(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    bench.append(1).await.unwrap();
    bench.fail(Fault::Panic);
    assert!(bench.append(2).await.is_err());
    bench.append_at_last(3).await;
    assert_eq!(bench.size_after_reading().await, 2);
}

async fn damage_met_while_reading_is_repaired_from_the_files(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    for n in 0..20 {
        bench.append(n).await.unwrap();
    }
    bench.fail(Fault::Read(EngineError::Damaged("as planned".into())));
    assert!(bench.buffer.peek(None, 10).await.is_err());
    bench.append_at_last(20).await;
    assert_eq!(bench.size_after_reading().await, 21);
    assert_eq!(bench.damaged_copies(), 1);
    assert_eq!(bench.buffer.lane_length(user(0)).await.unwrap(), 7);
}

async fn a_damaged_store_is_searched_before_its_handle_changes_its_files(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    for n in 0..20 {
        bench.append(n).await.unwrap();
    }
    bench.faults.lock().unwrap().empties_its_files = true;
    bench.fail(Fault::Read(EngineError::Damaged("as planned".into())));
    assert!(bench.buffer.peek(None, 10).await.is_err());
    bench.append_at_last(20).await;
    assert_eq!(bench.size_after_reading().await, 21);
    bench
        .until(|_| !bench.faults.lock().unwrap().empties_its_files)
        .await;
}

async fn a_store_that_keeps_panicking_is_taken_for_damaged(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    for n in 0..20 {
        bench.append(n).await.unwrap();
    }
    for _ in 0..3 {
        assert!(bench.buffer.wait_until_open(Duration::from_secs(20)).await);
        let opened = bench.faults.lock().unwrap().opened;
        bench.fail(Fault::ReadPanics(1));
        assert!(bench.buffer.peek(None, 10).await.is_err());
        bench
            .until(|_| bench.faults.lock().unwrap().opened > opened)
            .await;
    }
    assert_eq!(bench.size_after_reading().await, 20);
    assert_eq!(bench.damaged_copies(), 1);
}

async fn while_it_cannot_be_opened_only_what_may_be_in_it_is_refused(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    bench.append(1).await.unwrap();
    bench.fail(Fault::Gone);
    assert!(bench.append(2).await.is_err());
    bench
        .until(|status| status.state == BufferState::Unavailable)
        .await;
    assert!(matches!(
        bench.buffer.lane_length(user(1)).await,
        Err(BufferError::Unavailable(_))
    ));
    assert!(matches!(
        bench.buffer.peek(None, 1).await,
        Err(BufferError::Unavailable(_))
    ));
    bench.heal();
    assert!(bench.buffer.wait_until_open(Duration::from_secs(20)).await);
    let entry = bench.buffer.peek(None, 1).await.unwrap().remove(0);
    bench
        .buffer
        .bury(entry.parcel, 1, "expired".into())
        .await
        .unwrap();
    bench.fail(Fault::Gone);
    let id = entry.operation.unwrap().id;
    assert!(bench.buffer.discard(id).await.is_err());
    bench
        .until(|status| status.state == BufferState::Unavailable)
        .await;
    assert_eq!(bench.buffer.lane_length(user(1)).await, Ok(0));
    assert!(bench.buffer.find_dead(id).await.is_err());
}
