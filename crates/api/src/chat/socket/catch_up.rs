//! Reading logs: when an entry is missing, and when entries may have been missed.

use super::begin::settle;
use super::following::{Ending, Following};
use super::hub::{Hub, locked};
use super::protocol::CloseCode;
use gravity_domain::chat::{EventCursor, Hint, LocalDelivery as _, LogReplay, Signal, UserEvent};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use std::sync::Arc;
use std::time::Duration;

/// Entries that come out of order mostly come together: so long they have before the log is read.
const GRACE: Duration = Duration::from_millis(25);
/// Until the log is tried again that could not be read.
const RETRY: Duration = Duration::from_millis(1_500);
/// How often that is done after an outage, at most.
const RECOVERIES: u32 = 20;
/// Users whose heads are read at once.
const BATCH: usize = 1_000;

fn no_ports() -> StoreError {
    StoreError::unavailable("starting")
}

pub(super) async fn read_head(hub: &Arc<Hub>, user: UserId) -> Result<EventCursor, StoreError> {
    let ports = hub.ports().ok_or_else(no_ports)?;
    let head = hub.within(ports.calls.connect(user)).await;
    count("head", head.is_ok());
    head
}

pub(super) async fn replay(
    hub: &Arc<Hub>,
    user: UserId,
    cursor: EventCursor,
) -> Result<LogReplay, StoreError> {
    let ports = hub.ports().ok_or_else(no_ports)?;
    let replay = hub.within(ports.calls.replay(user, cursor)).await;
    count("replay", replay.is_ok());
    replay
}

fn count(what: &'static str, is_ok: bool) {
    let result = if is_ok { "ok" } else { "failed" };
    metrics::counter!("gravity_chat_log_reads_total", "what" => what, "result" => result).increment(1);
}

/// Hands out what the log has and the user's sockets have not. At most one of these runs per user.
pub(super) fn follow(hub: &Hub, user: UserId) {
    let me = hub.me();
    hub.spawn(async move {
        let (mut pause, mut fruitless) = (GRACE, 0);
        loop {
            tokio::time::sleep(pause).await;
            let Some(hub) = me.upgrade() else { return };
            let Some(position) = still_behind(&hub, user, &mut fruitless) else {
                return;
            };
            pause = match replay(&hub, user, position).await {
                Ok(LogReplay::Events { events, head }) if head.stream >= position.stream => {
                    hear(&hub, user, events, head);
                    GRACE * 2
                }
                Ok(LogReplay::Events { .. } | LogReplay::Reset { .. }) => return lose(&hub, user),
                Err(_) => {
                    fruitless = 0;
                    RETRY
                }
            };
        }
    });
}

/// What was read, up to `head`.
fn hear(hub: &Hub, user: UserId, events: Vec<UserEvent>, head: EventCursor) {
    let version = head.stream;
    hub.hear(user, events);
    hub.deliver(user, Hint::Signal(Signal::StreamChanged { version }));
}

/// Where to read on from; `None` when there is nothing to read any more.
fn still_behind(hub: &Hub, user: UserId, fruitless: &mut u32) -> Option<EventCursor> {
    let mut shard = hub.shard(user);
    let following = shard.get_mut(&user)?;
    let position = following.position.filter(|_| following.is_behind());
    let Some(position) = position else {
        following.is_catching_up = false;
        return None;
    };
    *fruitless += 1;
    if *fruitless > 40 {
        // Somebody spoke of an entry that the log does not have.
        following.top = position.offset;
        following.is_catching_up = false;
        return None;
    }
    following.is_catching_up = true;
    Some(position)
}

/// The log cannot tell what the user's sockets miss: they come back, and are told to begin anew.
fn lose(hub: &Hub, user: UserId) {
    let mut ending = Ending::new();
    if let Some(following) = hub.shard(user).get_mut(&user) {
        following.is_catching_up = false;
        for member in &following.members {
            ending.push((Arc::clone(&member.socket), CloseCode::PositionLost));
        }
    }
    hub.close_all(ending);
}

/// Postgres is back: it may be another one.
pub(super) fn recover(hub: &Hub) {
    let me = hub.me();
    hub.spawn(async move {
        for _ in 0..RECOVERIES {
            let Some(hub) = me.upgrade() else { return };
            if try_to_recover(&hub).await {
                return;
            }
            drop(hub);
            tokio::time::sleep(RETRY).await;
        }
    });
}

