//! What chat does in Redis: hints between nodes, presence and tickets, with real servers that go away.

use gravity_domain::auth::{Principal, Role, Secret};
use gravity_domain::chat::{
    ConnectionId, EventKind, Hint, Live as _, LocalDelivery, PresenceBoard as _, PresenceStatus, Relay as _,
    Signal, Ticket, TicketHolder, Tickets as _, UserEvent,
};
use gravity_domain::clock::{SystemClock, Timestamp, WallClock as _};
use gravity_domain::error::StoreError;
use gravity_domain::id::{SessionId, UserId};
use gravity_domain::sync::ports::Breaker;
use gravity_infra::chat::{
    Feed, FeedSettings, MemoryTickets, NoPresence, PresenceSettings, RedisPresence, RedisTickets,
};
use gravity_infra::redis::{Redis, RedisSettings};
use gravity_test_support::services;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(20);

struct Switch(AtomicBool);

impl Switch {
    fn closed() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    fn allow(&self, reads: bool) {
        self.0.store(reads, Ordering::SeqCst);
    }
}

impl Breaker for Switch {
    fn allows_writes(&self) -> bool {
        self.allows_reads()
    }
    fn allows_reads(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
    fn failed(&self, _: &StoreError) {}
}

fn connect(url: &str, breaker: Arc<Switch>) -> Redis {
    Redis::new(RedisSettings::new(Secret::new(url)), Handle::current(), breaker).unwrap()
}

fn redis(url: &str) -> Redis {
    connect(url, Switch::closed())
}

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

fn user() -> UserId {
    UserId(Uuid::new_v4())
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

fn server() -> services::Redis {
    services::Redis::start_private().unwrap()
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

fn connection() -> ConnectionId {
    ConnectionId(Uuid::new_v4())
}

fn board(lease: Duration) -> RedisPresence {
    let settings = PresenceSettings {
        lease,
        grace: Duration::from_millis(1_000),
        ..PresenceSettings::default()
    };
    RedisPresence::new(redis(services::shared::redis()), settings)
}

const LONG: Duration = Duration::from_secs(75);

async fn status(board: &RedisPresence, user: UserId) -> (PresenceStatus, Option<Timestamp>) {
    let found = board.look_up(&[user]).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].user_id, user);
    (found[0].status, found[0].last_seen)
}

#[tokio::test]
async fn somebody_is_there_from_the_first_arrival_to_the_last_leaving() {
    let board = board(LONG);
    let (user, one, two) = (user(), connection(), connection());
    assert_eq!(status(&board, user).await, (PresenceStatus::Offline, None));
    assert!(board.arrived(user, one).await.unwrap());
    assert!(!board.arrived(user, two).await.unwrap());
    assert!(!board.arrived(user, two).await.unwrap());
    assert_eq!(status(&board, user).await, (PresenceStatus::Online, None));
    assert!(!board.left(user, one).await.unwrap());
    assert_eq!(status(&board, user).await.0, PresenceStatus::Online);
    assert!(board.left(user, two).await.unwrap());
    let (status, seen) = status(&board, user).await;
    assert_eq!(status, PresenceStatus::Offline);
    let ago = SystemClock.now().millis_since(seen.unwrap());
    assert!(ago < 10_000, "{ago} ms ago");
    assert!(board.arrived(user, one).await.unwrap());
}

#[tokio::test]
async fn leases_that_nobody_renews_end_and_tell_when_they_were_renewed_last() {
    let board = board(Duration::from_millis(400));
    let (renewed, dead) = (user(), user());
    let (one, two) = (connection(), connection());
    board.arrived(renewed, one).await.unwrap();
    board.arrived(dead, two).await.unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        board.renew(&[(renewed, one)]).await.unwrap();
        assert_eq!(status(&board, renewed).await.0, PresenceStatus::Online);
        let (status, seen) = status(&board, dead).await;
        if status == PresenceStatus::Offline {
            assert!(seen.is_some());
            break;
        }
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        board.arrived(dead, two).await.unwrap(),
        "the first anywhere, again"
    );
}

#[tokio::test]
async fn a_lease_that_was_lost_comes_back_with_its_renewal() {
    let board = board(LONG);
    let (user, one, two) = (user(), connection(), connection());
    board.renew(&[(user, one), (user, two)]).await.unwrap();
    assert_eq!(status(&board, user).await.0, PresenceStatus::Online);
    assert!(!board.left(user, one).await.unwrap());
    assert!(board.left(user, two).await.unwrap());
}

