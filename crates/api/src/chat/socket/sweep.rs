//! What the hub does by itself: one sweep over all sockets each second instead of timers of their own, the upkeep of presence,
//! looking at the logs, and the planned end.

use super::begin;
use super::catch_up;
use super::frames;
use super::hub::{Hub, locked};
use super::open_socket::Socket;
use super::outbox::{Weight, ping_frame};
use super::protocol::CloseCode;
use futures_util::StreamExt as _;
use gravity_domain::chat::ConnectionId;
use gravity_domain::clock::Timestamp;
use gravity_domain::id::UserId;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use uuid::Uuid;

const SWEEP_EVERY: Duration = Duration::from_secs(1);
const RENEW_EVERY: Duration = Duration::from_secs(25);
/// How often the ends of logs are looked at although other nodes are heard: one that commits may be killed before it says so.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Connections whose leases are renewed at once.
const RENEW_BATCH: usize = 1_000;
/// A token's end is told of so long before, in milliseconds.
const WARN_MS: i64 = 60_000;
/// How long the client has to answer a close, in milliseconds.
const CLOSE_MS: u64 = 2_000;
/// How often it is asked whether a user is suspended, in milliseconds.
const CHECK_EVERY_MS: u64 = 10_000;
/// Users that are asked about in one sweep; the others have their turn in a later one.
const CHECKS: usize = 500;
const CHECKS_AT_ONCE: usize = 8;
/// How long requests under way have for their answer at the planned end.
const LAST_ANSWERS: Duration = Duration::from_millis(1_000);
/// How long sockets have to end at the planned end.
const LAST_CLOSES: Duration = Duration::from_millis(2_000);
/// How long what those that have not ended by then are to be told still has to get out.
const LAST_BYTES: Duration = Duration::from_millis(250);

/// Starts it all; it ends with the hub.
pub(super) fn start(hub: &Arc<Hub>) {
    every(hub, SWEEP_EVERY, |hub| async move { sweep(&hub).await });
    let poll = Duration::from_millis(hub.settings.poll_every_ms.max(10));
    every(hub, poll, |hub| async move { look_around(&hub).await });
    every(hub, LOOK_EVERY, |hub| async move {
        if hub.mode().0 == frames::Mode::Normal {
            catch_up::look_at_heads(&hub).await;
        }
    });
    every(hub, RENEW_EVERY, |hub| async move { renew(&hub).await });
}

fn every<F>(hub: &Arc<Hub>, period: Duration, run: impl Fn(Arc<Hub>) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let me = Arc::downgrade(hub);
    hub.handle.spawn(async move {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let Some(hub) = me.upgrade() else { return };
            run(hub).await;
        }
    });
}

/// A number up to `below`, other each time.
fn random(below: u64) -> u64 {
    Uuid::new_v4().as_u64_pair().0 % below.max(1)
}

/// When the next ping is due: in `ping_every_ms` ±20 %.
pub(super) fn next_ping(hub: &Hub, now: u64) -> u64 {
    let period = hub.settings.ping_every_ms;
    now + period - period / 5 + random(period * 2 / 5)
}

/// When it is asked next whether the user is suspended.
pub(super) fn next_check(now: u64) -> u64 {
    now + CHECK_EVERY_MS
}

async fn sweep(hub: &Arc<Hub>) {
    let (now, wall) = (hub.now(), hub.clock.now());
    let mut to_check = Vec::new();
    for part in hub.parts() {
        for socket in part {
            if let Some(code) = visit(hub, &socket, now, wall) {
                hub.close(&socket, code);
            } else if socket.check_due.load(Relaxed) <= now && to_check.len() < CHECKS {
                socket.check_due.store(next_check(now), Relaxed);
                to_check.push(socket);
            }
        }
    }
    say_who_left(hub, now);
    if !to_check.is_empty() {
        check(hub, to_check).await;
    }
}

/// What is due for one socket; a code when it must end.
fn visit(hub: &Hub, socket: &Arc<Socket>, now: u64, wall: Timestamp) -> Option<CloseCode> {
    let closing = socket.closing.load(Relaxed);
    if closing > 0 {
        if now.saturating_sub(closing) >= CLOSE_MS {
            socket.finish();
        }
        return None;
    }
    if socket.user().is_none() {
        let is_late = now.saturating_sub(socket.opened) >= hub.settings.auth_within_ms;
        return is_late.then_some(CloseCode::AuthTimeout);
    }
    let end = socket.expires_at();
    if wall >= end {
        return Some(CloseCode::Unauthenticated);
    }
    if wall.plus_millis(WARN_MS) >= end && !socket.is_warned.swap(true, Relaxed) {
        hub.answer(socket, frames::expiring(end));
    }
    beat(hub, socket, now)
}

