//! One user on this node: the sockets, and how far they have followed the log.
//!
//! `position` is the last entry that was handed to the sockets. The next entry moves it by one; an earlier one was there
//! before; a later one waits in `ahead` until the log closes the gap, and nothing is handed out past it. `top` is the newest entry
//! that was ever heard of: while it is beyond `position`, the log has something to tell.
//!
//! A member begins as [`Stage::Held`]: its own replay is read meanwhile, and what comes live waits, since a client must hear the
//! log in order. A member whose replay cannot be read is [`Stage::Deferred`] and hears only what is in no log.
//!
//! `position.stream` is the version of the stream that those who are live were told of. It is told once, whoever says it how often,
//! and a member that is not there yet is told when it is.

use super::frames::{self, AckStatus, Acked};
use super::open_socket::Socket;
use super::outbox::{Pushed, Weight};
use super::protocol::{CloseCode, RequestId};
use bytes::Bytes;
use gravity_domain::chat::{ConnectionId, EventCursor, EventKind, Signal, UserEvent};
use gravity_domain::id::UserId;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// Entries that came too early and are kept; more are read from the log.
const MAX_AHEAD: usize = 128;
/// Frames held for a member that is being replayed to.
const MAX_HELD: usize = 256;
/// Messages of a user that are remembered as sent from here and not known to be stored.
const MAX_SENT: usize = 4_096;

/// Where a member is.
pub(crate) enum Stage {
    /// Its replay is being read: the frames of entries (by offset) and of signals (offset 0) wait.
    Held(Vec<(u64, Bytes)>),
    /// Its replay could not be read: from here on it is owed the log; `None`: from wherever the log is when it can be read.
    Deferred(Option<EventCursor>),
    /// It follows.
    Live,
}

pub(crate) struct Member {
    pub(crate) socket: Arc<Socket>,
    /// The last entry that it has been handed.
    pub(crate) delivered: u64,
    pub(crate) stage: Stage,
}

/// What the sender of a message was told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Accepted,
    Stored,
}

/// From where a message was sent.
struct SentFrom {
    connection: ConnectionId,
    id: Option<RequestId>,
    told: Told,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    Delivered,
    Repeated,
    /// It is not the next one, or no position is known: the log is to be read.
    Ahead,
}

/// Sockets that must end, and why.
pub(crate) type Ending = Vec<(Arc<Socket>, CloseCode)>;

/// See the module.
pub(crate) struct Following {
    user: UserId,
    pub(crate) position: Option<EventCursor>,
    pub(crate) top: u64,
    pub(crate) is_catching_up: bool,
    ahead: BTreeMap<u64, UserEvent>,
    pub(crate) members: Vec<Member>,
    sent: HashMap<Uuid, SentFrom>,
}

impl Following {
    pub(crate) fn new(user: UserId) -> Self {
        Self {
            user,
            position: None,
            top: 0,
            is_catching_up: false,
            ahead: BTreeMap::new(),
            members: Vec::new(),
            sent: HashMap::new(),
        }
    }

    /// The log has something that the sockets do not.
    pub(crate) fn is_behind(&self) -> bool {
        self.position.is_some_and(|position| position.offset < self.top)
    }

    pub(crate) fn member(&mut self, connection: ConnectionId) -> Option<&mut Member> {
        self.members
            .iter_mut()
            .find(|member| member.socket.id == connection)
    }

    /// An entry, from wherever.
    pub(crate) fn hear(&mut self, event: UserEvent, ending: &mut Ending) -> Heard {
        self.top = self.top.max(event.offset);
        let Some(position) = self.position else {
            return Heard::Ahead;
        };
        if event.offset <= position.offset {
            return Heard::Repeated;
        }
        if event.offset > position.offset + 1 {
            if self.ahead.len() < MAX_AHEAD {
                self.ahead.insert(event.offset, event);
            }
            return Heard::Ahead;
        }
        self.hand_out(&event, position, ending);
        while let Some(next) = self.next_of_ahead() {
            self.hand_out(&next, position, ending);
        }
        Heard::Delivered
    }

    fn next_of_ahead(&mut self) -> Option<UserEvent> {
        let offset = self.position?.offset;
        while let Some(first) = self.ahead.first_entry() {
            if *first.key() > offset + 1 {
                return None;
            }
            let event = first.remove();
            if event.offset == offset + 1 {
                return Some(event);
            }
        }
        None
    }

