//! Postgres, Redis, the write buffer and what knows whether they are there. Nothing here waits for a store: whatever is
//! away is tried again by its monitor.

use super::BuildError;
use super::chat::ChatStores;
use crate::config::{BufferConfig, Config};
use crate::migrations::MigrateFirst;
use gravity_domain::clock::{HybridClock, SystemClock, WallClock};
use gravity_domain::stream::{StreamCache, StreamStore};
use gravity_domain::sync::ports::Breaker;
use gravity_infra::cache::{CachedTasks, KnownEntities, KnownProfiles, TaskCacheLimits};
use gravity_infra::monitor::{Connections, Monitor, MonitorSettings};
use gravity_infra::postgres::Pool;
use gravity_infra::postgres::probe::PostgresProbe;
use gravity_infra::redis::probe::RedisProbe;
use gravity_infra::redis::{Carrier, Cluster, ClusterSettings, Redis, RedisSettings};
use gravity_infra::stream::{CachedStream, PostgresStream, StreamCachePorts, StreamCacheSettings};
use gravity_infra::write_buffer::{BufferSettings, DurableBuffer, FileStampStore};
use std::path::Path;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Stamps that are further ahead of the wall clock than this are logged and counted.
const MAX_SKEW_MS: u64 = 60_000;
/// Profiles remembered: some 50 MB at most in practice.
const PROFILES: u64 = 100_000;

/// The stores of a node.
pub(super) struct Stores {
    pub(super) wall: Arc<dyn WallClock>,
    pub(super) pool: Pool,
    pub(super) connections: Connections,
    /// Before Postgres.
    pub(super) breaker: Arc<dyn Breaker>,
    pub(super) redis: Option<Redis>,
    pub(super) buffer: DurableBuffer,
    /// What is remembered of tasks for the time when Postgres is away.
    pub(super) known_tasks: Arc<CachedTasks>,
    /// The same of profiles.
    pub(super) known_profiles: Arc<KnownProfiles>,
    /// The stream in Postgres.
    pub(super) stream: Arc<dyn StreamStore>,
    /// The caches before it.
    pub(super) cached_stream: Arc<dyn StreamCache>,
    /// Chat: in Postgres, before it, and on its way to sockets.
    pub(super) chat: ChatStores,
}

impl Stores {
    /// Must run on the runtime of `handle`.
    pub(super) fn open(
        config: &Config,
        handle: &Handle,
        stop: &CancellationToken,
    ) -> Result<Self, BuildError> {
        let wall: Arc<dyn WallClock> = Arc::new(SystemClock);
        let watching = MonitorSettings {
            doubt_window: config.database.write_deadline * 2,
            ..MonitorSettings::default()
        };
        let settings = config.database.settings();
        let pool = Pool::new(&settings, handle.clone())?;
        let probe = Arc::new(PostgresProbe::new(&settings, handle.clone())?);
        let may_migrate = config.database.migrate_on_start;
        let probe = MigrateFirst::new(probe, settings, handle.clone(), may_migrate);
        let postgres = Monitor::spawn(
            "postgres",
            Arc::new(probe),
            watching,
            Arc::clone(&wall),
            stop.clone(),
        );
        pool.heed(postgres.subscribe());
        let (redis, redis_monitor) = open_redis(config, handle, &wall, stop)?.unzip();
        let breaker: Arc<dyn Breaker> = Arc::new(postgres.clone());
        let stream: Arc<dyn StreamStore> = Arc::new(PostgresStream::new(pool.clone()));
        let before_stream = StreamCachePorts {
            store: Arc::clone(&stream),
            breaker: Arc::clone(&breaker),
            redis: redis.clone(),
            clock: Arc::clone(&wall),
        };
        let room = StreamCacheSettings {
            bytes: config.stream.cache_bytes,
            users: config.stream.cache_users,
        };
        let around = (&breaker, &wall);
        let carrier = carrier(config, redis.as_ref())?;
        let chat = ChatStores::open(
            &config.chat,
            &pool,
            (redis.as_ref(), carrier),
            around,
            handle,
            stop,
        );
        let cached_stream = CachedStream::spawn(room, before_stream, handle.clone(), stop.clone());
        cached_stream.announce(chat.live());
        Ok(Self {
            chat,
            buffer: DurableBuffer::open(buffer_settings(&config.buffer), Arc::clone(&wall)),
            breaker,
            connections: Connections {
                postgres,
                redis: redis_monitor,
            },
            wall,
            pool,
            redis,
            known_tasks: Arc::new(CachedTasks::new(TaskCacheLimits::default())),
            known_profiles: Arc::new(KnownProfiles::new(PROFILES)),
            stream,
            cached_stream: Arc::new(cached_stream),
        })
    }
}

