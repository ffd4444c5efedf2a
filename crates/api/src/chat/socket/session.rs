//! One socket from its opening to its end: who it is, what it resumes from, and what its client asks for. The session only reads;
//! what is written goes through the socket's outbox, and what must happen in time is seen to by the hub's sweep.

use super::begin::{self, Wish};
use super::calls::Guest;
use super::desk::{Desk, Task, TooMany};
use super::frames;
use super::hub::Hub;
use super::open_socket::Socket;
use super::outbox::{Weight, pong_frame};
use super::protocol::{self, CloseCode, Inbound, Invalid, Request, RequestId};
use super::reader::{End, Incoming, Reader};
use super::sweep;
use super::writer::write_out;
use crate::error::{ApiError, ErrorCode};
use crate::serve::Transport;
use bytes::Bytes;
use gravity_domain::id::{ConversationId, UserId};
use serde_json::Value;
use std::ops::ControlFlow::{self, Break, Continue};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::io::WriteHalf;
use tokio::time::timeout;

/// Seconds' worth of frames that a client may send at once.
const BURST_SECONDS: u32 = 10;
/// How long what is left to be written may take once the session is over.
pub(super) const LAST_WRITES: Duration = Duration::from_secs(5);
/// Conversations whose last `typing` is remembered.
const TYPING: usize = 64;

/// Where the session is.
enum Phase {
    /// Nobody has vouched for it yet.
    Stranger,
    /// Its first frame may be `resume`.
    Fresh(Rc<Desk>),
    Begun(Rc<Desk>),
}

/// Why the session ends: with a code of ours, or because the client is gone or said so.
type Flow = ControlFlow<Option<CloseCode>>;

/// See the module.
pub(super) struct Session {
    hub: Arc<Hub>,
    socket: Arc<Socket>,
    reader: Reader,
    phase: Phase,
    /// `?resume=`.
    resume: Option<String>,
    has_spoken: bool,
    tokens: f64,
    filled: u64,
    typed: Vec<(ConversationId, u64)>,
}

/// However it ends, the hub is told.
impl Drop for Session {
    fn drop(&mut self) {
        self.hub.ended(&self.socket);
    }
}

impl Session {
    pub(super) fn new(hub: Arc<Hub>, socket: Arc<Socket>, reader: Reader, resume: Option<String>) -> Self {
        let tokens = f64::from(hub.settings.frames_per_second * BURST_SECONDS);
        let filled = hub.now();
        Self {
            hub,
            socket,
            reader,
            phase: Phase::Stranger,
            resume,
            has_spoken: false,
            tokens,
            filled,
            typed: Vec::new(),
        }
    }

    /// Reads and writes to the end of the socket. `guest`: whom the handshake has let in.
    pub(super) async fn run(self, guest: Option<Guest>, to: WriteHalf<Box<dyn Transport>>) {
        let socket = Arc::clone(&self.socket);
        let mut writing = pin!(write_out(&socket, to));
        let mut session = pin!(self.live(guest));
        tokio::select! {
            () = &mut session => {
                // Whoever reads nothing is not waited for.
                let _ = Box::pin(timeout(LAST_WRITES, writing)).await;
            }
            _ = &mut writing => {
                socket.lost();
                session.await;
            }
        }
    }

    async fn live(mut self, guest: Option<Guest>) {
        let begun = match guest {
            Some(guest) => Box::pin(self.enter(guest, None, false)).await,
            None => Continue(()),
        };
        let end = match begun {
            Continue(()) => self.converse().await,
            Break(code) => code,
        };
        if let Some(code) = end {
            self.hub.close(&self.socket, code);
            // The client is to read why before the connection goes.
            tokio::select! {
                () = farewell(&mut self.reader) => {}
                () = self.socket.over.notified() => {}
            }
        }
    }

    async fn converse(&mut self) -> Option<CloseCode> {
        loop {
            let is_fresh = matches!(self.phase, Phase::Fresh(_));
            let patience = is_fresh.then(|| Duration::from_millis(self.hub.settings.first_frame_ms));
            let incoming = tokio::select! {
                biased;
                () = self.socket.over.notified() => return None,
                incoming = next_within(&mut self.reader, patience) => incoming,
            };
            let flow = match incoming {
                Some(incoming) => self.incoming(incoming).await,
                None => {
                    Box::pin(self.begin(Wish::Now, None)).await;
                    Continue(())
                }
            };
            if let Break(end) = flow {
                return end;
            }
        }
    }

