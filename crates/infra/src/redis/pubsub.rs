//! Publishes on channels, and hears what is published, over a connection of its own that only subscribes.
//!
//! [`Channels`] says which are wanted. Wishes that come in quick succession go out together. What is published while the
//! connection is away is lost: [`ChannelListener::down`] and [`ChannelListener::up`] tell when that was.
//!
//! On one server these are channels, on a cluster sharded ones ([`Cluster`]): plain ones would be sent to every node of it.

use super::cluster::{Cluster, Pushes, ShardedLine};
use super::connection::Redis;
use super::settings::RedisSettings;
use futures_util::StreamExt as _;
use gravity_domain::error::StoreError;
use redis::RedisError;
use redis::aio::{PubSubSink, PubSubStream};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often the connection is pinged.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long an answer may take before the connection counts as gone.
const PATIENCE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// The most channels of one command.
const BATCH: usize = 1_000;

/// What carries messages.
#[derive(Clone)]
pub enum Carrier {
    /// A server.
    Server(Redis),
    /// A cluster.
    Cluster(Cluster),
}

impl Carrier {
    /// Publishes messages, each on its channel. `name` is for metrics.
    ///
    /// # Errors
    /// [`StoreError`]: some of them are lost.
    pub async fn publish(
        &self,
        name: &'static str,
        messages: &[(String, Vec<u8>)],
    ) -> Result<(), StoreError> {
        match self {
            Self::Server(redis) => {
                let mut pipeline = redis::pipe();
                for (channel, message) in messages {
                    pipeline.cmd("PUBLISH").arg(channel).arg(message).ignore();
                }
                redis.pipeline(name, &pipeline).await
            }
            Self::Cluster(cluster) => cluster.publish(name, messages).await,
        }
    }
}

/// The side of a connection that subscribes.
pub(super) trait Line {
    /// Subscribes to these.
    async fn join(&mut self, channels: &[Arc<str>]) -> Result<(), RedisError>;
    /// Unsubscribes from these.
    async fn leave(&mut self, channels: &[Arc<str>]) -> Result<(), RedisError>;
    /// Fails when it does not hear all of the `held` channels any more.
    async fn ping(&mut self, held: usize) -> Result<(), RedisError>;
}

impl Line for PubSubSink {
    async fn join(&mut self, channels: &[Arc<str>]) -> Result<(), RedisError> {
        for some in channels.chunks(BATCH) {
            timely(self.subscribe(names(some))).await?;
        }
        Ok(())
    }

    async fn leave(&mut self, channels: &[Arc<str>]) -> Result<(), RedisError> {
        for some in channels.chunks(BATCH) {
            timely(self.unsubscribe(names(some))).await?;
        }
        Ok(())
    }

    async fn ping(&mut self, _: usize) -> Result<(), RedisError> {
        timely(PubSubSink::ping::<redis::Value>(self)).await.map(drop)
    }
}

/// Hears of messages. Called from the connection's task: must not block.
pub trait ChannelListener: Send + Sync + 'static {
    /// Every channel that was wanted is heard from now on.
    fn up(&self);
    /// These are heard from now on too.
    fn joined(&self, channels: &[Arc<str>]);
    /// A message.
    fn heard(&self, channel: &str, payload: &[u8]);
    /// From now on nothing is heard; messages may have been missed already.
    fn down(&self);
}

/// The channels that are wanted.
#[derive(Debug, Default)]
pub struct Channels {
    wishes: Mutex<Wishes>,
    changed: Notify,
    renewed: Notify,
}

#[derive(Debug, Default)]
struct Wishes {
    wanted: HashSet<Arc<str>>,
    /// Added or removed since the connection looked last.
    touched: HashSet<Arc<str>>,
    /// Given away by the server since then.
    lost: HashSet<Arc<str>>,
}

impl Channels {
    /// Wants a channel.
    pub fn add(&self, channel: impl Into<Arc<str>>) {
        let channel = channel.into();
        let mut wishes = self.wishes();
        if wishes.wanted.insert(channel.clone()) {
            wishes.touched.insert(channel);
            drop(wishes);
            self.changed.notify_one();
        }
    }

    /// Wants it no more.
    pub fn remove(&self, channel: &str) {
        let mut wishes = self.wishes();
        if let Some(channel) = wishes.wanted.take(channel) {
            wishes.touched.insert(channel);
            drop(wishes);
            self.changed.notify_one();
        }
    }

    /// Gives up the connection, if there is one, for a new one.
    pub fn renew(&self) {
        self.renewed.notify_one();
    }

    /// A channel is no longer subscribed to, though nobody took the wish back.
    pub(super) fn lost(&self, channel: &str) {
        let mut wishes = self.wishes();
        if let Some(channel) = wishes.wanted.get(channel).cloned() {
            wishes.touched.insert(channel.clone());
            wishes.lost.insert(channel);
            drop(wishes);
            self.changed.notify_one();
        }
    }

    fn all(&self) -> HashSet<Arc<str>> {
        let mut wishes = self.wishes();
        wishes.touched.clear();
        wishes.lost.clear();
        wishes.wanted.clone()
    }

