//! The sockets of this node. Users are spread over shards by a hash of their id, so that cores seldom wait for each other;
//! what happens to one user happens under the lock of one shard, and nothing is awaited there.

use super::calls::SocketCalls;
use super::following::{Ending, Following, Heard, IsRepeat};
use super::frames::{self, AckStatus, Acked, Mode};
use super::member::Member;
use super::open_socket::Socket;
use super::outbox::{Pushed, Weight};
use super::protocol::{CloseCode, RequestId};
use super::settings::SocketSettings;
use bytes::Bytes;
use gravity_domain::chat::{ConnectionId, EventCursor, Hint, LocalDelivery, Relay, UserEvent};
use gravity_domain::clock::{Timestamp, WallClock};
use gravity_domain::deadline::{self, Deadline};
use gravity_domain::id::UserId;
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use tokio::runtime::Handle;
use tokio::time::Instant;
use uuid::Uuid;

const SHARDS: usize = 64;

type Users = HashMap<UserId, Following>;

/// What the hub works with, once it is there: the ports need the hub to be made first.
pub(super) struct Ports {
    pub(super) calls: Arc<dyn SocketCalls>,
    pub(super) relay: Arc<dyn Relay>,
}

/// The sockets of this node.
pub struct Hub {
    me: Weak<Self>,
    pub(super) settings: SocketSettings,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) handle: Handle,
    started: Instant,
    ports: OnceLock<Ports>,
    users: Vec<Mutex<Users>>,
    /// Every socket from its opening to its end, also before it is known whose it is.
    open: Vec<Mutex<HashMap<ConnectionId, Arc<Socket>>>>,
    count: AtomicUsize,
    /// Connections that are being opened, are sockets, or are written to for the last time.
    pub(super) taken: AtomicUsize,
    mode: Mutex<(Mode, Timestamp)>,
    pub(super) is_stopping: AtomicBool,
    /// Connections whose time of grace runs: until when, and whose.
    pub(super) departed: Mutex<VecDeque<(u64, UserId, ConnectionId)>>,
    /// Whose logs are to be looked at.
    pub(super) missed: Mutex<HashSet<UserId>>,
}