    fn hand_out(&mut self, event: &UserEvent, position: EventCursor, ending: &mut Ending) {
        let offset = event.offset;
        let cursor = EventCursor { offset, ..position };
        self.position = Some(cursor);
        let sender = self.sender_of(event, cursor);
        let mut shared: Option<Bytes> = None;
        for member in &mut self.members {
            if offset <= member.delivered && matches!(member.stage, Stage::Live) {
                continue;
            }
            let frame = match &sender {
                Some((connection, ack)) if *connection == member.socket.id => ack.clone(),
                _ => Some(
                    shared
                        .get_or_insert_with(|| frames::event(event, position))
                        .clone(),
                ),
            };
            let Some(frame) = frame else {
                member.delivered = offset;
                continue;
            };
            if let Err(code) = member.take(frame, offset, Weight::Counted) {
                ending.push((Arc::clone(&member.socket), code));
            }
        }
    }

    /// The socket that sent the message of this entry, and the ack that it gets instead, unless it has had it.
    fn sender_of(&mut self, event: &UserEvent, cursor: EventCursor) -> Option<(ConnectionId, Option<Bytes>)> {
        if self.sent.is_empty() {
            return None;
        }
        match event.kind {
            EventKind::MessageNew => {
                let acked = Acked::of_event(event).filter(|acked| acked.sender_id == self.user)?;
                let sent = self.sent.remove(&acked.client_message_id)?;
                let id = sent.id.as_ref().filter(|_| sent.told == Told::Nothing);
                let ack = (sent.told != Told::Stored)
                    .then(|| frames::ack(&acked, AckStatus::Stored, id, Some(cursor)));
                Some((sent.connection, ack))
            }
            EventKind::MessageAck => {
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct Rejected {
                    client_message_id: Uuid,
                }
                let rejected: Rejected = serde_json::from_str(&event.payload).ok()?;
                self.sent.remove(&rejected.client_message_id);
                None
            }
            _ => None,
        }
    }

    /// Something that is in no log.
    pub(crate) fn signal(&mut self, signal: &Signal, ending: &mut Ending) {
        let (weight, except) = match signal {
            Signal::Accepted(message) => {
                let is_own = message.sender_id == self.user;
                let sent = self.sent.get(&message.client_message_id).filter(|_| is_own);
                (Weight::Counted, sent.map(|sent| sent.connection))
            }
            Signal::Rejected {
                client_message_id, ..
            } => {
                self.sent.remove(client_message_id);
                (Weight::Counted, None)
            }
            Signal::Typing { .. } => (Weight::Typing, None),
            Signal::Presence { user_id, .. } => (Weight::Presence(*user_id), None),
            Signal::StreamChanged { version } => return self.stream_changed(*version, ending),
        };
        let frame = frames::signal(signal);
        for member in &mut self.members {
            if except == Some(member.socket.id) {
                continue;
            }
            if let Err(code) = member.take(frame.clone(), 0, weight) {
                ending.push((Arc::clone(&member.socket), code));
            }
        }
    }

    /// The user's stream is at this version. Nothing happens when that is known.
    pub(crate) fn stream_changed(&mut self, version: u64, ending: &mut Ending) {
        if let Some(position) = &mut self.position {
            if version <= position.stream {
                return;
            }
            position.stream = version;
        }
        for member in &mut self.members {
            let cursor = match member.stage {
                Stage::Held(_) => continue,
                Stage::Deferred(_) => None,
                Stage::Live => self.position.map(|position| member.place(position)),
            };
            let frame = frames::stream_changed(version, cursor);
            if let Err(code) = member.take(frame, 0, Weight::Counted) {
                ending.push((Arc::clone(&member.socket), code));
            }
        }
    }

    /// A member sends this message from now on. False when too many are remembered already: it gets `message.new` like everybody.
    pub(crate) fn sending(
        &mut self,
        client_message_id: Uuid,
        connection: ConnectionId,
        id: Option<RequestId>,
    ) -> bool {
        if self.sent.len() >= MAX_SENT {
            return false;
        }
        let sent = SentFrom {
            connection,
            id,
            told: Told::Nothing,
        };
        self.sent.insert(client_message_id, sent);
        true
    }

