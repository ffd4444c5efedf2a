//! What waits to be written to one socket, bounded. Whoever has a frame puts it here; the socket's task writes it. Frames are
//! shared: one serialisation serves every socket of the user.
//!
//! At most [`Bounds::frames`] frames and [`Bounds::bytes`] bytes wait. Above half of either, typing is dropped and presence
//! takes the place of the same person's older word. When something that may not be dropped finds no room, the reader is too slow, and
//! the socket ends. A replay is bounded by its own limit and does not count, nor do pings, pongs and the close.

use super::protocol::CloseCode;
use bytes::Bytes;
use gravity_domain::id::UserId;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

/// What a frame is to the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weight {
    /// Counts, and is never dropped.
    Counted,
    /// Part of a replay, or of the protocol itself: neither counted nor dropped.
    Free,
    /// Dropped above half.
    Typing,
    /// Above half it replaces the same person's older one, and is dropped when full.
    Presence(UserId),
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    Taken,
    /// It was dropped or merged, or the socket is ending.
    Dropped,
    /// The reader is too slow.
    Full,
}

struct Waiting {
    bytes: Bytes,
    is_counted: bool,
    presence_of: Option<UserId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The close frame is the last one.
    Closing,
    /// Nothing is written any more.
    Over,
}

struct Inner {
    queue: VecDeque<Waiting>,
    frames: usize,
    bytes: usize,
    phase: Phase,
    waker: Option<Waker>,
}

/// The frames that wait.
pub(crate) struct Outbox {
    bounds: Bounds,
    inner: Mutex<Inner>,
}

