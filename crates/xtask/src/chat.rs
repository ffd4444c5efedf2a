//! `cargo xtask chat <user> --with <user>`: a terminal to talk in, over the nodes of the running `cargo xtask dev`.
//!
//! It behaves as a good client does: keeps the cursor of the last event, goes to the next node and resumes when its socket
//! ends, and sends again, under the same `clientMessageId`, what has not been acknowledged. A line is a message; Ctrl-D ends it.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use gravity_test_support::services::poll_until;
use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::http::header::AUTHORIZATION;
use tungstenite::{Message, WebSocket};
use uuid::Uuid;

use crate::dev::NODES;
use crate::{Outcome, workspace};

/// How long a read waits before what was typed is looked at.
const GLANCE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(5);
/// How long before what is undecided is sent again.
const AGAIN: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Who talks: a username of the demo data, such as `demo`
    user: String,
    /// With whom, such as `ada`
    #[arg(long)]
    with: String,
    /// The password; by default `<user>-password-1`, as the demo users have it
    #[arg(long)]
    password: Option<String>,
    /// The node to begin with, counted from 1
    #[arg(long, default_value_t = 1)]
    node: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let nodes = workspace::lines(NODES)
        .map_err(|_| "nothing to talk over: `cargo xtask dev` is not running in this workspace")?;
    let mut place = arguments.node.saturating_sub(1);
    let (token, me) = login(&nodes[place % nodes.len()], arguments)?;
    let path = format!("/api/chat/conversations/with/{}", arguments.with);
    let opened = call(&nodes[place % nodes.len()], "GET", &path, Some(&token), None)?;
    let conversation = text(&opened["data"]["id"]).ok_or_else(|| format!("no conversation: {opened}"))?;
    let typed = typed();
    let mut talk = Talk {
        token,
        me,
        other: arguments.with.clone(),
        conversation,
        cursor: None,
        unacknowledged: BTreeMap::new(),
        undecided: BTreeSet::new(),
        tried: Instant::now(),
    };
    loop {
        let node = &nodes[place % nodes.len()];
        match talk.over(node, &typed) {
            Ok(true) => return Ok(ExitCode::SUCCESS),
            Ok(false) => println!("-- the socket to {node} ended"),
            Err(error) => println!("-- {node}: {error}"),
        }
        place += 1;
        poll_until(PAUSE, || false);
    }
}

/// What is typed, line by line.
fn typed() -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

struct Talk {
    token: String,
    me: String,
    other: String,
    conversation: String,
    cursor: Option<String>,
    /// Sent, and not stored yet, as far as is known.
    unacknowledged: BTreeMap<Uuid, String>,
    /// Of these the server could not say what becomes of them: they are sent again.
    undecided: BTreeSet<Uuid>,
    tried: Instant,
}

