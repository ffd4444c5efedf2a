//! One socket among those of its user.
//!
//! It begins as [`Stage::Held`]: its own replay is read meanwhile, and what comes live waits, since a client must hear the
//! log in order. One whose replay cannot be read is [`Stage::Deferred`] and hears only what is in no log.

use super::frames::{self, AckStatus, Acked};
use super::open_socket::Socket;
use super::outbox::{Pushed, Weight};
use super::protocol::{CloseCode, RequestId};
use bytes::Bytes;
use gravity_domain::chat::{EventCursor, UserEvent};
use std::sync::Arc;

/// What is held for a member that is being replayed to.
const MAX_HELD: usize = 256;

/// Where a member is.
pub(crate) enum Stage {
    /// Its replay is being read.
    Held(Vec<Held>),
    /// Its replay could not be read: from here on it is owed the log; `None`: from wherever the log is when it can be read.
    Deferred(Option<EventCursor>),
    /// It follows.
    Live,
}

/// What waits for the end of a replay. Entries become frames only then: what cursor they bear depends on what has been told.
pub(crate) enum Held {
    Event(UserEvent, EventCursor),
    Ack(OwnAck, EventCursor),
    Signal(Bytes),
}

/// `stored`, for the socket that has sent the message.
#[derive(Clone)]
pub(crate) struct OwnAck {
    pub(crate) acked: Acked,
    /// That of the request, if it has not been answered yet.
    pub(crate) id: Option<RequestId>,
}

impl OwnAck {
    fn frame(&self, at: EventCursor) -> Bytes {
        frames::ack(&self.acked, AckStatus::Stored, self.id.as_ref(), Some(at))
    }
}

/// An entry of the log, as one member is told of it.
pub(crate) enum Entry<'a> {
    /// With the frame that members share, once it is made.
    Event(&'a UserEvent, &'a mut Option<Bytes>),
    Ack(&'a OwnAck),
}

/// Who is to let a member follow: whoever took the last turn.
pub(crate) type Turn = u32;

pub(crate) struct Member {
    pub(crate) socket: Arc<Socket>,
    /// The last entry that it has been handed.
    pub(crate) delivered: u64,
    pub(crate) stage: Stage,
    pub(crate) turn: Turn,
}

impl Member {
    /// One that is held.
    pub(crate) fn new(socket: Arc<Socket>) -> Self {
        Self {
            socket,
            delivered: 0,
            stage: Stage::Held(Vec::new()),
            turn: 0,
        }
    }

    /// An entry, which leads to `at`.
    pub(crate) fn hand(&mut self, entry: Entry<'_>, at: EventCursor) -> Result<(), CloseCode> {
        match (&mut self.stage, entry) {
            (Stage::Held(held), entry) => {
                if held.len() >= MAX_HELD {
                    return Err(CloseCode::TooSlow);
                }
                held.push(match entry {
                    Entry::Event(event, _) => Held::Event(event.clone(), at),
                    Entry::Ack(ack) => Held::Ack(ack.clone(), at),
                });
                Ok(())
            }
            (Stage::Deferred(_), _) => Ok(()),
            (Stage::Live, _) if at.offset <= self.delivered => Ok(()),
            (Stage::Live, Entry::Ack(ack)) => self.deliver(ack.frame(at), at),
            (Stage::Live, Entry::Event(event, shared)) => {
                let frame = shared.get_or_insert_with(|| frames::event(event, at)).clone();
                self.deliver(frame, at)
            }
        }
    }

    /// Something that is in no log.
    pub(crate) fn tell(&mut self, frame: Bytes, weight: Weight) -> Result<(), CloseCode> {
        match &mut self.stage {
            Stage::Held(held) if weight == Weight::Counted => {
                if held.len() >= MAX_HELD {
                    return Err(CloseCode::TooSlow);
                }
                held.push(Held::Signal(frame));
                Ok(())
            }
            Stage::Held(_) => Ok(()),
            Stage::Deferred(_) | Stage::Live => self.push(frame, weight),
        }
    }

    fn deliver(&mut self, frame: Bytes, at: EventCursor) -> Result<(), CloseCode> {
        self.delivered = at.offset;
        self.push(frame, Weight::Counted)
    }

    fn push(&self, frame: Bytes, weight: Weight) -> Result<(), CloseCode> {
        match self.socket.push(frame, weight) {
            Pushed::Full => Err(CloseCode::TooSlow),
            Pushed::Taken => Ok(()),
            Pushed::Dropped => {
                metrics::counter!("gravity_chat_dropped_frames_total").increment(1);
                Ok(())
            }
        }
    }

    /// From now on what comes waits, and whoever took an earlier turn has lost it.
    pub(crate) fn hold(&mut self) -> Turn {
        if !matches!(self.stage, Stage::Held(_)) {
            self.stage = Stage::Held(Vec::new());
        }
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }

    /// Its replay cannot be read: it is owed the log from `cursor` on. What is in no log it hears now.
    pub(crate) fn defer(&mut self, cursor: Option<EventCursor>) {
        if let Stage::Held(held) = std::mem::replace(&mut self.stage, Stage::Deferred(cursor)) {
            for held in held {
                if let Held::Signal(frame) = held {
                    self.socket.push(frame, Weight::Counted);
                }
            }
        }
    }

    /// Where it is, when the user's sockets are at `position`.
    pub(crate) fn place(&self, position: EventCursor) -> EventCursor {
        EventCursor {
            offset: position.offset.max(self.delivered),
            ..position
        }
    }

    /// Whether nothing is missing between `replayed` and `position`.
    pub(crate) fn holds_all(&self, replayed: EventCursor, position: EventCursor) -> bool {
        let held = match &self.stage {
            Stage::Held(held) => held.as_slice(),
            Stage::Deferred(_) | Stage::Live => &[],
        };
        let offset = |held: &Held| match held {
            Held::Event(_, at) | Held::Ack(_, at) => (at.epoch == replayed.epoch).then_some(at.offset),
            Held::Signal(_) => None,
        };
        let after = held.iter().filter_map(offset).filter(|at| *at > replayed.offset);
        replayed.offset >= position.offset || after.eq(replayed.offset + 1..=position.offset)
    }

    /// It is at `at` after its replay: what was held follows, and it is live.
    pub(crate) fn release(&mut self, mut at: EventCursor) -> Result<(), CloseCode> {
        let held = match std::mem::replace(&mut self.stage, Stage::Live) {
            Stage::Held(held) => held,
            Stage::Deferred(_) | Stage::Live => Vec::new(),
        };
        self.delivered = at.offset;
        for held in held {
            let place = match &held {
                Held::Event(_, place) | Held::Ack(_, place) => *place,
                Held::Signal(frame) => {
                    self.push(frame.clone(), Weight::Counted)?;
                    continue;
                }
            };
            if place.epoch != at.epoch || place.offset <= at.offset {
                continue;
            }
            at.offset = place.offset;
            match held {
                Held::Event(event, _) => self.deliver(frames::event(&event, at), at)?,
                Held::Ack(ack, _) => self.deliver(ack.frame(at), at)?,
                Held::Signal(_) => {}
            }
        }
        Ok(())
    }
}