    async fn incoming(&mut self, incoming: Result<Incoming, End>) -> Flow {
        let now = self.hub.now();
        self.socket.heard.store(now, Relaxed);
        if self.socket.closing.load(Relaxed) > 0 {
            return match incoming {
                Ok(Incoming::Close) | Err(_) => Break(None),
                Ok(_) => Continue(()),
            };
        }
        match incoming {
            Err(End::Gone) => Break(None),
            Err(End::TooLarge) => Break(Some(CloseCode::TooLarge)),
            Err(End::Violation) => Break(Some(CloseCode::Protocol)),
            Ok(Incoming::Close) => {
                self.hub.close(&self.socket, CloseCode::Normal);
                Break(None)
            }
            Ok(_) if !self.may_speak(now) => Break(Some(CloseCode::TooManyRequests)),
            Ok(Incoming::Pong) => Continue(()),
            Ok(Incoming::Ping(payload)) => {
                self.answer(pong_frame(&payload));
                Continue(())
            }
            Ok(Incoming::Binary) => Break(Some(CloseCode::BadFrame)),
            Ok(Incoming::Text(text)) => self.text(&text).await,
        }
    }

    /// Whether the client keeps within its number of frames.
    fn may_speak(&mut self, now: u64) -> bool {
        let rate = f64::from(self.hub.settings.frames_per_second);
        let passed = Duration::from_millis(now.saturating_sub(self.filled)).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * rate).min(rate * f64::from(BURST_SECONDS)) - 1.0;
        self.tokens >= 0.0
    }

    async fn text(&mut self, text: &Bytes) -> Flow {
        let Ok(Inbound { id, request }) = protocol::parse(text) else {
            count("malformed");
            return Break(Some(CloseCode::BadFrame));
        };
        count(request.as_ref().map_or("invalid", Request::label));
        let is_first = !std::mem::replace(&mut self.has_spoken, true);
        match (&self.phase, request) {
            (Phase::Stranger, Ok(Request::Auth { token, resume })) => {
                if resume.is_some() {
                    self.resume = resume;
                }
                Box::pin(self.authenticate(&token, id.as_ref())).await
            }
            (Phase::Stranger, _) => Break(Some(CloseCode::Unauthenticated)),
            (_, Ok(Request::Resume { cursor })) if is_first => {
                Box::pin(self.begin(Wish::of(Some(&cursor)), id.as_ref())).await;
                Continue(())
            }
            (Phase::Fresh(_), request) => {
                Box::pin(self.begin(Wish::Now, None)).await;
                Box::pin(self.request(id, request)).await
            }
            (Phase::Begun(_), request) => Box::pin(self.request(id, request)).await,
        }
    }

    /// By the first frame.
    async fn authenticate(&mut self, token: &str, id: Option<&RequestId>) -> Flow {
        match self.guest(token).await {
            Ok(guest) => self.enter(guest, id, true).await,
            Err(error) => self.not_admitted(&error, id),
        }
    }

    async fn guest(&self, token: &str) -> Result<Guest, ApiError> {
        let ports = self.hub.ports().ok_or_else(|| ApiError::new(ErrorCode::Busy))?;
        self.hub.within(ports.calls.admit(token)).await
    }

    fn not_admitted(&self, error: &ApiError, id: Option<&RequestId>) -> Flow {
        let code = match error.code() {
            ErrorCode::Unauthenticated => CloseCode::Unauthenticated,
            ErrorCode::Forbidden => CloseCode::Forbidden,
            // It may be as good as it looks: to be tried again later.
            _ => CloseCode::Overloaded,
        };
        self.answer(frames::error(id, &frames::trouble_of(error)));
        Break(Some(code))
    }

    /// It is known whose the socket is. `by_frame`: nothing more is to be waited for.
    async fn enter(&mut self, guest: Guest, id: Option<&RequestId>, by_frame: bool) -> Flow {
        let (socket, now) = (&self.socket, self.hub.now());
        socket.belongs_to(guest.user_id);
        socket.authenticated_until(guest.expires_at);
        socket.ping_due.store(sweep::next_ping(&self.hub, now), Relaxed);
        socket.check_due.store(sweep::next_check(now), Relaxed);
        self.reader.limit(self.hub.settings.max_frame);
        let desk = Desk::new(&self.hub, socket, guest.user_id);
        self.phase = Phase::Fresh(desk);
        self.hub.attach(socket, guest.user_id);
        let resume = self.resume.take();
        if by_frame || resume.is_some() {
            self.begin(Wish::of(resume.as_deref()), id).await;
        }
        Continue(())
    }

    /// Says `ready`. A second time it is because `resume` came late: what the client has missed before is told then.
    async fn begin(&mut self, wish: Wish, id: Option<&RequestId>) {
        let Some(user) = self.user() else { return };
        if let Phase::Fresh(desk) | Phase::Begun(desk) = &self.phase {
            self.phase = Phase::Begun(Rc::clone(desk));
        }
        begin::begin(&self.hub, &self.socket, user, wish, id).await;
    }

    fn user(&self) -> Option<UserId> {
        self.socket.user()
    }

    async fn request(&mut self, id: Option<RequestId>, request: Result<Request, Invalid>) -> Flow {
        let Phase::Begun(desk) = &self.phase else {
            return Continue(());
        };
        let desk = Rc::clone(desk);
        let request = match request {
            Ok(request) => request,
            Err(invalid) => {
                self.invalid(id.as_ref(), &invalid);
                return Continue(());
            }
        };
        match request {
            Request::Auth { token, .. } | Request::Refresh { token } => {
                return self.refresh(&token, id.as_ref()).await;
            }
            Request::Resume { .. } => {
                let trouble = frames::trouble(
                    "unexpected_frame",
                    "`resume` must be the first frame.",
                    false,
                    None,
                );
                self.answer(frames::error(id.as_ref(), &trouble));
            }
            Request::Send(message) => self.task(&desk, id.as_ref(), Task::Send(message)),
            Request::Read {
                conversation_id,
                message_id,
            } => self.task(&desk, id.as_ref(), Task::Read(conversation_id, message_id)),
            Request::Typing { conversation_id } => {
                if self.may_type(conversation_id) {
                    self.task(&desk, id.as_ref(), Task::Typing(conversation_id));
                }
            }
            Request::Ping => {
                let top = self.user().and_then(|user| self.hub.top(user));
                self.answer(frames::pong(id.as_ref(), top, self.hub.clock.now()));
            }
            Request::Unknown => {
                let trouble = frames::trouble("unknown_type", "There is no frame of this type.", false, None);
                self.answer(frames::error(id.as_ref(), &trouble));
            }
        }
        Continue(())
    }

    fn answer(&self, frame: Bytes) {
        self.hub.answer(&self.socket, frame);
    }

    fn invalid(&self, id: Option<&RequestId>, invalid: &Invalid) {
        let code = ErrorCode::ValidationFailed.as_str();
        let trouble = frames::trouble(code, &invalid.message(), false, None);
        match invalid.client_message_id {
            Some(message) => self.answer(frames::rejected(Some(message), None, &trouble, id)),
            None => self.answer(frames::error(id, &trouble)),
        }
    }

    fn task(&self, desk: &Rc<Desk>, id: Option<&RequestId>, task: Task) {
        let Err(TooMany(task)) = desk.take(id.cloned(), task) else {
            return;
        };
        let trouble: Value = frames::trouble(
            "too_many_unanswered",
            "Too many requests of this socket wait for their answer.",
            true,
            Some(1_000),
        );
        let frame = match task {
            Task::Send(message) => frames::rejected(Some(message.client_message_id), None, &trouble, id),
            Task::Read(..) | Task::Typing(_) => frames::error(id, &trouble),
        };
        self.answer(frame);
    }

    fn may_type(&mut self, conversation: ConversationId) -> bool {
        let (now, every) = (self.hub.now(), self.hub.settings.typing_every_ms);
        self.typed.retain(|(_, at)| now < at + every);
        let is_new = !self.typed.iter().any(|(typed, _)| *typed == conversation);
        if is_new && self.typed.len() < TYPING {
            self.typed.push((conversation, now));
            return true;
        }
        false
    }

    async fn refresh(&mut self, token: &str, id: Option<&RequestId>) -> Flow {
        match self.guest(token).await {
            Ok(guest) if self.socket.belongs_to(guest.user_id) => {
                self.socket.authenticated_until(guest.expires_at);
                self.answer(frames::refreshed(id, guest.expires_at));
                Continue(())
            }
            Ok(_) => Break(Some(CloseCode::Forbidden)),
            Err(error) if error.code() == ErrorCode::Unauthenticated => self.not_admitted(&error, id),
            // The token in use is still good.
            Err(error) => {
                let trouble = frames::trouble_of(&error);
                self.socket.push(frames::error(id, &trouble), Weight::Counted);
                Continue(())
            }
        }
    }
}

/// What comes next; `None` when nothing has come in time.
async fn next_within(reader: &mut Reader, patience: Option<Duration>) -> Option<Result<Incoming, End>> {
    match patience {
        Some(patience) => Box::pin(timeout(patience, reader.next())).await.ok(),
        None => Some(reader.next().await),
    }
}

/// Until the client has answered the close, or is gone.
async fn farewell(reader: &mut Reader) {
    loop {
        match reader.next().await {
            Ok(Incoming::Close) | Err(End::Gone) => return,
            Ok(_) => {}
            Err(End::TooLarge | End::Violation) => return reader.discard().await,
        }
    }
}

fn count(kind: &'static str) {
    metrics::counter!("gravity_chat_frames_total", "type" => kind, "direction" => "in").increment(1);
}
