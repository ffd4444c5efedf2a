//! One schedule from start to verdict.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gravity_test_support::history::{self, Broken, Event, Facts, History, Restart, Row, Rules};
use gravity_test_support::services::databases::TestDatabase;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::act::Stage;
use crate::admin;
use crate::chat;
use crate::client::Client;
use crate::disk::SmallDisk;
use crate::facts;
use crate::node::Node;
use crate::plan::{Act, Kind, Plan};
use crate::stores::{ROLE, Stores};
use crate::stream::feed;
use crate::tally::Tally;
use crate::user::{Journal, Line, User};
use crate::verdict::{judge, keep, tail};
use crate::{Failure as Stop, Options};

/// A server must answer within this after a start.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// Users end their last request within this.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// Healed to drained.
const DRAIN_PATIENCE: Duration = Duration::from_secs(25);
/// The write deadline is a second at most; the rest is for a busy machine.
const REQUEST_LIMIT_US: u64 = 5_000_000;
const POLL: Duration = Duration::from_millis(40);

/// What became of a schedule.
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    pub(crate) violations: Vec<String>,
}

/// Runs one schedule.
pub(crate) async fn run(plan: &Plan, stores: &Stores, options: &Options) -> Result<Outcome, Stop> {
    stores.heal().await?;
    let home = tempfile::Builder::new().prefix("gravity-faults-").tempdir()?;
    let database = stores.database(&options.server).await?;
    let stage = set_up(plan, stores, options, home.path(), &database)?;
    let scene = Scene {
        plan,
        stage,
        database,
        home: home.path().to_owned(),
    };
    let outcome = scene.play().await;
    scene.stage.evict().await?;
    for node in &scene.stage.nodes {
        node.kill();
    }
    if let Ok(outcome) = &outcome
        && !outcome.violations.is_empty()
    {
        keep(plan, &options.evidence, home.path(), &outcome.violations)?;
    }
    if outcome.is_err() {
        keep(plan, &options.evidence, home.path(), &[])?;
    }
    outcome
}

fn set_up<'a>(
    plan: &Plan,
    stores: &'a Stores,
    options: &Options,
    home: &Path,
    database: &TestDatabase,
) -> Result<Stage<'a>, Stop> {
    let environment = [
        (
            "DATABASE_URL".to_owned(),
            format!(
                "postgres://{ROLE}@127.0.0.1:{}/{}?sslmode=disable",
                stores.postgres_proxy.port(),
                database.name()
            ),
        ),
        (
            "REDIS_URL".to_owned(),
            format!("redis://127.0.0.1:{}", stores.redis_proxy.port()),
        ),
    ];
    let disk = if plan.small_disk {
        SmallDisk::mount(&home.join("node0"))
    } else {
        None
    };
    let mut nodes = Vec::new();
    for node in 0..plan.nodes {
        let node = Node::new(plan, &options.server, home, &format!("node{node}"), &environment)?;
        nodes.push(Arc::new(node));
    }
    Ok(Stage {
        stores,
        nodes,
        disk,
        intruder: Mutex::default(),
        notes: Mutex::default(),
        stuck: Mutex::default(),
    })
}

struct Scene<'a> {
    plan: &'a Plan,
    stage: Stage<'a>,
    database: TestDatabase,
    home: PathBuf,
}