    /// The message is accepted or stored: whether its sender is still to be told so.
    pub(crate) fn answered(
        &mut self,
        message: Uuid,
        connection: ConnectionId,
        stored: Option<IsRepeat>,
    ) -> bool {
        let Some(sent) = self
            .sent
            .get_mut(&message)
            .filter(|sent| sent.connection == connection)
        else {
            return false;
        };
        match stored {
            None => sent.told = Told::Accepted,
            Some(IsRepeat(false)) => sent.told = Told::Stored,
            // No entry of the log will come.
            Some(IsRepeat(true)) => {
                self.sent.remove(&message);
            }
        }
        true
    }

    /// The message was refused.
    pub(crate) fn refused(&mut self, message: Uuid, connection: ConnectionId) {
        if self
            .sent
            .get(&message)
            .is_some_and(|sent| sent.connection == connection)
        {
            self.sent.remove(&message);
        }
    }

    /// A member is gone.
    pub(crate) fn forget(&mut self, connection: ConnectionId) -> bool {
        let before = self.members.len();
        self.members.retain(|member| member.socket.id != connection);
        self.sent.retain(|_, sent| sent.connection != connection);
        self.members.len() < before
    }

    /// The log is at `head` for one of the members, who is not told: what that means for all. The newest version of the stream.
    pub(crate) fn place(&mut self, head: EventCursor, ending: &mut Ending, except: ConnectionId) -> u64 {
        match self.position {
            Some(position) if position.epoch == head.epoch => {
                self.top = self.top.max(head.offset);
                self.stream_changed(head.stream, ending);
            }
            Some(_) => {
                for member in self.members.iter().filter(|member| member.socket.id != except) {
                    ending.push((Arc::clone(&member.socket), CloseCode::PositionLost));
                }
                self.ahead.clear();
                self.position = Some(head);
                self.top = head.offset;
            }
            None => {
                self.position = Some(head);
                self.top = self.top.max(head.offset);
            }
        }
        self.position.map_or(head.stream, |position| position.stream)
    }
}

/// Whether a stored message had been stored before, so that its commit appended nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IsRepeat(pub(crate) bool);

impl Member {
    fn take(&mut self, frame: Bytes, offset: u64, weight: Weight) -> Result<(), CloseCode> {
        match &mut self.stage {
            Stage::Held(held) if offset > 0 || weight == Weight::Counted => {
                if held.len() >= MAX_HELD {
                    return Err(CloseCode::TooSlow);
                }
                held.push((offset, frame));
                Ok(())
            }
            Stage::Held(_) => Ok(()),
            Stage::Deferred(_) if offset > 0 => Ok(()),
            Stage::Deferred(_) | Stage::Live => {
                if offset > 0 {
                    self.delivered = offset;
                }
                match self.socket.push(frame, weight) {
                    Pushed::Full => Err(CloseCode::TooSlow),
                    Pushed::Taken => Ok(()),
                    Pushed::Dropped => {
                        metrics::counter!("gravity_chat_dropped_frames_total").increment(1);
                        Ok(())
                    }
                }
            }
        }
    }

    /// Its replay cannot be read: it is owed the log from `cursor` on. What is in no log it hears now.
    pub(crate) fn defer(&mut self, cursor: Option<EventCursor>) {
        if let Stage::Held(held) = std::mem::replace(&mut self.stage, Stage::Deferred(cursor)) {
            for (_, frame) in held.into_iter().filter(|(offset, _)| *offset == 0) {
                self.socket.push(frame, Weight::Counted);
            }
        }
    }

    /// Where it is, when the user's sockets are at `position`.
    fn place(&self, position: EventCursor) -> EventCursor {
        EventCursor {
            offset: position.offset.max(self.delivered),
            ..position
        }
    }

    /// Its replay is done up to `replayed`: what was held follows, and it is live.
    pub(crate) fn release(&mut self, replayed: u64) -> Result<(), CloseCode> {
        let held = match std::mem::replace(&mut self.stage, Stage::Live) {
            Stage::Held(held) => held,
            Stage::Deferred(_) | Stage::Live => Vec::new(),
        };
        self.delivered = replayed;
        for (offset, frame) in held {
            if offset == 0 || offset > self.delivered {
                self.take(frame, offset, Weight::Counted)?;
            }
        }
        Ok(())
    }
}
