//! What users do with the items of their streams: act on them, by id and by filter, and read them.
//!
//! An action is one write of each item it is for. A page shows of each item that it has both flags, and of each it leaves
//! out that it is archived.

use std::collections::BTreeMap;
use std::time::Duration;

use gravity_test_support::builders::item;
use gravity_test_support::history::{Attempt, Event, Failure, Fields, Kind, Read, Seen, Shown, Write};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::{Answer, Client, Request, shown};
use crate::user::{Line, MARK, User};

/// Of each user.
const ITEMS: usize = 6;
/// Name, field, value.
const ACTIONS: [(&str, &str, &str); 4] = [
    ("read", "unread", "false"),
    ("unread", "unread", "true"),
    ("archive", "archived", "true"),
    ("unarchive", "archived", "false"),
];

/// What a client does about a 503, before any fault has begun: so many tries more.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(500);

async fn fed(admin: &Client, request: &Request) -> Result<Answer, crate::Failure> {
    let answer = admin.send(0, request, None).await;
    answer.map_err(|silence| format!("{silence:?}").into())
}

/// Gives the user a stream.
pub(crate) async fn feed(admin: &Client, user: &User) -> Result<(), crate::Failure> {
    let owner: Uuid = user.id.parse()?;
    let new = |n: usize| {
        item(
            owner,
            &n.to_string(),
            "item",
            &format!("2026-01-01T00:00:0{n}.000Z"),
        )
    };
    let request = Request {
        method: Method::POST,
        path: "/v2/ingest/items".into(),
        key: None,
        body: Some(json!({"items": (0..ITEMS).map(new).collect::<Vec<_>>()})),
    };
    let mut answer = fed(admin, &request).await?;
    for _ in 0..TRIES {
        if answer.status != 503 {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        answer = fed(admin, &request).await?;
    }
    let results = answer.json()["data"]["results"].clone();
    let ids = results
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|result| result["id"].as_str());
    user.fed(ids.map(str::to_owned));
    if user.items().len() == ITEMS {
        Ok(())
    } else {
        Err(format!("no stream was fed: {} {}", answer.status, answer.text).into())
    }
}

impl Line {
    /// One request to the stream.
    pub(crate) async fn stream(&mut self) {
        match self.random.between(0, 100) {
            0..55 => self.act().await,
            55..80 => self.read_page().await,
            _ => self.read_item().await,
        }
    }

    async fn act(&mut self) {
        let (action, field, value) = self.random.pick(&ACTIONS);
        let (mut items, as_of) = {
            let known = self.user.known();
            (
                known.items.iter().cloned().collect::<Vec<_>>(),
                known.as_of.clone(),
            )
        };
        // Two nodes may find different items for the same request; then the first to be drained decides.
        let filtered = as_of.filter(|_| self.nodes == 1 && self.random.chance(20));
        let body = if let Some(as_of) = &filtered {
            let view = self.random.pick(&["all", "unread", "archived"]);
            json!({"action": action, "filter": {"filter": view}, "asOf": as_of})
        } else {
            let wanted = self.random.index(3) + 1;
            while items.len() > wanted {
                items.swap_remove(self.random.index(items.len()));
            }
            json!({"action": action, "ids": items})
        };
        let request = Request {
            method: Method::POST,
            path: "/v2/stream/actions".into(),
            key: Some(self.journal.unique("k").replace(MARK, "key-")),
            body: Some(body),
        };
        for id in &items {
            self.user.known().answered.remove(id);
        }
        let (attempts, _) = self.insist(&request, None).await;
        let results = attempts.last().and_then(results);
        let alone = items.len() == 1 && filtered.is_none();
        for id in items {
            let mut attempts = attempts.clone();
            if let Some(results) = &results {
                match results.get(&id).map(String::as_str) {
                    Some("applied") => {}
                    None | Some("skipped") if filtered.is_some() => continue,
                    _ => missing(&mut attempts),
                }
            }
            let place = self.journal.push(Event::Write(Write {
                user: self.user.id.clone(),
                entity: Some(id.clone()),
                kind: Kind::Update,
                fields: Fields::from([(field.to_owned(), Some(value.to_owned()))]),
                attempts,
            }));
            if alone && results.is_some() {
                self.user.known().answered.insert(id, (place, request.clone()));
            }
        }
    }