fn beat(hub: &Hub, socket: &Socket, now: u64) -> Option<CloseCode> {
    let sent = socket.ping_sent.load(Relaxed);
    if sent > 0 {
        if socket.heard.load(Relaxed) >= sent {
            socket.ping_sent.store(0, Relaxed);
        } else if now.saturating_sub(sent) >= hub.settings.pong_within_ms {
            return Some(CloseCode::PingTimeout);
        }
    }
    if socket.ping_due.load(Relaxed) <= now {
        socket.ping_due.store(next_ping(hub, now), Relaxed);
        socket.push(ping_frame(), Weight::Free);
        // One that is unanswered keeps its time.
        let _ = socket.ping_sent.compare_exchange(0, now.max(1), Relaxed, Relaxed);
    }
    None
}

/// Closes the sockets of suspended users.
async fn check(hub: &Arc<Hub>, sockets: Vec<Arc<Socket>>) {
    let Some(ports) = hub.ports() else { return };
    futures_util::stream::iter(sockets)
        .for_each_concurrent(CHECKS_AT_ONCE, |socket| async move {
            let Some(user) = socket.user() else { return };
            if hub.within(ports.calls.is_suspended(user)).await {
                hub.close(&socket, CloseCode::Forbidden);
            }
        })
        .await;
}

/// Those whose time of grace is over have left.
fn say_who_left(hub: &Hub, now: u64) {
    let Some(ports) = hub.ports() else { return };
    let mut left = Vec::new();
    {
        let mut departed = locked(&hub.departed);
        while departed.front().is_some_and(|(until, ..)| *until <= now) {
            left.extend(departed.pop_front());
        }
    }
    if left.is_empty() {
        return;
    }
    let calls = Arc::clone(&ports.calls);
    hub.spawn(async move {
        for (_, user, connection) in left {
            calls.left(user, connection).await;
        }
    });
}

/// Replays that were put off, and, while hints of other nodes are not heard, the ends of the logs.
async fn look_around(hub: &Arc<Hub>) {
    if hub.mode().0 != frames::Mode::Normal {
        return;
    }
    begin::settle(hub).await;
    if hub.ports().is_some_and(|ports| !ports.relay.is_up()) {
        catch_up::look_at_heads(hub).await;
    }
}

async fn renew(hub: &Arc<Hub>) {
    let Some(ports) = hub.ports() else { return };
    let mut all: Vec<(UserId, ConnectionId)> = Vec::new();
    for part in hub.parts() {
        let still_here = part.iter().filter(|socket| socket.closing.load(Relaxed) == 0);
        all.extend(still_here.filter_map(|socket| Some((socket.user()?, socket.id))));
    }
    // Whose time of grace runs is still there, too.
    all.extend(
        locked(&hub.departed)
            .iter()
            .map(|(_, user, connection)| (*user, *connection)),
    );
    for batch in all.chunks(RENEW_BATCH) {
        ports.calls.renew(batch).await;
    }
}

impl Hub {
    /// The planned end: no more sockets open; clients are told when to come back, spread over `spread`; requests under way get
    /// their answers; then every socket is closed with 4100. Takes 3.25 s at most.
    pub async fn shut_down(&self, spread: Duration) {
        self.is_stopping.store(true, Relaxed);
        let all: Vec<Arc<Socket>> = self.parts().flatten().collect();
        let step = u64::try_from(spread.as_millis()).unwrap_or(0) / (all.len() as u64).max(1);
        for (place, socket) in (0u64..).zip(&all) {
            if socket.user().is_some() {
                self.answer(socket, frames::goaway(place * step + random(step)));
            }
        }
        let are_answered = || all.iter().all(|socket| socket.unanswered.load(Relaxed) == 0);
        until(LAST_ANSWERS, are_answered).await;
        for socket in self.parts().flatten() {
            self.close(&socket, CloseCode::ShuttingDown);
        }
        let are_gone = || self.taken.load(Relaxed) == 0;
        until(LAST_CLOSES, are_gone).await;
        for socket in self.parts().flatten() {
            socket.finish();
        }
        until(LAST_BYTES, are_gone).await;
    }
}

async fn until(patience: Duration, is_so: impl Fn() -> bool) {
    let end = Instant::now() + patience;
    while !is_so() && Instant::now() < end {
        sleep(Duration::from_millis(10)).await;
    }
}
