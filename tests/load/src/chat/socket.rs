//! One socket of one user: reads whatever comes, remembers its cursor, tells the tally, and sends what it is given.

use super::tally::Tally;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use uuid::Uuid;

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
    outgoing: mpsc::Sender<Message>,
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
        let ready = ready(&mut stream).await?;
        let status = ready.payload["resume"]["status"].as_str().unwrap_or_default();
        let welcome = Welcome(status.to_owned());
        let cursor = Arc::new(Mutex::new(ready.cursor));
        // On resume the cursor of `ready` is where the replay ends: what is replayed comes after it.
        if let (Some(resume), "ok" | "deferred") = (resume, status) {
            *lock(&cursor) = Some(resume.to_owned());
        }
        let (outgoing, queue) = mpsc::channel(64);
        let task = tokio::spawn(run(stream, queue, Arc::clone(&cursor), tally));
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
        self.outgoing.send(Message::text(frame.to_string())).await.ok();
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
    mut stream: Stream,
    mut queue: mpsc::Receiver<Message>,
    cursor: Arc<Mutex<Option<String>>>,
    tally: Option<Arc<Tally>>,
) {
    loop {
        tokio::select! {
            incoming = stream.next() => match incoming {
                Some(Ok(Message::Text(text))) => hear(&text, &cursor, tally.as_deref()),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
            outgoing = queue.recv() => match outgoing {
                Some(message) => if stream.send(message).await.is_err() { return },
                None => return,
            },
        }
    }
}

fn hear(text: &str, cursor: &Mutex<Option<String>>, tally: Option<&Tally>) {
    let Ok(frame) = serde_json::from_str::<Frame>(text) else {
        return;
    };
    if let Some(at) = frame.cursor {
        *lock(cursor) = Some(at);
    }
    let Some(tally) = tally else { return };
    let id = |value: &Value| value.as_str().and_then(|text| Uuid::parse_str(text).ok());
    match frame.kind.as_str() {
        "message.new" => {
            let message = &frame.payload["message"];
            if let Some(id) = id(&message["clientMessageId"]) {
                tally.delivered(id, frame.payload["durability"] == "stored");
            }
        }
        "message.ack" => {
            if let Some(id) = id(&frame.payload["clientMessageId"]) {
                tally.acknowledged(id, frame.payload["status"].as_str().unwrap_or_default());
            }
        }
        _ => {}
    }
}