async fn try_to_recover(hub: &Arc<Hub>) -> bool {
    let known =
        |(user, following): (&UserId, &Following)| following.position.map(|position| (*user, position));
    let one = hub.shards().find_map(|shard| shard.iter().find_map(known));
    if let Some((user, position)) = one {
        match read_head(hub, user).await {
            Ok(head) if head.epoch != position.epoch => lose_all(hub, head.epoch),
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    settle(hub).await;
    look_at_heads(hub).await
}

fn lose_all(hub: &Hub, epoch: u64) {
    let mut lost = Vec::new();
    for shard in hub.shards() {
        let is_old = |position: EventCursor| position.epoch != epoch;
        lost.extend(
            shard
                .iter()
                .filter(|(_, f)| f.position.is_some_and(is_old))
                .map(|(user, _)| *user),
        );
    }
    for user in lost {
        lose(hub, user);
    }
}

/// Entries may have been missed by all.
pub(super) fn look_at_all(hub: &Hub) {
    let me = hub.me();
    hub.spawn(async move {
        if let Some(hub) = me.upgrade() {
            look_at_heads(&hub).await;
        }
    });
}

/// Entries may have been missed by these users. What is said of many in quick succession is looked at together.
pub(super) fn look_at(hub: &Hub, users: &[UserId]) {
    let mut missed = locked(&hub.missed);
    let is_first = missed.is_empty();
    missed.extend(users);
    if !is_first || missed.is_empty() {
        return;
    }
    drop(missed);
    let me = hub.me();
    hub.spawn(async move {
        tokio::time::sleep(GRACE).await;
        if let Some(hub) = me.upgrade() {
            let users = std::mem::take(&mut *locked(&hub.missed));
            look_at_heads_of(&hub, &Vec::from_iter(users)).await;
        }
    });
}

/// Compares where the sockets are with where the logs are; false when the logs cannot be asked.
pub(super) async fn look_at_heads(hub: &Arc<Hub>) -> bool {
    let mut users = Vec::new();
    for shard in hub.shards() {
        users.extend(
            shard
                .iter()
                .filter(|(_, f)| f.position.is_some())
                .map(|(user, _)| *user),
        );
    }
    look_at_heads_of(hub, &users).await
}

async fn look_at_heads_of(hub: &Arc<Hub>, users: &[UserId]) -> bool {
    for batch in users.chunks(BATCH) {
        let Some(ports) = hub.ports() else { return false };
        let heads = hub.within(ports.calls.heads(batch)).await;
        count("heads", heads.is_ok());
        let Ok(heads) = heads else { return false };
        for (user, head) in heads {
            raise(hub, user, head);
        }
    }
    true
}

/// The user's log ends at `head`.
fn raise(hub: &Hub, user: UserId, head: EventCursor) {
    let (offset, mut ending) = (head.offset, Ending::new());
    let mut shard = hub.shard(user);
    let Some(following) = shard.get_mut(&user) else {
        return;
    };
    let Some(position) = following.position else {
        return;
    };
    if head.epoch != position.epoch {
        drop(shard);
        return lose(hub, user);
    }
    let is_before = offset < position.offset && following.top <= position.offset;
    if (is_before || head.stream < position.stream) && !following.is_catching_up {
        // Heads are read beside what comes live and may be a little old: the log itself is asked.
        following.is_catching_up = true;
        drop(shard);
        return check(hub, user, position);
    }
    following.top = following.top.max(offset);
    following.stream_changed(head.stream, &mut ending);
    let is_behind = following.is_behind() && !std::mem::replace(&mut following.is_catching_up, true);
    drop(shard);
    hub.close_all(ending);
    if is_behind {
        follow(hub, user);
    }
}

/// Whether the log still knows this place.
fn check(hub: &Hub, user: UserId, position: EventCursor) {
    let me = hub.me();
    hub.spawn(async move {
        let Some(hub) = me.upgrade() else { return };
        match replay(&hub, user, position).await {
            Ok(LogReplay::Events { events, head }) if head.stream >= position.stream => {
                release(&hub, user);
                hear(&hub, user, events, head);
            }
            Ok(LogReplay::Events { .. } | LogReplay::Reset { .. }) => lose(&hub, user),
            Err(_) => release(&hub, user),
        }
    });
}

fn release(hub: &Hub, user: UserId) {
    if let Some(following) = hub.shard(user).get_mut(&user) {
        following.is_catching_up = false;
    }
}
