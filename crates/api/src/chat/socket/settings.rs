//! What a socket may do, and how long things take. The defaults are the contract's.

use super::frames::StatedLimits;
use super::outbox::Bounds;
use std::time::Duration;

/// Settings of sockets.
#[derive(Debug, Clone)]
pub struct SocketSettings {
    /// `CHAT_ALLOWED_ORIGINS`: exact origins that may open one; a request without `Origin` always may. `*` allows all.
    pub allowed_origins: Vec<String>,
    /// `CHAT_MAX_SOCKETS_PER_USER`: one more closes the oldest.
    pub max_sockets_per_user: usize,
    /// Sockets of this node; more are closed at once, to try elsewhere.
    pub max_sockets: usize,
    /// `CHAT_MESSAGES_PER_MINUTE`: told to clients; the use case counts.
    pub messages_per_minute: u32,
    /// How long one request of a client may wait for the stores.
    pub deadline: Duration,
    /// The largest frame of a client, in bytes.
    pub max_frame: usize,
    /// The same before it is known whose the socket is.
    pub max_frame_before_auth: usize,
    /// How long a client has to authenticate, in milliseconds.
    pub auth_within_ms: u64,
    /// How often the server pings, in milliseconds, ±20 %.
    pub ping_every_ms: u64,
    /// How long a client has to answer a ping, in milliseconds.
    pub pong_within_ms: u64,
    /// How long a socket may be gone before its user counts as gone, in milliseconds.
    pub grace_ms: u64,
    /// Requests of one socket that may wait for their answer.
    pub max_unanswered: usize,
    /// One `typing` of a conversation passes in so many milliseconds.
    pub typing_every_ms: u64,
    /// Frames a client may send per second, on average; ten seconds' worth at once.
    pub frames_per_second: u32,
    /// How long the first frame is waited for, which may be `resume`, in milliseconds.
    pub first_frame_ms: u64,
    /// How often the ends of logs are looked at while no other node is heard, in milliseconds.
    pub poll_every_ms: u64,
}

impl Default for SocketSettings {
    fn default() -> Self {
        Self {
            allowed_origins: Vec::new(),
            max_sockets_per_user: 20,
            max_sockets: 200_000,
            messages_per_minute: 30,
            deadline: Duration::from_secs(1),
            max_frame: 64 * 1024,
            max_frame_before_auth: 4 * 1024,
            auth_within_ms: 5_000,
            ping_every_ms: 25_000,
            pong_within_ms: 10_000,
            grace_ms: 15_000,
            max_unanswered: 32,
            typing_every_ms: 3_000,
            frames_per_second: 20,
            first_frame_ms: 250,
            poll_every_ms: 2_000,
        }
    }
}

impl SocketSettings {
    /// What may wait to be written to one socket.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            frames: 256,
            bytes: 1024 * 1024,
        }
    }

    /// What clients are told.
    pub(super) fn stated(&self) -> StatedLimits {
        StatedLimits {
            max_frame_bytes: self.max_frame,
            max_content_characters: 4_000,
            messages_per_minute: self.messages_per_minute,
            max_unanswered: self.max_unanswered,
            typing_every_ms: self.typing_every_ms,
            resume_events: 1_000,
        }
    }
}
