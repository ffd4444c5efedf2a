//! A socket begins to follow its user's log: at once, or when the log can be read again.
//!
//! It is held meanwhile: what comes live waits until what it missed has been read. Whoever begins it takes a turn, and only the
//! last turn counts, so a second wish of the client and the upkeep of the hub do not get in each other's way.

use super::catch_up::{follow, read_head, replay};
use super::following::Ending;
use super::frames::{self, Ready, ResumeStatus};
use super::hub::Hub;
use super::member::{Stage, Turn};
use super::open_socket::Socket;
use super::outbox::Weight;
use super::protocol::RequestId;
use bytes::Bytes;
use futures_util::StreamExt as _;
use gravity_domain::chat::{ConnectionId, EventCursor, LogReplay, UserEvent};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// How often the log is read anew because entries came between what was read and what was held, before it is put off.
const TRIES: u32 = 5;
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
    /// Where its client was; `None`: it begins at the head, and reads its stream anew.
    from: Option<EventCursor>,
    /// The entries since.
    missed: Vec<Bytes>,
}

impl Begin {
    fn anew(status: ResumeStatus, head: Option<EventCursor>) -> Self {
        Self {
            status,
            head,
            from: None,
            missed: Vec::new(),
        }
    }

    fn since(from: EventCursor, events: &[UserEvent], head: EventCursor) -> Self {
        Self {
            status: ResumeStatus::Ok,
            head: Some(head),
            from: Some(from),
            missed: events.iter().map(|event| frames::event(event, from)).collect(),
        }
    }

    /// The change of the stream, which is told after what was missed, if its client does not know of it.
    fn change(&self, end: EventCursor) -> Option<Bytes> {
        let told = self.from.map_or(end.stream, |from| from.stream);
        (told < end.stream).then(|| frames::stream_changed(end.stream, Some(end)))
    }
}

/// How a try to let a socket follow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joined {
    /// It follows, or is gone, or somebody else lets it follow.
    Done,
    /// Something is missing between what was read and what was held.
    Gap,
}

/// Says `ready` to a socket that is attached, then what it missed, then what was held; from then on it follows.
pub(super) async fn begin(
    hub: &Arc<Hub>,
    socket: &Arc<Socket>,
    user: UserId,
    wish: Wish,
    id: Option<&RequestId>,
) {
    let Some(turn) = take_turn(hub, user, socket.id, |_| true) else {
        return;
    };
    let ready = |status, replaying, cursor| {
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
    };
    for _ in 0..TRIES {
        let begun = match read(hub, user, wish).await {
            Ok(begun) => begun,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "a log cannot be read now");
                break;
            }
        };
        let greet = |before, replaying| {
            socket.is_begun.store(true, Relaxed);
            Some(ready(begun.status, replaying, Some(before)))
        };
        if join(hub, user, (socket.id, turn), &begun, greet) == Joined::Done {
            return;
        }
    }
    let (status, cursor) = match wish {
        Wish::Now => (ResumeStatus::None, None),
        Wish::Nonsense => (ResumeStatus::Reset, None),
        Wish::Since(cursor) => (ResumeStatus::Deferred, Some(cursor)),
    };
    put_off(hub, user, (socket.id, turn), cursor, || {
        socket.is_begun.store(true, Relaxed);
        Some(ready(status, 0, cursor))
    });
}

/// Holds the socket, if it may be; `None` when it is gone, too.
fn take_turn(
    hub: &Hub,
    user: UserId,
    connection: ConnectionId,
    may: impl FnOnce(&Stage) -> bool,
) -> Option<Turn> {
    let mut shard = hub.shard(user);
    let member = shard.get_mut(&user)?.member(connection)?;
    may(&member.stage).then(|| member.hold())
}

