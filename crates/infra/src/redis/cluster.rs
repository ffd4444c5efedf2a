//! Channels of a Redis Cluster: sharded ones, which only the shard hears of that their name belongs to.
//!
//! The driver finds the shards, and replaces their connections by itself; nobody would be told of the gap then. So a line ends
//! with the first connection that it loses, and when the shards say twice in a row that they hold fewer subscriptions than there
//! should be; whoever keeps it makes another one. A channel that a shard gives away is subscribed to again.

use super::error::{translate, word};
use super::pubsub::{ChannelListener, Channels, Line, timely};
use super::settings::{ClusterSettings, RedisSettingsError};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gravity_domain::error::StoreError;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{PushInfo, PushKind, RedisError, Value, cmd};
use std::collections::HashSet;
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Commands under way at a time: a command can name one channel only.
const AT_ONCE: usize = 256;

/// A cluster. Cheap to clone; connects on first use.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    settings: ClusterSettings,
    client: ClusterClient,
    publishing: Mutex<Option<ClusterConnection>>,
}

impl Cluster {
    /// The one at these settings.
    ///
    /// # Errors
    /// A URL is malformed.
    pub fn new(settings: ClusterSettings) -> Result<Self, RedisSettingsError> {
        let shared = Shared {
            client: settings.client(None)?,
            settings,
            publishing: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    pub(super) async fn publish(
        &self,
        name: &'static str,
        messages: &[(String, Vec<u8>)],
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let published = self.publish_all(messages).await;
        metrics::histogram!("gravity_redis_command_seconds", "command" => name)
            .record(began.elapsed().as_secs_f64());
        published.map_err(|error| {
            let error = translate(error);
            metrics::counter!("gravity_redis_errors_total", "reason" => word(&error)).increment(1);
            error
        })
    }

    async fn publish_all(&self, messages: &[(String, Vec<u8>)]) -> Result<(), RedisError> {
        let connection = self.connection().await?;
        let publish = |(channel, message): &(String, Vec<u8>)| {
            let (mut connection, mut publish) = (connection.clone(), cmd("SPUBLISH"));
            publish.arg(channel).arg(message);
            async move { publish.query_async::<()>(&mut connection).await }
        };
        let mut published = stream::iter(messages).map(publish).buffered(AT_ONCE);
        let mut outcome = Ok(());
        // One shard that is away must not keep the others from their messages.
        while let Some(one) = published.next().await {
            outcome = outcome.and(one);
        }
        outcome
    }

    async fn connection(&self) -> Result<ClusterConnection, RedisError> {
        let mut kept = self.shared.publishing.lock().await;
        if let Some(connection) = &*kept {
            return Ok(connection.clone());
        }
        let connection = self.shared.client.get_async_connection().await?;
        *kept = Some(connection.clone());
        Ok(connection)
    }

    /// Connections to all shards, and what is heard over them.
    pub(super) async fn line(&self) -> Result<(ShardedLine, Pushes), RedisError> {
        let (sender, pushes) = unbounded_channel();
        let client = self.shared.settings.client(Some(sender));
        let client = client.map_err(|_| RedisError::from(std::io::Error::other("address")))?;
        let connection = client.get_async_connection().await?;
        let leaving = Leaving::default();
        let line = ShardedLine {
            connection,
            leaving: leaving.clone(),
            is_short: false,
        };
        Ok((line, Pushes { pushes, leaving }))
    }
}

/// Channels whose end is wanted and was not confirmed yet.
#[derive(Clone, Default)]
struct Leaving(Arc<Lock<HashSet<Arc<str>>>>);

impl Leaving {
    fn channels(&self) -> MutexGuard<'_, HashSet<Arc<str>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connections to all shards, for subscribing.
pub(super) struct ShardedLine {
    connection: ClusterConnection,
    leaving: Leaving,
    /// There were fewer subscriptions than there should be when that was looked at last.
    is_short: bool,
}

/// How many sharded subscriptions `CLIENT INFO` tells of.
fn subscriptions(info: &Value) -> Option<usize> {
    let text = match info {
        Value::BulkString(text) => std::str::from_utf8(text).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    let field = text
        .split_whitespace()
        .find_map(|field| field.strip_prefix("ssub="))?;
    field.parse().ok()
}

impl Line for ShardedLine {
    async fn join(&mut self, channels: &[Arc<str>]) -> Result<(), RedisError> {
        let join = |channel: &Arc<str>| {
            let (mut connection, channel) = (self.connection.clone(), channel.clone());
            async move { timely(connection.ssubscribe(&*channel)).await }
        };
        let joined = stream::iter(channels).map(join).buffer_unordered(AT_ONCE);
        joined.try_collect().await
    }

    async fn leave(&mut self, channels: &[Arc<str>]) -> Result<(), RedisError> {
        self.leaving.channels().extend(channels.iter().cloned());
        let leave = |channel: &Arc<str>| {
            let (mut connection, channel) = (self.connection.clone(), channel.clone());
            async move { timely(connection.sunsubscribe(&*channel)).await }
        };
        let left = stream::iter(channels).map(leave).buffer_unordered(AT_ONCE);
        left.try_collect().await
    }

    async fn ping(&mut self, held: usize) -> Result<(), RedisError> {
        let all = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
        let mut info = cmd("CLIENT");
        info.arg("INFO");
        let answers = timely(self.connection.route_command(info, all)).await?;
        let Value::Map(answers) = answers else {
            return Err(short("answers"));
        };
        let there: Option<usize> = answers.iter().map(|(_, info)| subscriptions(info)).sum();
        let was_short = std::mem::replace(&mut self.is_short, there.is_none_or(|there| there < held));
        // What was given away or joined this moment may not be counted yet.
        if self.is_short && was_short {
            return Err(short("subscriptions"));
        }
        Ok(())
    }
}

fn short(of: &'static str) -> RedisError {
    std::io::Error::other(of).into()
}

/// What comes over a [`ShardedLine`].
pub(super) struct Pushes {
    pushes: UnboundedReceiver<PushInfo>,
    leaving: Leaving,
}

impl Pushes {
    /// Tells `listener`, and `channels` which of them were given away, until a connection is lost.
    pub(super) async fn read(mut self, channels: &Channels, listener: &dyn ChannelListener) {
        while let Some(push) = self.pushes.recv().await {
            match (&push.kind, push.data.as_slice()) {
                (PushKind::SMessage, [Value::BulkString(channel), Value::BulkString(message)]) => {
                    if let Ok(channel) = std::str::from_utf8(channel) {
                        listener.heard(channel, message);
                    }
                }
                (PushKind::SUnsubscribe, [Value::BulkString(channel), ..]) => {
                    if let Ok(channel) = std::str::from_utf8(channel)
                        && !self.leaving.channels().remove(channel)
                    {
                        channels.lost(channel);
                    }
                }
                (PushKind::Disconnection, _) => return,
                _ => {}
            }
        }
    }
}
