//! The connection monitor: knows whether a store is reachable, tells whoever watches, and is the breaker before it.
//!
//! One [`Monitor`] per store, each one owning task. The task pings over a connection of its own ([`Probe`]): every
//! 10 s with a 5 s limit while all is well, every 250 ms with a 1 s limit while the store is down or read-only.
//!
//! **Breaker.** Its position is one byte in an atomic, so asking costs one load. *Closed*: go. *Open*: do not try.
//! *Half-open*: open, and a ping is in flight; only the ping goes through. It closes when a ping that began after the
//! opening has succeeded, never otherwise. It starts open: nothing is known before the first ping.
//!
//! **Evidence.** A request that fails with an outage tells [`Monitor::failed`]: the breaker opens at once, and a ping
//! begins at once, in place of one already in flight. While it is open, further failures say nothing new (those
//! requests began before the opening) and are ignored, so a burst of failures causes one ping.
//!
//! **Stale evidence.** A request that began before the outage ended may fail after the breaker closed. Within
//! [`MonitorSettings::doubt_window`] of closing, a failure is therefore only a doubt: it causes one ping (at most one
//! per [`DOUBT_SPACING`]), and the breaker opens if that ping has not answered within [`DOUBT_PATIENCE`]. So late
//! failures cannot make the state flap, and a store that really went away again is noticed in a fraction of a second.
//!
//! **Watching.** The state is published on a `watch` channel, whose receivers are woken by transitions only; `last_check`
//! and the latency are kept current without waking anybody. Transitions are logged once and counted.

mod shared;
mod task;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use gravity_domain::clock::{Timestamp, WallClock};
use gravity_domain::error::StoreError;
use gravity_domain::sync::ports::Breaker;
use shared::Shared;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a ping that follows a doubt may take before the breaker opens.
pub const DOUBT_PATIENCE: Duration = Duration::from_millis(100);
/// The least time between the beginnings of two pings that follow doubts.
pub const DOUBT_SPACING: Duration = Duration::from_millis(100);

/// What a store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// False when it takes no writes: a standby, or read-only after a failover.
    pub writable: bool,
}

/// Asks a store whether it is there, over a connection of its own.
#[async_trait]
pub trait Probe: Send + Sync + 'static {
    /// One question and its answer; connects first when there is no connection. The caller bounds it and may drop the
    /// future at any point: the connection in use is then lost, and the next ping makes another.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when there is no answer; [`StoreError::Busy`] when the store is there but takes no
    /// further connection.
    async fn ping(&self) -> Result<ProbeAnswer, StoreError>;
}

/// When to ping, and how long to wait for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MonitorSettings {
    /// From the beginning of one ping to the next while all is well.
    pub interval: Duration,
    /// The limit of such a ping.
    pub timeout: Duration,
    /// From the beginning of one ping to the next while the store is down or read-only.
    pub down_interval: Duration,
    /// The limit of such a ping.
    pub down_timeout: Duration,
    /// How long after closing a failed request may be one that began before: at least the deadline of a request.
    pub doubt_window: Duration,
}

impl Default for MonitorSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            down_interval: Duration::from_millis(250),
            down_timeout: Duration::from_secs(1),
            doubt_window: Duration::from_secs(2),
        }
    }
}

/// Whether a store is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It answers and takes writes.
    Up {
        /// How long the last ping took.
        latency: Duration,
    },
    /// It answers and takes no writes.
    ReadOnly,
    /// It does not answer.
    Down {
        /// A stable word: those of [`StoreError::Unavailable`], `starting` before the first ping, `panic`.
        reason: &'static str,
    },
}

impl Condition {
    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up { .. } => "up",
            Self::ReadOnly => "read_only",
            Self::Down { .. } => "down",
        }
    }

    /// True when it answers.
    pub fn is_reachable(self) -> bool {
        !matches!(self, Self::Down { .. })
    }

    /// True when it answers and takes writes.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// What is known of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreState {
    /// Whether it is there.
    pub condition: Condition,
    /// When the last ping ended; `None` before the first.
    pub last_check: Option<Timestamp>,
    /// When it came into this condition.
    pub since: Timestamp,
}

/// Watches one store. Cheap to clone; all clones share one task.
#[derive(Clone)]
pub struct Monitor {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor")
            .field("store", &self.shared.store)
            .field("state", &self.state())
            .finish()
    }
}

impl Monitor {
    /// Starts watching; the first ping begins at once. `store` names it in logs and metrics. The task ends when `stop` is
    /// cancelled; the state then stays as it is.
    pub fn spawn(
        store: &'static str,
        probe: Arc<dyn Probe>,
        settings: MonitorSettings,
        clock: Arc<dyn WallClock>,
        stop: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared::new(store, settings, clock));
        tokio::spawn(task::run(Arc::clone(&shared), probe, stop));
        Self { shared }
    }

    /// What is known now. Touches no store and waits for nobody.
    pub fn state(&self) -> StoreState {
        self.shared.state()
    }

    /// Wakes on every transition.
    pub fn subscribe(&self) -> watch::Receiver<StoreState> {
        self.shared.subscribe()
    }
}

impl Breaker for Monitor {
    fn allows_writes(&self) -> bool {
        self.shared.allows_writes()
    }

    fn allows_reads(&self) -> bool {
        self.shared.allows_reads()
    }

    fn failed(&self, error: &StoreError) {
        self.shared.failed(error);
    }
}

/// The monitors of a node.
#[derive(Debug, Clone)]
pub struct Connections {
    /// Postgres.
    pub postgres: Monitor,
    /// Redis; `None` when it is not configured.
    pub redis: Option<Monitor>,
}

/// What is known of every store, for `/health`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionsState {
    /// Postgres.
    pub postgres: StoreState,
    /// Redis; `None` when it is not configured.
    pub redis: Option<StoreState>,
}

impl Connections {
    /// What is known now. Touches no store and waits for nobody.
    pub fn snapshot(&self) -> ConnectionsState {
        ConnectionsState {
            postgres: self.postgres.state(),
            redis: self.redis.as_ref().map(Monitor::state),
        }
    }
}

/// Describes the monitors' metrics to the recorder. Call it once one is installed.
pub fn describe_metrics() {
    use metrics::{Unit, describe_counter, describe_gauge};
    describe_gauge!("gravity_store_up", "1 when the store answers, else 0");
    describe_gauge!(
        "gravity_breaker_state",
        "0 closed, 1 half-open, 2 open (for writes)"
    );
    describe_gauge!(
        "gravity_store_ping_seconds",
        Unit::Seconds,
        "Time of the last answered ping"
    );
    describe_counter!(
        "gravity_store_transitions_total",
        "Changes of a store's condition"
    );
}