/// A connection that the planned end waits for.
pub(super) struct Taken(Arc<Hub>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Relaxed);
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shard_of(id: Uuid) -> usize {
    let (high, low) = id.as_u64_pair();
    let mixed = (high ^ low.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    usize::try_from(mixed >> 58).unwrap_or(0) % SHARDS
}

impl Hub {
    /// A hub without sockets. What takes its time runs on `handle`.
    pub fn new(settings: SocketSettings, clock: Arc<dyn WallClock>, handle: Handle) -> Arc<Self> {
        let since = clock.now();
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            settings,
            clock,
            handle,
            started: Instant::now(),
            ports: OnceLock::new(),
            users: (0..SHARDS).map(|_| Mutex::default()).collect(),
            open: (0..SHARDS).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            mode: Mutex::new((Mode::Normal, since)),
            is_stopping: AtomicBool::new(false),
            departed: Mutex::default(),
            missed: Mutex::default(),
        })
    }

    /// Gives the hub what it works with, and starts what it does by itself. To be called once; before it no socket opens.
    pub fn start(self: &Arc<Self>, calls: Arc<dyn SocketCalls>, relay: Arc<dyn Relay>) {
        if self.ports.set(Ports { calls, relay }).is_ok() {
            super::sweep::start(self);
        }
    }

    pub(super) fn ports(&self) -> Option<&Ports> {
        self.ports.get()
    }

    /// Milliseconds of the hub's own clock.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn shard(&self, user: UserId) -> MutexGuard<'_, Users> {
        locked(&self.users[shard_of(user.0)])
    }

    pub(super) fn shards(&self) -> impl Iterator<Item = MutexGuard<'_, Users>> {
        self.users.iter().map(locked)
    }

    /// Every socket, a part at a time.
    pub(super) fn parts(&self) -> impl Iterator<Item = Vec<Arc<Socket>>> {
        self.open
            .iter()
            .map(|part| locked(part).values().cloned().collect())
    }

    /// Runs `work` beside, under the deadline of a request.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(work);
    }

    /// `work` under a deadline of its own.
    pub(super) fn within<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let deadline = Deadline::of(std::time::Instant::now(), self.settings.deadline);
        deadline::within(deadline, work)
    }

    /// Whether Postgres answers, and since when that is so.
    pub fn mode(&self) -> (Mode, Timestamp) {
        *locked(&self.mode)
    }

    /// A handshake is answered. To be kept until nothing more is written to its connection.
    pub(super) fn take(self: &Arc<Self>) -> Taken {
        self.taken.fetch_add(1, Relaxed);
        Taken(Arc::clone(self))
    }

    /// A socket opens; `None` when no more are taken.
    pub(super) fn open(&self) -> Option<Arc<Socket>> {
        let is_refused = self.is_stopping.load(Relaxed)
            || self.ports.get().is_none()
            || self.count.load(Relaxed) >= self.settings.max_sockets;
        if is_refused {
            return None;
        }
        let socket = Socket::new(self.settings.bounds(), self.now());
        locked(&self.open[shard_of(socket.id.0)]).insert(socket.id, Arc::clone(&socket));
        self.count.fetch_add(1, Relaxed);
        metrics::gauge!("gravity_chat_sockets").increment(1.0);
        Some(socket)
    }

    /// A socket has ended, whoever ended it.
    pub(super) fn ended(&self, socket: &Arc<Socket>) {
        self.detach(socket);
        socket.finish();
        if locked(&self.open[shard_of(socket.id.0)])
            .remove(&socket.id)
            .is_some()
        {
            self.count.fetch_sub(1, Relaxed);
            metrics::gauge!("gravity_chat_sockets").decrement(1.0);
        }
    }

    /// Ends a socket: it hears nothing more but its close.
    pub(super) fn close(&self, socket: &Arc<Socket>, code: CloseCode) {
        if socket.close(code, self.now()) {
            tracing::debug!(code = code.number(), "a socket is closed");
        }
        self.detach(socket);
    }

    pub(super) fn close_all(&self, ending: Ending) {
        for (socket, code) in ending {
            self.close(&socket, code);
        }
    }

    /// A socket whose user is known begins to listen. What it hears is held until its session has begun.
    pub(super) fn attach(&self, socket: &Arc<Socket>, user: UserId) {
        let mut shard = self.shard(user);
        let following = shard.entry(user).or_insert_with(|| Following::new(user));
        let is_first = following.members.is_empty();
        let room = self.settings.max_sockets_per_user.max(1);
        let surplus = (following.members.len() + 1).saturating_sub(room);
        let oldest: Vec<_> = following.members[..surplus]
            .iter()
            .map(|member| Arc::clone(&member.socket))
            .collect();
        following.members.push(Member::new(Arc::clone(socket)));
        if is_first && let Some(ports) = self.ports() {
            ports.relay.watch(user);
        }
        drop(shard);
        for socket in oldest {
            self.close(&socket, CloseCode::TooManyConnections);
        }
        if let Some(ports) = self.ports() {
            let (calls, connection) = (Arc::clone(&ports.calls), socket.id);
            self.spawn(async move { calls.arrived(user, connection).await });
        }
    }

    /// A socket listens no more.
    fn detach(&self, socket: &Arc<Socket>) {
        let Some(user) = socket.user() else { return };
        let mut shard = self.shard(user);
        let Some(following) = shard.get_mut(&user) else {
            return;
        };
        if !following.forget(socket.id) {
            return;
        }
        if following.members.is_empty() {
            shard.remove(&user);
            if let Some(ports) = self.ports() {
                ports.relay.unwatch(user);
            }
        }
        drop(shard);
        let until = self.now() + self.settings.grace_ms;
        locked(&self.departed).push_back((until, user, socket.id));
    }

    /// Whether the user has a socket on this node.
    pub fn is_here(&self, user: UserId) -> bool {
        self.shard(user).contains_key(&user)
    }

    /// How far the sockets of a user have followed.
    pub(super) fn position(&self, user: UserId) -> Option<EventCursor> {
        self.shard(user)
            .get(&user)
            .and_then(|following| following.position)
    }

    /// The newest entry of the user's log that was heard of.
    pub(super) fn top(&self, user: UserId) -> Option<EventCursor> {
        let shard = self.shard(user);
        let following = shard.get(&user)?;
        let position = following.position?;
        Some(EventCursor {
            offset: position.offset.max(following.top),
            ..position
        })
    }

    /// Entries of the user's log, from wherever.
    pub(super) fn hear(&self, user: UserId, events: Vec<UserEvent>) {
        let mut ending = Ending::new();
        let mut shard = self.shard(user);
        let Some(following) = shard.get_mut(&user) else {
            return;
        };
        for event in events {
            let heard = following.hear(event, &mut ending);
            let outcome = match heard {
                Heard::Delivered => "delivered",
                Heard::Repeated => "repeated",
                Heard::Ahead => "ahead",
            };
            metrics::counter!("gravity_chat_delivery_total", "outcome" => outcome).increment(1);
        }
        let is_behind = following.is_behind() && !std::mem::replace(&mut following.is_catching_up, true);
        drop(shard);
        self.close_all(ending);
        if is_behind {
            super::catch_up::follow(self, user);
        }
    }

    /// A frame for a socket, in answer to it.
    pub(super) fn answer(&self, socket: &Arc<Socket>, frame: Bytes) {
        if socket.push(frame, Weight::Counted) == Pushed::Full {
            self.close(socket, CloseCode::TooSlow);
        }
    }

    /// The socket sends this message: it is to be told by `message.ack` what becomes of it, and not by `message.new`.
    pub(super) fn sending(&self, socket: &Socket, message: Uuid, id: Option<&RequestId>) -> bool {
        let Some(user) = socket.user() else { return false };
        let mut shard = self.shard(user);
        shard
            .get_mut(&user)
            .is_some_and(|following| following.sending(message, socket.id, id.cloned()))
    }

    /// The message is taken. Unless the socket has been told by the log already, it is told now.
    pub(super) fn taken(
        &self,
        socket: &Arc<Socket>,
        acked: &Acked,
        stored: Option<IsRepeat>,
        sending: Sending<'_>,
    ) {
        let Some(user) = socket.user() else { return };
        let mut shard = self.shard(user);
        let Some(following) = shard.get_mut(&user) else {
            return;
        };
        let is_due = following.answered(acked.client_message_id, socket.id, stored);
        if !is_due && sending.is_registered {
            return;
        }
        let status = if stored.is_some() {
            AckStatus::Stored
        } else {
            AckStatus::Accepted
        };
        // Under the lock: the log's own word must not overtake this one.
        let pushed = socket.push(frames::ack(acked, status, sending.id, None), Weight::Counted);
        drop(shard);
        if pushed == Pushed::Full {
            self.close(socket, CloseCode::TooSlow);
        }
    }

    /// The message is refused.
    pub(super) fn refused(&self, socket: &Socket, message: Uuid) {
        let Some(user) = socket.user() else { return };
        if let Some(following) = self.shard(user).get_mut(&user) {
            following.refused(message, socket.id);
        }
    }

    /// Postgres went or came back: clients are told, and what was missed meanwhile is looked for.
    pub fn mode_changed(&self, mode: Mode, since: Timestamp) {
        let before = std::mem::replace(&mut *locked(&self.mode), (mode, since));
        if before.0 == mode {
            return;
        }
        self.broadcast(&frames::status(mode, since));
        if mode == Mode::Normal {
            super::catch_up::recover(self);
        }
    }

    /// To every socket that has begun.
    pub(super) fn broadcast(&self, frame: &Bytes) {
        for part in self.parts() {
            for socket in part.iter().filter(|socket| socket.is_begun.load(Relaxed)) {
                self.answer(socket, frame.clone());
            }
        }
    }

    pub(super) fn me(&self) -> Weak<Self> {
        self.me.clone()
    }
}

/// Of a message that is being sent.
#[derive(Clone, Copy)]
pub(super) struct Sending<'a> {
    pub(super) id: Option<&'a RequestId>,
    /// [`Hub::sending`] said so.
    pub(super) is_registered: bool,
}

impl LocalDelivery for Hub {
    fn deliver(&self, user: UserId, hint: Hint) {
        match hint {
            Hint::Events(events) => self.hear(user, events),
            Hint::Missed if self.is_here(user) => super::catch_up::look_at(self, &[user]),
            Hint::Missed => {}
            Hint::Signal(signal) => {
                let mut ending = Ending::new();
                if let Some(following) = self.shard(user).get_mut(&user) {
                    following.signal(&signal, &mut ending);
                }
                self.close_all(ending);
            }
        }
    }

    fn resync(&self, reason: &'static str) {
        metrics::counter!("gravity_chat_resyncs_total", "reason" => reason).increment(1);
        self.broadcast(&frames::resync(reason, None));
        super::catch_up::look_at_all(self);
    }

    fn heard_from_now(&self, users: &[UserId]) {
        super::catch_up::look_at(self, users);
    }

    fn sockets(&self) -> usize {
        self.count.load(Relaxed)
    }
}
