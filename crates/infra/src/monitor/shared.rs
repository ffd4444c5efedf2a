//! The state that a monitor's task shares with the requests: read through an atomic, changed under a lock.

use super::{Condition, DOUBT_SPACING, MonitorSettings, ProbeAnswer, StoreState};
use gravity_domain::clock::WallClock;
use gravity_domain::error::StoreError;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

const READS: u8 = 1;
const WRITES: u8 = 2;

/// The least time from the end of a failed ping to the next, when the limit is longer than the interval.
const BREATH: Duration = Duration::from_millis(20);

/// Why a ping is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its time has come, and all was well.
    Routine,
    /// A request failed shortly after the breaker closed.
    Doubt,
    /// The breaker is open, or the store is read-only.
    Recovery,
}

/// A ping in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ping {
    pub(super) kind: Kind,
    pub(super) began: Instant,
    pub(super) limit: Duration,
    /// Of the opening that it began after.
    generation: u64,
}

struct Inner {
    /// Raised when evidence opens the breaker: pings that began before are worth nothing.
    generation: u64,
    /// False until the first ping has ended.
    known: bool,
    /// When the breaker last closed.
    closed_at: Option<Instant>,
    /// Evidence has opened the breaker since the last ping began.
    urgent: bool,
    /// A failure within the doubt window, since the last ping began.
    doubt: bool,
    ping_began: Option<Instant>,
    ping_ended: Option<Instant>,
}

pub(super) struct Shared {
    pub(super) store: &'static str,
    pub(super) evidence: Notify,
    settings: MonitorSettings,
    clock: Arc<dyn WallClock>,
    /// The hot path: [`READS`] and [`WRITES`].
    gate: AtomicU8,
    inner: Mutex<Inner>,
    state: watch::Sender<StoreState>,
}

impl Shared {
    pub(super) fn new(store: &'static str, settings: MonitorSettings, clock: Arc<dyn WallClock>) -> Self {
        let (state, _) = watch::channel(StoreState {
            condition: Condition::Down { reason: "starting" },
            last_check: None,
            since: clock.now(),
        });
        let shared = Self {
            store,
            evidence: Notify::new(),
            settings,
            clock,
            gate: AtomicU8::new(0),
            inner: Mutex::new(Inner {
                generation: 0,
                known: false,
                closed_at: None,
                urgent: false,
                doubt: false,
                ping_began: None,
                ping_ended: None,
            }),
            state,
        };
        shared.show(Condition::Down { reason: "starting" }, false);
        shared
    }

    pub(super) fn allows_reads(&self) -> bool {
        self.gate.load(Ordering::Acquire) & READS != 0
    }

    pub(super) fn allows_writes(&self) -> bool {
        self.gate.load(Ordering::Acquire) & WRITES != 0
    }

