//! The node's condition, as the server tells it and as the API shows it.

use gravity_domain::clock::Timestamp;
use gravity_domain::sync::{BufferState, BufferStatus};
use serde::Serialize;
use utoipa::ToSchema;

/// Tells the node's condition from memory, in microseconds: the server implements it over monitor and buffer.
pub trait HealthSource: Send + Sync {
    /// A snapshot.
    fn report(&self) -> HealthReport;
}

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// Not serving yet.
    Starting,
    /// Serving.
    Serving,
    /// On its way out.
    Stopping,
}

/// What the monitor knows of a store.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServiceHealth {
    /// Whether it answers.
    pub up: bool,
    /// When it was last asked.
    pub last_check: Option<Timestamp>,
    /// How long the last answer took, in milliseconds.
    pub latency_ms: Option<f64>,
}

/// Redis, or what stands in for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RedisHealth {
    /// A server.
    Server(ServiceHealth),
    /// No `REDIS_URL`: this process.
    InProcess,
}

/// The node's condition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HealthReport {
    /// Where the process is in its life.
    pub lifecycle: Lifecycle,
    /// The time.
    pub now: Timestamp,
    /// Since the start.
    pub uptime_seconds: u64,
    /// Postgres.
    pub postgresql: ServiceHealth,
    /// Redis.
    pub redis: RedisHealth,
    /// The write buffer.
    pub buffer: BufferStatus,
    /// Operations that the drain removed per second, of late.
    pub drain_rate_per_second: f64,
}

impl HealthReport {
    /// The one word for all of it. Unavailable: starting, stopping, or no write can be accepted (Postgres down and the
    /// buffer full or broken, or the buffer closed with operations in it). Degraded: a store is down.
    pub fn status(&self) -> HealthStatus {
        let buffers = matches!(self.buffer.state, BufferState::Empty | BufferState::Processing);
        let redis_up = match self.redis {
            RedisHealth::Server(redis) => redis.up,
            RedisHealth::InProcess => true,
        };
        let can_write = (self.postgresql.up || buffers) && !self.buffer.blocks_writes;
        if self.lifecycle != Lifecycle::Serving || !can_write {
            HealthStatus::Unavailable
        } else if self.postgresql.up && redis_up {
            HealthStatus::Healthy
        } else {
            HealthStatus::Degraded
        }
    }

    /// The age of the oldest operation that waits in the buffer, in seconds; 0 when none does.
    pub fn oldest_age_seconds(&self) -> f64 {
        let age = self
            .buffer
            .oldest
            .map_or(0, |oldest| self.now.millis_since(oldest));
        std::time::Duration::from_millis(age).as_secs_f64()
    }
}

/// The node's condition in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// All is well.
    Healthy,
    /// It serves, but a store is down.
    Degraded,
    /// It does not serve, or can accept no write.
    Unavailable,
}

/// The answer of `/health` and `/ready`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthView {
    /// The condition in a word.
    pub status: HealthStatus,
    /// The time.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The version of the program.
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    /// Since the start.
    pub uptime_seconds: u64,
    /// The stores.
    pub services: ServicesView,
    /// The write buffer.
    pub buffer: BufferView,
}

/// The stores.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServicesView {
    /// Postgres.
    pub postgresql: ServiceView,
    /// Redis.
    pub redis: RedisView,
}

/// A store.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Whether it answers.
    pub status: bool,
    /// When it was last asked.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_check: Option<Timestamp>,
    /// How long the last answer took, in milliseconds.
    pub latency_ms: Option<f64>,
}

/// Redis, or what stands in for it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum RedisView {
    /// A server.
    Server(ServiceView),
    /// This process.
    InProcess {
        /// Always true.
        status: bool,
        /// Always `in_process`.
        mode: &'static str,
    },
}

