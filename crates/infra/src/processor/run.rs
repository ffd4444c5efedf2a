//! The task: when to work, when to wait, and starting again after a panic.

use super::drain::{Drain, Progress, Trouble};
use super::rate::Rate;
use super::{ProcessorPorts, ProcessorSettings};
use crate::monitor::StoreState;
use futures_util::FutureExt as _;
use gravity_domain::sync::BufferError;
use gravity_domain::sync::policy::RetryPolicy;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often the breaker is asked again while it holds writes back, should nobody tell of a change.
const LOOK: Duration = Duration::from_secs(1);
/// While the buffer has never been read, so long is a buffer that is not open no trouble: it opens beside the drain.
const OPENING: Duration = Duration::from_secs(10);
/// Failures are not counted any further meanwhile, so that the drain looks again soon.
const OPENING_FAILURES: u32 = 2;
/// A run that lasts longer than this was a good one: the next panic is the first of a series.
const GOOD_RUN: Duration = Duration::from_secs(60);

/// What wakes the task.
pub(super) struct Signals {
    pub(super) kick: Arc<Notify>,
    pub(super) stop: CancellationToken,
    pub(super) requests: mpsc::Receiver<oneshot::Sender<bool>>,
    /// Those who wait for an empty buffer.
    pub(super) waiting: Vec<oneshot::Sender<bool>>,
    pub(super) monitor: watch::Receiver<StoreState>,
}

impl Signals {
    /// Takes in who has come to wait. What is answered then is what was found after they came.
    fn gather(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            self.waiting.push(request);
        }
    }

    fn answer(&mut self, emptied: bool) {
        for waiting in self.waiting.drain(..) {
            // Whoever asked may have given up.
            let _ = waiting.send(emptied);
        }
    }

    /// Resolves when the monitor says that the store came up.
    async fn up(monitor: &mut watch::Receiver<StoreState>) {
        loop {
            if monitor.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if monitor.borrow_and_update().condition.is_up() {
                return;
            }
        }
    }

    /// Until writes may be allowed again.
    async fn held_back(&mut self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = Self::up(&mut self.monitor) => {}
            () = self.kick.notified() => {}
            Some(request) = self.requests.recv() => self.waiting.push(request),
            () = sleep(LOOK) => {}
        }
    }

    /// Until the next try after trouble.
    async fn back_off(&mut self, wait: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = Self::up(&mut self.monitor) => {}
            () = sleep(wait) => {}
        }
    }

    /// Until there may be something to do. True when it was kicked.
    async fn idle(&mut self, drain: &Drain) -> bool {
        let due = drain.parked.earliest();
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.kick.notified() => return true,
            () = Self::up(&mut self.monitor) => return true,
            () = drain.ports.buffer.appended() => {}
            Some(request) = self.requests.recv() => {
                self.waiting.push(request);
                return true;
            }
            () = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
        false
    }
}

/// Runs until stopped; starts again after a panic.
pub(super) async fn supervise(
    ports: ProcessorPorts,
    policy: RetryPolicy,
    settings: ProcessorSettings,
    rate: Arc<Rate>,
    mut signals: Signals,
) {
    let mut panics = 0;
    loop {
        let began = Instant::now();
        let mut drain = Drain::new(ports.clone(), policy, settings, Arc::clone(&rate));
        let outcome = AssertUnwindSafe(run(&mut drain, &mut signals, &rate))
            .catch_unwind()
            .await;
        if outcome.is_ok() {
            return;
        }
        metrics::counter!("gravity_drain_panics_total").increment(1);
        if began.elapsed() > GOOD_RUN {
            panics = 0;
        }
        let wait = settings.backoff.wait_ms(panics, rand::random());
        panics += 1;
        tracing::error!(wait_ms = wait, "the drain panicked and starts again");
        tokio::select! {
            () = signals.stop.cancelled() => return,
            () = sleep(Duration::from_millis(wait)) => {}
        }
    }
}

async fn run(drain: &mut Drain, signals: &mut Signals, rate: &Rate) {
    let mut failures = 0;
    let mut told = false;
    let mut has_read = false;
    let began = Instant::now();
    while !signals.stop.is_cancelled() {
        signals.gather();
        if !drain.ports.breaker.allows_writes() {
            drain.held_back = true;
            signals.answer(false);
            metrics::gauge!("gravity_drain_rate").set(rate.per_second());
            signals.held_back().await;
            continue;
        }
        let outcome = drain.cycle().await;
        metrics::gauge!("gravity_drain_rate").set(rate.per_second());
        if outcome.is_ok() {
            (failures, told, has_read) = (0, false, true);
        }
        match outcome {
            Ok(Progress::Some) => {
                // A batch may have come without a single wait.
                tokio::task::yield_now().await;
            }
            Ok(Progress::Nothing) => {
                drain.note_end();
                if drain.is_done() {
                    signals.answer(true);
                }
                if signals.idle(drain).await {
                    drain.cursors.rewind();
                }
            }
            Err(trouble) => {
                let unopened = matches!(trouble, Trouble::Buffer(BufferError::Unavailable(_)));
                let opening = unopened && !has_read && began.elapsed() < OPENING;
                tell(&trouble, !told && !opening);
                told |= !opening;
                let wait = drain.settings.backoff.wait_ms(failures, rand::random());
                failures = failures.saturating_add(1);
                if opening {
                    failures = failures.min(OPENING_FAILURES);
                }
                signals.back_off(Duration::from_millis(wait)).await;
            }
        }
    }
    let ended = async {
        drain.let_go().await?;
        drain.finish_removal().await
    };
    if let Err(trouble) = ended.await {
        tell(&trouble, true);
    }
}

/// The first of a series for everybody, the others for those who look closer.
fn tell(trouble: &Trouble, aloud: bool) {
    let cause = std::error::Error::source(trouble).map(ToString::to_string);
    if aloud {
        tracing::warn!(error = %trouble, cause, "the drain backs off");
    } else {
        tracing::debug!(error = %trouble, cause, "the drain backs off");
    }
}