    async fn read_item(&mut self) {
        let items: Vec<String> = self.user.items().into_iter().collect();
        let id = items[self.random.index(items.len())].clone();
        let read = self.ask(format!("/v2/stream/{id}")).await;
        if let Some((read, answer)) = read {
            let seen = match answer {
                Some(answer) => shown(&answer.json()["data"]).map_or(Seen::Absent, Seen::One),
                None => read.seen,
            };
            self.journal.push(Event::Read(Read {
                entity: Some(id),
                seen,
                ..read
            }));
        }
    }

    async fn read_page(&mut self) {
        let Some((read, answer)) = self.ask("/v2/stream?limit=100".into()).await else {
            return;
        };
        let Some(answer) = answer else {
            self.journal.push(Event::Read(read));
            return;
        };
        let page = answer.json();
        self.user.known().as_of = page["meta"]["asOf"].as_str().map(str::to_owned);
        let listed = page["data"].as_array().into_iter().flatten().filter_map(shown);
        let mut all: BTreeMap<String, Shown> = listed.map(|shown| (shown.entity.clone(), shown)).collect();
        let is_unread = |shown: &&Shown| shown.fields.get("unread") == Some(&Some("true".to_owned()));
        let (counted, unread) = (
            page["meta"]["unreadCount"].as_u64(),
            all.values().filter(is_unread).count(),
        );
        for id in self.user.items() {
            let archived = || Shown {
                entity: id.clone(),
                version: 0,
                fields: Fields::from([("archived".to_owned(), Some("true".to_owned()))]),
            };
            let mut shown = all.remove(&id).unwrap_or_else(archived);
            if counted != Some(unread as u64) {
                // Which nobody has written.
                let count = format!("{counted:?}, but {unread} are unread");
                shown.fields.insert("unreadCount".into(), Some(count));
            }
            self.journal.push(Event::Read(Read {
                entity: Some(id),
                seen: Seen::One(shown),
                ..read.clone()
            }));
        }
    }

    /// Asks, and begins the record. With the answer when it is a success; `None` when it says nothing: a process that has
    /// forgotten what it acknowledged may show what Redis has, and says so.
    async fn ask(&self, path: String) -> Option<(Read, Option<Answer>)> {
        let start = self.journal.now();
        let answer = self.user.client.send(self.node, &Request::get(path), None).await;
        let mut read = Read {
            user: self.user.id.clone(),
            entity: None,
            node: self.node,
            start,
            end: self.journal.now(),
            seen: Seen::Absent,
        };
        match answer {
            Ok(answer) if answer.status == 200 => {
                let says_nothing = answer.is_aged && self.journal.was_restarted(self.node);
                (!says_nothing).then_some((read, Some(answer)))
            }
            Ok(answer) if answer.status == 404 => Some((read, None)),
            Ok(answer) => {
                read.seen = Seen::Failed(answer.failure());
                Some((read, None))
            }
            Err(silence) => {
                read.seen = Seen::Failed(Failure::Silent(silence));
                Some((read, None))
            }
        }
    }
}

/// What an action did to each item, if it was acknowledged.
fn results(attempt: &Attempt) -> Option<BTreeMap<String, String>> {
    let body: Value = serde_json::from_str(&attempt.outcome.as_ref().ok()?.body).ok()?;
    let one = |result: &Value| {
        let text = |name: &str| result[name].as_str().map(str::to_owned);
        Some((text("id")?, text("result")?))
    };
    body["data"]["results"].as_array()?.iter().map(one).collect()
}

/// Was told that there is no such item.
fn missing(attempts: &mut [Attempt]) {
    if let Some(last) = attempts.last_mut() {
        last.outcome = Err(Failure::Refused {
            status: 404,
            code: "not_found".into(),
            retry_after: false,
        });
    }
}
