//! A TCP proxy that breaks connections on demand: put it between the server and a store.
//!
//! It runs on a thread and runtime of its own, so it can be used from blocking and async tests alike, and its
//! controls return at once. Per connection and direction it holds one chunk of at most 16 KiB; what is not
//! forwarded waits in the kernel's buffers, which push back on the sender.
//!
//! ```text
//! client -> [listener] -> gate (pass / black hole) -> delay, limit -> rule (cut or lose) -> upstream
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

const CHUNK: usize = 16 * 1024;

/// How every answer of Postgres ends when no transaction is open; see [`FaultProxy::lose_answer`].
pub const POSTGRES_IDLE: &[u8] = b"Z\0\0\0\x05I";

/// Which way bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the upstream server.
    ToServer,
    /// From the upstream server to the client.
    ToClient,
}

/// The proxy. Dropping it closes everything.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FaultProxy {
    /// Listens on a free loopback port and forwards to `upstream`, which need not be up.
    ///
    /// # Errors
    /// No port, or no thread.
    pub fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("fault-proxy".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = accept(listener, upstream, for_thread) => {}
                    }
                });
            })?;
        Ok(Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Forwards to a port on loopback.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn to_port(port: u16) -> io::Result<Self> {
        Self::start(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Forwards everything (the state it starts in). Connections caught in a black hole go on.
    pub fn pass(&self) {
        self.shared.change(|state| state.mode = Mode::Pass);
    }

    /// Closes every new connection at once; existing ones go on ([`Self::cut`] ends those).
    pub fn refuse(&self) {
        self.shared.change(|state| state.mode = Mode::Refuse);
    }

    /// Stops forwarding both ways but keeps connections, and accepts new ones that get no answer either.
    pub fn black_hole(&self) {
        self.shared.change(|state| state.mode = Mode::BlackHole);
    }

    /// Closes all current connections.
    pub fn cut(&self) {
        self.shared.change(|state| state.generation += 1);
    }

    /// Holds each chunk back for this long before it is forwarded; zero by default.
    pub fn delay(&self, delay: Duration) {
        self.shared.change(|state| state.delay = delay);
    }

    /// Forwards at most this many bytes per second and direction of a connection; unlimited by default.
    pub fn limit(&self, bytes_per_second: Option<NonZeroU32>) {
        self.shared.change(|state| state.limit = bytes_per_second);
    }

    /// Closes the connection on which `pattern` next flows this way, before it is forwarded.
    /// One rule is armed at a time; arming another replaces it.
    pub fn cut_before_next_match(&self, direction: Direction, pattern: impl Into<Vec<u8>>) {
        self.shared.arm(direction, pattern.into(), Action::CutBefore);
    }

    /// Closes the connection on which `pattern` next flows this way, right after it was forwarded.
    pub fn cut_after_next_match(&self, direction: Direction, pattern: impl Into<Vec<u8>>) {
        self.shared.arm(direction, pattern.into(), Action::CutAfter);
    }

    /// Forwards the client's next bytes that hold `pattern`, swallows the answer until it holds `answer_end`, and
    /// closes the connection: the server has acted, and the client will never know. With [`POSTGRES_IDLE`] as the
    /// end this is a commit whose answer is lost. The matched message must be the only one in flight.
    pub fn lose_answer(&self, pattern: impl Into<Vec<u8>>, answer_end: impl Into<Vec<u8>>) {
        self.shared.arm(
            Direction::ToServer,
            pattern.into(),
            Action::Lose(answer_end.into()),
        );
    }

    /// Takes back a rule that has not matched yet.
    pub fn disarm(&self) {
        *self.shared.rule() = None;
    }

    /// How many connections rules have closed so far.
    #[must_use]
    pub fn rule_cuts(&self) -> u64 {
        self.shared.rule_cuts.load(Ordering::SeqCst)
    }

    /// How many connections have been accepted so far, refused ones included.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Pass,
    Refuse,
    BlackHole,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    mode: Mode,
    /// Connections of an older generation are cut.
    generation: u64,
    delay: Duration,
    limit: Option<NonZeroU32>,
}

#[derive(Clone, Debug)]
enum Action {
    CutBefore,
    CutAfter,
    Lose(Vec<u8>),
}

#[derive(Debug)]
struct Rule {
    direction: Direction,
    pattern: Vec<u8>,
    action: Action,
}

#[derive(Debug, Default)]
struct Shared {
    state: watch::Sender<State>,
    rule: Mutex<Option<Rule>>,
    rule_cuts: AtomicU64,
    accepted: AtomicU64,
    open: AtomicU64,
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }

    fn arm(&self, direction: Direction, pattern: Vec<u8>, action: Action) {
        *self.rule() = Some(Rule {
            direction,
            pattern,
            action,
        });
    }

    fn rule(&self) -> MutexGuard<'_, Option<Rule>> {
        self.rule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the armed rule wants done, if it matches; it is spent then.
    fn judge(&self, direction: Direction, seen: &mut Window, chunk: &[u8]) -> Option<Action> {
        let mut rule = self.rule();
        let matched = rule
            .as_ref()
            .is_some_and(|rule| rule.direction == direction && seen.completes(&rule.pattern, chunk));
        seen.remember(chunk);
        if matched {
            rule.take().map(|rule| rule.action)
        } else {
            None
        }
    }
}

/// The last bytes that flowed one way, so that a pattern split over two chunks is seen.
#[derive(Debug, Default)]
struct Window(Vec<u8>);

impl Window {
    const LENGTH: usize = 1024;

    /// Whether the pattern ends within `chunk`.
    fn completes(&self, pattern: &[u8], chunk: &[u8]) -> bool {
        if pattern.is_empty() {
            return false;
        }
        let before = self.0.len().saturating_sub(pattern.len() - 1);
        let joined = [&self.0[before..], chunk].concat();
        joined.windows(pattern.len()).any(|window| window == pattern)
    }

    fn remember(&mut self, chunk: &[u8]) {
        self.0.extend_from_slice(chunk);
        let excess = self.0.len().saturating_sub(Self::LENGTH);
        self.0.drain(..excess);
    }
}

async fn accept(listener: std::net::TcpListener, upstream: SocketAddr, shared: Arc<Shared>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        if shared.state.borrow().mode == Mode::Refuse {
            continue;
        }
        tokio::spawn(serve(client, upstream, Arc::clone(&shared)));
    }
}

