//! The writer thread: the only one that changes the store.
//!
//! It takes every request that waits (at most [`GROUP_ITEMS`] operations or [`GROUP_BYTES`]), drafts them into one
//! batch, commits it with one sync, and then answers all of them. Once a second it looks after the rest: the watermark,
//! the room on the disk, the size of the files.
//!
//! Any error of a commit ends the store's handle. Nothing of that group is acknowledged; the handle and every reader are
//! dropped, and the store is opened again, at once the first time, then with growing pauses, in which requests are
//! refused. See the other half of this type, [`open`](super::open), for how it is opened.

use super::engine::{Engine, EngineError, OpenEngine, Reader};
use super::queue::{Counters, Draft, Limits};
use super::request::{Answer, Job, Request};
use super::shared::Shared;
use super::watermark::{Held, Watermark, WatermarkFile};
use super::{BufferSettings, directory::Directory, measure, query};
use gravity_domain::clock::WallClock;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

const GROUP_ITEMS: usize = 1_000;
const GROUP_BYTES: usize = 1 << 20;
const TICK: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_LOCKED_PAUSE: Duration = Duration::from_millis(200);
/// Panics of the store, with no record drained in between, after which it counts as damaged.
const PATIENCE: u32 = 3;

/// The open store.
pub(super) struct Store {
    pub(super) engine: Box<dyn Engine>,
    pub(super) reader: Arc<dyn Reader>,
    pub(super) counters: Counters,
    /// The lowest sequence number waiting, or the next one.
    pub(super) lowest: u64,
    pub(super) generation: u64,
}

impl Store {
    /// Commits what was drafted.
    pub(super) fn commit(&mut self, draft: Draft<'_>) -> Result<(), EngineError> {
        if let Some((batch, counters)) = draft.finish() {
            self.engine.commit(&batch)?;
            self.counters = counters;
        }
        Ok(())
    }

    /// Commits the counters alone.
    pub(super) fn commit_counters(&mut self) -> Result<(), EngineError> {
        let reader = self.reader.clone();
        let (batch, _) = Draft::new(&*reader, self.counters, Limits::NONE).finish_counters();
        self.engine.commit(&batch)
    }

    /// What its watermark should say.
    pub(super) fn watermark(&self) -> Watermark {
        Watermark {
            acknowledged: self.counters.next - 1,
            lowest: self.lowest,
            count: self.counters.count,
            dead: self.counters.dead,
            held: Held::by(&self.counters),
        }
    }
}

/// Why the store is no longer served.
pub(super) enum End {
    /// Asked to, by a request or because every handle is gone.
    Closed(Option<Answer<()>>),
    /// Its handle is dead.
    Failed(EngineError),
    /// A smaller one is ready to take its place.
    Replaced,
}

impl From<EngineError> for End {
    fn from(error: EngineError) -> Self {
        Self::Failed(error)
    }
}

pub(super) struct Writer {
    pub(super) settings: BufferSettings,
    pub(super) opener: Box<dyn OpenEngine>,
    pub(super) directory: Directory,
    pub(super) shared: Arc<Shared>,
    pub(super) wall: Arc<dyn WallClock>,
    pub(super) jobs: Receiver<Job>,
    pub(super) lock: Option<File>,
    pub(super) watermark: Option<WatermarkFile>,
    /// The store was found damaged while it was open, and why.
    pub(super) condemned: Option<String>,
    /// Handles of damaged stores whose files have not been searched yet. Nothing is called on them any more, but letting go of
    /// one changes its files (redb cuts off what it takes for free); at the end of the process they are left as they are.
    pub(super) kept: Vec<ManuallyDrop<Box<dyn Engine>>>,
    /// What may be in the store, once it has been open.
    pub(super) held: Option<Held>,
    /// The disk was full; until there is room for the reserve, nothing is appended.
    pub(super) disk_full: bool,
    pub(super) generation: u64,
    pub(super) failures: u32,
    pub(super) panics: u32,
}

