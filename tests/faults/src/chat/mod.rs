//! Chat under faults: pairs of users who write to each other over HTTP and over sockets, mark as read, and follow their logs.
//!
//! Each of a pair has two tasks of ours. The *writer* sends one message after the other (over the node it is on, or through
//! the follower's socket), sends again under the same id what was not answered, reads what it wrote, and marks as read. The
//! *follower* keeps a socket open, resumes whenever it ends, and keeps every event. What they must end with is said in `check`.

mod check;
mod follower;

pub(crate) use check::check;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gravity_test_support::history::{Failure, Time};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::client::{Client, Request};
use crate::random::Random;
use crate::user::{Journal, MARK};
use follower::Follower;

/// Two nodes' clocks are one here, but stamps count milliseconds.
const MOVE: Duration = Duration::from_millis(25);
const MOST_TRIES: usize = 60;
const SHOWN: usize = 100;

/// Two users and their conversation.
pub(crate) struct Pair {
    pub(crate) conversation: String,
    pub(crate) chatters: [Arc<Chatter>; 2],
}

/// One of two.
pub(crate) struct Chatter {
    pub(crate) id: String,
    pub(crate) client: Client,
    pub(crate) follower: Follower,
    record: Mutex<Record>,
}

/// What a chatter did and saw.
#[derive(Default)]
pub(crate) struct Record {
    /// In the order in which they were first sent; one ends before the next begins.
    pub(crate) sent: Vec<Sent>,
    /// The greatest marker that was acknowledged.
    pub(crate) read_seq: u64,
    /// What was wrong on the spot.
    pub(crate) broken: Vec<String>,
}

/// A message that somebody wanted to send.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) id: Uuid,
    pub(crate) content: String,
    pub(crate) begun: Time,
    /// When, by which node, and whether as `stored`; `None`: nobody knows what became of it.
    pub(crate) acknowledged: Option<(Time, usize, bool)>,
    /// It was refused: it must not be there, unless an earlier try was not answered.
    pub(crate) refused: bool,
    pub(crate) tries: usize,
    /// Where it was tried: an accepted try that was never answered is stored, too, whenever its node drains.
    pub(crate) nodes: BTreeSet<usize>,
}

impl Chatter {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it did and saw.
    pub(crate) fn take(&self) -> Record {
        std::mem::take(&mut *self.record())
    }
}

/// Opens a conversation for each two of `users` (who must have rows, and names `user<n>`).
pub(crate) async fn pair_up(users: &[(String, String, Client)]) -> Result<Vec<Pair>, crate::Failure> {
    let mut pairs = Vec::new();
    for two in users.chunks_exact(2) {
        let [(first, _, client), (second, name, other)] = two else {
            continue;
        };
        let path = format!("/api/chat/conversations/with/{name}");
        let answer = client
            .send(0, &Request::get(path), None)
            .await
            .map_err(|silence| format!("{silence:?}"))?;
        let conversation = answer.json()["data"]["id"].as_str().map(str::to_owned);
        let conversation =
            conversation.ok_or_else(|| format!("no conversation: {} {}", answer.status, answer.text))?;
        let chatter = |id: &String, client: &Client| {
            Arc::new(Chatter {
                id: id.clone(),
                client: client.clone(),
                follower: Follower::new(id.clone(), client),
                record: Mutex::default(),
            })
        };
        pairs.push(Pair {
            conversation,
            chatters: [chatter(first, client), chatter(second, other)],
        });
    }
    Ok(pairs)
}

/// Followers go on until they are told to stop; writers until the journal is over.
pub(crate) fn follow(pairs: &[Pair], nodes: usize) -> Vec<JoinHandle<()>> {
    let chatters = pairs.iter().flat_map(|pair| &pair.chatters);
    let follow = |(number, chatter): (usize, &Arc<Chatter>)| {
        let chatter = Arc::clone(chatter);
        tokio::spawn(async move { chatter.follower.run(number, nodes).await })
    };
    chatters.enumerate().map(follow).collect()
}

/// One writer.
pub(crate) struct Writer {
    pub(crate) chatter: Arc<Chatter>,
    pub(crate) conversation: String,
    pub(crate) journal: Arc<Journal>,
    pub(crate) random: Random,
    pub(crate) nodes: usize,
    pub(crate) node: usize,
}

impl Writer {
    /// Writes until the journal is over.
    pub(crate) async fn run(mut self) {
        while !self.journal.is_over() {
            match self.random.between(0, 100) {
                0..60 => self.send().await,
                60..75 => self.mark().await,
                75..90 => self.look().await,
                _ => self.again().await,
            }
            let pause = self.random.between(5, 40);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.nodes > 1 && self.random.chance(3) {
                tokio::time::sleep(MOVE).await;
                self.node = self.random.index(self.nodes);
            }
        }
    }

