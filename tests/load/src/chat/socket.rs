//! One socket of one user: reads whatever comes, remembers its cursor, tells the tally, and sends what it is given.

use super::tally::Tally;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use uuid::Uuid;

/// When a message is sent again of which nobody knew.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Messages that a socket could send again.
const REMEMBERED: usize = 64;

/// A message, by its id.
type Outgoing = (Uuid, Message);
type Failure = Box<dyn Error + Send + Sync>;
type Stream = WebSocketStream<TcpStream>;

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    cursor: Option<String>,
    #[serde(default)]
    payload: Value,
}

/// A socket that is read by a task of its own.
pub(super) struct Socket {
    outgoing: mpsc::Sender<Outgoing>,
    cursor: Arc<Mutex<Option<String>>>,
    task: JoinHandle<()>,
}

/// What the server said of a resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Welcome(pub(super) String);

impl Socket {
    /// Opens a socket and waits for `ready`. `tally` is absent for one that only sits there.
    pub(super) async fn open(
        address: SocketAddr,
        token: &str,
        resume: Option<&str>,
        tally: Option<Arc<Tally>>,
    ) -> Result<(Self, Welcome), Failure> {
        let query = resume
            .map(|cursor| format!("?resume={cursor}"))
            .unwrap_or_default();
        let mut request = format!("ws://{address}/api/chat/ws{query}").into_client_request()?;
        request
            .headers_mut()
            .insert(AUTHORIZATION, format!("Bearer {token}").parse()?);
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // Ten thousand of these are in one process.
        let config = WebSocketConfig::default()
            .read_buffer_size(4 << 10)
            .write_buffer_size(0);
        let (mut stream, _) = client_async_with_config(request, stream, Some(config)).await?;
        // Whoever says something is not asked whether it will resume.
        stream.send(Message::text(r#"{"type":"ping"}"#)).await?;
        let ready = ready(&mut stream).await?;
        let status = ready.payload["resume"]["status"].as_str().unwrap_or_default();
        let welcome = Welcome(status.to_owned());
        let cursor = Arc::new(Mutex::new(ready.cursor));
        // On resume the cursor of `ready` is where the replay ends: what is replayed comes after it.
        if let (Some(resume), "ok" | "deferred") = (resume, status) {
            *lock(&cursor) = Some(resume.to_owned());
        }
        let (outgoing, queue) = mpsc::channel(64);
        let me = ready.payload["userId"].as_str().unwrap_or_default().to_owned();
        let task = tokio::spawn(run(
            me,
            stream,
            (queue, outgoing.downgrade()),
            Arc::clone(&cursor),
            tally,
        ));
        Ok((
            Self {
                outgoing,
                cursor,
                task,
            },
            welcome,
        ))
    }

    /// Sends a message; the tally must know it already.
    pub(super) async fn send(&self, conversation: Uuid, id: Uuid, content: &str) {
        let frame = json!({
            "type": "message.send",
            "payload": {"conversationId": conversation, "clientMessageId": id, "content": content},
        });
        self.outgoing
            .send((id, Message::text(frame.to_string())))
            .await
            .ok();
    }

    /// Where it is in its log.
    pub(super) fn cursor(&self) -> Option<String> {
        lock(&self.cursor).clone()
    }

    /// Whether the server has ended it.
    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(cursor: &Mutex<Option<String>>) -> std::sync::MutexGuard<'_, Option<String>> {
    cursor.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn ready(stream: &mut Stream) -> Result<Frame, Failure> {
    while let Some(message) = stream.next().await {
        if let Message::Text(text) = message? {
            let frame: Frame = serde_json::from_str(&text)?;
            if frame.kind == "ready" {
                return Ok(frame);
            }
        }
    }
    Err("the socket ended before `ready`".into())
}

async fn run(
    me: String,
    mut stream: Stream,
    (mut queue, again): (mpsc::Receiver<Outgoing>, mpsc::WeakSender<Outgoing>),
    cursor: Arc<Mutex<Option<String>>>,
    tally: Option<Arc<Tally>>,
) {
    let mut sent: VecDeque<Outgoing> = VecDeque::new();
    loop {
        tokio::select! {
            incoming = stream.next() => match incoming {
                Some(Ok(Message::Text(text))) => {
                    if let Some(id) = hear(&me, &text, &cursor, tally.as_deref()) {
                        let message = sent.iter().find(|message| message.0 == id);
                        later(message.cloned(), again.clone());
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            outgoing = queue.recv() => match outgoing {
                Some((id, message)) => {
                    if sent.len() == REMEMBERED {
                        sent.pop_front();
                    }
                    sent.push_back((id, message.clone()));
                    if stream.send(message).await.is_err() {
                        return;
                    }
                }
                None => return,
            },
        }
    }
}

/// Sends a message again when the server has had the time it asks for.
fn later(message: Option<Outgoing>, again: mpsc::WeakSender<Outgoing>) {
    tokio::spawn(async move {
        tokio::time::sleep(AGAIN_AFTER).await;
        if let Some((message, again)) = message.zip(again.upgrade()) {
            again.send(message).await.ok();
        }
    });
}

/// Gives the message that is to be sent again: the server could not tell in time what became of it.
fn hear(me: &str, text: &str, cursor: &Mutex<Option<String>>, tally: Option<&Tally>) -> Option<Uuid> {
    let frame = serde_json::from_str::<Frame>(text).ok()?;
    if let Some(at) = frame.cursor {
        *lock(cursor) = Some(at);
    }
    let tally = tally?;
    let id = |value: &Value| value.as_str().and_then(|text| Uuid::parse_str(text).ok());
    match frame.kind.as_str() {
        "message.new" => {
            let message = &frame.payload["message"];
            // Of its own, where the first answer was that nobody knows.
            if message["senderId"].as_str() == Some(me) {
                return None;
            }
            if let Some(id) = id(&message["clientMessageId"]) {
                let is_stored = frame.payload["durability"] == "stored";
                tally.delivered(id, is_stored);
            }
        }
        "message.ack" => {
            if let Some(id) = id(&frame.payload["clientMessageId"]) {
                tally.acknowledged(id, frame.payload["status"].as_str().unwrap_or_default());
            }
        }
        "error" => {
            let again = id(&frame.payload["clientMessageId"])?;
            tally.sent_again();
            return Some(again);
        }
        _ => {}
    }
    None
}
