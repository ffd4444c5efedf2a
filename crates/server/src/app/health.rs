//! The node's condition, from memory: the monitor, the buffer's counters, the drain's rate.

use gravity_api::health::{HealthReport, HealthSource, Lifecycle, RedisHealth, ServiceHealth};
use gravity_domain::clock::WallClock;
use gravity_domain::sync::ports::WriteBuffer;
use gravity_infra::monitor::{Condition, Connections, StoreState};
use gravity_infra::processor::ProcessorHandle;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

const STARTING: u8 = 0;
const SERVING: u8 = 1;
const STOPPING: u8 = 2;

const POLL: Duration = Duration::from_millis(5);

/// What `/health`, `/ready` and `/api/v1/admin/buffer` read.
pub(super) struct NodeHealth {
    lifecycle: AtomicU8,
    started: Instant,
    connections: Connections,
    buffer: Arc<dyn WriteBuffer>,
    processor: Arc<ProcessorHandle>,
    clock: Arc<dyn WallClock>,
}

impl NodeHealth {
    pub(super) fn new(
        connections: Connections,
        buffer: Arc<dyn WriteBuffer>,
        processor: Arc<ProcessorHandle>,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        Self {
            lifecycle: AtomicU8::new(STARTING),
            started: Instant::now(),
            connections,
            buffer,
            processor,
            clock,
        }
    }

    /// Waits until every store has been asked once, or `patience` is over.
    pub(super) async fn until_known(&self, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        let asked = |state: StoreState| state.last_check.is_some();
        loop {
            let known = self.connections.snapshot();
            let all = asked(known.postgres) && known.redis.is_none_or(asked);
            if all || tokio::time::Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// From starting; a stop that was asked for meanwhile stands.
    pub(super) fn serving(&self) {
        let (from, to) = (STARTING, SERVING);
        let _ = self
            .lifecycle
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(super) fn stopping(&self) {
        self.lifecycle.store(STOPPING, Ordering::Release);
    }
}

impl HealthSource for NodeHealth {
    fn report(&self) -> HealthReport {
        let known = self.connections.snapshot();
        HealthReport {
            lifecycle: match self.lifecycle.load(Ordering::Acquire) {
                STARTING => Lifecycle::Starting,
                SERVING => Lifecycle::Serving,
                _ => Lifecycle::Stopping,
            },
            now: self.clock.now(),
            uptime_seconds: self.started.elapsed().as_secs(),
            postgresql: service(known.postgres),
            redis: known.redis.map_or(RedisHealth::InProcess, |state| {
                RedisHealth::Server(service(state))
            }),
            buffer: self.buffer.status(),
            drain_rate_per_second: self.processor.rate(),
        }
    }
}

/// A store that takes no writes is as good as down: writes are buffered.
fn service(state: StoreState) -> ServiceHealth {
    ServiceHealth {
        up: state.condition.is_up(),
        last_check: state.last_check,
        latency_ms: match state.condition {
            Condition::Up { latency } => Some((latency.as_secs_f64() * 1e6).round() / 1e3),
            _ => None,
        },
    }
}
