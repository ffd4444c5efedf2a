//! The connection that commands go over.

use super::error::{translate, word};
use super::settings::{RedisSettings, RedisSettingsError};
use gravity_domain::error::StoreError;
use gravity_domain::sync::ports::Breaker;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::context::TokioContext;

/// How many commands may wait to be written.
const PIPELINE_BUFFER: usize = 1_000;

/// Runs commands. Cheap to clone; usable from any runtime.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    settings: RedisSettings,
    handle: Handle,
    breaker: Arc<dyn Breaker>,
    manager: Mutex<Option<ConnectionManager>>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

impl Redis {
    /// A connection that is made on first use, driven on `handle`, a multi-threaded runtime. While `breaker` (the monitor of
    /// Redis) allows no reads, every call fails at once; it is told of every failure.
    ///
    /// # Errors
    /// The URL is malformed.
    pub fn new(
        settings: RedisSettings,
        handle: Handle,
        breaker: Arc<dyn Breaker>,
    ) -> Result<Self, RedisSettingsError> {
        let shared = Shared {
            client: settings.client()?,
            settings,
            handle,
            breaker,
            manager: Mutex::new(None),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Where it connects to.
    pub fn settings(&self) -> &RedisSettings {
        &self.shared.settings
    }

    /// True while commands are tried at all.
    pub fn is_up(&self) -> bool {
        self.shared.breaker.allows_reads()
    }

    /// One command. `name` is for metrics.
    ///
    /// # Errors
    /// [`StoreError`]; whether a write that was given up took effect is unknown.
    pub async fn command<T: FromRedisValue>(
        &self,
        name: &'static str,
        command: &Cmd,
    ) -> Result<T, StoreError> {
        self.run(name, async |mut manager| command.query_async(&mut manager).await)
            .await
    }

    /// Several commands in one round trip. `name` is for metrics.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn pipeline<T: FromRedisValue>(
        &self,
        name: &'static str,
        pipeline: &Pipeline,
    ) -> Result<T, StoreError> {
        self.run(name, async |mut manager| pipeline.query_async(&mut manager).await)
            .await
    }

    /// A script, by its hash; it is loaded when the server does not know it. `name` is for metrics.
    ///
    /// # Errors
    /// As [`Self::command`].
    pub async fn script<T: FromRedisValue>(
        &self,
        name: &'static str,
        script: &ScriptInvocation<'_>,
    ) -> Result<T, StoreError> {
        self.run(name, async |mut manager| script.invoke_async(&mut manager).await)
            .await
    }

    async fn run<T>(
        &self,
        name: &'static str,
        call: impl AsyncFnOnce(ConnectionManager) -> RedisResult<T>,
    ) -> Result<T, StoreError> {
        if !self.is_up() {
            return Err(StoreError::unavailable("breaker_open"));
        }
        let began = Instant::now();
        let manager = self.manager().map_err(translate)?;
        let answer = TokioContext::new(call(manager), self.shared.handle.clone()).await;
        metrics::histogram!("gravity_redis_command_seconds", "command" => name)
            .record(began.elapsed().as_secs_f64());
        answer.map_err(|error| self.failed(error))
    }

    fn manager(&self) -> Result<ConnectionManager, RedisError> {
        let mut kept = self.lock();
        if let Some(manager) = &*kept {
            return Ok(manager.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_millis(200))
            .set_connection_timeout(Some(self.shared.settings.connect_timeout))
            .set_response_timeout(Some(self.shared.settings.response_timeout))
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        let _runtime = self.shared.handle.enter();
        let manager = ConnectionManager::new_lazy_with_config(self.shared.client.clone(), config)?;
        *kept = Some(manager.clone());
        Ok(manager)
    }

    fn failed(&self, error: RedisError) -> StoreError {
        // The manager makes a new connection by itself after an I/O error only, not when a greeting was refused
        // (wrong password, still loading).
        let refused = !error.is_io_error();
        let error = translate(error);
        if refused && error.is_outage() {
            *self.lock() = None;
        }
        metrics::counter!("gravity_redis_errors_total", "reason" => word(&error)).increment(1);
        self.shared.breaker.failed(&error);
        error
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<ConnectionManager>> {
        self.shared.manager.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