impl Writer {
    /// Serves until the buffer is closed or every handle is gone. A panic is an alarm and a new start.
    pub(super) fn supervise(mut self) {
        while let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run())) {
            tracing::error!(
                panic = super::engine::panic_text(&*panic),
                "the write buffer's thread starts again"
            );
            self.shared.close(Held::UNKNOWN, "restarting after a panic");
            self.failures += 1;
        }
    }

    fn run(&mut self) {
        loop {
            let error = match self.open_store() {
                Ok(mut store) => {
                    let Err(end) = self.serve(&mut store);
                    match self.leave(store, end) {
                        Ok(true) => return,
                        Ok(false) => continue,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.report_unavailable(&error);
            if let Some(answer) = self.refuse_for(self.pause_after(&error), &error) {
                self.lock = None;
                answer.map(|answer| answer.send(Ok(())));
                return;
            }
            self.failures += 1;
        }
    }

    fn pause_after(&self, error: &EngineError) -> Duration {
        if self.failures == 0 && !matches!(error, EngineError::Locked(_)) {
            return Duration::ZERO;
        }
        let longest = match error {
            EngineError::Locked(_) => LONGEST_LOCKED_PAUSE,
            _ => LONGEST_PAUSE,
        };
        (FIRST_PAUSE * (1 << self.failures.min(8))).min(longest)
    }

    /// Answers everything with an error for `pause`. Tells when the buffer is to be closed.
    fn refuse_for(&self, pause: Duration, error: &EngineError) -> Option<Option<Answer<()>>> {
        let until = Instant::now() + pause;
        while !pause.is_zero() {
            match self
                .jobs
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok(Job {
                    request: Request::Close(answer),
                    ..
                }) => return Some(Some(answer)),
                Ok(job) => job.request.refuse(error),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Some(None),
            }
        }
        None
    }

    fn serve(&mut self, store: &mut Store) -> Result<std::convert::Infallible, End> {
        self.look_after(store)?;
        let mut next_look = Instant::now() + TICK;
        loop {
            let wait = next_look.saturating_duration_since(Instant::now());
            let job = match self.jobs.recv_timeout(wait) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Err(End::Closed(None)),
            };
            if let Some(error) = self.shared.take_complaint(store.generation) {
                job.into_iter().for_each(|job| job.request.refuse(&error));
                return Err(End::Failed(self.judge(error)));
            }
            if let Some(job) = job {
                let (group, close) = self.gather(job);
                if let Err(error) = self.commit(store, group) {
                    close.map(|answer| answer.send(Ok(())));
                    return Err(End::Failed(self.judge(error)));
                }
                if let Some(answer) = close {
                    return Err(End::Closed(Some(answer)));
                }
            }
            if Instant::now() >= next_look {
                self.look_after(store)?;
                next_look = Instant::now() + TICK;
            }
        }
    }

    /// A store that keeps panicking is damaged.
    fn judge(&mut self, error: EngineError) -> EngineError {
        let EngineError::Panicked(why) = error else {
            return error;
        };
        self.panics += 1;
        if self.panics < PATIENCE {
            return EngineError::Panicked(why);
        }
        self.panics = 0;
        EngineError::Damaged(why)
    }

    /// Takes everything that waits, up to the limits of a group, or up to a request to close.
    fn gather(&self, first: Job) -> (Vec<Request>, Option<Answer<()>>) {
        let (mut group, mut items, mut bytes) = (Vec::new(), 0, 0);
        let mut next = Some(first);
        while let Some(Job { request, place }) = next {
            drop(place);
            if let Request::Close(answer) = request {
                return (group, Some(answer));
            }
            items += request.weight();
            bytes += request.size();
            group.push(request);
            next = match items < GROUP_ITEMS && bytes < GROUP_BYTES {
                true => self.jobs.try_recv().ok(),
                false => None,
            };
        }
        (group, None)
    }

    /// Commits one group and answers it.
    fn commit(&mut self, store: &mut Store, group: Vec<Request>) -> Result<(), EngineError> {
        let (reader, now, size) = (store.reader.clone(), self.wall.now(), group.len());
        let limits = if self.shared.has_room() {
            self.shared.limits()
        } else {
            Limits {
                operations: 0,
                ..self.shared.limits()
            }
        };
        let mut draft = Draft::new(&*reader, store.counters, limits);
        let (mut settled, mut result) = (Vec::with_capacity(size), Ok(()));
        for request in group {
            match &result {
                Ok(()) => {
                    let (answer, drafted) = request.draft(&mut draft, now);
                    settled.push(answer);
                    result = drafted;
                }
                Err(error) => request.refuse(error),
            }
        }
        let (appended, removed) = (draft.appended, draft.removed);
        let held = Held::by(&draft.counters).or(Held::by(&store.counters));
        let result = result.and_then(|()| self.commit_draft(store, draft, removed > 0));
        if let Err(error) = result {
            self.held = Some(held);
            settled.into_iter().for_each(|answer| answer.fail(&error));
            return Err(error);
        }
        self.failures = 0;
        if removed > 0 {
            self.panics = 0;
        }
        measure::group(size, appended, removed);
        self.shared.moved(appended, removed);
        settled.into_iter().for_each(super::request::Settled::answer);
        Ok(())
    }

    fn commit_draft(
        &mut self,
        store: &mut Store,
        mut draft: Draft<'_>,
        removed: bool,
    ) -> Result<(), EngineError> {
        let was_empty = store.counters.count == 0;
        self.note_held(store, Held::by(&draft.counters))?;
        self.shared.expect(&draft.counters);
        let left = std::mem::take(&mut draft.left);
        self.shared.lanes.enter(&draft.entered);
        let started = Instant::now();
        store.commit(draft)?;
        measure::synced(started.elapsed());
        self.shared.lanes.leave(&left);
        if removed || was_empty {
            self.find_oldest(store)?;
        }
        self.write_watermark(store, false);
        self.shared.publish(&store.counters);
        measure::holds(&store.counters);
        Ok(())
    }

    /// Before the store holds what its watermark rules out, the watermark is put right.
    fn note_held(&mut self, store: &Store, held: Held) -> Result<(), EngineError> {
        let Some(file) = &mut self.watermark else {
            return Ok(());
        };
        let said = file.written().unwrap_or_default();
        if said.held.or(held) != said.held {
            let mark = Watermark {
                held: said.held.or(held),
                ..store.watermark()
            };
            file.write(mark, true)?;
        }
        Ok(())
    }

    /// Finds the oldest waiting operation, and by the way whether the queue agrees with its count.
    pub(super) fn find_oldest(&self, store: &mut Store) -> Result<(), EngineError> {
        let oldest = match store.counters.count {
            0 => None,
            _ => query::oldest(&*store.reader)?,
        };
        if store.counters.count > 0 && oldest.is_none() {
            return Err(EngineError::Damaged("the counters say more than is there".into()));
        }
        store.lowest = oldest.map_or(store.counters.next, |(parcel, _)| parcel.sequence);
        let known = oldest.and_then(|(_, accepted)| accepted);
        if store.counters.count == 0 || known.is_some() {
            self.shared.publish_oldest(known);
        }
        Ok(())
    }

    /// What is done once a second.
    fn look_after(&mut self, store: &mut Store) -> Result<(), End> {
        self.write_watermark(store, true);
        self.check_room();
        let bytes = store.engine.disk_bytes();
        measure::second(bytes, &self.shared.status(), self.wall.now());
        self.shrink(store, bytes)
    }

    pub(super) fn write_watermark(&mut self, store: &Store, durable: bool) {
        if let Some(file) = &mut self.watermark
            && let Err(error) = file.write(store.watermark(), durable)
        {
            tracing::error!(%error, "the write buffer's watermark could not be written");
        }
    }

    /// Lets go of the store. True when that is for good.
    fn leave(&mut self, store: Store, end: End) -> Result<bool, EngineError> {
        let held = Held::by(&store.counters).or(self.held.take().unwrap_or_default());
        let reason = match &end {
            End::Closed(_) => "closed".to_owned(),
            End::Failed(error) => error.to_string(),
            End::Replaced => "being made smaller".to_owned(),
        };
        self.shared.close(held, &reason);
        self.held = Some(held);
        self.write_watermark(&store, true);
        let Store { engine, reader, .. } = store;
        drop(reader);
        match end {
            End::Closed(answer) => {
                if let Err(error) = engine.close() {
                    tracing::error!(%error, "the write buffer's store was not closed cleanly");
                }
                self.lock = None;
                answer.map(|answer| answer.send(Ok(())));
                Ok(true)
            }
            End::Replaced => {
                engine.close()?;
                self.directory.swap_in_new()?;
                Ok(false)
            }
            End::Failed(error) => {
                tracing::error!(%error, "the write buffer's store failed and is opened again");
                self.drop_failed(engine, &error);
                Err(error)
            }
        }
    }

    /// Lets go of the handles of damaged stores, which may panic or hang on the way.
    pub(super) fn let_go_of_kept(&mut self) {
        for engine in self.kept.drain(..) {
            let name = "write-buffer-leave".to_owned();
            let let_go = move || drop(ManuallyDrop::into_inner(engine));
            let _ = std::thread::Builder::new().name(name).spawn(let_go);
        }
    }

    /// Drops a handle that may panic or hang on the way.
    fn drop_failed(&mut self, engine: Box<dyn Engine>, error: &EngineError) {
        match error {
            EngineError::Damaged(why) => {
                self.condemned = Some(why.clone());
                self.kept.push(ManuallyDrop::new(engine));
            }
            EngineError::NoSpace(_) => {
                self.run_out_of_space();
                let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
            }
            _ => {
                let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
            }
        }
    }
}
