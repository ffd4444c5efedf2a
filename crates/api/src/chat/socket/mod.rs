//! The socket of chat.
//!
//! ```text
//! handler ── handshake, takes the connection over ──> one task: Session (reads)   write_out (writes)
//!                                                        │ requests                 ^ frames, made once, shared
//!                                                        v                          │
//!                                                      Desk ── use cases     Socket.outbox <── Hub <── hints (this node's commits,
//!                                                                                               │      other nodes)
//!                                                                                               └── reads the log where an entry
//!                                                                                                   is missing
//! ```
//!
//! The log of a user in Postgres is the truth, and hints only make it fast: [`Hub`] hands out entry after entry, never past a
//! gap (`following`), and reads the log where it must (`catch_up`). A client that comes back names the last entry it saw, and
//! hears all that it missed, or is told that it must begin anew; never a part.
//!
//! An idle socket costs its connection, one small task and a few words: no buffers, no timers, no queues, no second task.

mod begin;
mod calls;
mod catch_up;
mod desk;
mod following;
mod frames;
mod handler;
mod hub;
mod member;
mod open_socket;
mod outbox;
mod protocol;
mod reader;
mod session;
mod settings;
mod sweep;
#[cfg(test)]
mod tests;
mod use_cases;
mod writer;

pub use calls::{Guest, SocketCalls, Taken};
pub use frames::Mode;
#[doc(hidden)]
pub use handler::__path_connect;
pub use handler::{CONNECT_QUERY, connect};
pub use hub::Hub;
pub use protocol::{CloseCode, SendFrame};
pub use settings::SocketSettings;
pub use use_cases::UseCases;

use metrics::{describe_counter, describe_gauge};

/// Says what the metrics of sockets mean.
pub fn describe_metrics() {
    describe_gauge!("gravity_chat_sockets", "Open sockets.");
    describe_counter!(
        "gravity_chat_frames_total",
        "Frames, by type and direction; one that goes to many sockets counts once."
    );
    describe_counter!(
        "gravity_chat_closes_total",
        "Sockets closed by the server, by code."
    );
    describe_counter!(
        "gravity_chat_delivery_total",
        "Entries of logs heard of by the hub: delivered, repeated, or ahead of one that is missing."
    );
    describe_counter!(
        "gravity_chat_dropped_frames_total",
        "Typing and presence that slow clients were spared."
    );
    describe_counter!(
        "gravity_chat_log_reads_total",
        "Reads of logs for sockets, by what and result."
    );
    describe_counter!(
        "gravity_chat_resyncs_total",
        "Times that hints may have been missed, by reason."
    );
}
