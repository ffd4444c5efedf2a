//! What comes in over one socket: WebSocket frames, put together to messages, within a limit that holds before anything is kept.

use crate::serve::Transport;
use actix_http::ws::{Codec, Frame, Item};
use actix_web::web;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead as _, ReadBuf, ReadHalf};
use tokio_util::codec::Decoder as _;

/// Bytes that are read at once.
const CHUNK: usize = 4 * 1024;

/// A message of the client, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Text(Bytes),
    Binary,
    Ping(Bytes),
    Pong,
    Close,
}

/// Why nothing more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The connection is gone.
    Gone,
    /// A message is over the limit.
    TooLarge,
    /// No frames as RFC 6455 has them.
    Violation,
}

/// Puts messages together.
struct Assembly {
    codec: Codec,
    buffer: BytesMut,
    /// The fragments so far, and whether they are text.
    partial: Option<(BytesMut, bool)>,
    limit: usize,
}

impl Assembly {
    fn new(limit: usize) -> Self {
        Self {
            // Lengths are checked before the codec sees them.
            codec: Codec::new().max_size(usize::MAX),
            buffer: BytesMut::new(),
            partial: None,
            limit,
        }
    }

    fn next(&mut self) -> Result<Option<Incoming>, End> {
        loop {
            let so_far = self.partial.as_ref().map_or(0, |(fragments, _)| fragments.len());
            let left = self.limit.saturating_sub(so_far);
            match announced(&self.buffer) {
                Some((true, 126..)) => return Err(End::Violation),
                Some((false, length)) if length > left as u64 => return Err(End::TooLarge),
                _ => {}
            }
            let frame = self.codec.decode(&mut self.buffer).map_err(|_| End::Violation)?;
            if self.buffer.is_empty() {
                // An idle socket keeps no room for what it might hear.
                self.buffer = BytesMut::new();
            }
            let Some(frame) = frame else {
                return Ok(None);
            };
            if let Some(incoming) = self.assemble(frame)? {
                return Ok(Some(incoming));
            }
        }
    }

    fn assemble(&mut self, frame: Frame) -> Result<Option<Incoming>, End> {
        let incoming = match frame {
            Frame::Text(text) => Incoming::Text(text),
            Frame::Binary(_) => Incoming::Binary,
            Frame::Ping(payload) => Incoming::Ping(payload),
            Frame::Pong(_) => Incoming::Pong,
            Frame::Close(_) => Incoming::Close,
            Frame::Continuation(Item::FirstText(first)) => {
                self.partial = Some((BytesMut::from(first.as_ref()), true));
                return Ok(None);
            }
            Frame::Continuation(Item::FirstBinary(first)) => {
                self.partial = Some((BytesMut::from(first.as_ref()), false));
                return Ok(None);
            }
            // It would cost the client nothing, and no limit would see it.
            Frame::Continuation(Item::Continue(more)) if more.is_empty() => return Err(End::Violation),
            Frame::Continuation(Item::Continue(more)) => {
                let (fragments, _) = self.partial.as_mut().ok_or(End::Violation)?;
                fragments.extend_from_slice(&more);
                return Ok(None);
            }
            Frame::Continuation(Item::Last(last)) => {
                let (mut fragments, is_text) = self.partial.take().ok_or(End::Violation)?;
                fragments.extend_from_slice(&last);
                if is_text {
                    Incoming::Text(fragments.freeze())
                } else {
                    Incoming::Binary
                }
            }
        };
        Ok(Some(incoming))
    }
}

/// Whether the frame at the start of `buffer` is a control frame, and the length of its payload, as soon as its header tells.
fn announced(buffer: &[u8]) -> Option<(bool, u64)> {
    let (&first, rest) = buffer.split_first()?;
    let (&second, rest) = rest.split_first()?;
    let length = match second & 0x7F {
        126 => u64::from(u16::from_be_bytes(*rest.first_chunk()?)),
        127 => u64::from_be_bytes(*rest.first_chunk()?),
        length => u64::from(length),
    };
    Some((first & 0x08 != 0, length))
}

/// Reads one socket.
pub(crate) struct Reader {
    /// What HTTP had read already when it gave the connection away.
    before: Option<web::Payload>,
    from: ReadHalf<Box<dyn Transport>>,
    assembly: Assembly,
}

impl Reader {
    /// At most `limit` bytes a message.
    pub(crate) fn new(before: web::Payload, from: ReadHalf<Box<dyn Transport>>, limit: usize) -> Self {
        Self {
            before: Some(before),
            from,
            assembly: Assembly::new(limit),
        }
    }

