//! Hints between nodes.

use crate::{PATIENCE, Switch, connect, server, user};
use gravity_domain::auth::Secret;
use gravity_domain::chat::{EventKind, Hint, Live as _, LocalDelivery, Relay as _, Signal, UserEvent};
use gravity_domain::id::UserId;
use gravity_infra::chat::{Feed, FeedSettings};
use gravity_infra::redis::{Carrier, Cluster, ClusterSettings};
use gravity_test_support::services::{self, RedisCluster};
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

fn redis(server: &services::Redis) -> Carrier {
    Carrier::Server(crate::redis(&server.url()))
}

fn cluster(servers: &RedisCluster) -> Carrier {
    let settings = ClusterSettings {
        urls: servers.urls().into_iter().map(Secret::new).collect(),
        ..ClusterSettings::default()
    };
    Carrier::Cluster(Cluster::new(settings).unwrap())
}

fn node(settings: FeedSettings, carrier: Option<Carrier>) -> Node {
    let stop = CancellationToken::new();
    let feed = Feed::spawn(settings, carrier, &Handle::current(), &stop);
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
    let near = node(settings(), Some(redis(&server))).watching(watched).await;
    let far = node(settings(), Some(redis(&server))).watching(watched).await;
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
    let near = node(settings(), Some(redis(&server))).up().await;
    let far = node(settings(), Some(redis(&server))).watching(first).await;
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
    let near = node(settings(), Some(redis(&server))).up().await;
    let far = node(settings(), Some(redis(&server))).watching(watched).await;
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
    let far = node(settings(), Some(redis(&server))).up().await;
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
    let far = node(
        settings(),
        Some(Carrier::Server(connect(&server.url(), breaker.clone()))),
    )
    .watching(watched)
    .await;
    breaker.allow(false);
    until("the silence is noticed", || !far.feed.is_up()).await;
    until("the hub is told", || far.hub.resyncs() == ["redis", "canary"]).await;
    breaker.allow(true);
    until("hints are heard again", || far.feed.is_up()).await;
    assert_eq!(far.hub.resyncs(), ["redis", "canary", "redis"]);
    let near = node(settings(), Some(redis(&server))).up().await;
    near.feed.signal(watched, signal(1));
    until("the hint is heard", || far.hub.got(watched, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_hint_harms_nothing() {
    let server = server();
    let watched = user();
    let near = node(settings(), Some(redis(&server))).up().await;
    let far = node(settings(), Some(redis(&server))).watching(watched).await;
    let client = crate::redis(&server.url());
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
    let near = node(settings(), Some(redis(&server))).up().await;
    let far = node(settings(), Some(redis(&server))).up().await;
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
    let near = node(small, Some(redis(&server))).up().await;
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

/// How many hear the user's channel on this server.
fn subscribers(server: &services::Redis, user: UserId) -> u64 {
    let answer = server
        .ask(&format!("PUBSUB SHARDNUMSUB gravity:chat:u:{user}"))
        .unwrap();
    let count = answer.lines().last().and_then(|line| line.strip_prefix(':'));
    count.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
}

/// Two nodes, of which the second watches the users.
async fn two_over(servers: &RedisCluster, users: &[UserId]) -> (Node, Node) {
    let near = node(settings(), Some(cluster(servers))).up().await;
    let far = node(settings(), Some(cluster(servers))).up().await;
    for user in users {
        far.feed.watch(*user);
    }
    until("all are heard", || {
        far.hub.heard.lock().unwrap().len() == users.len()
    })
    .await;
    (near, far)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_cluster_each_channel_lives_on_one_shard_and_all_are_heard() {
    let servers = RedisCluster::launch(2).unwrap();
    let users: Vec<UserId> = (0..500).map(|_| user()).collect();
    let (near, far) = two_over(&servers, &users).await;
    let of_shard = |shard: usize| {
        let counts = users
            .iter()
            .map(|user| subscribers(&servers.masters[shard], *user));
        counts.sum::<u64>()
    };
    let (first, second) = (of_shard(0), of_shard(1));
    assert_eq!(first + second, 500);
    assert!(first > 100 && second > 100, "{first} and {second}");
    let events: Vec<UserEvent> = users.iter().map(|user| event(*user, 1)).collect();
    near.feed.committed(&events);
    until("all hints are heard", || far.hub.hints().len() == users.len()).await;
    far.feed.unwatch(users[0]);
    until("it is left", || {
        subscribers(&servers.masters[0], users[0]) + subscribers(&servers.masters[1], users[0]) == 0
    })
    .await;
    near.feed.signal(users[0], signal(1));
    near.feed.signal(users[1], signal(2));
    until("the second's is heard", || far.hub.got(users[1], 2)).await;
    assert!(!far.hub.got(users[0], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_lost_is_noticed_and_after_it_came_back_everything_is_looked_at() {
    let servers = RedisCluster::launch(2).unwrap();
    let users: Vec<UserId> = (0..20).map(|_| user()).collect();
    let (near, far) = two_over(&servers, &users).await;
    servers.masters[1].kill();
    until("the loss is noticed", || !far.feed.is_up()).await;
    servers.masters[1].start().unwrap();
    until("hints are heard again", || far.feed.is_up() && near.feed.is_up()).await;
    assert_eq!(far.hub.resyncs().last(), Some(&"redis"));
    until("all hints are heard again", || {
        for user in &users {
            near.feed.signal(*user, signal(7));
        }
        users.iter().all(|user| far.hub.got(*user, 7))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_a_shard_gives_away_is_heard_on_the_other() {
    let servers = RedisCluster::launch(2).unwrap();
    let watched = user();
    let near = node(settings(), Some(cluster(&servers))).up().await;
    let far = node(settings(), Some(cluster(&servers))).watching(watched).await;
    let slot = servers.masters[0].ask(&format!("CLUSTER KEYSLOT gravity:chat:u:{watched}"));
    let slot: usize = slot.unwrap().trim().trim_start_matches(':').parse().unwrap();
    let giver = usize::from(slot >= 8_192);
    let taker = servers.masters[1 - giver].ask("CLUSTER MYID").unwrap();
    let taker = taker.lines().nth(1).unwrap().trim().to_owned();
    for server in [1 - giver, giver] {
        let moved = servers.masters[server].ask(&format!("CLUSTER SETSLOT {slot} NODE {taker}"));
        assert!(moved.unwrap().starts_with("+OK"));
    }
    until("the other shard has it", || {
        subscribers(&servers.masters[1 - giver], watched) > 0
    })
    .await;
    until("a hint is heard again", || {
        near.feed.signal(watched, signal(9));
        far.hub.got(watched, 9)
    })
    .await;
    assert_eq!(far.hub.resyncs(), ["redis"], "only one user's log is looked at");
    assert_eq!(*far.hub.heard.lock().unwrap(), [watched, watched]);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_cluster_users_may_go_and_come_back_at_once() {
    let servers = RedisCluster::launch(2).unwrap();
    let users: Vec<UserId> = (0..200).map(|_| user()).collect();
    let (near, far) = two_over(&servers, &users).await;
    for _ in 0..20 {
        for user in &users {
            far.feed.unwatch(*user);
        }
        tokio::task::yield_now().await;
        for user in &users {
            far.feed.watch(*user);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    until("all hints are heard", || {
        for user in &users {
            near.feed.signal(*user, signal(5));
        }
        users.iter().all(|user| far.hub.got(*user, 5))
    })
    .await;
    assert_eq!(far.hub.resyncs(), ["redis"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_has_dropped_its_subscriptions_is_noticed() {
    let servers = RedisCluster::launch(2).unwrap();
    let watched = user();
    let far = node(settings(), Some(cluster(&servers))).watching(watched).await;
    for server in &servers.masters {
        server.ask("CLIENT KILL TYPE pubsub").unwrap();
    }
    until("everything is looked at again", || far.hub.resyncs().len() > 1).await;
    until("it is subscribed to again", || {
        let of = |server| subscribers(server, watched);
        servers.masters.iter().map(of).sum::<u64>() == 1
    })
    .await;
}