async fn serve(client: TcpStream, upstream: SocketAddr, shared: Arc<Shared>) {
    shared.open.fetch_add(1, Ordering::SeqCst);
    let mut state = shared.state.subscribe();
    let generation = state.borrow().generation;
    tokio::select! {
        _ = forward(client, upstream, &shared) => {}
        _ = state.wait_for(|state| state.generation != generation) => {}
    }
    shared.open.fetch_sub(1, Ordering::SeqCst);
}

/// Set by the way to the server for the way back: swallow, up to this end of the answer.
type Losing = Mutex<Option<Vec<u8>>>;

async fn forward(mut client: TcpStream, upstream: SocketAddr, shared: &Shared) -> io::Result<()> {
    shared.gate().await;
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let losing = Losing::default();
    let (client_reads, client_writes) = client.split();
    let (server_reads, server_writes) = server.split();
    tokio::try_join!(
        pump(Direction::ToServer, client_reads, server_writes, shared, &losing),
        pump(Direction::ToClient, server_reads, client_writes, shared, &losing),
    )?;
    Ok(())
}

impl Shared {
    /// Waits until bytes may flow.
    async fn gate(&self) -> State {
        let mut state = self.state.subscribe();
        match state.wait_for(|state| state.mode != Mode::BlackHole).await {
            Ok(state) => *state,
            Err(_) => State::default(),
        }
    }

    fn cut_by_rule(&self) -> io::Error {
        self.rule_cuts.fetch_add(1, Ordering::SeqCst);
        io::Error::from(io::ErrorKind::ConnectionAborted)
    }
}

/// Forwards one way until the sender closes its side; an error ends the connection.
async fn pump(
    direction: Direction,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    shared: &Shared,
    losing: &Losing,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let (mut seen, mut swallowed) = (Window::default(), Window::default());
    loop {
        let length = from.read(&mut buffer).await?;
        let chunk = &buffer[..length];
        hold_back(shared, length).await;
        if length == 0 {
            return to.shutdown().await;
        }
        if let (Direction::ToClient, Some(end)) = (direction, lock(losing).clone()) {
            if swallowed.completes(&end, chunk) {
                return Err(shared.cut_by_rule());
            }
            swallowed.remember(chunk);
            continue;
        }
        match shared.judge(direction, &mut seen, chunk) {
            None => to.write_all(chunk).await?,
            Some(Action::CutBefore) => return Err(shared.cut_by_rule()),
            Some(Action::CutAfter) => {
                to.write_all(chunk).await?;
                return Err(shared.cut_by_rule());
            }
            Some(Action::Lose(end)) => {
                *lock(losing) = Some(end);
                to.write_all(chunk).await?;
            }
        }
    }
}

/// Delay and limit, then the gate: what a black hole catches stays caught even if it waited here before.
async fn hold_back(shared: &Shared, length: usize) {
    let state = *shared.state.borrow();
    let paced = state.limit.map_or(Duration::ZERO, |limit| {
        Duration::from_secs_f64(f64::from(u32::try_from(length).unwrap_or(u32::MAX)) / f64::from(limit.get()))
    });
    if state.delay + paced > Duration::ZERO {
        tokio::time::sleep(state.delay + paced).await;
    }
    shared.gate().await;
}

fn lock(losing: &Losing) -> MutexGuard<'_, Option<Vec<u8>>> {
    losing.lock().unwrap_or_else(PoisonError::into_inner)
}