#[tokio::test]
async fn many_are_looked_up_in_their_order() {
    let board = board(LONG);
    let users: Vec<UserId> = (0..450).map(|_| user()).collect();
    let there: Vec<(UserId, ConnectionId)> = users
        .iter()
        .step_by(3)
        .map(|user| (*user, connection()))
        .collect();
    board.renew(&there).await.unwrap();
    let found = board.look_up(&users).await.unwrap();
    assert_eq!(found.len(), users.len());
    for (place, (user, presence)) in users.iter().zip(&found).enumerate() {
        assert_eq!(presence.user_id, *user);
        let is_there = presence.status == PresenceStatus::Online;
        assert_eq!(is_there, place % 3 == 0, "{place}");
    }
    assert!(board.look_up(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_many_who_leave_at_once_exactly_one_is_the_last() {
    let board = Arc::new(board(LONG));
    let user = user();
    let connections: Vec<ConnectionId> = (0..16).map(|_| connection()).collect();
    let arrivals = connections
        .iter()
        .map(|connection| board.arrived(user, *connection));
    let first: Vec<bool> = futures_util::future::try_join_all(arrivals).await.unwrap();
    assert_eq!(first.iter().filter(|first| **first).count(), 1);
    let leavings = connections.iter().map(|connection| board.left(user, *connection));
    let last: Vec<bool> = futures_util::future::try_join_all(leavings).await.unwrap();
    assert_eq!(last.iter().filter(|last| **last).count(), 1);
}

#[tokio::test]
async fn nobodys_presence_is_told_without_redis() {
    let server = server();
    let board = RedisPresence::new(redis(&server.url()), PresenceSettings::default());
    let (user, one) = (user(), connection());
    board.arrived(user, one).await.unwrap();
    server.kill();
    assert!(board.look_up(&[user]).await.is_err());
    assert!(board.left(user, one).await.is_err());
    assert!(NoPresence.look_up(&[user]).await.is_err());
    assert!(NoPresence.arrived(user, one).await.is_err());
    assert!(NoPresence.left(user, one).await.is_err());
    assert!(NoPresence.renew(&[(user, one)]).await.is_err());
}

fn holder() -> TicketHolder {
    TicketHolder {
        principal: Principal {
            user_id: user(),
            role: Role::Admin,
            session_id: Some(SessionId(Uuid::new_v4())),
        },
        expires_at: Timestamp::from_millis(1_763_734_767_123),
    }
}

fn tickets(url: &str) -> RedisTickets {
    RedisTickets::new(redis(url), MemoryTickets::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_spend_a_ticket_at_once_at_two_nodes_one_finds_the_holder() {
    let url = services::shared::redis();
    let nodes = [tickets(url), tickets(url)];
    let holder = holder();
    let ticket = nodes[0].issue(holder).await.unwrap();
    let tries = (0..16).map(|n| nodes[n % 2].redeem(&ticket));
    let found = futures_util::future::try_join_all(tries).await.unwrap();
    let found: Vec<TicketHolder> = found.into_iter().flatten().collect();
    assert_eq!(found, [holder]);
    let unknown = Ticket::new("x".to_owned());
    assert_eq!(nodes[0].redeem(&unknown).await.unwrap(), None);
}

#[tokio::test]
async fn redis_keeps_no_ticket_and_not_for_long() {
    let server = server();
    let tickets = tickets(&server.url());
    let ticket = tickets.issue(holder()).await.unwrap();
    let client = redis(&server.url());
    let keys: Vec<String> = client.command("keys", redis::cmd("KEYS").arg("*")).await.unwrap();
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(!keys[0].contains(ticket.expose()));
    let kept: String = client
        .command("get", redis::cmd("GET").arg(&keys[0]))
        .await
        .unwrap();
    assert!(!kept.contains(ticket.expose()));
    let ttl: i64 = client
        .command("ttl", redis::cmd("PTTL").arg(&keys[0]))
        .await
        .unwrap();
    assert!((1..=30_000).contains(&ttl), "{ttl}");
    tickets.redeem(&ticket).await.unwrap();
    let left: u8 = client.command("size", &redis::cmd("DBSIZE")).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn without_redis_a_ticket_is_good_once_at_its_own_node() {
    let server = server();
    let tickets = tickets(&server.url());
    let before = tickets.issue(holder()).await.unwrap();
    server.kill();
    let mine = holder();
    let ticket = tickets.issue(mine).await.unwrap();
    assert_eq!(tickets.redeem(&ticket).await.unwrap(), Some(mine));
    assert!(
        tickets.redeem(&ticket).await.is_err(),
        "whether Redis knows it is unknown"
    );
    assert!(tickets.redeem(&before).await.is_err());
}
