//! Reading logs: when a client begins or resumes, when an entry is missing, and when entries may have been missed.

use super::following::{Ending, Following, Stage};
use super::frames::{self, Ready, ResumeStatus};
use super::hub::Hub;
use super::open_socket::Socket;
use super::outbox::Weight;
use super::protocol::{CloseCode, RequestId};
use bytes::Bytes;
use futures_util::StreamExt as _;
use gravity_domain::chat::{
    ConnectionId, EventCursor, Hint, LocalDelivery as _, LogReplay, Signal, UserEvent,
};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Entries that come out of order mostly come together: so long they have before the log is read.
const GRACE: Duration = Duration::from_millis(25);
/// Until the log is tried again that could not be read.
const RETRY: Duration = Duration::from_millis(1_500);
/// How often that is done after an outage, at most.
const RECOVERIES: u32 = 20;
/// Users whose heads are read at once.
const BATCH: usize = 1_000;
/// Sockets that are replayed to at once, of those whose replay was put off.
const AT_ONCE: usize = 8;

/// What a client wants to begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// What happens from now on.
    Now,
    /// What happened since.
    Since(EventCursor),
    /// What happened since a cursor that is not one of ours.
    Nonsense,
}

impl Wish {
    /// What the text of a cursor asks for.
    pub(super) fn of(cursor: Option<&str>) -> Self {
        match cursor.map(str::parse) {
            None => Self::Now,
            Some(Ok(cursor)) => Self::Since(cursor),
            Some(Err(_)) => Self::Nonsense,
        }
    }
}

/// What was read for one client.
struct Begin {
    status: ResumeStatus,
    /// `None`: wherever the user's sockets are.
    head: Option<EventCursor>,
    events: Vec<UserEvent>,
    /// The version of the stream that its client was told of; `None`: it reads its stream anew.
    told: Option<u64>,
}

impl Begin {
    fn anew(status: ResumeStatus, head: Option<EventCursor>) -> Self {
        Self {
            status,
            head,
            events: Vec::new(),
            told: None,
        }
    }

    /// What was missed, when the log ends at `head`, and then the change of the stream, if it is `newest` now. Before all
    /// that its client was at the place that comes with it.
    fn replay(&self, head: EventCursor, newest: u64) -> (EventCursor, Vec<Bytes>) {
        let before = EventCursor {
            offset: self.events.first().map_or(head.offset, |first| first.offset - 1),
            stream: self.told.unwrap_or(newest),
            ..head
        };
        let events = self.events.iter().map(|event| frames::event(event, before));
        let after = EventCursor {
            stream: newest,
            ..head
        };
        let change = (before.stream < newest).then(|| frames::stream_changed(newest, Some(after)));
        (before, events.chain(change).collect())
    }
}

/// Says `ready` to a socket that is attached and held, then what it missed, then what was held; from then on it follows.
pub(super) async fn begin(
    hub: &Arc<Hub>,
    socket: &Arc<Socket>,
    user: UserId,
    wish: Wish,
    id: Option<&RequestId>,
) {
    let begun = match read(hub, user, wish).await {
        Ok(begun) => begun,
        Err(error) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a log cannot be read now"
            );
            return put_off(hub, socket, user, wish, id);
        }
    };
    if finish(hub, socket, user, &begun, id) {
        return;
    }
    // The position that was known is not any more.
    match read_head(hub, user).await {
        Ok(head) => {
            let begun = Begin {
                head: Some(head),
                ..begun
            };
            finish(hub, socket, user, &begun, id);
        }
        Err(_) => put_off(hub, socket, user, wish, id),
    }
}

async fn read(hub: &Arc<Hub>, user: UserId, wish: Wish) -> Result<Begin, StoreError> {
    Ok(match wish {
        Wish::Now if hub.position(user).is_some() => Begin::anew(ResumeStatus::None, None),
        Wish::Now => Begin::anew(ResumeStatus::None, Some(read_head(hub, user).await?)),
        Wish::Nonsense => Begin::anew(ResumeStatus::Reset, Some(read_head(hub, user).await?)),
        Wish::Since(cursor) => match replay(hub, user, cursor).await? {
            LogReplay::Events { events, head } => Begin {
                status: ResumeStatus::Ok,
                head: Some(head),
                events,
                told: Some(cursor.stream),
            },
            LogReplay::Reset { head } => Begin::anew(ResumeStatus::Reset, Some(head)),
        },
    })
}

fn no_ports() -> StoreError {
    StoreError::unavailable("starting")
}

async fn read_head(hub: &Arc<Hub>, user: UserId) -> Result<EventCursor, StoreError> {
    let ports = hub.ports().ok_or_else(no_ports)?;
    let head = hub.within(ports.calls.connect(user)).await;
    count("head", head.is_ok());
    head
}

async fn replay(hub: &Arc<Hub>, user: UserId, cursor: EventCursor) -> Result<LogReplay, StoreError> {
    let ports = hub.ports().ok_or_else(no_ports)?;
    let replay = hub.within(ports.calls.replay(user, cursor)).await;
    count("replay", replay.is_ok());
    replay
}

fn count(what: &'static str, is_ok: bool) {
    let result = if is_ok { "ok" } else { "failed" };
    metrics::counter!("gravity_chat_log_reads_total", "what" => what, "result" => result).increment(1);
}

fn ready(
    hub: &Hub,
    user: UserId,
    (status, replaying): (ResumeStatus, usize),
    cursor: Option<EventCursor>,
    id: Option<&RequestId>,
) -> Bytes {
    frames::ready(&Ready {
        user_id: user,
        ping_every_ms: hub.settings.ping_every_ms,
        limits: hub.settings.stated(),
        mode: hub.mode().0,
        status,
        replaying,
        cursor,
        id,
    })
}

