//! Hints between nodes.

use crate::{PATIENCE, Switch, connect, redis, server, user};
use gravity_domain::chat::{EventKind, Hint, Live as _, LocalDelivery, Relay as _, Signal, UserEvent};
use gravity_domain::id::UserId;
use gravity_infra::chat::{Feed, FeedSettings};
use gravity_infra::redis::Redis;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// A hub that only remembers.
#[derive(Default)]
struct Hub {
    hints: Mutex<Vec<(UserId, Hint)>>,
    resyncs: Mutex<Vec<&'static str>>,
    heard: Mutex<Vec<UserId>>,
}

impl LocalDelivery for Hub {
    fn deliver(&self, user: UserId, hint: Hint) {
        self.hints.lock().unwrap().push((user, hint));
    }
    fn resync(&self, reason: &'static str) {
        self.resyncs.lock().unwrap().push(reason);
    }
    fn heard_from_now(&self, users: &[UserId]) {
        self.heard.lock().unwrap().extend(users);
    }
    fn sockets(&self) -> usize {
        0
    }
}

impl Hub {
    fn hints(&self) -> Vec<(UserId, Hint)> {
        self.hints.lock().unwrap().clone()
    }

    fn got(&self, user: UserId, version: u64) -> bool {
        self.hints().contains(&(user, told(version)))
    }

    fn resyncs(&self) -> Vec<&'static str> {
        self.resyncs.lock().unwrap().clone()
    }

    fn hears(&self, user: UserId) -> bool {
        self.heard.lock().unwrap().contains(&user)
    }
}

struct Node {
    feed: Feed,
    hub: Arc<Hub>,
    _stop: DropGuard,
}

fn settings() -> FeedSettings {
    FeedSettings {
        canary: Duration::from_millis(100),
        silence: Duration::from_millis(1_000),
        ..FeedSettings::default()
    }
}

