//! Users: each a few tasks of ours that send one request after the other, and write down what they did and saw.
//!
//! A write that is not answered, or with a 5xx, is mostly sent again with the same `Idempotency-Key` until it is, and
//! sometimes given up. Every title, description and name is unique, and holds [`MARK`], which the proxy looks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gravity_test_support::history::{
    Attempt, Event, Failure, Fields, Kind, Read, Restart, Seen, Silence, Time, Write,
};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::client::{Client, Request, shown};
use crate::random::Random;

/// In every direct task write on its way to Postgres, and in nothing else.
pub(crate) const MARK: &str = "~w~";
/// So that a list shows all of them on one page.
const MOST_TASKS: usize = 60;
const MOST_TRIES: usize = 40;
/// Two nodes' clocks are one here, but stamps count milliseconds: a user who moves takes at least that long.
const MOVE: Duration = Duration::from_millis(25);
const STATUSES: [&str; 4] = ["pending", "in_progress", "completed", "cancelled"];

/// What all users of a schedule share.
pub(crate) struct Journal {
    began: Instant,
    events: Mutex<Vec<Event>>,
    restarts: Mutex<Vec<Restart>>,
    over: AtomicBool,
    serial: AtomicU64,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            events: Mutex::default(),
            restarts: Mutex::default(),
            over: AtomicBool::new(false),
            serial: AtomicU64::new(0),
        }
    }

    pub(crate) fn now(&self) -> Time {
        Time::try_from(self.began.elapsed().as_micros()).unwrap_or(Time::MAX)
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event) -> usize {
        let mut events = self.events();
        events.push(event);
        events.len() - 1
    }

    /// A node's process ends about now.
    pub(crate) fn restarts(&self, node: usize) {
        let at = self.now();
        let mut restarts = self.restarts.lock().unwrap_or_else(PoisonError::into_inner);
        restarts.push(Restart { node, at });
    }

    /// Whether the node's process has ended since the beginning.
    pub(crate) fn was_restarted(&self, node: usize) -> bool {
        let restarts = self.restarts.lock().unwrap_or_else(PoisonError::into_inner);
        restarts.iter().any(|restart| restart.node == node)
    }

    /// Tells every user to come to an end.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn take(&self) -> (Vec<Event>, Vec<Restart>) {
        let mut restarts = self.restarts.lock().unwrap_or_else(PoisonError::into_inner);
        (
            std::mem::take(&mut *self.events()),
            std::mem::take(&mut *restarts),
        )
    }

    pub(crate) fn unique(&self, what: &str) -> String {
        format!("{MARK}{what}{}", self.serial.fetch_add(1, Ordering::SeqCst))
    }
}

/// A user.
pub(crate) struct User {
    pub(crate) id: String,
    /// Whether there is a row, and so a profile.
    pub(crate) has_profile: bool,
    pub(crate) client: Client,
    known: Mutex<Known>,
}

/// What a user remembers; shared by the user's tasks of ours.
#[derive(Default)]
pub(crate) struct Known {
    /// Of the stream, fed before the run.
    pub(crate) items: BTreeSet<String>,
    /// `asOf` of the last page seen.
    pub(crate) as_of: Option<String>,
    tasks: Vec<String>,
    deleted: Vec<String>,
    created: usize,
    /// Of each entity, the last write if it was answered, and where it is in the journal.
    pub(crate) answered: BTreeMap<String, (usize, Request)>,
}

impl User {
    pub(crate) fn new(id: String, has_profile: bool, client: Client) -> Self {
        Self {
            id,
            has_profile,
            client,
            known: Mutex::default(),
        }
    }

    /// The items of the user's stream.
    pub(crate) fn items(&self) -> BTreeSet<String> {
        self.known().items.clone()
    }

    pub(crate) fn fed(&self, items: impl IntoIterator<Item = String>) {
        self.known().items.extend(items);
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One line of a user's requests.
pub(crate) struct Line {
    pub(crate) user: Arc<User>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) random: Random,
    pub(crate) nodes: usize,
    pub(crate) node: usize,
    /// In percent.
    pub(crate) give_up: u64,
}

impl Line {
    /// Sends requests until the journal is over.
    pub(crate) async fn run(mut self) {
        while !self.journal.is_over() {
            self.one().await;
            let pause = self.random.between(1, 14);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.nodes > 1 && self.random.chance(4) {
                self.go_elsewhere().await;
            }
        }
    }

