//! One user on this node: the sockets, and how far they have followed the log.
//!
//! `position` is the last entry that was handed to the sockets. The next entry moves it by one; an earlier one was there
//! before; a later one waits in `ahead` until the log closes the gap, and nothing is handed out past it. `top` is the newest entry
//! that was ever heard of: while it is beyond `position`, the log has something to tell.
//!
//! `position.stream` is the version of the stream that those who are live were told of. It is told once, whoever says it how often,
//! and a member that is not there yet is told when it is.

use super::frames::{self, Acked};
use super::member::{Entry, Member, OwnAck, Stage};
use super::open_socket::Socket;
use super::outbox::Weight;
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
/// Messages of a user that are remembered as sent from here and not known to be stored.
const MAX_SENT: usize = 4_096;

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
        let sender = self.sender_of(event);
        let mut shared: Option<Bytes> = None;
        for member in &mut self.members {
            let own = sender
                .as_ref()
                .filter(|(connection, _)| *connection == member.socket.id);
            let entry = match own {
                Some((_, Some(ack))) => Entry::Ack(ack),
                Some((_, None)) => {
                    member.delivered = member.delivered.max(offset);
                    continue;
                }
                None => Entry::Event(event, &mut shared),
            };
            if let Err(code) = member.hand(entry, cursor) {
                ending.push((Arc::clone(&member.socket), code));
            }
        }
    }

    /// The socket that sent the message of this entry, and the ack that it gets instead, unless it has had it.
    fn sender_of(&mut self, event: &UserEvent) -> Option<(ConnectionId, Option<OwnAck>)> {
        if self.sent.is_empty() {
            return None;
        }
        match event.kind {
            EventKind::MessageNew => {
                let acked = Acked::of_event(event).filter(|acked| acked.sender_id == self.user)?;
                let sent = self.sent.remove(&acked.client_message_id)?;
                let id = sent.id.filter(|_| sent.told == Told::Nothing);
                let ack = (sent.told != Told::Stored).then_some(OwnAck { acked, id });
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
            if let Err(code) = member.tell(frame.clone(), weight) {
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
            if let Err(code) = member.tell(frame, Weight::Counted) {
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

    /// The log is at `head` for one of the members, who is not told: what that means for all, and where they are then.
    pub(crate) fn place(
        &mut self,
        head: EventCursor,
        ending: &mut Ending,
        except: ConnectionId,
    ) -> EventCursor {
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
        self.position.unwrap_or(head)
    }
}

/// Whether a stored message had been stored before, so that its commit appended nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IsRepeat(pub(crate) bool);
