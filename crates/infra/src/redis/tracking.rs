//! Hears of every change under a prefix, over a connection of its own (client-side caching in broadcast mode).
//!
//! Whoever listens may believe what it remembers of a key only between [`KeyListener::up`] and [`KeyListener::down`], and only
//! until [`KeyListener::changed`] names the key. The driver's own cache is not used: it can keep an entry that was invalidated
//! while its reply was on the way.

use super::settings::RedisSettings;
use redis::{AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, RedisError, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often the connection is pinged.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long an answer may take before the connection counts as gone.
const PATIENCE: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Hears of changes. Called from the connection's task: must not block.
pub trait KeyListener: Send + Sync + 'static {
    /// What the keys begin with, in the life of the server that `run_id` names.
    fn prefix(&self, run_id: &str) -> String;
    /// From now on every change is told. `run_id` names the life of the server: another one may hold other data.
    fn up(&self, run_id: &str);
    /// This key was changed, has expired, or was evicted.
    fn changed(&self, key: &str);
    /// Every key is gone.
    fn flushed(&self);
    /// From now on nothing is told; changes may have been missed already.
    fn down(&self);
}

/// Keeps a connection that tells `listener`, until `stop`. Nothing it meets ends it.
pub async fn track(settings: RedisSettings, listener: Arc<dyn KeyListener>, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            ended = hear(&settings, &listener, &mut pause) => Some(ended),
        };
        listener.down();
        let Some(error) = ended else { return };
        tracing::debug!(%error, "the connection that hears of changes is gone");
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn lost(what: &'static str) -> RedisError {
    std::io::Error::other(what).into()
}

/// One connection, from its making to its end.
async fn hear(settings: &RedisSettings, listener: &Arc<dyn KeyListener>, pause: &mut Duration) -> RedisError {
    match follow(settings, listener, pause).await {
        Ok(()) => lost("closed"),
        Err(error) => error,
    }
}

async fn follow(
    settings: &RedisSettings,
    listener: &Arc<dyn KeyListener>,
    pause: &mut Duration,
) -> Result<(), RedisError> {
    let gone = Arc::new(Notify::new());
    let sender = {
        let (listener, gone) = (listener.clone(), gone.clone());
        move |info: PushInfo| {
            tell(listener.as_ref(), &gone, &info);
            Ok::<(), redis::aio::SendError>(())
        }
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE))
        .set_push_sender(sender);
    let client = speaking_resp3(settings)?;
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let info: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut connection)
        .await?;
    let run_id = run_id(&info).ok_or_else(|| lost("no run_id"))?;
    redis::cmd("CLIENT")
        .arg("TRACKING")
        .arg("ON")
        .arg("BCAST")
        .arg("PREFIX")
        .arg(listener.prefix(run_id))
        .query_async::<()>(&mut connection)
        .await?;
    listener.up(run_id);
    *pause = FIRST_PAUSE;
    loop {
        tokio::select! {
            biased;
            () = gone.notified() => return Ok(()),
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
    }
}

fn speaking_resp3(settings: &RedisSettings) -> Result<Client, RedisError> {
    let client = settings.client().map_err(|_| lost("address"))?;
    let info = client.get_connection_info().clone();
    let speaking = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_redis_settings(speaking))
}

fn tell(listener: &dyn KeyListener, gone: &Notify, info: &PushInfo) {
    match info.kind {
        PushKind::Disconnection => gone.notify_one(),
        PushKind::Invalidate => match info.data.first() {
            Some(Value::Array(keys)) => {
                for key in keys {
                    if let Value::BulkString(key) = key
                        && let Ok(key) = std::str::from_utf8(key)
                    {
                        listener.changed(key);
                    }
                }
            }
            _ => listener.flushed(),
        },
        _ => {}
    }
}

fn run_id(info: &str) -> Option<&str> {
    info.lines()
        .find_map(|line| line.strip_prefix("run_id:"))
        .map(str::trim)
        .filter(|id| !id.is_empty())
}
