//! What the writer thread and everybody else share: the store's reader while it is open, and the numbers.
//!
//! Reads hold the lock of the phase for as long as they last. Taking it for writing therefore means that no reader is
//! left, which is what reopening a store demands. The store is read on threads that may block; a caller who may not only
//! [glances](Shared::is_lane_empty) at what is in memory, and never waits for the lock.

use super::engine::{EngineError, Reader};
use super::lanes::LaneCounts;
use super::queue::{Counters, Limits};
use super::watermark::Held;
use gravity_domain::clock::Timestamp;
use gravity_domain::id::UserId;
use gravity_domain::sync::{BufferError, BufferState, BufferStatus};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{Notify, watch};

const NO_OLDEST: i64 = -1;

enum Phase {
    Open {
        reader: Arc<dyn Reader>,
        /// Which opening this is: a complaint about an earlier one is stale.
        generation: u64,
    },
    Closed {
        held: Held,
        reason: String,
    },
}

/// A reader met damage, or the handle failed under it.
#[derive(Debug)]
pub(super) struct Complaint {
    pub(super) generation: u64,
    pub(super) error: EngineError,
}

pub(super) struct Shared {
    phase: RwLock<Phase>,
    /// The phase once more, for those who must not wait for its lock.
    is_open: AtomicBool,
    blocks_writes: AtomicBool,
    opened: watch::Sender<bool>,
    limits: Limits,
    count: AtomicU64,
    bytes: AtomicU64,
    dead: AtomicU64,
    oldest: AtomicI64,
    acknowledged: AtomicU64,
    no_room: AtomicBool,
    appended: AtomicU64,
    drained: AtomicU64,
    complaint: Mutex<Option<Complaint>>,
    /// What waits in which lane, near enough.
    pub(super) lanes: LaneCounts,
    /// Something was appended.
    pub(super) arrived: Notify,
}