    /// What is to be subscribed, and what unsubscribed, by a connection that has `held`, less what it has lost.
    fn changes(&self, held: &mut HashSet<Arc<str>>) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let mut wishes = self.wishes();
        for channel in std::mem::take(&mut wishes.lost) {
            held.remove(&channel);
        }
        let touched = std::mem::take(&mut wishes.touched);
        let differs = |channel: &Arc<str>| wishes.wanted.contains(channel) != held.contains(channel);
        touched
            .into_iter()
            .filter(differs)
            .partition(|channel| wishes.wanted.contains(channel))
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a connection that tells `listener`, until `stop`. Nothing it meets ends it.
pub async fn subscribe(
    carrier: Carrier,
    channels: Arc<Channels>,
    listener: Arc<dyn ChannelListener>,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            ended = follow(&carrier, &channels, listener.as_ref(), &mut pause) => Some(ended),
        };
        listener.down();
        match ended {
            None => return,
            Some(Ok(())) => tracing::debug!("the connection that hears of messages has ended"),
            Some(Err(error)) => tracing::debug!(%error, "the connection that hears of messages is gone"),
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_none()
        {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One connection, from its making to its end.
async fn follow(
    carrier: &Carrier,
    channels: &Channels,
    listener: &dyn ChannelListener,
    pause: &mut Duration,
) -> Result<(), RedisError> {
    match carrier {
        Carrier::Server(redis) => {
            let (sink, stream) = connect(redis.settings()).await?;
            let tended = tend(sink, channels, listener, pause);
            until_one_ends(channels, read(stream, listener), tended).await
        }
        Carrier::Cluster(cluster) => {
            let (line, pushes): (ShardedLine, Pushes) = timely(cluster.line()).await?;
            let tended = tend(line, channels, listener, pause);
            until_one_ends(channels, pushes.read(channels, listener), tended).await
        }
    }
}

async fn connect(settings: &RedisSettings) -> Result<(PubSubSink, PubSubStream), RedisError> {
    let client = settings.client();
    let client = client.map_err(|_| RedisError::from(std::io::Error::other("address")))?;
    Ok(timely(client.get_async_pubsub()).await?.split())
}

async fn until_one_ends(
    channels: &Channels,
    reading: impl Future<Output = ()>,
    tending: impl Future<Output = Result<(), RedisError>>,
) -> Result<(), RedisError> {
    // A wish to renew that is older than this connection is fulfilled by it.
    let _ = futures_util::FutureExt::now_or_never(channels.renewed.notified());
    tokio::select! {
        biased;
        () = channels.renewed.notified() => Ok(()),
        () = reading => Ok(()),
        ended = tending => ended,
    }
}

async fn read(mut stream: PubSubStream, listener: &dyn ChannelListener) {
    while let Some(message) = stream.next().await {
        listener.heard(message.get_channel_name(), message.get_payload_bytes());
    }
}

async fn tend(
    mut line: impl Line,
    channels: &Channels,
    listener: &dyn ChannelListener,
    pause: &mut Duration,
) -> Result<(), RedisError> {
    let mut held = channels.all();
    let first: Vec<Arc<str>> = held.iter().cloned().collect();
    line.join(&first).await?;
    listener.up();
    *pause = FIRST_PAUSE;
    let mut beat = Instant::now() + HEARTBEAT;
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(beat) => {
                line.ping(held.len()).await?;
                beat = Instant::now() + HEARTBEAT;
            }
            () = channels.changed.notified() => {
                let (joining, leaving) = channels.changes(&mut held);
                line.leave(&leaving).await?;
                for channel in &leaving {
                    held.remove(channel);
                }
                line.join(&joining).await?;
                held.extend(joining.iter().cloned());
                listener.joined(&joining);
            }
        }
    }
}

fn names(channels: &[Arc<str>]) -> Vec<&str> {
    channels.iter().map(|channel| &**channel).collect()
}

pub(super) async fn timely<T>(call: impl Future<Output = Result<T, RedisError>>) -> Result<T, RedisError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_that_was_taken_back_before_anybody_looked_changes_nothing() {
        let channels = Channels::default();
        channels.add("a");
        channels.add("b");
        channels.remove("b");
        assert_eq!(
            channels.changes(&mut HashSet::new()),
            (vec!["a".into()], Vec::new())
        );
        let mut held = channels.all();
        channels.remove("a");
        channels.add("a");
        assert_eq!(channels.changes(&mut held), (Vec::new(), Vec::new()));
        channels.remove("a");
        assert_eq!(channels.changes(&mut held), (Vec::new(), vec!["a".into()]));
    }

    #[test]
    fn a_channel_that_was_lost_is_subscribed_again_if_it_is_still_wanted() {
        let channels = Channels::default();
        channels.add("a");
        let mut held = channels.all();
        channels.lost("a");
        channels.lost("b");
        assert_eq!(channels.changes(&mut held), (vec!["a".into()], Vec::new()));
        assert!(held.is_empty());
    }
}