    pub(super) fn state(&self) -> StoreState {
        *self.state.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<StoreState> {
        self.state.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request failed.
    pub(super) fn failed(&self, error: &StoreError) {
        let StoreError::Unavailable { reason, .. } = error else {
            return;
        };
        // A request that the breaker itself refused says nothing of the store.
        if *reason == "breaker_open" || !self.allows_reads() {
            return;
        }
        let mut inner = self.lock();
        if !self.allows_reads() || (*reason == "read_only" && !self.allows_writes()) {
            return;
        }
        let in_doubt = inner
            .closed_at
            .is_some_and(|at| at.elapsed() < self.settings.doubt_window);
        if in_doubt {
            inner.doubt = true;
        } else {
            inner.generation += 1;
            inner.urgent = true;
            let condition = if *reason == "read_only" {
                Condition::ReadOnly
            } else {
                Condition::Down { reason }
            };
            self.enter(&mut inner, condition, Some(error));
        }
        drop(inner);
        self.evidence.notify_one();
    }

    /// When the next ping is due.
    pub(super) fn due(&self) -> Instant {
        let inner = self.lock();
        let now = Instant::now();
        let (Some(began), false) = (inner.ping_began, inner.urgent) else {
            return now;
        };
        if inner.doubt {
            return began + DOUBT_SPACING;
        }
        if self.allows_writes() {
            return began + self.settings.interval;
        }
        let ended = inner.ping_ended.unwrap_or(began);
        (began + self.settings.down_interval).max(ended + BREATH)
    }

    /// A ping begins.
    pub(super) fn begin(&self) -> Ping {
        let mut inner = self.lock();
        let doubt = std::mem::take(&mut inner.doubt);
        inner.urgent = false;
        let began = Instant::now();
        inner.ping_began = Some(began);
        let kind = match (self.allows_writes(), doubt) {
            (true, false) => Kind::Routine,
            (true, true) => Kind::Doubt,
            (false, _) => Kind::Recovery,
        };
        if kind == Kind::Recovery {
            self.position(1.0);
        }
        Ping {
            kind,
            began,
            limit: match kind {
                Kind::Routine => self.settings.timeout,
                Kind::Doubt | Kind::Recovery => self.settings.down_timeout,
            },
            generation: inner.generation,
        }
    }

    /// True when evidence has made the ping in flight worthless.
    pub(super) fn overtaken(&self, ping: Ping) -> bool {
        let inner = self.lock();
        inner.generation != ping.generation || (inner.doubt && ping.kind == Kind::Routine)
    }

    /// A ping that follows a doubt takes too long: the breaker opens while it goes on.
    pub(super) fn impatient(&self, ping: Ping) {
        let mut inner = self.lock();
        if inner.generation == ping.generation && self.allows_reads() {
            self.enter(&mut inner, Condition::Down { reason: "timeout" }, None);
            self.position(1.0);
        }
    }

    /// A ping was answered.
    pub(super) fn answered(&self, ping: Ping, answer: ProbeAnswer) {
        let latency = ping.began.elapsed();
        metrics::gauge!("gravity_store_ping_seconds", "store" => self.store).set(latency.as_secs_f64());
        let mut inner = self.lock();
        inner.ping_ended = Some(Instant::now());
        if inner.generation == ping.generation {
            let condition = if answer.writable {
                Condition::Up { latency }
            } else {
                Condition::ReadOnly
            };
            self.checked(&mut inner, condition, None);
        }
    }

    /// A ping failed. `reason` is used when `error` is not there.
    pub(super) fn unanswered(&self, ping: Ping, reason: &'static str, error: Option<&StoreError>) {
        let mut inner = self.lock();
        inner.ping_ended = Some(Instant::now());
        if inner.generation != ping.generation {
            return;
        }
        let reason = match error {
            // It is there, and has no connection to spare: no reason to open, and none to close.
            Some(StoreError::Busy { .. }) if self.allows_reads() => {
                let condition = self.state().condition;
                return self.checked(&mut inner, condition, None);
            }
            Some(StoreError::Busy { reason, .. } | StoreError::Unavailable { reason, .. }) => reason,
            Some(StoreError::Rejected { .. }) => "rejected",
            None => reason,
        };
        self.checked(&mut inner, Condition::Down { reason }, error);
    }

    fn checked(&self, inner: &mut Inner, condition: Condition, error: Option<&StoreError>) {
        let now = self.clock.now();
        self.state.send_if_modified(|state| {
            state.last_check = Some(now);
            false
        });
        self.enter(inner, condition, error);
    }

    /// Takes on `condition`: the gate first, then whoever watches. Logs and counts when it is another than before.
    fn enter(&self, inner: &mut Inner, condition: Condition, error: Option<&StoreError>) {
        let gate = match condition {
            Condition::Up { .. } => READS | WRITES,
            Condition::ReadOnly => READS,
            Condition::Down { .. } => 0,
        };
        let before = self.gate.swap(gate, Ordering::AcqRel);
        if gate & !before != 0 {
            inner.closed_at = Some(Instant::now());
        }
        let was = self.state().condition;
        let turned = !inner.known || was.as_str() != condition.as_str();
        inner.known = true;
        let now = self.clock.now();
        self.state.send_if_modified(|state| {
            state.condition = condition;
            if turned {
                state.since = now;
            }
            turned
        });
        self.show(condition, turned);
        if turned {
            self.tell(condition, error);
        }
    }

    fn show(&self, condition: Condition, turned: bool) {
        let up = if condition.is_reachable() { 1.0 } else { 0.0 };
        metrics::gauge!("gravity_store_up", "store" => self.store).set(up);
        self.position(if condition.is_up() { 0.0 } else { 2.0 });
        if turned {
            metrics::counter!("gravity_store_transitions_total", "store" => self.store, "to" => condition.as_str())
                .increment(1);
        }
    }

    /// 0 closed, 1 half-open, 2 open; read-only counts as open, since it is writes that are held back.
    fn position(&self, position: f64) {
        metrics::gauge!("gravity_breaker_state", "store" => self.store).set(position);
    }

    fn tell(&self, condition: Condition, error: Option<&StoreError>) {
        let store = self.store;
        match condition {
            Condition::Up { latency } => {
                tracing::info!(
                    store,
                    latency_ms = latency.as_secs_f64() * 1_000.0,
                    "the store is up"
                );
            }
            Condition::ReadOnly => tracing::warn!(store, "the store takes no writes"),
            Condition::Down { reason } => {
                let error = error.map(chain).unwrap_or_default();
                tracing::warn!(store, reason, error, "the store is down");
            }
        }
    }
}

fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
