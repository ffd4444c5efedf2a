//! A connection that a handler may take out of HTTP's hands.
//!
//! After `101 Switching Protocols` the framework would go on with the connection: its buffers of 8 KiB each way, its request and
//! its state machine stay for as long as a socket lives. Here a handler asks its request for [`Taking`], answers with
//! [`Taking::body`], and gets the connection itself as soon as the head of that answer is written. To HTTP it looks from then on as
//! if the client had gone, so it cleans up and ends.

use actix_web::HttpRequest;
use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// What bytes come and go over.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport for T {}

/// Whoever wants the connection.
#[derive(Default)]
struct Wish {
    taker: Option<oneshot::Sender<Box<dyn Transport>>>,
    /// Of the answer's body.
    waker: Option<Waker>,
    is_granted: bool,
}

/// What the requests of a connection know of it.
#[derive(Clone)]
pub(super) struct Connected {
    wish: Rc<RefCell<Wish>>,
    is_secure: bool,
}

/// Whether the request came over TLS.
pub(crate) fn is_secure(req: &HttpRequest) -> bool {
    req.conn_data::<Connected>()
        .is_some_and(|connected| connected.is_secure)
}

/// A connection as HTTP sees it.
pub(super) struct Connection<T> {
    transport: Option<T>,
    connected: Connected,
}

impl<T> Connection<T> {
    pub(super) fn new(transport: T, is_secure: bool) -> Self {
        let wish = Rc::default();
        Self {
            transport: Some(transport),
            connected: Connected { wish, is_secure },
        }
    }

    pub(super) fn connected(&self) -> Connected {
        self.connected.clone()
    }
}

impl<T: Transport + 'static> Connection<T> {
    /// Everything that HTTP had to say is written.
    fn hand_over(&mut self) {
        let mut wish = self.connected.wish.borrow_mut();
        let Some(taker) = wish.taker.take() else { return };
        let Some(transport) = self.transport.take() else {
            return;
        };
        wish.is_granted = true;
        // Whoever wanted it may have gone; then it ends here.
        let _ = taker.send(Box::new(transport));
        if let Some(waker) = wish.waker.take() {
            waker.wake();
        }
    }
}

impl<T: Transport + 'static> AsyncRead for Connection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Some(transport) => Pin::new(transport).poll_read(context, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<T: Transport + 'static> AsyncWrite for Connection<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Some(transport) => Pin::new(transport).poll_write(context, bytes),
            None => Poll::Ready(Ok(bytes.len())),
        }
    }

    /// HTTP flushes once it has written all that there was, on each of its passes: then the head is out.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(transport) = &mut self.transport {
            ready!(Pin::new(transport).poll_flush(context))?;
            self.hand_over();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Some(transport) => Pin::new(transport).poll_write_vectored(context, parts),
            None => Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.as_ref().is_some_and(T::is_write_vectored)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Some(transport) => Pin::new(transport).poll_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// The connection of a request, to be had once the answer's head is written.
pub(crate) struct Taking {
    wish: Rc<RefCell<Wish>>,
    taker: oneshot::Sender<Box<dyn Transport>>,
}

impl Taking {
    /// Of the request's connection; `None` where the server is not [`serve`](super::serve)'s. The receiver gets the connection, or an
    /// error when the answer is not given after all. What was read of it before is in the request's payload.
    pub(crate) fn of(req: &HttpRequest) -> Option<(Self, oneshot::Receiver<Box<dyn Transport>>)> {
        let wish = Rc::clone(&req.conn_data::<Connected>()?.wish);
        let (taker, taken) = oneshot::channel();
        Some((Self { wish, taker }, taken))
    }

    /// The body of the answer that gives the connection away.
    pub(crate) fn body(self) -> Handover {
        Handover {
            wish: self.wish,
            taker: Some(self.taker),
        }
    }
}

/// See [`Taking::body`]: nothing, but it ends when the connection is given away.
pub(crate) struct Handover {
    wish: Rc<RefCell<Wish>>,
    taker: Option<oneshot::Sender<Box<dyn Transport>>>,
}

impl MessageBody for Handover {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    /// Polled once the head is among what is to be written, and not before.
    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let taker = self.taker.take();
        let mut wish = self.wish.borrow_mut();
        if wish.is_granted {
            return Poll::Ready(None);
        }
        if taker.is_some() {
            wish.taker = taker;
        }
        wish.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