/// What is known without the store.
pub(super) enum Access<T> {
    /// The store was asked.
    Asked(T),
    /// There is nothing in it to ask for.
    Nothing,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            phase: RwLock::new(Phase::Closed {
                held: Held::UNKNOWN,
                reason: "not opened yet".into(),
            }),
            is_open: AtomicBool::new(false),
            blocks_writes: AtomicBool::new(Held::UNKNOWN.operations),
            opened: watch::Sender::new(false),
            limits,
            count: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            oldest: AtomicI64::new(NO_OLDEST),
            acknowledged: AtomicU64::new(0),
            no_room: AtomicBool::new(false),
            appended: AtomicU64::new(0),
            drained: AtomicU64::new(0),
            complaint: Mutex::new(None),
            lanes: LaneCounts::new(),
            arrived: Notify::new(),
        }
    }

    /// True when it is known from memory that nothing waits in the lane.
    pub(super) fn is_lane_empty(&self, user: UserId) -> Result<bool, BufferError> {
        let is_empty = || self.count.load(SeqCst) == 0 || self.lanes.is_empty(user);
        self.glance(|held| held.operations, is_empty)
    }

    /// True when it is known from memory that nothing waits.
    pub(super) fn is_empty(&self) -> Result<bool, BufferError> {
        self.glance(|held| held.operations, || self.count.load(SeqCst) == 0)
    }

    /// True when it is known from memory that there are no dead letters.
    pub(super) fn has_no_letters(&self) -> Result<bool, BufferError> {
        self.glance(|held| held.letters, || self.dead.load(SeqCst) == 0)
    }

    fn glance(
        &self,
        may_hold: impl FnOnce(&Held) -> bool,
        is_empty: impl FnOnce() -> bool,
    ) -> Result<bool, BufferError> {
        let Ok(phase) = self.phase.try_read() else {
            return Ok(false);
        };
        match &*phase {
            Phase::Open { .. } => Ok(is_empty()),
            Phase::Closed { held, reason } if may_hold(held) => Err(BufferError::Unavailable(reason.clone())),
            Phase::Closed { .. } => Ok(true),
        }
    }

    /// Lends the reader to `read`, unless nothing waits.
    pub(super) fn with_waiting<T>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, EngineError>,
    ) -> Result<Access<T>, BufferError> {
        self.with_reader(&self.count, |held| held.operations, read)
    }

    /// Lends the reader to `read`, unless there are no dead letters.
    pub(super) fn with_dead<T>(
        &self,
        read: impl FnOnce(&dyn Reader) -> Result<T, EngineError>,
    ) -> Result<Access<T>, BufferError> {
        self.with_reader(&self.dead, |held| held.letters, read)
    }

    fn with_reader<T>(
        &self,
        number: &AtomicU64,
        may_hold: impl FnOnce(&Held) -> bool,
        read: impl FnOnce(&dyn Reader) -> Result<T, EngineError>,
    ) -> Result<Access<T>, BufferError> {
        let phase = self.phase.read().unwrap_or_else(PoisonError::into_inner);
        match &*phase {
            Phase::Open { reader, generation } => {
                if number.load(SeqCst) == 0 {
                    return Ok(Access::Nothing);
                }
                read(&**reader).map(Access::Asked).map_err(|error| {
                    let reason = error.to_string();
                    self.complain(*generation, error);
                    BufferError::Unavailable(reason)
                })
            }
            Phase::Closed { held, reason } if may_hold(held) => Err(BufferError::Unavailable(reason.clone())),
            Phase::Closed { .. } => Ok(Access::Nothing),
        }
    }

    fn complain(&self, generation: u64, error: EngineError) {
        tracing::error!(%error, "the write buffer's store could not be read");
        *self.complaint.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Complaint { generation, error });
    }

    /// Takes the latest complaint about the present opening.
    pub(super) fn take_complaint(&self, generation: u64) -> Option<EngineError> {
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        let complaint = complaint.take()?;
        (complaint.generation == generation).then_some(complaint.error)
    }

    /// Opens the buffer to readers.
    pub(super) fn open(&self, reader: Arc<dyn Reader>, generation: u64) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = Phase::Open { reader, generation };
        self.blocks_writes.store(false, SeqCst);
        self.is_open.store(true, SeqCst);
        self.opened.send_replace(true);
    }

    /// Closes it; no reader is left when this returns.
    pub(super) fn close(&self, held: Held, reason: &str) {
        self.opened.send_replace(false);
        self.blocks_writes.store(held.operations, SeqCst);
        self.is_open.store(false, SeqCst);
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = Phase::Closed {
            held,
            reason: reason.to_owned(),
        };
    }

    /// Tells when the buffer is open.
    pub(super) fn opened(&self) -> watch::Receiver<bool> {
        self.opened.subscribe()
    }

    /// To be called before a commit: from here on nobody takes the store's word "nothing waits" or "no dead letters" for
    /// granted, since what moves from the one to the other is to be found in either at any time.
    pub(super) fn expect(&self, counters: &Counters) {
        self.count.fetch_max(counters.count, SeqCst);
        self.dead.fetch_max(counters.dead, SeqCst);
    }

    /// Publishes what the store holds, all of which is durable.
    pub(super) fn publish(&self, counters: &Counters) {
        self.count.store(counters.count, SeqCst);
        self.bytes.store(counters.bytes, SeqCst);
        self.dead.store(counters.dead, SeqCst);
        self.acknowledged.store(counters.next.saturating_sub(1), SeqCst);
    }

    /// Publishes when the oldest waiting operation was accepted.
    pub(super) fn publish_oldest(&self, oldest: Option<Timestamp>) {
        self.oldest
            .store(oldest.map_or(NO_OLDEST, Timestamp::millis), SeqCst);
    }

    /// Publishes what one group did, and wakes the drain.
    pub(super) fn moved(&self, appended: u64, drained: u64) {
        self.appended.fetch_add(appended, SeqCst);
        self.drained.fetch_add(drained, SeqCst);
        if appended > 0 {
            self.arrived.notify_one();
        }
    }

    /// Whether the disk has room for more.
    pub(super) fn set_room(&self, room: bool) {
        self.no_room.store(!room, SeqCst);
    }

    /// False while the disk is too full for appends.
    pub(super) fn has_room(&self) -> bool {
        !self.no_room.load(SeqCst)
    }

    /// The last sequence number known to be durable: nothing beyond may be drained.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(SeqCst)
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn status(&self) -> BufferStatus {
        let open = self.is_open.load(SeqCst);
        let blocks_writes = !open && self.blocks_writes.load(SeqCst);
        let (size, bytes) = (self.count.load(SeqCst), self.bytes.load(SeqCst));
        let full = !self.has_room() || size >= self.limits.operations || bytes >= self.limits.bytes;
        let state = match (open, full, size) {
            (false, ..) => BufferState::Unavailable,
            (_, true, _) => BufferState::Full,
            (.., 0) => BufferState::Empty,
            _ => BufferState::Processing,
        };
        let oldest = self.oldest.load(SeqCst);
        BufferStatus {
            state,
            size,
            max_size: self.limits.operations,
            bytes,
            oldest: (oldest != NO_OLDEST).then(|| Timestamp::from_millis(oldest)),
            dead_letters: self.dead.load(SeqCst),
            appended: self.appended.load(SeqCst),
            drained: self.drained.load(SeqCst),
            blocks_writes,
        }
    }
}

impl<T: Default> Access<T> {
    /// What was found; the empty value when there was nothing to ask for.
    pub(super) fn or_default(self) -> T {
        match self {
            Self::Asked(value) => value,
            Self::Nothing => T::default(),
        }
    }
}