impl Talk {
    /// Talks over one node until its socket ends (false), or there is nothing more to type (true).
    fn over(&mut self, node: &str, typed: &Receiver<String>) -> Result<bool, Box<dyn Error>> {
        let mut socket = self.open(node)?;
        loop {
            match socket.read() {
                Ok(Message::Text(frame)) => {
                    if self.hear(&frame) {
                        for (id, content) in &self.unacknowledged {
                            socket.send(self.frame(*id, content))?;
                        }
                    }
                }
                Ok(Message::Close(frame)) => {
                    let code = frame.map(|frame| u16::from(frame.code));
                    println!(
                        "-- closed {}",
                        code.map_or_else(String::new, |code| code.to_string())
                    );
                    return Ok(false);
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if is_glance(&error) => {}
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
            if self.tried.elapsed() > AGAIN {
                self.tried = Instant::now();
                for id in std::mem::take(&mut self.undecided) {
                    if let Some(content) = self.unacknowledged.get(&id) {
                        socket.send(self.frame(id, content))?;
                    }
                }
            }
            loop {
                match typed.try_recv() {
                    Ok(line) if line.trim().is_empty() => {}
                    Ok(line) => {
                        let id = Uuid::now_v7();
                        let frame = self.frame(id, &line);
                        self.unacknowledged.insert(id, line);
                        socket.send(frame)?;
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) if self.unacknowledged.is_empty() => return Ok(true),
                    Err(TryRecvError::Disconnected) => break,
                }
            }
        }
    }

    fn open(&self, node: &str) -> Result<WebSocket<TcpStream>, Box<dyn Error>> {
        let address = node.trim_start_matches("http://");
        let resume = self.cursor.as_ref().map(|cursor| format!("?resume={cursor}"));
        let url = format!("ws://{address}/api/chat/ws{}", resume.unwrap_or_default());
        let mut request = url.into_client_request()?;
        let bearer = format!("Bearer {}", self.token).parse()?;
        request.headers_mut().insert(AUTHORIZATION, bearer);
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (socket, _) = tungstenite::client(request, stream).map_err(|error| error.to_string())?;
        socket.get_ref().set_read_timeout(Some(GLANCE))?;
        Ok(socket)
    }

    fn frame(&self, id: Uuid, content: &str) -> Message {
        let frame = json!({
            "type": "message.send",
            "payload": {"conversationId": self.conversation, "content": content, "clientMessageId": id},
        });
        Message::text(frame.to_string())
    }

    /// Prints what came. True for `ready`.
    fn hear(&mut self, frame: &str) -> bool {
        let frame: Value = serde_json::from_str(frame).unwrap_or_default();
        let payload = &frame["payload"];
        let kind = frame["type"].as_str().unwrap_or_default();
        let is_ready = kind == "ready";
        let may_skip = is_ready && matches!(payload["resume"]["status"].as_str(), Some("ok" | "deferred"));
        if let Some(cursor) = text(&frame["cursor"]).filter(|_| !may_skip || self.cursor.is_none()) {
            self.cursor = Some(cursor);
        }
        match kind {
            "ready" => println!(
                "-- ready, {}; resume: {}",
                show(&payload["mode"]),
                show(&payload["resume"]["status"])
            ),
            "message.new" => self.show_message(payload),
            "message.ack" => self.acknowledged(payload),
            "message.read" => println!("   {} has read up to {}", self.other, payload["readSeq"]),
            "system.status" => println!("-- the system is {}", show(&payload["mode"])),
            "presence" => println!("-- {} is {}", self.other, show(&payload["status"])),
            "goaway" => println!("-- the node goes away"),
            "error" => {
                println!("-- {}: {}", show(&payload["code"]), show(&payload["message"]));
                let id: Option<Uuid> = text(&payload["clientMessageId"]).and_then(|id| id.parse().ok());
                self.undecided.extend(id);
            }
            _ => {}
        }
        is_ready
    }

    fn show_message(&self, payload: &Value) {
        let message = &payload["message"];
        if message["conversationId"] != json!(self.conversation) {
            return;
        }
        let who = if message["senderId"] == json!(self.me) {
            "you"
        } else {
            &self.other
        };
        let place = message["seq"]
            .as_u64()
            .map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        println!(
            "{place:>5} {who}: {}   [{}]",
            show(&message["content"]),
            show(&payload["durability"])
        );
    }

    fn acknowledged(&mut self, payload: &Value) {
        let status = show(&payload["status"]);
        let id = text(&payload["clientMessageId"]).and_then(|id| id.parse::<Uuid>().ok());
        let content = id.and_then(|id| match status.as_str() {
            "accepted" => self.unacknowledged.get(&id).cloned(),
            _ => self.unacknowledged.remove(&id),
        });
        let place = payload["seq"]
            .as_u64()
            .map_or_else(|| "-".to_owned(), |seq| seq.to_string());
        println!("{place:>5} you: {}   [{status}]", content.unwrap_or_default());
    }
}

fn is_glance(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn show(value: &Value) -> String {
    text(value).unwrap_or_else(|| value.to_string())
}

/// The access token and the user's id.
fn login(node: &str, arguments: &Arguments) -> Result<(String, String), Box<dyn Error>> {
    let usual = || format!("{}-password-1", arguments.user);
    let password = arguments.password.clone().unwrap_or_else(usual);
    let who = json!({"username": arguments.user, "password": password});
    let session = call(node, "POST", "/api/v1/auth/login", None, Some(&who))?;
    let token = text(&session["data"]["accessToken"]).ok_or_else(|| format!("no login: {session}"))?;
    let profile = call(node, "GET", "/api/v1/profile", Some(&token), None)?;
    let id = text(&profile["data"]["id"]).ok_or_else(|| format!("no profile: {profile}"))?;
    Ok((token, id))
}

/// One small call over HTTP/1.0: the answer ends with the connection.
fn call(
    node: &str,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&Value>,
) -> Result<Value, Box<dyn Error>> {
    let mut stream = TcpStream::connect(node.trim_start_matches("http://"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nConnection: close\r\n");
    if let Some(token) = token {
        head += &format!("Authorization: Bearer {token}\r\n");
    }
    let body = body.map(ToString::to_string).unwrap_or_default();
    if !body.is_empty() {
        head += &format!(
            "Content-Type: application/json\r\nContent-Length: {}\r\n",
            body.len()
        );
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("the answer has no body")?;
    Ok(serde_json::from_str(body)?)
}