fn node(settings: FeedSettings, redis: Option<Redis>) -> Node {
    let stop = CancellationToken::new();
    let feed = Feed::spawn(settings, redis, &Handle::current(), &stop);
    let hub = Arc::new(Hub::default());
    feed.connect(hub.clone());
    Node {
        feed,
        hub,
        _stop: stop.drop_guard(),
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Node {
    async fn up(self) -> Self {
        until("hints are heard", || self.feed.is_up()).await;
        self
    }

    async fn watching(self, user: UserId) -> Self {
        let node = self.up().await;
        node.feed.watch(user);
        until("the user is heard", || node.hub.hears(user)).await;
        node
    }
}

fn signal(version: u64) -> Signal {
    Signal::StreamChanged { version }
}

fn told(version: u64) -> Hint {
    Hint::Signal(signal(version))
}

fn event(user_id: UserId, offset: u64) -> UserEvent {
    UserEvent {
        user_id,
        offset,
        kind: EventKind::MessageNew,
        payload: r#"{"message":{"content":"🦊 \"quoted\""}}"#.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_reach_the_node_itself_once_and_every_node_that_watches_the_user() {
    let server = server();
    let (watched, other) = (user(), user());
    let near = node(settings(), Some(redis(&server.url())))
        .watching(watched)
        .await;
    let far = node(settings(), Some(redis(&server.url())))
        .watching(watched)
        .await;
    let events = [event(watched, 1), event(other, 1), event(watched, 2)];
    near.feed.committed(&events);
    let of_watched = Hint::Events(vec![events[0].clone(), events[2].clone()]);
    let of_other = Hint::Events(vec![events[1].clone()]);
    assert_eq!(
        near.hub.hints(),
        [(watched, of_watched.clone()), (other, of_other)]
    );
    until("the other node hears", || !far.hub.hints().is_empty()).await;
    near.feed.signal(watched, signal(3));
    until("the other node hears more", || far.hub.got(watched, 3)).await;
    assert_eq!(far.hub.hints(), [(watched, of_watched), (watched, told(3))]);
    assert_eq!(near.hub.hints().len(), 3, "its own come back to nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_heard_from_the_watching_on_until_nobody_watches() {
    let server = server();
    let (first, second) = (user(), user());
    let near = node(settings(), Some(redis(&server.url()))).up().await;
    let far = node(settings(), Some(redis(&server.url()))).watching(first).await;
    far.feed.watch(second);
    until("the second is heard", || far.hub.hears(second)).await;
    far.feed.unwatch(first);
    far.feed.watch(user());
    until("it has looked again", || far.hub.heard.lock().unwrap().len() == 3).await;
    near.feed.signal(first, signal(1));
    near.feed.signal(second, signal(2));
    until("the second's is heard", || far.hub.got(second, 2)).await;
    assert_eq!(far.hub.hints().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_redis_came_back_everything_is_looked_at_once_and_heard_again() {
    let server = server();
    let (watched, new) = (user(), user());
    let near = node(settings(), Some(redis(&server.url()))).up().await;
    let far = node(settings(), Some(redis(&server.url())))
        .watching(watched)
        .await;
    assert_eq!(far.hub.resyncs(), ["redis"]);
    server.kill();
    until("the loss is noticed", || !far.feed.is_up() && !near.feed.is_up()).await;
    far.feed.watch(new);
    near.feed.signal(watched, signal(1));
    near.feed.committed(&[event(watched, 1)]);
    assert_eq!(near.hub.hints().len(), 2, "what is here is told at once");
    server.start().unwrap();
    until("hints are heard again", || far.feed.is_up() && near.feed.is_up()).await;
    assert_eq!(far.hub.resyncs(), ["redis", "redis"]);
    near.feed.signal(watched, signal(2));
    near.feed.signal(new, signal(3));
    until("both are heard", || {
        far.hub.got(watched, 2) && far.hub.got(new, 3)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_noticed() {
    let server = server();
    let far = node(settings(), Some(redis(&server.url()))).up().await;
    server.pause().unwrap();
    until("the silence is noticed", || !far.feed.is_up()).await;
    server.resume().unwrap();
    until("hints are heard again", || far.feed.is_up()).await;
    assert_eq!(far.hub.resyncs().last(), Some(&"redis"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_without_its_canary_is_made_anew_and_the_hub_is_told() {
    let server = server();
    let breaker = Switch::closed();
    let watched = user();
    let far = node(settings(), Some(connect(&server.url(), breaker.clone())))
        .watching(watched)
        .await;
    breaker.allow(false);
    until("the silence is noticed", || !far.feed.is_up()).await;
    until("the hub is told", || far.hub.resyncs() == ["redis", "canary"]).await;
    breaker.allow(true);
    until("hints are heard again", || far.feed.is_up()).await;
    assert_eq!(far.hub.resyncs(), ["redis", "canary", "redis"]);
    let near = node(settings(), Some(redis(&server.url()))).up().await;
    near.feed.signal(watched, signal(1));
    until("the hint is heard", || far.hub.got(watched, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_hint_harms_nothing() {
    let server = server();
    let watched = user();
    let near = node(settings(), Some(redis(&server.url()))).up().await;
    let far = node(settings(), Some(redis(&server.url())))
        .watching(watched)
        .await;
    let client = redis(&server.url());
    let channel = format!("gravity:chat:u:{watched}");
    let foreign = serde_json::to_vec(&Hint::Events(vec![event(user(), 1)])).unwrap();
    let named = |json: &[u8]| [Uuid::new_v4().as_bytes(), json].concat();
    for payload in [
        Vec::new(),
        b"{}".to_vec(),
        vec![0xff; 40],
        named(b""),
        named(br#"{"events":[{}]}"#),
        named(br#"{"signal":{"unheard_of":{}}}"#),
        named(&foreign),
    ] {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&channel).arg(payload);
        let heard: u8 = client.command("publish", &publish).await.unwrap();
        assert_eq!(heard, 1);
    }
    near.feed.signal(watched, signal(1));
    until("the hint is heard", || far.hub.got(watched, 1)).await;
    assert_eq!(far.hub.hints().len(), 1);
    assert!(far.feed.is_up());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_users_are_watched_and_told_in_few_round_trips() {
    let server = server();
    let users: Vec<UserId> = (0..5_000).map(|_| user()).collect();
    let near = node(settings(), Some(redis(&server.url()))).up().await;
    let far = node(settings(), Some(redis(&server.url()))).up().await;
    for user in &users {
        far.feed.watch(*user);
    }
    until("all are heard", || {
        far.hub.heard.lock().unwrap().len() == users.len()
    })
    .await;
    let events: Vec<UserEvent> = users.iter().map(|user| event(*user, 1)).collect();
    near.feed.committed(&events);
    until("all hints are heard", || far.hub.hints().len() == users.len()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_holds_up_nobody_who_tells() {
    let server = server();
    let small = FeedSettings {
        outbox: 8,
        ..settings()
    };
    let near = node(small, Some(redis(&server.url()))).up().await;
    let told_to = user();
    server.pause().unwrap();
    let began = Instant::now();
    for version in 0..10_000 {
        near.feed.signal(told_to, signal(version));
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(near.hub.hints().len(), 10_000);
    server.resume().unwrap();
}

#[tokio::test]
async fn without_redis_hints_reach_this_node_only_and_nothing_is_said_to_be_heard() {
    let alone = node(settings(), None);
    let user = user();
    alone.feed.watch(user);
    alone.feed.signal(user, signal(1));
    assert!(alone.hub.got(user, 1));
    assert!(!alone.feed.is_up());
    alone.feed.unwatch(user);
}