/// The write buffer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BufferView {
    /// `empty`, `processing`, `full` or `unavailable`.
    #[schema(example = "empty")]
    pub status: &'static str,
    /// Operations waiting.
    pub size: u64,
    /// The most it takes.
    pub max_size: u64,
    /// The age of the oldest one; 0 when none waits.
    pub oldest_age_seconds: f64,
    /// Dead letters kept.
    pub dead_letters: u64,
}

/// The answer of `/live`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LiveView {
    /// Always `healthy`.
    pub status: HealthStatus,
    /// The time.
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The version of the program.
    #[schema(example = "0.1.0")]
    pub version: &'static str,
    /// Since the start.
    pub uptime_seconds: u64,
}

/// The version of the program.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

impl From<ServiceHealth> for ServiceView {
    fn from(health: ServiceHealth) -> Self {
        Self {
            status: health.up,
            last_check: health.last_check,
            latency_ms: health.latency_ms,
        }
    }
}

impl From<&HealthReport> for HealthView {
    fn from(report: &HealthReport) -> Self {
        Self {
            status: report.status(),
            timestamp: report.now,
            version: VERSION,
            uptime_seconds: report.uptime_seconds,
            services: ServicesView {
                postgresql: report.postgresql.into(),
                redis: match report.redis {
                    RedisHealth::Server(redis) => RedisView::Server(redis.into()),
                    RedisHealth::InProcess => RedisView::InProcess {
                        status: true,
                        mode: "in_process",
                    },
                },
            },
            buffer: BufferView {
                status: report.buffer.state.as_str(),
                size: report.buffer.size,
                max_size: report.buffer.max_size,
                oldest_age_seconds: report.oldest_age_seconds(),
                dead_letters: report.buffer.dead_letters,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lifecycle: Lifecycle, postgres: bool, redis: bool, state: BufferState) -> HealthStatus {
        holding(lifecycle, postgres, redis, state, false)
    }

    fn holding(
        lifecycle: Lifecycle,
        postgres: bool,
        redis: bool,
        state: BufferState,
        blocks_writes: bool,
    ) -> HealthStatus {
        let service = |up| ServiceHealth {
            up,
            last_check: None,
            latency_ms: None,
        };
        let buffer = BufferStatus {
            state,
            size: 0,
            max_size: 9,
            bytes: 0,
            oldest: None,
            dead_letters: 0,
            appended: 0,
            drained: 0,
            blocks_writes,
        };
        HealthReport {
            lifecycle,
            now: Timestamp::EPOCH,
            uptime_seconds: 0,
            postgresql: service(postgres),
            redis: RedisHealth::Server(service(redis)),
            buffer,
            drain_rate_per_second: 0.0,
        }
        .status()
    }

    #[test]
    fn it_is_unavailable_only_when_it_can_accept_no_write_or_is_not_serving() {
        use BufferState::{Empty, Full, Processing, Unavailable};
        let serving = |postgres, redis, state| report(Lifecycle::Serving, postgres, redis, state);
        assert_eq!(serving(true, true, Empty), HealthStatus::Healthy);
        assert_eq!(serving(true, true, Full), HealthStatus::Healthy);
        assert_eq!(serving(true, false, Empty), HealthStatus::Degraded);
        assert_eq!(serving(false, true, Processing), HealthStatus::Degraded);
        assert_eq!(serving(false, true, Full), HealthStatus::Unavailable);
        assert_eq!(serving(false, true, Unavailable), HealthStatus::Unavailable);
        assert_eq!(serving(true, true, Unavailable), HealthStatus::Healthy);
        assert_eq!(
            holding(Lifecycle::Serving, true, true, Unavailable, true),
            HealthStatus::Unavailable
        );
        assert_eq!(
            report(Lifecycle::Starting, true, true, Empty),
            HealthStatus::Unavailable
        );
        assert_eq!(
            report(Lifecycle::Stopping, true, true, Empty),
            HealthStatus::Unavailable
        );
    }
}
