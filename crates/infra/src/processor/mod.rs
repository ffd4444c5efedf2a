//! The buffer processor: drains the write buffer into Postgres.
//!
//! One owning task with a handle. It runs while the breaker allows writes, and wakes when the monitor says that Postgres
//! is back, when something was appended, when it is kicked (by the scheduler, every `SYNC_INTERVAL_SECONDS`), and when a
//! parked lane is due.
//!
//! **A cycle** takes up to a batch of records in drain order, sets aside what cannot be read or is too old, and replays
//! the rest in one transaction. Only then are they let go. The removal's sync runs beside the next replay: should it
//! fail, its records come again and are duplicates. Two replays never run at once, so lanes cannot overtake themselves.
//!
//! **What becomes of an operation.** Applied or superseded: the listener hears of the row, then the record is removed.
//! Committed earlier: removed, unless it was another request with the same key, which is a dead letter. No such entity, or
//! another version than demanded, or refused by Postgres: a failure of the operation.
//!
//! **A failure of the operation** counts as an attempt. Its lane is parked and only this operation of it is tried again,
//! alone, after a short back-off; all other lanes go on. After `MAX_RETRY_ATTEMPTS` it becomes a dead letter and the lane
//! goes on. Attempts are counted in memory only: after a restart they begin again, which costs a few tries and loses
//! nothing; the count goes into the dead letter. What follows a *refused* operation in its lane is never applied before
//! it: the transaction was rolled back. An operation that found no entity, or another version, leaves the rest of its batch
//! alone, by contract: later operations of its lane on *other* entities may have taken effect with it. If one on the *same*
//! entity has, the failed one is not tried again, as it would come too late, and becomes a dead letter at once.
//!
//! **A transient failure** counts for nothing: everything is kept, the breaker is told, and the processor backs off with
//! full jitter, or until the monitor says "up". Batches get smaller with each failure and grow again with each success, so
//! that a slow Postgres gets what it can do within the deadline. When failures that are no outage keep coming, the batch is
//! applied one by one: an operation that the store never takes then holds back its own lane only.
//!
//! **Bounds.** A batch, at most one batch on its way out, and at most [`ProcessorSettings::parked_lanes`] parked
//! operations are in memory. When that many lanes are parked, the next failing operation gets its tries one after the other
//! at once. A batch with more than a few culprits is applied one by one, so that many bad ones cost linear time.
//!
//! **Panics** in the store or the listener are counted; the operation at fault fails like a refused one. A panic anywhere
//! else ends the run, and the next begins from the buffer after a back-off.

mod apply;
mod batch;
mod drain;
mod parked;
mod rate;
mod run;
#[cfg(test)]
mod tests;

use crate::monitor::StoreState;
use gravity_domain::clock::WallClock;
use gravity_domain::sync::policy::{Backoff, RetryPolicy};
use gravity_domain::sync::ports::{AppliedListener, Breaker, DrainBuffer, ReplayStore};
use rate::Rate;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// How many calls of [`ProcessorHandle::drain_now`] may wait to be seen; further ones wait for a place.
const REQUESTS: usize = 8;

/// What the processor works on.
#[derive(Clone)]
pub struct ProcessorPorts {
    /// Where operations come from.
    pub buffer: Arc<dyn DrainBuffer>,
    /// Where they go.
    pub store: Arc<dyn ReplayStore>,
    /// Whether it is worth trying.
    pub breaker: Arc<dyn Breaker>,
    /// Who hears of rows before their operations leave the buffer.
    pub listener: Arc<dyn AppliedListener>,
    /// For the age of operations.
    pub clock: Arc<dyn WallClock>,
    /// Wakes the processor when Postgres is back: [`Monitor::subscribe`](crate::monitor::Monitor::subscribe).
    pub monitor: watch::Receiver<StoreState>,
}

/// How the processor works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessorSettings {
    /// The most operations in one transaction.
    pub batch_size: usize,
    /// The wait after a transient failure.
    pub backoff: Backoff,
    /// The wait between two tries of an operation that failed itself.
    pub retry: Backoff,
    /// The most lanes parked at a time.
    pub parked_lanes: usize,
}

impl Default for ProcessorSettings {
    fn default() -> Self {
        Self {
            batch_size: 500,
            backoff: Backoff {
                base_ms: 50,
                cap_ms: 5_000,
            },
            retry: Backoff {
                base_ms: 100,
                cap_ms: 1_000,
            },
            parked_lanes: 1_024,
        }
    }
}

/// A running processor. Dropping the handle does not stop it; [`Self::stop`] does.
#[derive(Debug)]
pub struct ProcessorHandle {
    kick: Arc<Notify>,
    stop: CancellationToken,
    requests: mpsc::Sender<oneshot::Sender<bool>>,
    rate: Arc<Rate>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// The processor.
#[derive(Debug)]
pub struct Processor;

impl Processor {
    /// Starts draining on the current runtime.
    pub fn spawn(ports: ProcessorPorts, policy: RetryPolicy, settings: ProcessorSettings) -> ProcessorHandle {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let (kick, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let rate = Arc::new(Rate::default());
        let signals = run::Signals {
            kick: Arc::clone(&kick),
            stop: stop.clone(),
            requests: receiver,
            waiting: Vec::new(),
            monitor: ports.monitor.clone(),
        };
        let task = tokio::spawn(run::supervise(
            ports,
            policy,
            settings,
            Arc::clone(&rate),
            signals,
        ));
        ProcessorHandle {
            kick,
            stop,
            requests,
            rate,
            task: Mutex::new(Some(task)),
        }
    }
}

impl ProcessorHandle {
    /// Looks into the buffer soon, whatever it was waiting for. Calls that come before it looks are one.
    pub fn kick(&self) {
        self.kick.notify_one();
    }

    /// Operations that leave the buffer for Postgres, per second, over the last few seconds.
    pub fn rate(&self) -> f64 {
        self.rate.per_second()
    }

    /// Drains until the buffer is empty. False when `deadline` passes first, or Postgres cannot be written to.
    pub async fn drain_now(&self, deadline: Instant) -> bool {
        let (answer, answered) = oneshot::channel();
        let drained = async {
            self.requests.send(answer).await.ok()?;
            answered.await.ok()
        };
        timeout_at(deadline, drained)
            .await
            .ok()
            .flatten()
            .unwrap_or(false)
    }

    /// Stops after the batch in hand, and at the latest after `patience`. Whatever it interrupts stays in the buffer.
    pub async fn stop(&self, patience: Duration) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && tokio::time::timeout(patience, &mut task).await.is_err()
        {
            task.abort();
            tracing::warn!("the drain was cut short; its operations stay in the buffer");
        }
    }
}

/// Describes the processor's metrics to the recorder. Call it once one is installed.
pub fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(
        "gravity_drain_operations_total",
        "Operations dealt with: applied, superseded, duplicate or dead"
    );
    describe_counter!(
        "gravity_drain_batches_total",
        "Replayed transactions: committed, refused, transient or panicked"
    );
    describe_counter!(
        "gravity_drain_panics_total",
        "Panics of the drain or its listener"
    );
    describe_histogram!(
        "gravity_drain_batch_seconds",
        Unit::Seconds,
        "Time of a replayed transaction"
    );
    describe_gauge!(
        "gravity_drain_rate",
        "Operations that leave the buffer per second, smoothed"
    );
}