    /// From now on, at most so many bytes a message.
    pub(crate) fn limit(&mut self, limit: usize) {
        self.assembly.limit = limit;
    }

    /// The next message or control frame. May be dropped half-way without losing anything.
    ///
    /// # Errors
    /// [`End`]; nothing is to be read after it.
    pub(crate) async fn next(&mut self) -> Result<Incoming, End> {
        loop {
            if let Some(incoming) = self.assembly.next()? {
                return Ok(incoming);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), End> {
        if let Some(before) = &mut self.before {
            match before.next().await {
                Some(Ok(chunk)) => self.assembly.buffer.extend_from_slice(&chunk),
                // To HTTP, a connection that is given away looks cut off.
                Some(Err(_)) | None => self.before = None,
            }
            return Ok(());
        }
        poll_fn(|context| self.poll_read(context)).await
    }

    /// Over the stack: a socket that hears nothing keeps no room for what it might.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut chunk = [MaybeUninit::uninit(); CHUNK];
        let mut chunk = ReadBuf::uninit(&mut chunk);
        let read = ready!(Pin::new(&mut self.from).poll_read(context, &mut chunk));
        if read.is_err() || chunk.filled().is_empty() {
            return Poll::Ready(Err(End::Gone));
        }
        self.assembly.buffer.extend_from_slice(chunk.filled());
        Poll::Ready(Ok(()))
    }

    /// Lets everything go by until the connection ends: the client has been told why it ends.
    pub(crate) async fn discard(&mut self) {
        while self.more().await.is_ok() {
            self.assembly.buffer.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(0x80 | u8::try_from(length).unwrap()),
            length => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend_from_slice(&mask);
        frame.extend(
            payload
                .iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        frame
    }

    fn all(bytes: &[u8], limit: usize, step: usize) -> Vec<Result<Incoming, End>> {
        let mut assembly = Assembly::new(limit);
        let mut seen = Vec::new();
        for chunk in bytes.chunks(step) {
            assembly.buffer.extend_from_slice(chunk);
            loop {
                match assembly.next() {
                    Ok(Some(incoming)) => seen.push(Ok(incoming)),
                    Ok(None) => break,
                    Err(end) => {
                        seen.push(Err(end));
                        return seen;
                    }
                }
            }
        }
        assert!(!assembly.buffer.is_empty() || assembly.buffer.capacity() == 0);
        seen
    }

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_cut() {
        let mut bytes = masked(0x81, b"one");
        bytes.extend(masked(0x01, b"tw"));
        bytes.extend(masked(0x89, b"p"));
        bytes.extend(masked(0x80, b"o"));
        bytes.extend(masked(0x82, &[1; 300]));
        bytes.extend(masked(0x88, &[]));
        for step in [1, 2, 3, 7, 1_000] {
            let seen: Vec<_> = all(&bytes, 1_000, step).into_iter().map(Result::unwrap).collect();
            let text = |text: &'static str| Incoming::Text(Bytes::from_static(text.as_bytes()));
            let ping = Incoming::Ping(Bytes::from_static(b"p"));
            assert_eq!(
                seen,
                [text("one"), ping, text("two"), Incoming::Binary, Incoming::Close]
            );
        }
    }

    #[test]
    fn a_message_over_the_limit_ends_it_before_its_payload_is_there() {
        assert_eq!(all(&masked(0x81, &[b'a'; 100]), 100, 1_000).len(), 1);
        assert_eq!(
            all(&masked(0x81, &[b'a'; 101])[..6], 100, 1_000),
            [Err(End::TooLarge)]
        );
        let huge = [
            0x81, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3, 4,
        ];
        assert_eq!(all(&huge, 100, 1_000), [Err(End::TooLarge)]);
        let mut fragments = masked(0x01, &[b'a'; 60]);
        fragments.extend(masked(0x80, &[b'a'; 41]));
        assert_eq!(all(&fragments, 100, 1_000), [Err(End::TooLarge)]);
    }

    #[test]
    fn what_is_no_frame_of_a_client_ends_it() {
        assert_eq!(all(&[0x81, 0x01, b'a'], 100, 10), [Err(End::Violation)]);
        assert_eq!(all(&masked(0x80, b"a"), 100, 10), [Err(End::Violation)]);
        let nothing_more = [masked(0x01, b"a"), masked(0x00, b"")].concat();
        assert_eq!(all(&nothing_more, 100, 10), [Err(End::Violation)]);
        assert_eq!(all(&masked(0xF1, b"a"), 100, 10), [Err(End::Violation)]);
    }
}