    async fn send(&mut self) {
        let content = self.journal.unique("m").replace(MARK, "chat ");
        let mut sent = Sent {
            id: Uuid::from_u64_pair(self.random.next(), self.random.next()),
            content,
            begun: self.journal.now(),
            acknowledged: None,
            refused: false,
            tries: 0,
            nodes: BTreeSet::new(),
        };
        let by_socket = self.random.chance(35);
        let tries = if self.random.chance(25) {
            self.random.index(3) + 1
        } else {
            MOST_TRIES
        };
        while sent.tries < tries {
            sent.tries += 1;
            if self.one_try(&mut sent, by_socket).await || (self.journal.is_over() && sent.tries > 3) {
                break;
            }
            let pause = self.random.between(20, 120);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.chatter.record().sent.push(sent);
    }

    /// True when it has an answer.
    async fn one_try(&mut self, sent: &mut Sent, by_socket: bool) -> bool {
        if by_socket {
            let ack = self.chatter.follower.send(&self.conversation, sent).await;
            let now = self.journal.now();
            let Some((node, status)) = ack else { return false };
            sent.nodes.insert(node);
            return match status {
                Some(status) if status == "stored" || status == "accepted" => {
                    sent.acknowledged = Some((now, node, status == "stored"));
                    true
                }
                Some(status) if status == "rejected" => {
                    sent.refused = true;
                    true
                }
                _ => false,
            };
        }
        sent.nodes.insert(self.node);
        let answer = self
            .chatter
            .client
            .send(self.node, &self.request(sent), None)
            .await;
        let now = self.journal.now();
        match answer {
            Ok(answer) if answer.is_success() => {
                let shown = answer.json()["data"]["content"].clone();
                if shown != Value::String(sent.content.clone()) {
                    let text = format!("R2 exactly once: {} was answered with {shown}", sent.content);
                    self.chatter.record().broken.push(text);
                }
                sent.acknowledged = Some((now, self.node, answer.json()["data"]["seq"].is_u64()));
                true
            }
            Ok(answer) if answer.status < 500 => {
                let text = format!("a message was refused: {} {}", answer.status, answer.text);
                self.chatter.record().broken.push(text);
                sent.refused = true;
                true
            }
            Ok(answer)
                if !matches!(
                    answer.failure(),
                    Failure::Refused {
                        retry_after: true,
                        ..
                    }
                ) =>
            {
                let text = format!("a 5xx without Retry-After: {} {}", answer.status, answer.text);
                self.chatter.record().broken.push(text);
                false
            }
            Ok(_) | Err(_) => false,
        }
    }

    fn request(&self, sent: &Sent) -> Request {
        Request {
            method: Method::POST,
            path: format!("/api/chat/conversations/{}/messages", self.conversation),
            key: None,
            body: Some(json!({"content": sent.content, "clientMessageId": sent.id})),
        }
    }

    /// Sends an acknowledged message once more: nothing may come of it.
    async fn again(&mut self) {
        let sent = {
            let mut record = self.chatter.record();
            let answered = record.sent.iter_mut().filter(|sent| sent.acknowledged.is_some());
            let mut answered: Vec<_> = answered.collect();
            if answered.is_empty() {
                return;
            }
            let chosen = self.random.index(answered.len());
            let sent = &mut answered[chosen];
            // One that was stored has its place.
            if sent.acknowledged.is_some_and(|(_, _, at_once)| !at_once) {
                sent.nodes.insert(self.node);
            }
            sent.clone()
        };
        if let Ok(answer) = self
            .chatter
            .client
            .send(self.node, &self.request(&sent), None)
            .await
            && answer.is_success()
            && answer.json()["data"]["content"] != json!(sent.content)
        {
            let text = format!(
                "R2 exactly once: a retry of {} was answered with {}",
                sent.content, answer.text
            );
            self.chatter.record().broken.push(text);
        }
    }

    async fn mark(&mut self) {
        let request = Request {
            method: Method::POST,
            path: format!("/api/chat/conversations/{}/read", self.conversation),
            key: None,
            body: Some(json!({})),
        };
        let Ok(answer) = self.chatter.client.send(self.node, &request, None).await else {
            return;
        };
        if answer.is_success() {
            let read = answer.json()["data"]["readSeq"].as_u64().unwrap_or(0);
            let mut record = self.chatter.record();
            record.read_seq = record.read_seq.max(read);
        }
    }

    /// R4: what this node has acknowledged is there, or the answer is 503.
    async fn look(&mut self) {
        let newest: Vec<String> = {
            let record = self.chatter.record();
            let here = record.sent.iter().rev().take(SHOWN / 3);
            let here = here.filter(|sent| sent.acknowledged.is_some_and(|(_, node, _)| node == self.node));
            here.map(|sent| sent.content.clone()).collect()
        };
        let path = format!(
            "/api/chat/conversations/{}/messages?limit={SHOWN}",
            self.conversation
        );
        let Ok(answer) = self
            .chatter
            .client
            .send(self.node, &Request::get(path), None)
            .await
        else {
            return;
        };
        if answer.status != 200 {
            return;
        }
        let shown = answer.json();
        let shown: BTreeMap<&str, usize> =
            shown["data"]
                .as_array()
                .into_iter()
                .flatten()
                .fold(BTreeMap::new(), |mut counts, message| {
                    *counts
                        .entry(message["content"].as_str().unwrap_or_default())
                        .or_default() += 1;
                    counts
                });
        if shown.values().sum::<usize>() >= SHOWN {
            // The other may have written so much since that ours is on the next page.
            return;
        }
        let mut record = self.chatter.record();
        for content in newest {
            if !shown.contains_key(content.as_str()) {
                let text = format!(
                    "R4 read your writes: {content} was acknowledged by node {} and is not among the {} that it shows ({})",
                    self.node,
                    shown.len(),
                    if answer.is_aged { "aged" } else { "current" },
                );
                record.broken.push(text);
            }
        }
        if let Some((content, times)) = shown.iter().find(|(_, times)| **times > 1) {
            record
                .broken
                .push(format!("R2 exactly once: {content} is shown {times} times"));
        }
    }
}
