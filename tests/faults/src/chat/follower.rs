//! A socket that is always opened again, and what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::{WebSocketStream, client_async};
use uuid::Uuid;

use super::Sent;
use crate::client::Client;

/// Longer than any deadline of the server.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(60);

/// Who waits for the first word on which message.
type Wanted = Option<(Uuid, oneshot::Sender<String>)>;
type Waiting = BTreeMap<Uuid, oneshot::Sender<String>>;

/// What a user's socket was told, over all its lives.
#[derive(Default)]
pub(crate) struct Log {
    /// Where it began, or begins anew after a `reset`.
    pub(crate) base: Option<Place>,
    /// The last place seen.
    pub(crate) cursor: Option<Place>,
    /// Type and payload by place, since the base.
    pub(crate) events: BTreeMap<u64, (String, Value)>,
    /// Of messages sent over a socket: `message.new` of these is left out.
    pub(crate) own: BTreeSet<Uuid>,
    /// `stored` or `rejected`, by message.
    pub(crate) settled: BTreeMap<Uuid, Vec<String>>,
    pub(crate) resets: usize,
    pub(crate) resumes: usize,
    pub(crate) broken: Vec<String>,
}

/// A user's socket.
pub(crate) struct Follower {
    user: String,
    token: String,
    bases: Vec<String>,
    log: Mutex<Log>,
    line: Mutex<Option<Line>>,
}

/// The socket as it is now.
#[derive(Clone)]
struct Line {
    node: usize,
    outgoing: mpsc::UnboundedSender<(Message, Wanted)>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A cursor: `epoch.offset.stream`, all hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
    /// The version of the stream.
    pub(crate) stream: u64,
}

fn place(cursor: &str) -> Option<Place> {
    let mut parts = cursor.split('.').map(|part| u64::from_str_radix(part, 16).ok());
    let (epoch, offset, stream) = (parts.next()??, parts.next()??, parts.next()??);
    Some(Place {
        epoch,
        offset,
        stream,
    })
}

impl Follower {
    pub(crate) fn new(user: String, client: &Client) -> Self {
        Self {
            user,
            token: client.token().to_owned(),
            bases: client.bases().to_vec(),
            log: Mutex::default(),
            line: Mutex::default(),
        }
    }

