//! A client of the socket, as simple as it can be.

use futures_util::{SinkExt as _, StreamExt as _};
use gravity_test_support::actors::Actor;
use gravity_test_support::test_app::{PATIENCE, TestApp};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use uuid::Uuid;

/// How long nothing must happen before it counts as nothing.
const QUIET: Duration = Duration::from_millis(400);

/// An open socket.
pub(super) struct Client {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The newest cursor seen.
    pub(super) cursor: Option<String>,
}

impl Client {
    /// Opens one; the status when it is refused.
    pub(super) async fn open(
        app: &TestApp,
        query: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, u16> {
        let address = format!("ws://127.0.0.1:{}/api/chat/ws{query}", app.port());
        let mut request = address.into_client_request().expect("a request");
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(*name, value.parse().expect("a header"));
        }
        match connect_async(request).await {
            Ok((stream, _)) => Ok(Self { stream, cursor: None }),
            Err(Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(error) => panic!("no socket: {error}"),
        }
    }

    /// Opens one for `actor` by header; `ready` is still to be read.
    pub(super) async fn of(app: &TestApp, actor: &Actor, query: &str) -> Self {
        let token = format!("Bearer {}", actor.token().expect("a token"));
        let opened = Self::open(app, query, &[("authorization", &token)]).await;
        opened.unwrap_or_else(|status| panic!("refused with {status}"))
    }

    /// The same, ready.
    pub(super) async fn ready(app: &TestApp, actor: &Actor) -> Self {
        let mut client = Self::of(app, actor, "").await;
        client.expect("ready").await;
        client
    }

    pub(super) async fn say(&mut self, kind: &str, payload: Value) {
        let frame = json!({"type": kind, "id": format!("{kind}-id"), "payload": payload});
        self.send(Message::text(frame.to_string())).await;
    }

    pub(super) async fn send(&mut self, message: Message) {
        self.stream.send(message).await.expect("it is sent");
    }

    /// Sends a message; its client's id.
    pub(super) async fn message(&mut self, conversation: &str, content: &str) -> Uuid {
        let id = Uuid::now_v7();
        let payload = json!({"conversationId": conversation, "content": content, "clientMessageId": id});
        self.say("message.send", payload).await;
        id
    }

    /// The next frame; a close as `{"close": code}`, the end as `{"end": true}`.
    pub(super) async fn next(&mut self) -> Value {
        loop {
            let message = timeout(PATIENCE, self.stream.next())
                .await
                .expect("something in time");
            let frame: Value = match message {
                Some(Ok(Message::Text(text))) => serde_json::from_str(text.as_str()).expect("JSON"),
                Some(Ok(Message::Close(frame))) => {
                    let code = frame.map_or(1005, |frame| u16::from(frame.code));
                    return json!({ "close": code });
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return json!({"end": true}),
            };
            super::spec::check(&frame);
            if let Some(cursor) = frame["cursor"].as_str() {
                self.cursor = Some(cursor.to_owned());
            }
            return frame;
        }
    }

    /// The next frame of this type; others that come before are let go by.
    pub(super) async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            if frame["type"] == kind {
                return frame;
            }
            assert!(frame.get("type").is_some(), "{frame} came instead of {kind}");
        }
    }

    /// The code of the close that comes sooner or later.
    pub(super) async fn closed(&mut self) -> u64 {
        loop {
            let frame = self.next().await;
            if let Some(code) = frame["close"].as_u64() {
                return code;
            }
            assert!(frame.get("end").is_none(), "it ended without a close");
        }
    }

    /// What comes until nothing comes for a while.
    pub(super) async fn quiet(&mut self) -> Vec<Value> {
        let mut all = Vec::new();
        while let Ok(frame) = timeout(QUIET, self.next()).await {
            all.push(frame);
        }
        all
    }

    /// What it ends with, when everything before is read.
    pub(super) async fn last(&mut self) -> Value {
        loop {
            let frame = self.next().await;
            if frame.get("type").is_none() {
                return frame;
            }
        }
    }

    pub(super) async fn close(mut self) {
        let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        };
        let _ = self.stream.close(Some(frame)).await;
    }
}
