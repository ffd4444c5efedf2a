//! One socket, as everybody but its own session sees it: a few words of state, and what waits to be written.

use super::outbox::{Bounds, Outbox, Pushed, Weight, close_frame};
use super::protocol::CloseCode;
use bytes::Bytes;
use gravity_domain::chat::ConnectionId;
use gravity_domain::clock::Timestamp;
use gravity_domain::id::UserId;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use tokio::sync::Notify;
use uuid::Uuid;

/// One socket. Times are milliseconds of the hub's own clock, but for the token's end.
pub(crate) struct Socket {
    pub(crate) id: ConnectionId,
    pub(crate) outbox: Outbox,
    /// The connection is gone, or the time to wait for the client's close is over.
    pub(crate) over: Notify,
    user: OnceLock<UserId>,
    pub(crate) opened: u64,
    /// When the client was last heard of.
    pub(crate) heard: AtomicU64,
    pub(crate) ping_due: AtomicU64,
    /// When the ping was sent that nothing has been heard since; 0: none.
    pub(crate) ping_sent: AtomicU64,
    pub(crate) check_due: AtomicU64,
    /// When the close was sent; 0: not yet.
    pub(crate) closing: AtomicU64,
    expires_at: AtomicI64,
    pub(crate) is_warned: AtomicBool,
    /// `ready` is said: nothing else is before it.
    pub(crate) is_begun: AtomicBool,
    /// Requests that wait for their answer.
    pub(crate) unanswered: AtomicUsize,
}

impl Socket {
    pub(crate) fn new(bounds: Bounds, now: u64) -> Arc<Self> {
        Arc::new(Self {
            id: ConnectionId(Uuid::new_v4()),
            outbox: Outbox::new(bounds),
            over: Notify::new(),
            user: OnceLock::new(),
            opened: now,
            heard: AtomicU64::new(now),
            ping_due: AtomicU64::new(u64::MAX),
            ping_sent: AtomicU64::new(0),
            check_due: AtomicU64::new(u64::MAX),
            closing: AtomicU64::new(0),
            expires_at: AtomicI64::new(i64::MAX),
            is_warned: AtomicBool::new(false),
            is_begun: AtomicBool::new(false),
            unanswered: AtomicUsize::new(0),
        })
    }

    /// Whose it is, once that is known.
    pub(crate) fn user(&self) -> Option<UserId> {
        self.user.get().copied()
    }

    /// Says whose it is; false when it is somebody else's already.
    pub(crate) fn belongs_to(&self, user: UserId) -> bool {
        *self.user.get_or_init(|| user) == user
    }

    pub(crate) fn authenticated_until(&self, end: Timestamp) {
        self.expires_at.store(end.millis(), Relaxed);
        self.is_warned.store(false, Relaxed);
    }

    pub(crate) fn expires_at(&self) -> Timestamp {
        Timestamp::from_millis(self.expires_at.load(Relaxed))
    }

    /// Puts a frame where it waits to be written.
    pub(crate) fn push(&self, frame: Bytes, weight: Weight) -> Pushed {
        self.outbox.push(frame, weight)
    }

    /// Begins the end. False when it had begun.
    pub(crate) fn close(&self, code: CloseCode, now: u64) -> bool {
        let at_once = matches!(code, CloseCode::TooSlow | CloseCode::PingTimeout);
        if !self.outbox.close(close_frame(code), at_once) {
            return false;
        }
        self.closing.store(now.max(1), Relaxed);
        metrics::counter!("gravity_chat_closes_total", "code" => code.label()).increment(1);
        true
    }

    /// What waits is written, and the connection ends without waiting for the client.
    pub(crate) fn finish(&self) {
        self.outbox.finish();
        self.over.notify_one();
    }

    /// The connection is gone: nothing is written any more.
    pub(crate) fn lost(&self) {
        self.outbox.abandon();
        self.over.notify_one();
    }
}
