//! What goes out over one socket.

use super::open_socket::Socket;
use crate::serve::Transport;
use bytes::{Bytes, BytesMut};
use std::future::poll_fn;
use std::io;
use tokio::io::{AsyncWriteExt as _, WriteHalf};

/// Frames that wait are written together up to so many bytes: one packet, and one call of the system, for a burst.
const TOGETHER: usize = 16 * 1024;

/// Writes what waits for `socket`, until nothing more is to come.
///
/// # Errors
/// The connection is gone.
pub(super) async fn write_out(socket: &Socket, mut to: WriteHalf<Box<dyn Transport>>) -> io::Result<()> {
    while let Some(first) = poll_fn(|context| socket.outbox.poll_next(context)).await {
        let burst = gather(socket, first);
        to.write_all(&burst).await?;
        drop(burst);
        to.flush().await?;
    }
    to.shutdown().await
}

fn gather(socket: &Socket, first: Bytes) -> Bytes {
    let room = |taken: usize| TOGETHER.saturating_sub(taken);
    let Some(second) = socket.outbox.next_within(room(first.len())) else {
        return first;
    };
    let mut together = BytesMut::with_capacity(2 * (first.len() + second.len()));
    together.extend_from_slice(&first);
    together.extend_from_slice(&second);
    while let Some(next) = socket.outbox.next_within(room(together.len())) {
        together.extend_from_slice(&next);
    }
    together.freeze()
}
