//! The server, put together and run.
//!
//! [`App::build`] needs no store: with Postgres or Redis away it comes up degraded. One shared runtime drives every
//! connection, the monitors, the drain and the schedule; the HTTP workers are single-threaded runtimes of their own.
//!
//! Stopping, in [`App::run`]: `/ready` turns 503; after the grace time connections are refused and requests in flight
//! finish; the schedule ends; the drain is tried once more for a bounded time; the buffer is closed; the clock lets go of
//! what it has reserved.

mod auth;
mod calls;
mod chat;
mod health;
mod stores;

use crate::config::{Config, ServerConfig};
use crate::telemetry::{self, TelemetryError};
use crate::tls::{self, TlsError};
use crate::workers::{Work, Workers};
use actix_web::dev::Server;
use actix_web::web;
use calls::Calls;
use gravity_api::{ApiState, HttpSettings, ServeSettings};
use gravity_domain::clock::HybridClock;
use gravity_domain::sync::policy::RetryPolicy;
use gravity_domain::sync::ports::WriteBuffer;
use gravity_infra::auth::KeyError;
use gravity_infra::chat::{VapidError, WebhookError};
use gravity_infra::postgres::{Pool, SettingsError};
use gravity_infra::processor::{Processor, ProcessorHandle, ProcessorPorts, ProcessorSettings};
use gravity_infra::redis::RedisSettingsError;
use gravity_infra::sync::{PostgresOperations, RowsPurge};
use gravity_infra::write_buffer::DurableBuffer;
use gravity_usecase::chat::NotifyAbsent;
use health::NodeHealth;
use metrics_exporter_prometheus::PrometheusHandle;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use stores::Stores;
use thiserror::Error;
use tokio::runtime::{Handle, Runtime};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// For the first word of the monitors, and for the buffer to open, before `/ready` says yes without them.
const FIRST_PING_PATIENCE: Duration = Duration::from_secs(2);
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// Over which time the clients of a node that stops come back elsewhere.
const COME_BACK_WITHIN: Duration = Duration::from_secs(10);
/// A peer that acknowledges nothing for so long is gone.
const SILENT_MS: u32 = 30_000;
/// For a batch in hand, after the last drain has had its time.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Why the server cannot be put together. A store that is away is no such reason.
#[derive(Debug, Error)]
pub enum BuildError {
    /// The runtime.
    #[error("the system gives no threads")]
    Runtime(#[source] io::Error),
    /// Settings of Postgres that cannot work.
    #[error(transparent)]
    Postgres(#[from] SettingsError),
    /// Settings of Redis that cannot work.
    #[error(transparent)]
    Redis(#[from] RedisSettingsError),
    /// Keys of an outside provider.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The key of Web Push.
    #[error(transparent)]
    WebPush(#[from] VapidError),
    /// The webhook of notifications.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// The client of Web Push.
    #[error("no HTTP client can be made")]
    HttpClient(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server's certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file named in the settings.
    #[error("{file} cannot be read")]
    File {
        /// Which.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// Metrics.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The schedule.
    #[error("the scheduler cannot be started")]
    Scheduler(#[from] tokio_cron_scheduler::JobSchedulerError),
}

/// The description of the API, as JSON.
pub fn openapi() -> String {
    gravity_api::openapi::to_json()
}

/// A server that is ready to run.
pub struct App {
    config: Config,
    io: Runtime,
    state: web::Data<ApiState>,
    health: Arc<NodeHealth>,
    processor: Arc<ProcessorHandle>,
    buffer: DurableBuffer,
    clock: Arc<HybridClock>,
    workers: Workers,
    tls: Option<rustls::ServerConfig>,
    /// Ends the monitors and whatever else goes on in the background.
    stop: CancellationToken,
}

impl App {
    /// Puts the server together, and starts everything but HTTP.
    ///
    /// # Errors
    /// [`BuildError`]; the settings are to blame, or the system.
    pub fn build(config: Config) -> Result<Self, BuildError> {
        let io = crate::runtime(threads()).map_err(BuildError::Runtime)?;
        let recorder = recorder()?;
        let tls = config.server.tls.as_ref().map(tls::server_config).transpose()?;
        let stop = CancellationToken::new();
        let handle = io.handle().clone();
        let _inside = handle.enter();
        let stores = Stores::open(&config, &handle, &stop)?;
        let clock = stores::clock(&config, &stores.wall);
        let processor = Arc::new(spawn_processor(&config, &stores));
        let health = Arc::new(NodeHealth::new(
            stores.connections.clone(),
            Arc::new(stores.buffer.clone()),
            Arc::clone(&processor),
            Arc::clone(&stores.wall),
        ));
        let (auth, identities) = auth::build(&config, &stores, &clock, &handle, &stop)?;
        let calls = Calls::build(&config, &stores, &clock, (&auth, &identities), &handle)?;
        let rendered = recorder.clone();
        let state = ApiState {
            auth,
            profile: calls.profile,
            task: calls.task,
            stream: calls.stream,
            chat: calls.chat,
            sync: calls.sync,
            health: health.clone(),
            metrics: Arc::new(move || rendered.render()),
            http: HttpSettings {
                cors_origins: config.http.cors_allowed_origins.clone(),
                trusted_proxies: config.http.trusted_proxies.clone(),
                body_limit: config.http.body_limit,
                batch_limit: config.stream.ingest_body_limit,
                body_timeout: config.http.body_timeout,
                deadline: config.database.write_deadline,
            },
        };
        let notify = chat::notifier(&config.chat, &stores, &state.chat.socket)?;
        let notify = Arc::new(notify);
        let workers = start_workers(&config, &stores, &processor, (&clock, notify), recorder, &handle)?;
        Ok(Self {
            io,
            state: web::Data::new(state),
            health,
            processor,
            buffer: stores.buffer,
            clock,
            workers,
            tls,
            stop,
            config,
        })
    }

    /// Every problem that [`Self::build`] would have with the settings. Starts nothing.
    pub fn check(config: &Config) -> Vec<BuildError> {
        let runtime = match crate::runtime(1) {
            Ok(runtime) => runtime,
            Err(error) => return vec![BuildError::Runtime(error)],
        };
        let _inside = runtime.enter();
        let wall = Arc::new(gravity_domain::clock::SystemClock);
        let pool = Pool::new(&config.database.settings(), runtime.handle().clone());
        let redis = stores::redis_settings(config).map(|redis| redis.client());
        let tls = config.server.tls.as_ref().map(tls::server_config);
        let verifier = auth::verifier(&config.auth, wall, runtime.handle());
        let problems = [
            pool.err().map(BuildError::from),
            redis.and_then(Result::err).map(BuildError::from),
            tls.and_then(Result::err).map(BuildError::from),
            verifier.err(),
            chat::vapid_key(&config.chat).err(),
        ];
        problems.into_iter().flatten().collect()
    }

    /// The shared runtime.
    pub fn handle(&self) -> &Handle {
        self.io.handle()
    }

    /// What the handlers work with.
    pub fn state(&self) -> web::Data<ApiState> {
        self.state.clone()
    }

    /// Serves on `listener` until `shutdown` is cancelled, then stops in order. Blocks; must not be called from async code.
    ///
    /// # Errors
    /// The listener cannot be used.
    pub fn run(self, listener: TcpListener, shutdown: &CancellationToken) -> io::Result<()> {
        let address = listener.local_addr()?;
        give_up_on_the_silent(&listener);
        let system = actix_web::rt::System::new();
        let server = system.block_on(async { self.server(listener) })?;
        let http = server.handle();
        let settings = self.config.server.clone();
        let (health, asked) = (Arc::clone(&self.health), shutdown.clone());
        let sockets = Arc::clone(&self.state.chat.socket);
        let stopping = self.io.spawn(async move {
            asked.cancelled().await;
            health.stopping();
            tokio::time::sleep(settings.shutdown_grace).await;
            sockets.shut_down(COME_BACK_WITHIN).await;
            tracing::info!("refusing connections; requests in flight finish");
            http.stop(true).await;
        });
        let ready = self.io.spawn(self.until_ready());
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            "listening on {scheme}://{address}"
        );
        let served = system.block_on(server);
        stopping.abort();
        ready.abort();
        self.wind_down();
        served
    }

    /// `/ready` stays 503 until it is known which stores are there, and the buffer has been opened or goes on failing to.
    fn until_ready(&self) -> impl Future<Output = ()> + use<> {
        let (health, buffer) = (Arc::clone(&self.health), self.buffer.clone());
        async move {
            tokio::join!(
                health.until_known(FIRST_PING_PATIENCE),
                buffer.wait_until_open(OPEN_PATIENCE)
            );
            health.serving();
        }
    }

    fn server(&self, listener: TcpListener) -> io::Result<Server> {
        let ServerConfig {
            workers,
            max_connections,
            keep_alive,
            shutdown_timeout,
            ..
        } = self.config.server;
        let settings = ServeSettings {
            workers: Some(workers).filter(|workers| *workers > 0),
            max_connections,
            keep_alive,
            header_timeout: self.config.http.header_timeout,
            shutdown_timeout,
            tls: self.tls.clone(),
        };
        gravity_api::serve(self.state.clone(), listener, settings)
    }

    /// After the last request.
    fn wind_down(self) {
        let patience = self.config.server.drain_timeout;
        self.io.block_on(async {
            self.workers.stop().await;
            self.processor.drain_now(Instant::now() + patience).await;
            self.processor.stop(STOP_PATIENCE).await;
            let left = self.buffer.status().size;
            self.buffer.close().await;
            self.clock.release();
            self.stop.cancel();
            if left == 0 {
                tracing::info!("stopped; the buffer is empty");
            } else {
                tracing::warn!(
                    left,
                    "stopped; what is left in the buffer is drained after the next start"
                );
            }
        });
        // Nothing of worth runs any more; a thread that hangs on a dead store must not hold up the exit.
        self.io.shutdown_background();
    }
}

/// Connections inherit this from their listener: one whose peer acknowledges nothing that is sent is ended, and not kept for
/// the minutes that the system would try.
fn give_up_on_the_silent(listener: &TcpListener) {
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(listener, SILENT_MS) {
        tracing::debug!(%error, "connections to peers that are gone are kept for longer");
    }
}

/// Connections are cheap to drive: more threads than this would only take turns.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

fn recorder() -> Result<PrometheusHandle, BuildError> {
    let recorder = telemetry::metrics()?;
    gravity_api::middleware::describe_metrics();
    gravity_infra::write_buffer::describe_metrics();
    gravity_infra::chat::describe_metrics();
    // Alerts look for a rise, and a series that begins with its first event has none.
    for reason in ["full", "unavailable"] {
        metrics::counter!("gravity_buffer_refused_total", "reason" => reason).increment(0);
    }
    for name in [
        "gravity_buffer_damaged_total",
        "gravity_buffer_records_lost_total",
        "gravity_clock_skew_total",
    ] {
        metrics::counter!(name).increment(0);
    }
    Ok(recorder)
}

fn spawn_processor(config: &Config, stores: &Stores) -> ProcessorHandle {
    let ports = ProcessorPorts {
        buffer: Arc::new(stores.buffer.clone()),
        store: Arc::new(PostgresOperations::new(stores.pool.clone())),
        breaker: Arc::clone(&stores.breaker),
        listener: Arc::new(stores.known()),
        clock: Arc::clone(&stores.wall),
        monitor: stores.connections.postgres.subscribe(),
    };
    let policy = RetryPolicy {
        max_attempts: config.buffer.max_retry_attempts,
        retention_ms: u64::try_from(config.buffer.retention.as_millis()).unwrap_or(u64::MAX),
    };
    let settings = ProcessorSettings {
        batch_size: config.buffer.batch_size,
        ..ProcessorSettings::default()
    };
    Processor::spawn(ports, policy, settings)
}

fn start_workers(
    config: &Config,
    stores: &Stores,
    processor: &Arc<ProcessorHandle>,
    (clock, notify): (&Arc<HybridClock>, Arc<NotifyAbsent>),
    recorder: PrometheusHandle,
    handle: &Handle,
) -> Result<Workers, BuildError> {
    let work = Work {
        processor: Arc::clone(processor),
        purge: RowsPurge::new(stores.pool.clone()),
        breaker: Arc::clone(&stores.breaker),
        pool: stores.pool.clone(),
        postgres: stores.connections.postgres.subscribe(),
        clock: Arc::clone(clock),
        notify,
        recorder,
        tombstone_retention: config.database.tombstone_retention,
        applied_retention: config.database.applied_operations_retention,
        event_retention: config.chat.event_retention,
        sync_interval: config.buffer.sync_interval,
    };
    Ok(crate::finish(handle, Workers::start(work))?)
}