    async fn go_elsewhere(&mut self) {
        tokio::time::sleep(MOVE).await;
        self.node = self.random.index(self.nodes);
    }

    async fn one(&mut self) {
        if self.random.chance(30) {
            return self.stream().await;
        }
        let (task, deleted, room) = {
            let random = &mut self.random;
            let known = self.user.known();
            let any = |all: &Vec<String>, random: &mut Random| {
                (!all.is_empty()).then(|| all[random.index(all.len())].clone())
            };
            (
                any(&known.tasks, random),
                any(&known.deleted, random),
                known.created < MOST_TASKS,
            )
        };
        match (self.random.between(0, 100), task) {
            (0..22, _) if room => self.create().await,
            (0..55, Some(task)) => self.update(task).await,
            (55..61, Some(task)) => self.delete(task).await,
            (61..76, Some(task)) => self.read(task).await,
            (76..85, _) => self.list().await,
            (85..89, _) => match deleted {
                Some(task) => self.read(task).await,
                None => self.list().await,
            },
            (89..94, _) if self.user.has_profile => self.profile().await,
            (94.., _) => self.replay().await,
            _ => self.list().await,
        }
    }

    async fn create(&mut self) {
        let title = self.journal.unique("t");
        let mut fields = Fields::from([("title".to_owned(), Some(title.clone()))]);
        let mut body = Map::from_iter([("title".to_owned(), json!(title))]);
        if self.random.chance(50) {
            let text = self.journal.unique("d");
            body.insert("description".into(), json!(text));
            fields.insert("description".into(), Some(text));
        } else {
            fields.insert("description".into(), None);
        }
        let status = self.random.pick(&STATUSES);
        if self.random.chance(40) {
            body.insert("status".into(), json!(status));
            fields.insert("status".into(), Some(status.into()));
        } else {
            fields.insert("status".into(), Some("pending".into()));
        }
        self.user.known().created += 1;
        self.write(
            Kind::Create,
            None,
            fields,
            Method::POST,
            "/api/v1/tasks".into(),
            Some(body),
        )
        .await;
    }

    async fn update(&mut self, task: String) {
        let (mut fields, mut body) = (Fields::new(), Map::new());
        if self.random.chance(60) {
            let title = self.journal.unique("t");
            body.insert("title".into(), json!(title));
            fields.insert("title".into(), Some(title));
        }
        if self.random.chance(35) {
            let text = self.random.chance(85).then(|| self.journal.unique("d"));
            body.insert("description".into(), json!(text));
            fields.insert("description".into(), text);
        }
        if fields.is_empty() || self.random.chance(30) {
            let status = self.random.pick(&STATUSES);
            body.insert("status".into(), json!(status));
            fields.insert("status".into(), Some(status.into()));
        }
        let path = format!("/api/v1/tasks/{task}");
        self.write(Kind::Update, Some(task), fields, Method::PUT, path, Some(body))
            .await;
    }

    async fn delete(&mut self, task: String) {
        let path = format!("/api/v1/tasks/{task}");
        {
            let mut known = self.user.known();
            known.tasks.retain(|known| *known != task);
            known.deleted.push(task.clone());
        }
        self.write(
            Kind::Delete,
            Some(task),
            Fields::new(),
            Method::DELETE,
            path,
            None,
        )
        .await;
    }

    async fn profile(&mut self) {
        let id = self.user.id.clone();
        if self.random.chance(40) {
            return self.fetch("/api/v1/profile".into(), Some(id)).await;
        }
        let name = self.journal.unique("n");
        let body = Map::from_iter([("name".to_owned(), json!(name))]);
        let fields = Fields::from([("name".to_owned(), Some(name))]);
        self.write(
            Kind::Update,
            Some(id),
            fields,
            Method::PUT,
            "/api/v1/profile".into(),
            Some(body),
        )
        .await;
    }

    async fn read(&mut self, task: String) {
        self.fetch(format!("/api/v1/tasks/{task}"), Some(task)).await;
    }

    async fn list(&mut self) {
        self.fetch("/api/v1/tasks?limit=100".into(), None).await;
    }