async fn read(hub: &Arc<Hub>, user: UserId, wish: Wish) -> Result<Begin, StoreError> {
    Ok(match wish {
        Wish::Now if hub.position(user).is_some() => Begin::anew(ResumeStatus::None, None),
        Wish::Now => Begin::anew(ResumeStatus::None, Some(read_head(hub, user).await?)),
        Wish::Nonsense => Begin::anew(ResumeStatus::Reset, Some(read_head(hub, user).await?)),
        Wish::Since(cursor) => match replay(hub, user, cursor).await? {
            // Postgres has forgotten changes that the client knows of.
            LogReplay::Events { head, .. } if head.stream < cursor.stream => {
                Begin::anew(ResumeStatus::Reset, Some(head))
            }
            LogReplay::Events { events, head } => Begin::since(cursor, &events, head),
            LogReplay::Reset { head } => Begin::anew(ResumeStatus::Reset, Some(head)),
        },
    })
}

/// Lets a held socket follow: what `greet` says to where it was and how many frames are replayed, these frames, what was held.
fn join(
    hub: &Arc<Hub>,
    user: UserId,
    (connection, turn): (ConnectionId, Turn),
    begun: &Begin,
    greet: impl FnOnce(EventCursor, usize) -> Option<Bytes>,
) -> Joined {
    let mut ending = Ending::new();
    let mut shard = hub.shard(user);
    let Some(following) = shard.get_mut(&user) else {
        return Joined::Done;
    };
    let Some(mut head) = begun.head.or(following.position) else {
        return Joined::Gap;
    };
    let position = following.place(head, &mut ending, connection);
    if begun.status != ResumeStatus::Ok {
        // Its client begins anew: as well where the others are.
        head.offset = head.offset.max(position.offset);
    }
    let mut joined = Joined::Done;
    if let Some(member) = following.member(connection).filter(|member| member.turn == turn) {
        if member.holds_all(head, position) {
            let end = EventCursor {
                stream: position.stream,
                ..head
            };
            let change = begun.change(end);
            let replaying = begun.missed.len() + usize::from(change.is_some());
            let greeting = greet(begun.from.unwrap_or(end), replaying);
            let missed = begun.missed.iter().cloned();
            for frame in greeting.into_iter().chain(missed).chain(change) {
                member.socket.push(frame, Weight::Free);
            }
            if let Err(code) = member.release(end) {
                ending.push((Arc::clone(&member.socket), code));
            }
        } else {
            joined = Joined::Gap;
        }
    }
    let is_behind = following.is_behind() && !std::mem::replace(&mut following.is_catching_up, true);
    drop(shard);
    hub.close_all(ending);
    if is_behind {
        follow(hub, user);
    }
    joined
}

/// The log cannot be read: the client hears what is in no log until it can.
fn put_off(
    hub: &Hub,
    user: UserId,
    (connection, turn): (ConnectionId, Turn),
    cursor: Option<EventCursor>,
    greet: impl FnOnce() -> Option<Bytes>,
) {
    let mut shard = hub.shard(user);
    let member = shard.get_mut(&user).and_then(|f| f.member(connection));
    if let Some(member) = member.filter(|member| member.turn == turn) {
        if let Some(frame) = greet() {
            member.socket.push(frame, Weight::Free);
        }
        member.defer(cursor);
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
    let waits = |stage: &Stage| matches!(stage, Stage::Deferred(waiting) if *waiting == cursor);
    let Some(turn) = take_turn(hub, user, connection, waits) else {
        return;
    };
    let wish = cursor.map_or(Wish::Nonsense, Wish::Since);
    if let Ok(begun) = read(hub, user, wish).await {
        let greet = |before, _| {
            let reason = if cursor.is_some() { "reset" } else { "recovered" };
            (begun.status != ResumeStatus::Ok).then(|| frames::resync(reason, Some(before)))
        };
        if join(hub, user, (connection, turn), &begun, greet) == Joined::Done {
            return;
        }
    }
    put_off(hub, user, (connection, turn), cursor, || None);
}