/// False when a position is needed that is not there.
fn finish(hub: &Arc<Hub>, socket: &Arc<Socket>, user: UserId, begun: &Begin, id: Option<&RequestId>) -> bool {
    let mut ending = Ending::new();
    let mut shard = hub.shard(user);
    let Some(following) = shard.get_mut(&user) else {
        return true;
    };
    let Some(head) = begun.head.or(following.position) else {
        return false;
    };
    let newest = following.place(head, &mut ending, socket.id);
    if let Some(member) = following.member(socket.id) {
        let (before, replay) = begun.replay(head, newest);
        socket.is_begun.store(true, Relaxed);
        // A resuming client stores the cursor of what it was told last: its own, until the replay has passed it.
        let answer = (begun.status, replay.len());
        socket.push(ready(hub, user, answer, Some(before), id), Weight::Free);
        for frame in replay {
            socket.push(frame, Weight::Free);
        }
        if let Err(code) = member.release(head.offset) {
            ending.push((Arc::clone(socket), code));
        }
    }
    let is_behind = following.is_behind() && !std::mem::replace(&mut following.is_catching_up, true);
    drop(shard);
    hub.close_all(ending);
    if is_behind {
        follow(hub, user);
    }
    true
}

/// The log cannot be read: the client is told so, and hears what is in no log until it can.
fn put_off(hub: &Arc<Hub>, socket: &Arc<Socket>, user: UserId, wish: Wish, id: Option<&RequestId>) {
    let (status, cursor) = match wish {
        Wish::Now => (ResumeStatus::None, None),
        Wish::Nonsense => (ResumeStatus::Reset, None),
        Wish::Since(cursor) => (ResumeStatus::Deferred, Some(cursor)),
    };
    let mut shard = hub.shard(user);
    let Some(member) = shard
        .get_mut(&user)
        .and_then(|following| following.member(socket.id))
    else {
        return;
    };
    socket.is_begun.store(true, Relaxed);
    socket.push(ready(hub, user, (status, 0), cursor, id), Weight::Free);
    member.defer(cursor);
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
                Ok(LogReplay::Events { events, head }) if head.epoch == position.epoch => {
                    hub.hear(user, events);
                    let version = head.stream;
                    hub.deliver(user, Hint::Signal(Signal::StreamChanged { version }));
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

/// Entries may have been missed by these users.
pub(super) fn look_at(hub: &Hub, users: Vec<UserId>) {
    let me = hub.me();
    hub.spawn(async move {
        if let Some(hub) = me.upgrade() {
            look_at_heads_of(&hub, &users).await;
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
    if offset < position.offset && following.top <= position.offset && !following.is_catching_up {
        // Heads are read beside live entries and may be a little old: the log itself is asked.
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
            Ok(LogReplay::Reset { .. }) => lose(&hub, user),
            Ok(LogReplay::Events { events, .. }) => {
                release(&hub, user);
                hub.hear(user, events);
            }
            Err(_) => release(&hub, user),
        }
    });
}

fn release(hub: &Hub, user: UserId) {
    if let Some(following) = hub.shard(user).get_mut(&user) {
        following.is_catching_up = false;
    }
}

/// Sockets whose replay was put off.
type PutOff = Vec<(UserId, ConnectionId, Option<EventCursor>)>;

/// Replays to those whose replay was put off, as far as the log can be read now.
pub(super) async fn settle(hub: &Arc<Hub>) {
    let mut waiting: PutOff = Vec::new();
    for shard in hub.shards() {
        for (user, following) in shard.iter() {
            for member in &following.members {
                if let Stage::Deferred(cursor) = member.stage {
                    waiting.push((*user, member.socket.id, cursor));
                }
            }
        }
    }
    futures_util::stream::iter(waiting)
        .for_each_concurrent(AT_ONCE, |(user, connection, cursor)| {
            settle_one(hub, user, connection, cursor)
        })
        .await;
}

async fn settle_one(hub: &Arc<Hub>, user: UserId, connection: ConnectionId, cursor: Option<EventCursor>) {
    if let Some(member) = hub.shard(user).get_mut(&user).and_then(|f| f.member(connection)) {
        member.stage = Stage::Held(Vec::new());
    }
    let wish = cursor.map_or(Wish::Nonsense, Wish::Since);
    let begun = read(hub, user, wish).await;
    let mut ending = Ending::new();
    let mut shard = hub.shard(user);
    let Some(following) = shard.get_mut(&user) else {
        return;
    };
    let head = begun.as_ref().ok().and_then(|begun| begun.head);
    let head = head.map(|head| (head, following.place(head, &mut ending, connection)));
    let Some(member) = following.member(connection) else {
        return;
    };
    match (begun, head) {
        (Ok(begun), Some((head, newest))) => {
            let (before, replay) = begun.replay(head, newest);
            if begun.status != ResumeStatus::Ok {
                let reason = if cursor.is_some() { "reset" } else { "recovered" };
                member
                    .socket
                    .push(frames::resync(reason, Some(before)), Weight::Free);
            }
            for frame in replay {
                member.socket.push(frame, Weight::Free);
            }
            if let Err(code) = member.release(head.offset) {
                ending.push((Arc::clone(&member.socket), code));
            }
        }
        _ => member.defer(cursor),
    }
    let is_behind = following.is_behind() && !std::mem::replace(&mut following.is_catching_up, true);
    drop(shard);
    hub.close_all(ending);
    if is_behind {
        follow(hub, user);
    }
}