    async fn fetch(&mut self, path: String, entity: Option<String>) {
        let start = self.journal.now();
        let answer = self.user.client.send(self.node, &Request::get(path), None).await;
        let end = self.journal.now();
        let seen = match answer {
            Err(silence) => Seen::Failed(Failure::Silent(silence)),
            Ok(answer) if answer.status == 404 && entity.is_some() => Seen::Absent,
            Ok(answer) if answer.status != 200 => Seen::Failed(answer.failure()),
            Ok(answer) => match seen(&answer.json(), entity.is_some()) {
                Some(seen) => seen,
                None => return,
            },
        };
        self.journal.push(Event::Read(Read {
            user: self.user.id.clone(),
            entity,
            node: self.node,
            start,
            end,
            seen,
        }));
    }

    /// Sends an answered write once more, as it was: one that nothing else to its entity followed, as clients do.
    async fn replay(&mut self) {
        let picked = {
            let known = self.user.known();
            let all = known.answered.len();
            (all > 0).then(|| known.answered.values().nth(self.random.index(all)).cloned())
        };
        let Some((place, request)) = picked.flatten() else {
            return;
        };
        let attempt = self.attempt(&request, None).await;
        if let Some(Event::Write(write)) = self.journal.events().get_mut(place) {
            write.attempts.push(attempt);
        }
    }

    async fn write(
        &mut self,
        kind: Kind,
        entity: Option<String>,
        fields: Fields,
        method: Method,
        path: String,
        body: Option<Map<String, Value>>,
    ) {
        let request = Request {
            method,
            path,
            key: Some(self.journal.unique("k").replace(MARK, "key-")),
            body: body.map(Value::Object),
        };
        if let Some(entity) = &entity {
            self.user.known().answered.remove(entity);
        }
        let (attempts, entity) = self.insist(&request, entity).await;
        let answered = attempts.last().is_some_and(|attempt| attempt.outcome.is_ok());
        let place = self.journal.push(Event::Write(Write {
            user: self.user.id.clone(),
            entity: entity.clone(),
            kind,
            fields,
            attempts,
        }));
        let mut known = self.user.known();
        if let (true, Some(id)) = (answered, entity) {
            known.answered.insert(id.clone(), (place, request));
            if kind == Kind::Create {
                known.tasks.push(id);
            }
        }
    }

    /// Sends until there is an answer that is no 5xx, or the user has had enough.
    pub(crate) async fn insist(
        &mut self,
        request: &Request,
        entity: Option<String>,
    ) -> (Vec<Attempt>, Option<String>) {
        let (mut attempts, mut entity) = (Vec::new(), entity);
        let tries = if self.random.chance(40) {
            self.random.index(4) + 1
        } else {
            MOST_TRIES
        };
        for number in 0..tries {
            let give_up = self
                .random
                .chance(self.give_up)
                .then(|| Duration::from_micros(self.random.between(50, 20_000)));
            let attempt = self.attempt(request, give_up).await;
            let outcome = attempt.outcome.clone();
            attempts.push(attempt);
            match outcome {
                Ok(ack) => {
                    let body: Value = serde_json::from_str(&ack.body).unwrap_or_default();
                    let id = body["data"]["id"].as_str().map(str::to_owned);
                    entity = entity.or(id);
                    break;
                }
                Err(failure) if !failure.leaves_open() => break,
                Err(Failure::Silent(Silence::TimedOut)) => break,
                Err(_) => {}
            }
            if self.journal.is_over() && number > 2 {
                break;
            }
            let pause = self.random.between(10, 120);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.nodes > 1 && self.random.chance(15) {
                self.go_elsewhere().await;
            }
        }
        (attempts, entity)
    }

    async fn attempt(&self, request: &Request, give_up: Option<Duration>) -> Attempt {
        let start = self.journal.now();
        let answer = self.user.client.send(self.node, request, give_up).await;
        let end = self.journal.now();
        let outcome = match answer {
            Ok(answer) if answer.is_success() => Ok(answer.ack()),
            Ok(answer) => Err(answer.failure()),
            Err(silence) => Err(Failure::Silent(silence)),
        };
        Attempt {
            node: self.node,
            start,
            end,
            outcome,
        }
    }
}

/// What a 200 shows; `None` for a list that goes on, which says nothing about what it leaves out.
fn seen(body: &Value, single: bool) -> Option<Seen> {
    if single {
        return shown(&body["data"]).map(Seen::One);
    }
    if body["meta"]["hasMore"].as_bool() != Some(false) {
        return None;
    }
    let items = body["data"].as_array()?.iter().map(shown);
    Some(Seen::All(items.collect::<Option<Vec<_>>>()?))
}