impl Scene<'_> {
    async fn play(&self) -> Result<Outcome, Stop> {
        let bases: Vec<String> = self.stage.nodes.iter().map(|node| node.base()).collect();
        let admin = Client::new(&bases, &Uuid::from_u128(0xad).to_string(), "admin")?;
        let users = self.users(&bases).await?;
        let mut initial = facts::profiles(&self.database.connect().await?).await?;
        for node in &self.stage.nodes {
            node.start()?;
        }
        for node in 0..self.plan.nodes {
            if let Err(last) = self.settled(&admin, node, START_PATIENCE).await {
                let log = self.stage.nodes[node].log();
                return Err(format!("the server did not become ready: {last}\n{log}").into());
            }
        }
        for user in &users {
            feed(&admin, user).await?;
        }
        initial.extend(facts::items(&self.database.connect().await?).await?);
        let journal = Arc::new(Journal::new());
        let pairs = self.pairs(&users).await?;
        let followers = chat::follow(&pairs, self.plan.nodes);
        let stragglers = self.perform(&users, &pairs, &journal).await?;
        let mut broken = self.after_the_acts(stragglers);
        self.heal().await?;
        for node in 0..self.plan.nodes {
            if let Err(last) = self.settled(&admin, node, DRAIN_PATIENCE).await {
                broken.push(format!(
                    "R8 fast back: node {node} was not ready and drained {DRAIN_PATIENCE:?} after everything was healed: {last}"
                ));
            }
        }
        let history = self.record(&admin, &users, journal.take(), initial).await;
        let history = match history {
            Ok(history) => history,
            Err(error) if !broken.is_empty() => {
                broken.push(format!("nothing more can be said: {error}"));
                return Ok(self.outcome(Tally::default(), broken));
            }
            Err(error) => return Err(error),
        };
        let postgres = admin::connect(&self.stage.stores.postgres.url(self.database.name())).await?;
        broken.extend(chat::check(&postgres, &pairs).await?);
        followers.iter().for_each(tokio::task::JoinHandle::abort);
        broken.extend(self.panics());
        broken.extend(judge(&history, &self.home)?);
        let tally = Tally::of(&history);
        if self.plan.kind.must_buffer() && tally.buffered == 0 {
            broken.push("R7 fast in the dark: Postgres was away, and no write was accepted meanwhile".into());
        }
        Ok(self.outcome(tally, broken))
    }

    fn outcome(&self, tally: Tally, broken: Vec<String>) -> Outcome {
        let notes = self
            .stage
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .join("; ");
        let about = |text: String| {
            format!(
                "BROKEN in schedule {} of seed {} ({}{}{notes})\n{text}",
                self.plan.index,
                self.plan.seed,
                self.plan.kind.name(),
                if notes.is_empty() { "" } else { "; " },
            )
        };
        Outcome {
            tally,
            violations: broken.into_iter().map(about).collect(),
        }
    }

    /// Half of the users have a row, and so a profile; the others are machine accounts.
    async fn users(&self, bases: &[String]) -> Result<Vec<Arc<User>>, Stop> {
        let postgres = self.database.connect().await?;
        let mut random = self.plan.random(0);
        let mut users = Vec::new();
        for number in 0..self.plan.users {
            let id = Uuid::from_u64_pair(random.next(), random.next());
            let has_profile = number % 2 == 0;
            if has_profile {
                let insert =
                    "INSERT INTO users (id, username, created_at, updated_at) VALUES ($1, $2, now(), now())";
                let username = format!("user{number}");
                postgres.execute(insert, &[&id, &username]).await?;
            }
            let role = if has_profile { "user" } else { "service" };
            let client = Client::new(bases, &id.to_string(), role)?;
            users.push(Arc::new(User::new(id.to_string(), has_profile, client)));
        }
        Ok(users)
    }

    /// The users who have a name, two and two.
    async fn pairs(&self, users: &[Arc<User>]) -> Result<Vec<chat::Pair>, Stop> {
        // What damage takes from the buffer is told by its dead letters, which this does not read.
        if self.plan.kind == Kind::Damage {
            return Ok(Vec::new());
        }
        let named = users.iter().enumerate().filter(|(_, user)| user.has_profile);
        let named: Vec<_> = named
            .map(|(number, user)| (user.id.clone(), format!("user{number}"), user.client.clone()))
            .collect();
        chat::pair_up(&named).await
    }

    /// Users and faults, side by side. How many users did not come to an end.
    async fn perform(
        &self,
        users: &[Arc<User>],
        pairs: &[chat::Pair],
        journal: &Arc<Journal>,
    ) -> Result<usize, Stop> {
        let mut lines = JoinSet::new();
        let mut stream = 1;
        for (number, user) in users.iter().enumerate() {
            // Every third user has two requests running at a time.
            for _ in 0..=usize::from(number % 3 == 0) {
                let line = Line {
                    user: Arc::clone(user),
                    journal: Arc::clone(journal),
                    random: self.plan.random(stream),
                    nodes: self.plan.nodes,
                    node: number % self.plan.nodes,
                    give_up: self.plan.give_up,
                };
                stream += 1;
                lines.spawn(line.run());
            }
        }
        for (number, pair) in pairs.iter().enumerate() {
            for (place, chatter) in pair.chatters.iter().enumerate() {
                let writer = chat::Writer {
                    chatter: Arc::clone(chatter),
                    conversation: pair.conversation.clone(),
                    journal: Arc::clone(journal),
                    random: self.plan.random(1_000 + stream),
                    nodes: self.plan.nodes,
                    node: (number + place) % self.plan.nodes,
                };
                stream += 1;
                lines.spawn(writer.run());
            }
        }
        let began = Instant::now();
        for step in &self.plan.steps {
            sleep_until(began + Duration::from_millis(step.at)).await;
            if let Act::KillServer(node) | Act::TermServer(node) = step.act {
                journal.restarts(node);
            }
            self.stage.act(step.act).await?;
        }
        sleep_until(began + Duration::from_millis(self.plan.length)).await;
        journal.end();
        let all = async { while lines.join_next().await.is_some() {} };
        // Whoever is still asking then has met a request that never ends.
        let _ = tokio::time::timeout(END_PATIENCE, all).await;
        Ok(lines.len())
    }

    fn after_the_acts(&self, stragglers: usize) -> Vec<String> {
        let mut broken =
            std::mem::take(&mut *self.stage.stuck.lock().unwrap_or_else(PoisonError::into_inner));
        if stragglers > 0 {
            broken.push(format!(
                "R7 fast in the dark: {stragglers} users wait for answers that never come"
            ));
        }
        for (number, node) in self.stage.nodes.iter().enumerate() {
            // One that finds its buffer in use may refuse to start.
            if self.plan.kind != Kind::Locked && node.ended_by_itself() {
                broken.push(format!("node {number} ended by itself:\n{}", tail(&node.log())));
            }
        }
        broken
    }

    async fn heal(&self) -> Result<(), Stop> {
        if let Some(disk) = &self.stage.disk {
            disk.free();
        }
        self.stage.evict().await?;
        self.stage.stores.heal().await?;
        for node in &self.stage.nodes {
            node.start()?;
        }
        Ok(())
    }

    /// Waits until the node is ready with an empty buffer, and still is a little later.
    async fn settled(&self, admin: &Client, node: usize, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        let mut in_a_row = 0;
        loop {
            match admin.is_settled(node).await {
                Ok(()) => in_a_row += 1,
                Err(last) if Instant::now() > deadline => return Err(last),
                Err(_) => in_a_row = 0,
            }
            if in_a_row >= 3 {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A request that its client gave up may still be under way: what differs is looked at again.
    async fn record(
        &self,
        admin: &Client,
        users: &[Arc<User>],
        (events, restarts): (Vec<Event>, Vec<Restart>),
        initial: Vec<Row>,
    ) -> Result<History, Stop> {
        let url = self.stage.stores.postgres.url(self.database.name());
        let postgres = admin::connect(&url).await?;
        let mut history = History {
            rules: Rules {
                nodes: self.plan.nodes,
                damaged: self.plan.kind == Kind::Damage,
                postgres_untouched: self.plan.kind.leaves_postgres_alone(),
                request_limit: REQUEST_LIMIT_US,
            },
            restarts,
            events,
            facts: Facts::default(),
        };
        for _ in 0..3 {
            history.facts = facts::gather(&postgres, admin, self.plan.nodes, users, &history.events).await?;
            history.facts.initial.clone_from(&initial);
            if !history::check(&history)
                .iter()
                .any(|found| found.broken == Broken::Diverged)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        Ok(history)
    }

    fn panics(&self) -> Vec<String> {
        // A damaged store may panic while it is opened; that is caught, logged and counted.
        if self.plan.kind == Kind::Damage {
            return Vec::new();
        }
        let logs = self.stage.nodes.iter().map(|node| node.log());
        let panicked = logs.filter_map(|log| {
            let line = log.lines().find(|line| line.contains("panicked"))?;
            Some(format!("the server panicked: {line}"))
        });
        panicked.collect()
    }
}
