//! Tells of changes at once: to the sockets here, and through Redis (a server, or a cluster with sharded channels) to the nodes
//! that have sockets of the same users.
//!
//! What is told is a hint; the logs in Postgres are the truth. So nothing here waits or is tried again: hints go into a bounded
//! outbox, and are counted and dropped when it is full or Redis is away. Each user has a channel; a node subscribes to those of
//! its sockets. A message is the 16 bytes of the sender's name, which it knows its own by, and the hint as JSON.
//!
//! A subscription can be dead without anybody noticing, so each node also hears a canary of its own. Hints count as heard
//! ([`Relay::is_up`]) from the first sign of life on a new subscription until it is lost, or until silence lasts too long; a
//! silent one is made anew. Whenever hints are heard again, the hub is told to look at every log once.

mod life;

use crate::redis::{Carrier, ChannelListener, Channels, PREFIX, subscribe};
use gravity_domain::chat::{Hint, Live, LocalDelivery, Relay, Signal, UserEvent};
use gravity_domain::id::UserId;
use life::Life;
use metrics::counter;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// The most hints of one round trip.
const BATCH: usize = 256;
/// The bytes of a node's name.
const NAME: usize = 16;

/// How often, how long, how many.
#[derive(Debug, Clone, Copy)]
pub struct FeedSettings {
    /// How often the canary sings.
    pub canary: Duration,
    /// How long a subscription may be silent.
    pub silence: Duration,
    /// How many hints may wait to be published.
    pub outbox: usize,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            canary: Duration::from_secs(10),
            silence: Duration::from_secs(25),
            outbox: 10_000,
        }
    }
}

/// The feed. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Feed {
    core: Arc<Core>,
}

struct Core {
    node: Uuid,
    local: OnceLock<Arc<dyn LocalDelivery>>,
    channels: Arc<Channels>,
    outbox: Option<mpsc::Sender<(UserId, Hint)>>,
    life: Life,
    /// The canary is to sing at once.
    called: Notify,
}

impl Feed {
    /// Begins on `handle`, a multi-threaded runtime; ends with `stop`. Nothing is delivered here before [`Self::connect`]. Without
    /// a carrier hints reach this node only, and [`Relay::is_up`] is false: another node may write to the same logs.
    pub fn spawn(
        settings: FeedSettings,
        carrier: Option<Carrier>,
        handle: &Handle,
        stop: &CancellationToken,
    ) -> Self {
        let (outbox, waiting) = mpsc::channel(settings.outbox.max(1));
        let core = Arc::new(Core {
            node: Uuid::new_v4(),
            local: OnceLock::new(),
            channels: Arc::default(),
            outbox: carrier.is_some().then_some(outbox),
            life: Life::default(),
            called: Notify::new(),
        });
        if let Some(carrier) = carrier {
            core.channels.add(core.canary());
            handle.spawn(subscribe(
                carrier.clone(),
                core.channels.clone(),
                core.clone(),
                stop.clone(),
            ));
            handle.spawn(publish(core.node, carrier.clone(), waiting, stop.clone()));
            handle.spawn(core.clone().sing(settings.canary, carrier, stop.clone()));
            handle.spawn(core.clone().listen(settings.silence, stop.clone()));
        }
        Self { core }
    }

    /// Where hints are delivered here. Only the first call counts.
    pub fn connect(&self, local: Arc<dyn LocalDelivery>) {
        let _ = self.core.local.set(local);
    }
}

impl Live for Feed {
    fn committed(&self, events: &[UserEvent]) {
        for (user, events) in by_user(events) {
            self.core.tell(user, Hint::Events(events));
        }
    }

    fn signal(&self, user: UserId, signal: Signal) {
        self.core.tell(user, Hint::Signal(signal));
    }

    fn missed(&self, user: UserId) {
        self.core.tell(user, Hint::Missed);
    }
}

impl Relay for Feed {
    fn watch(&self, user: UserId) {
        if self.core.outbox.is_some() {
            self.core.channels.add(channel(user));
        }
    }

    fn unwatch(&self, user: UserId) {
        self.core.channels.remove(&channel(user));
    }

    fn is_up(&self) -> bool {
        self.core.life.is_up()
    }
}