impl Stores {
    /// What is told of commits.
    pub(super) fn known(&self) -> KnownEntities {
        let (tasks, profiles) = (Arc::clone(&self.known_tasks), Arc::clone(&self.known_profiles));
        KnownEntities::new(tasks, profiles, Arc::clone(&self.cached_stream))
            .with_chat(self.chat.entities.clone())
    }
}

fn open_redis(
    config: &Config,
    handle: &Handle,
    wall: &Arc<dyn WallClock>,
    stop: &CancellationToken,
) -> Result<Option<(Redis, Monitor)>, BuildError> {
    let Some(settings) = redis_settings(config) else {
        return Ok(None);
    };
    let monitor = Monitor::spawn(
        "redis",
        Arc::new(RedisProbe::new(&settings)?),
        MonitorSettings::default(),
        Arc::clone(wall),
        stop.clone(),
    );
    let redis = Redis::new(settings, handle.clone(), Arc::new(monitor.clone()))?;
    Ok(Some((redis, monitor)))
}

pub(super) fn redis_settings(config: &Config) -> Option<RedisSettings> {
    let mut settings = RedisSettings::new(config.redis.url.clone()?);
    settings.connect_timeout = config.redis.connect_timeout;
    settings.response_timeout = config.redis.response_timeout;
    Some(settings)
}

/// What carries hints between nodes.
fn carrier(config: &Config, redis: Option<&Redis>) -> Result<Option<Carrier>, BuildError> {
    if config.redis.pubsub_cluster.is_empty() {
        return Ok(redis.cloned().map(Carrier::Server));
    }
    let cluster = Cluster::new(ClusterSettings {
        urls: config.redis.pubsub_cluster.clone(),
        connect_timeout: config.redis.connect_timeout,
        response_timeout: config.redis.response_timeout,
        ..ClusterSettings::default()
    })?;
    Ok(Some(Carrier::Cluster(cluster)))
}

fn buffer_settings(config: &BufferConfig) -> BufferSettings {
    let disk = disk_bytes(&config.path);
    BufferSettings {
        engine: config.engine,
        max_operations: config.max_size,
        max_per_user: config.max_per_user,
        max_bytes: config.max_bytes,
        min_free_bytes: config.min_free_bytes.min(disk / 10),
        reserve_bytes: config.reserve_bytes.min(disk / 20),
        ..BufferSettings::new(&config.path)
    }
}

/// The size of the file system that `path` is or will be on.
fn disk_bytes(path: &Path) -> u64 {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors()
        .find_map(|path| rustix::fs::statvfs(path).ok())
        .map_or(u64::MAX, |disk| disk.f_blocks.saturating_mul(disk.f_frsize))
}

/// The node's stamps: its id and the ceiling of a former run are kept beside the buffer.
pub(super) fn clock(config: &Config, wall: &Arc<dyn WallClock>) -> Arc<HybridClock> {
    let kept = FileStampStore::load(&config.buffer.path);
    Arc::new(HybridClock::new(
        kept.node,
        kept.floor_ms,
        MAX_SKEW_MS,
        Arc::clone(wall),
        Arc::new(kept.store),
    ))
}
