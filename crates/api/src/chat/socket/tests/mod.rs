//! The hub over a log in memory: what sockets hear, whatever happens to the hints.

mod delivery;
mod ends;
mod resume;
mod sending;
mod spec;

use super::begin::{self, Wish};
use super::calls::{Guest, SocketCalls, Taken};
use super::hub::Hub;
use super::open_socket::Socket;
use super::protocol::SendFrame;
use super::settings::SocketSettings;
use crate::error::{ApiError, ErrorCode};
use async_trait::async_trait;
use gravity_domain::chat::ports::MockRelay;
use gravity_domain::chat::{
    ConnectionId, EventCursor, EventKind, Hint, LocalDelivery as _, LogReplay, Relay, Signal, UserEvent,
};
use gravity_domain::clock::{MockClock, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::runtime::Handle;

/// Logs in memory, which can be away.
#[derive(Default)]
pub(super) struct Logs {
    entries: Mutex<HashMap<UserId, Vec<UserEvent>>>,
    epoch: AtomicU64,
    /// The version of everybody's stream.
    stream: AtomicU64,
    is_away: AtomicBool,
    is_suspended: AtomicBool,
    reads: AtomicUsize,
    /// How long an answer is on its way, in milliseconds: what is committed meanwhile is not in it.
    delay: AtomicU64,
    told: Mutex<Vec<(&'static str, UserId)>>,
}

impl Logs {
    /// Commits an entry; nobody is told of it.
    fn append(&self, user: UserId, kind: EventKind, payload: &Value) -> UserEvent {
        let mut entries = self.entries.lock().unwrap();
        let log = entries.entry(user).or_default();
        let event = UserEvent {
            user_id: user,
            offset: log.len() as u64 + 1,
            kind,
            payload: payload.to_string().into(),
        };
        log.push(event.clone());
        event
    }

    fn number(&self, user: UserId, number: u64) -> UserEvent {
        self.append(user, EventKind::NotificationNew, &json!({"number": number}))
    }

    fn ask(&self) -> Result<(), StoreError> {
        if self.is_away.load(SeqCst) {
            return Err(StoreError::unavailable("connect"));
        }
        Ok(())
    }

    async fn travel(&self) {
        match self.delay.load(SeqCst) {
            0 => {}
            delay => tokio::time::sleep(Duration::from_millis(delay)).await,
        }
    }

    fn end(&self, user: UserId) -> EventCursor {
        let entries = self.entries.lock().unwrap();
        EventCursor {
            epoch: self.epoch.load(SeqCst),
            stream: self.stream.load(SeqCst),
            offset: entries.get(&user).map_or(0, |log| log.len() as u64),
        }
    }
}

#[async_trait]
impl SocketCalls for Logs {
    async fn admit(&self, _: &str) -> Result<Guest, ApiError> {
        Err(ApiError::new(ErrorCode::Unauthenticated))
    }

    async fn redeem(&self, _: &str) -> Result<Guest, ApiError> {
        Err(ApiError::new(ErrorCode::Unauthenticated))
    }

    async fn is_suspended(&self, _: UserId) -> bool {
        self.is_suspended.load(SeqCst)
    }

    async fn send(&self, _: UserId, _: SendFrame) -> Result<Taken, ApiError> {
        Err(ApiError::new(ErrorCode::Busy))
    }

    async fn read(&self, _: UserId, _: ConversationId, _: Option<ChatMessageId>) -> Result<u64, ApiError> {
        Ok(0)
    }

    async fn typing(&self, _: UserId, _: ConversationId) -> Result<(), ApiError> {
        Ok(())
    }

    async fn connect(&self, user: UserId) -> Result<EventCursor, StoreError> {
        self.ask()?;
        let head = self.end(user);
        self.travel().await;
        Ok(head)
    }

    async fn replay(&self, user: UserId, cursor: EventCursor) -> Result<LogReplay, StoreError> {
        self.reads.fetch_add(1, SeqCst);
        self.ask()?;
        let head = self.end(user);
        let missed = head
            .offset
            .checked_sub(cursor.offset)
            .filter(|missed| *missed <= 1_000);
        if cursor.epoch != head.epoch || missed.is_none() {
            return Ok(LogReplay::Reset { head });
        }
        let log = self
            .entries
            .lock()
            .unwrap()
            .get(&user)
            .cloned()
            .unwrap_or_default();
        let missing = log.into_iter().filter(|event| event.offset > cursor.offset);
        let events = missing.collect();
        self.travel().await;
        Ok(LogReplay::Events { events, head })
    }

    async fn heads(&self, users: &[UserId]) -> Result<Vec<(UserId, EventCursor)>, StoreError> {
        self.ask()?;
        Ok(users.iter().map(|user| (*user, self.end(*user))).collect())
    }

    async fn arrived(&self, user: UserId, _: ConnectionId) {
        self.told.lock().unwrap().push(("arrived", user));
    }

    async fn left(&self, user: UserId, _: ConnectionId) {
        self.told.lock().unwrap().push(("left", user));
    }

    async fn renew(&self, _: &[(UserId, ConnectionId)]) {}
}

/// A hub, its logs and one user.
pub(super) struct World {
    hub: Arc<Hub>,
    logs: Arc<Logs>,
    clock: Arc<MockClock>,
    user: UserId,
}

impl World {
    fn new() -> Self {
        Self::with(SocketSettings::default())
    }

    fn with(settings: SocketSettings) -> Self {
        let mut relay = MockRelay::new();
        relay.expect_watch().return_const(());
        relay.expect_unwatch().return_const(());
        relay.expect_is_up().return_const(true);
        Self::over(settings, Arc::new(relay))
    }

    fn over(settings: SocketSettings, relay: Arc<dyn Relay>) -> Self {
        let logs = Arc::new(Logs::default());
        let clock = Arc::new(MockClock::at(1_000_000));
        let hub = Hub::new(settings, Arc::clone(&clock) as _, Handle::current());
        hub.start(Arc::clone(&logs) as _, relay);
        Self {
            hub,
            logs,
            clock,
            user: UserId::random(),
        }
    }

    /// A socket of the user that is attached and held.
    fn attached(&self) -> Arc<Socket> {
        let socket = self.hub.open().expect("it is taken");
        let now = self.hub.now();
        socket.belongs_to(self.user);
        socket.authenticated_until(Timestamp::MAX);
        socket
            .ping_due
            .store(super::sweep::next_ping(&self.hub, now), SeqCst);
        socket.check_due.store(super::sweep::next_check(now), SeqCst);
        self.hub.attach(&socket, self.user);
        socket
    }

    /// A socket that has begun.
    async fn socket(&self, wish: Wish) -> Arc<Socket> {
        let socket = self.attached();
        begin::begin(&self.hub, &socket, self.user, wish, None).await;
        socket
    }

    /// The same, with `ready` read.
    async fn begun(&self) -> Arc<Socket> {
        let socket = self.socket(Wish::Now).await;
        assert_eq!(types(&frames(&socket)), ["ready"]);
        socket
    }

    fn hint(&self, event: &UserEvent) {
        self.hub.deliver(event.user_id, Hint::Events(vec![event.clone()]));
    }

    fn commit(&self, number: u64) {
        let event = self.logs.number(self.user, number);
        self.hint(&event);
    }

    /// Changes the stream, and tells so.
    fn change_stream(&self) {
        let version = self.logs.stream.fetch_add(1, SeqCst) + 1;
        self.tell_stream(version);
    }

    fn tell_stream(&self, version: u64) {
        self.hub
            .deliver(self.user, Hint::Signal(Signal::StreamChanged { version }));
    }
}

/// What waits to be written, as JSON; a close as its code.
pub(super) fn frames(socket: &Socket) -> Vec<Value> {
    let mut context = Context::from_waker(Waker::noop());
    let mut all = Vec::new();
    while let Poll::Ready(Some(frame)) = socket.outbox.poll_next(&mut context) {
        let start = match frame[1] {
            127 => 10,
            126 => 4,
            _ => 2,
        };
        all.push(match frame[0] {
            0x81 => {
                let value: Value = serde_json::from_slice(&frame[start..]).expect("JSON");
                spec::check(&value);
                value
            }
            0x88 => json!({"close": u16::from_be_bytes([frame[2], frame[3]])}),
            _ => json!({"control": frame[0] & 0x0F}),
        });
    }
    all
}

fn types(frames: &[Value]) -> Vec<&str> {
    frames
        .iter()
        .map(|frame| frame["type"].as_str().unwrap_or("-"))
        .collect()
}

/// The numbers of the entries that were heard.
fn numbers(frames: &[Value]) -> Vec<u64> {
    let of = |frame: &Value| frame["payload"]["number"].as_u64();
    frames.iter().filter_map(of).collect()
}

fn closes(frames: &[Value]) -> Vec<u64> {
    frames
        .iter()
        .filter_map(|frame| frame["close"].as_u64())
        .collect()
}

/// Until it is so, in the clock that the runtime moves on when nothing else is to be done.
async fn until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never was");
}