impl Outbox {
    pub(crate) fn new(bounds: Bounds) -> Self {
        let inner = Inner {
            queue: VecDeque::new(),
            frames: 0,
            bytes: 0,
            phase: Phase::Open,
            waker: None,
        };
        Self {
            bounds,
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a frame in its place.
    pub(crate) fn push(&self, bytes: Bytes, weight: Weight) -> Pushed {
        let mut inner = self.lock();
        if inner.phase != Phase::Open {
            return Pushed::Dropped;
        }
        let length = bytes.len();
        let fits = |frames: usize, room: usize| inner.frames < frames && inner.bytes + length <= room;
        let is_full = !fits(self.bounds.frames, self.bounds.bytes);
        let is_half = !fits(self.bounds.frames / 2, self.bounds.bytes / 2);
        match weight {
            Weight::Counted if is_full => return Pushed::Full,
            Weight::Typing if is_half => return Pushed::Dropped,
            Weight::Presence(who) if is_half => {
                let older = inner.queue.iter().position(|held| held.presence_of == Some(who));
                if let Some(older) = older.and_then(|at| inner.queue.remove(at)) {
                    inner.frames -= 1;
                    inner.bytes -= older.bytes.len();
                } else if is_full {
                    return Pushed::Dropped;
                }
            }
            _ => {}
        }
        let is_counted = weight != Weight::Free;
        if is_counted {
            inner.frames += 1;
            inner.bytes += length;
        }
        let presence_of = match weight {
            Weight::Presence(who) => Some(who),
            _ => None,
        };
        inner.queue.push_back(Waiting {
            bytes,
            is_counted,
            presence_of,
        });
        wake(inner);
        Pushed::Taken
    }

    /// The last frame, unless there was one. With `now` it is the next one too: what waits is not worth waiting for.
    /// False when the socket was ending already.
    pub(crate) fn close(&self, frame: Bytes, now: bool) -> bool {
        let mut inner = self.lock();
        if inner.phase != Phase::Open {
            return false;
        }
        if now {
            inner.queue.clear();
        }
        inner.phase = Phase::Closing;
        inner.queue.push_back(Waiting {
            bytes: frame,
            is_counted: false,
            presence_of: None,
        });
        wake(inner);
        true
    }

    /// What waits is written, and then the connection ends.
    pub(crate) fn finish(&self) {
        let mut inner = self.lock();
        inner.phase = Phase::Over;
        wake(inner);
    }

    /// Nothing will be read from here any more.
    pub(crate) fn abandon(&self) {
        let mut inner = self.lock();
        inner.phase = Phase::Over;
        inner.queue = VecDeque::new();
        inner.waker = None;
    }

    /// The next frame, if one waits and has at most `room` bytes.
    pub(crate) fn next_within(&self, room: usize) -> Option<Bytes> {
        let mut inner = self.lock();
        let fits = inner.queue.front().is_some_and(|next| next.bytes.len() <= room);
        if fits { inner.pop() } else { None }
    }

    /// The next frame; `None` when there will be none.
    pub(crate) fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut inner = self.lock();
        if let Some(next) = inner.pop() {
            return Poll::Ready(Some(next));
        }
        if inner.phase == Phase::Over {
            return Poll::Ready(None);
        }
        match &mut inner.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl Inner {
    fn pop(&mut self) -> Option<Bytes> {
        let next = self.queue.pop_front()?;
        if next.is_counted {
            self.frames -= 1;
            self.bytes -= next.bytes.len();
        }
        if self.queue.is_empty() {
            // An idle socket keeps no room for frames.
            self.queue = VecDeque::new();
        }
        Some(next.bytes)
    }
}

/// Wakes the connection once the lock is gone.
fn wake(mut inner: MutexGuard<'_, Inner>) {
    let waker = inner.waker.take();
    drop(inner);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A text frame as it is on the wire, unmasked as a server's are: the same bytes for every receiver.
pub(crate) fn text_frame(payload: &[u8]) -> Bytes {
    encode(0x81, payload)
}

/// A ping, pong or close frame; at most 125 bytes of payload.
fn control_frame(opcode: u8, payload: &[u8]) -> Bytes {
    encode(0x80 | opcode, &payload[..payload.len().min(125)])
}

/// A ping without payload.
pub(crate) fn ping_frame() -> Bytes {
    Bytes::from_static(&[0x89, 0])
}

/// The answer to a ping.
pub(crate) fn pong_frame(payload: &[u8]) -> Bytes {
    control_frame(0xA, payload)
}

/// The close of this code.
pub(crate) fn close_frame(code: CloseCode) -> Bytes {
    let mut payload = code.number().to_be_bytes().to_vec();
    payload.extend_from_slice(code.reason().as_bytes());
    control_frame(0x8, &payload)
}

fn encode(first: u8, payload: &[u8]) -> Bytes {
    let mut frame = Vec::with_capacity(payload.len() + 10);
    frame.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    Bytes::from(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox() -> Outbox {
        Outbox::new(Bounds {
            frames: 8,
            bytes: 1_000,
        })
    }

    fn drain(outbox: &Outbox) -> Vec<Bytes> {
        let mut context = Context::from_waker(Waker::noop());
        let mut all = Vec::new();
        while let Poll::Ready(Some(frame)) = outbox.poll_next(&mut context) {
            all.push(frame);
        }
        all
    }

    fn frame(byte: u8, length: usize) -> Bytes {
        vec![byte; length].into()
    }

    #[test]
    fn what_may_not_be_dropped_is_refused_only_when_frames_or_bytes_are_full() {
        let few = outbox();
        for _ in 0..8 {
            assert_eq!(few.push(frame(1, 1), Weight::Counted), Pushed::Taken);
        }
        assert_eq!(few.push(frame(1, 1), Weight::Counted), Pushed::Full);
        assert_eq!(few.push(frame(1, 1), Weight::Free), Pushed::Taken);
        let large = outbox();
        assert_eq!(large.push(frame(1, 1_000), Weight::Counted), Pushed::Taken);
        assert_eq!(large.push(frame(1, 1), Weight::Counted), Pushed::Full);
        assert_eq!(drain(&large).len(), 1);
        assert_eq!(large.push(frame(1, 1_000), Weight::Counted), Pushed::Taken);
    }

    #[test]
    fn above_half_typing_is_dropped_and_presence_is_merged() {
        let outbox = outbox();
        let (one, two) = (UserId::random(), UserId::random());
        assert_eq!(outbox.push(frame(1, 1), Weight::Typing), Pushed::Taken);
        assert_eq!(outbox.push(frame(2, 1), Weight::Presence(one)), Pushed::Taken);
        for _ in 0..2 {
            outbox.push(frame(0, 1), Weight::Counted);
        }
        assert_eq!(outbox.push(frame(3, 1), Weight::Typing), Pushed::Dropped);
        assert_eq!(outbox.push(frame(4, 1), Weight::Presence(one)), Pushed::Taken);
        for _ in 0..4 {
            assert_eq!(outbox.push(frame(0, 1), Weight::Counted), Pushed::Taken);
        }
        assert_eq!(outbox.push(frame(5, 1), Weight::Presence(two)), Pushed::Dropped);
        assert_eq!(outbox.push(frame(6, 1), Weight::Presence(one)), Pushed::Taken);
        let first_bytes: Vec<u8> = drain(&outbox).iter().map(|frame| frame[0]).collect();
        assert_eq!(first_bytes, [1, 0, 0, 0, 0, 0, 0, 6]);
    }

    #[test]
    fn the_close_is_the_last_frame_and_there_is_one() {
        let outbox = outbox();
        outbox.push(frame(1, 1), Weight::Counted);
        assert!(outbox.close(close_frame(CloseCode::ShuttingDown), false));
        assert!(!outbox.close(close_frame(CloseCode::TooSlow), true));
        assert_eq!(outbox.push(frame(1, 1), Weight::Free), Pushed::Dropped);
        let sent = drain(&outbox);
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[1][..4], [0x88, 15, 0x10, 0x04]);
        outbox.finish();
        let mut context = Context::from_waker(Waker::noop());
        assert_eq!(outbox.poll_next(&mut context), Poll::Ready(None));
    }

    #[test]
    fn lengths_are_written_in_the_shortest_form() {
        assert_eq!(text_frame(&[7; 125])[..2], [0x81, 125]);
        assert_eq!(text_frame(&[7; 126])[..4], [0x81, 126, 0, 126]);
        assert_eq!(text_frame(&[7; 65_535])[..4], [0x81, 126, 255, 255]);
        assert_eq!(
            text_frame(&[7; 65_536])[..10],
            [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
    }
}