    /// What it was told.
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        locked(&self.log)
    }

    /// Keeps a socket open, on one node or another, until it is dropped.
    pub(crate) async fn run(&self, number: usize, nodes: usize) {
        for turn in 0.. {
            let node = (number + turn / 2) % nodes;
            if let Ok(Some(mut stream)) = timeout(PATIENCE, self.open(node)).await {
                self.live(node, &mut stream).await;
            }
            *locked(&self.line) = None;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn open(&self, node: usize) -> Option<WebSocketStream<TcpStream>> {
        let address = self.bases[node].strip_prefix("http://")?;
        let resume = self.log().cursor;
        let resume = resume.map_or_else(String::new, |at| {
            format!("?resume={:x}.{:x}.{:x}", at.epoch, at.offset, at.stream)
        });
        let mut request = format!("ws://{address}/api/chat/ws{resume}")
            .into_client_request()
            .ok()?;
        let bearer = format!("Bearer {}", self.token).parse().ok()?;
        request.headers_mut().insert(AUTHORIZATION, bearer);
        let stream = TcpStream::connect(address).await.ok()?;
        Some(client_async(request, stream).await.ok()?.0)
    }

    async fn live(&self, node: usize, stream: &mut WebSocketStream<TcpStream>) {
        let (outgoing, mut queue) = mpsc::unbounded_channel();
        let mut waiting = Waiting::new();
        loop {
            tokio::select! {
                incoming = stream.next() => match incoming {
                    Some(Ok(Message::Text(text))) => {
                        if self.hear(&text, &mut waiting) {
                            *locked(&self.line) = Some(Line { node, outgoing: outgoing.clone() });
                        }
                    }
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => {}
                },
                Some((message, wanted)) = queue.recv() => {
                    waiting.extend(wanted);
                    if stream.send(message).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// True for `ready`.
    fn hear(&self, text: &str, waiting: &mut Waiting) -> bool {
        let frame: Value = serde_json::from_str(text).unwrap_or_default();
        let kind = frame["type"].as_str().unwrap_or_default();
        let at = frame["cursor"].as_str().and_then(place);
        if kind == "ready" {
            self.ready(&frame["payload"]["resume"], at);
            return true;
        }
        let payload = &frame["payload"];
        if kind == "message.ack"
            && let Some(id) = payload["clientMessageId"].as_str().and_then(|id| id.parse().ok())
        {
            let status = payload["status"].as_str().unwrap_or_default().to_owned();
            if status != "accepted" {
                self.log().settled.entry(id).or_default().push(status.clone());
            }
            if let Some(wanted) = waiting.remove(&id) {
                wanted.send(status).ok();
            }
        }
        // It is not known what became of it: the writer sends it again.
        if kind == "error"
            && let Some(id) = payload["clientMessageId"].as_str().and_then(|id| id.parse().ok())
        {
            waiting.remove(&id);
        }
        // A socket that was opened in the dark learns where it is when the logs can be read again.
        if kind == "resync" && at.is_some() {
            let mut log = self.log();
            log.events.clear();
            (log.base, log.cursor) = (at, at);
        } else if let Some(at) = at {
            self.keep(at, kind, payload);
        }
        false
    }

    fn ready(&self, resume: &Value, at: Option<Place>) {
        let mut log = self.log();
        match resume["status"].as_str() {
            Some("ok") => log.resumes += 1,
            Some("deferred") => {}
            Some("reset") => {
                log.resets += 1;
                log.events.clear();
                (log.base, log.cursor) = (at, at);
            }
            Some("none") if log.cursor.is_none() => (log.base, log.cursor) = (at, at),
            other => {
                let user = &self.user;
                let text = format!(
                    "a resume of {user} at {:?} was answered with {other:?}",
                    log.cursor
                );
                log.broken.push(text);
            }
        }
    }

    fn keep(&self, at: Place, kind: &str, payload: &Value) {
        let is_entry = kind != "stream.changed";
        let mut log = self.log();
        if log.base.is_none() {
            let offset = at.offset.saturating_sub(u64::from(is_entry));
            log.base = Some(Place { offset, ..at });
        }
        let user = &self.user;
        let broken = log.cursor.and_then(|last| {
            let is_next = if is_entry {
                at.offset > last.offset && at.stream == last.stream
            } else {
                at.offset == last.offset && at.stream > last.stream && payload["version"] == at.stream
            };
            if last.epoch != at.epoch {
                Some(format!("{user} was told of another epoch without a reset"))
            } else {
                (!is_next).then(|| format!("{user} was told of {kind} {payload} at {at:?} after {last:?}"))
            }
        });
        log.broken.extend(broken);
        log.cursor = Some(at);
        if is_entry {
            log.events.insert(at.offset, (kind.to_owned(), payload.clone()));
        }
    }

    /// Sends over the socket, if there is one, and waits for the first word: which node's the socket is, and the status.
    pub(crate) async fn send(&self, conversation: &str, sent: &Sent) -> Option<(usize, Option<String>)> {
        let line = locked(&self.line).clone()?;
        self.log().own.insert(sent.id);
        let frame = json!({
            "type": "message.send",
            "payload": {"conversationId": conversation, "content": sent.content, "clientMessageId": sent.id},
        });
        let (tell, told) = oneshot::channel();
        line.outgoing
            .send((Message::text(frame.to_string()), Some((sent.id, tell))))
            .ok()?;
        let status = timeout(PATIENCE, told).await.ok().and_then(Result::ok);
        Some((line.node, status))
    }
}