/// The events of each user, in the order given; users in order of appearance.
fn by_user(events: &[UserEvent]) -> Vec<(UserId, Vec<UserEvent>)> {
    let mut places = HashMap::new();
    let mut groups: Vec<(UserId, Vec<UserEvent>)> = Vec::new();
    for event in events {
        let place = *places.entry(event.user_id).or_insert_with(|| {
            groups.push((event.user_id, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(event.clone());
    }
    groups
}

fn channel(user: UserId) -> String {
    format!("{PREFIX}chat:u:{user}")
}

fn user_of(channel: &str) -> Option<UserId> {
    let id = channel.strip_prefix(PREFIX)?.strip_prefix("chat:u:")?;
    Uuid::try_parse(id).ok().map(UserId)
}

fn count(direction: &'static str, result: &'static str, hints: usize) {
    counter!("gravity_chat_hints_total", "direction" => direction, "result" => result)
        .increment(hints as u64);
}

impl Core {
    fn canary(&self) -> String {
        format!("{PREFIX}chat:canary:{}", self.node)
    }

    fn tell(&self, user: UserId, hint: Hint) {
        let Some(outbox) = &self.outbox else {
            return self.deliver(user, hint);
        };
        let copy = hint.clone();
        self.deliver(user, hint);
        if outbox.try_send((user, copy)).is_err() {
            count("out", "full", 1);
        }
    }

    fn deliver(&self, user: UserId, hint: Hint) {
        if let Some(local) = self.local.get() {
            local.deliver(user, hint);
        }
    }

    fn resync(&self, reason: &'static str) {
        if let Some(local) = self.local.get() {
            local.resync(reason);
        }
    }

    /// A sign of life.
    fn lives(&self) {
        if self.life.sign() {
            tracing::info!("hints of other nodes are heard");
            self.resync("redis");
        }
    }

    async fn sing(self: Arc<Self>, every: Duration, carrier: Carrier, stop: CancellationToken) {
        let song = [(self.canary(), self.node.as_bytes().to_vec())];
        loop {
            let sung = carrier.publish("chat_canary", &song).await;
            let pause = if sung.is_ok() {
                every
            } else {
                every.min(Duration::from_secs(1))
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.called.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Makes a silent subscription anew.
    async fn listen(self: Arc<Self>, silence: Duration, stop: CancellationToken) {
        let every = (silence / 5).max(Duration::from_millis(1));
        while stop
            .run_until_cancelled(tokio::time::sleep(every))
            .await
            .is_some()
        {
            let Some(was_up) = self.life.silent_for(silence) else {
                continue;
            };
            tracing::warn!("the subscription to hints is silent and is made anew");
            counter!("gravity_chat_relay_silences_total").increment(1);
            self.channels.renew();
            if was_up {
                self.resync("canary");
            }
        }
    }
}

impl ChannelListener for Core {
    fn up(&self) {
        self.life.subscribed();
        self.called.notify_one();
    }

    fn joined(&self, channels: &[Arc<str>]) {
        let users: Vec<UserId> = channels.iter().filter_map(|channel| user_of(channel)).collect();
        if let Some(local) = self.local.get()
            && !users.is_empty()
        {
            local.heard_from_now(&users);
        }
    }

    fn heard(&self, channel: &str, payload: &[u8]) {
        self.lives();
        let Some(user) = user_of(channel) else { return };
        let Some((sender, hint)) = payload.split_at_checked(NAME) else {
            return count("in", "malformed", 1);
        };
        if sender == self.node.as_bytes() {
            return count("in", "own", 1);
        }
        match serde_json::from_slice::<Hint>(hint) {
            Ok(hint) if concerns(&hint, user) => {
                count("in", "heard", 1);
                self.deliver(user, hint);
            }
            _ => count("in", "malformed", 1),
        }
    }

    fn down(&self) {
        self.life.lost();
    }
}

/// Entries are of the user's own log.
fn concerns(hint: &Hint, user: UserId) -> bool {
    match hint {
        Hint::Events(events) => events.iter().all(|event| event.user_id == user),
        Hint::Signal(_) | Hint::Missed => true,
    }
}

async fn publish(
    node: Uuid,
    carrier: Carrier,
    mut waiting: mpsc::Receiver<(UserId, Hint)>,
    stop: CancellationToken,
) {
    let mut hints = Vec::with_capacity(BATCH);
    while let Some(received) = stop
        .run_until_cancelled(waiting.recv_many(&mut hints, BATCH))
        .await
        && received > 0
    {
        let message = |(user, hint): &(UserId, Hint)| {
            let mut message = node.as_bytes().to_vec();
            serde_json::to_writer(&mut message, hint).ok()?;
            Some((channel(*user), message))
        };
        let messages: Vec<_> = hints.iter().filter_map(message).collect();
        let told = carrier.publish("chat_hints", &messages).await;
        count("out", if told.is_ok() { "sent" } else { "failed" }, received);
        hints.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_domain::chat::EventKind;

    fn event(user: u128, offset: u64) -> UserEvent {
        UserEvent {
            user_id: UserId(Uuid::from_u128(user)),
            offset,
            kind: EventKind::MessageNew,
            payload: "{}".into(),
        }
    }

    #[test]
    fn events_are_grouped_by_user_and_keep_their_order() {
        let groups = by_user(&[event(2, 1), event(1, 5), event(2, 2)]);
        let flat: Vec<Vec<u64>> = groups
            .iter()
            .map(|(_, events)| events.iter().map(|event| event.offset).collect())
            .collect();
        assert_eq!(flat, [vec![1, 2], vec![5]]);
    }

    #[test]
    fn a_channel_names_its_user() {
        let user = UserId(Uuid::from_u128(7));
        assert_eq!(user_of(&channel(user)), Some(user));
        assert_eq!(user_of("gravity:chat:u:x"), None);
        assert_eq!(user_of("chat:u:00000000-0000-0000-0000-000000000007"), None);
    }
}
