//! A whole server: the real program as a child process, with a database and a write buffer of its own.
//!
//! ```text
//! Setup::new(program).set("BUFFER_MAX_SIZE", "3").private_postgres().start().await -> TestApp
//! ```
//!
//! Being a process, it can be killed and started again on the same port, buffer and database, and actors go on using it.
//! The database is cloned from a template that the program itself has migrated and that holds the rows of the actors.
//! Ordinary tests share one Postgres; a test that breaks Postgres has one to itself, perhaps behind a [`FaultProxy`].
//! When a test fails, the end of the server's log is printed.

mod setup;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

pub use self::setup::Setup;

use crate::actors::{ADMIN, ALICE, Actor, BOB, SERVICE};
use crate::calls::{Answer, Target};
use crate::services::databases::TestDatabase;
use crate::services::fault_proxy::FaultProxy;
use crate::services::supervise::{Signal, Spec, Supervised};
use crate::services::{Postgres, Redis};

/// How long anything that must happen may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);
const LAUNCHES: usize = 3;

/// Asks again and again until there is something.
///
/// # Panics
/// When there is nothing within [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it never happened: {what}");
        tokio::time::sleep(STEP).await;
    }
}

/// A server. Dropping it kills it.
#[derive(Debug)]
pub struct TestApp {
    process: Mutex<Option<Supervised>>,
    target: Arc<Target>,
    program: PathBuf,
    variables: BTreeMap<String, String>,
    database: Arc<TestDatabase>,
    proxy: Option<FaultProxy>,
    postgres: Option<Arc<Postgres>>,
    redis: Option<Arc<Redis>>,
    home: Arc<TempDir>,
}

impl TestApp {
    /// Runs it and waits until it finds everything up.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(&self) {
        self.launch().await;
        self.healthy().await;
    }

    /// Runs it and waits until its buffer is open, whatever else is down.
    ///
    /// # Panics
    /// When it ends, or the buffer does not open.
    pub async fn launch(&self) {
        self.listen().await;
        eventually("the buffer opens", || async {
            (self.reported("/buffer/status").await != "unavailable").then_some(())
        })
        .await;
    }

    /// Runs it and waits until it answers at all.
    ///
    /// # Panics
    /// When it ends.
    pub async fn listen(&self) {
        for attempt in 1..=LAUNCHES {
            self.spawn();
            if self.answers().await {
                return;
            }
            // A port may be gone between being found and being used.
            let taken = self.log().contains("in use");
            assert!(taken && attempt < LAUNCHES, "it did not start:\n{}", self.log());
        }
    }

    /// Runs it, and waits for nothing.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn spawn(&self) {
        let mut command = vec!["/usr/bin/env".to_owned(), "-i".to_owned()];
        command.extend(
            self.variables
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
        command.push(self.program.display().to_string());
        let process = Supervised::start(&Spec {
            command: &command,
            env: &[],
            log: Some(&self.home.path().join("log")),
            account: None,
            directory: Some(self.home.path()),
            last_signal: "KILL",
            trash: Some(self.home.path().to_owned()),
        });
        match process {
            Ok(process) => *self.process() = Some(process),
            Err(error) => panic!("the server cannot be run: {error}"),
        }
    }

    async fn answers(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() && Instant::now() < deadline {
            if self
                .nobody()
                .get("/live")
                .attempt()
                .await
                .is_ok_and(|answer| answer.status == 200)
            {
                return true;
            }
            tokio::time::sleep(STEP).await;
        }
        false
    }

    fn process(&self) -> MutexGuard<'_, Option<Supervised>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its process runs.
    pub fn is_running(&self) -> bool {
        self.process().as_ref().is_some_and(Supervised::is_running)
    }

    /// Kills it (SIGKILL).
    pub fn kill(&self) {
        if let Some(process) = self.process().take() {
            process.kill();
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = self.process().as_ref() {
            process.signal(signal);
        }
    }

    /// Waits until it has ended by itself; its exit status, `None` when it had to be killed.
    ///
    /// # Panics
    /// When it was never started, or the waiting broke down.
    pub async fn ended(&self) -> Option<i32> {
        let Some(process) = self.process().take() else {
            panic!("the server is not running");
        };
        match tokio::task::spawn_blocking(move || process.wait(PATIENCE)).await {
            Ok(status) => status,
            Err(error) => panic!("{error}"),
        }
    }

    /// SIGTERM, and the exit status.
    pub async fn terminate(&self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Changes a setting; counts at the next start.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.insert(name.to_owned(), value.into());
    }

    /// Another server like this one on the same database, with its own buffer.
    #[must_use]
    pub fn another_node(&self) -> Setup {
        let mut variables = self.variables.clone();
        variables.remove("BUFFER_PATH");
        Setup {
            program: self.program.clone(),
            variables,
            postgres: self.postgres.clone(),
            database: Some(Arc::clone(&self.database)),
            redis: self.redis.clone(),
            proxied: self.proxy.is_some(),
            empty: false,
        }
    }

    /// The Postgres that is this test's own.
    ///
    /// # Panics
    /// When it is the shared one.
    pub fn postgres(&self) -> &Postgres {
        match &self.postgres {
            Some(postgres) => postgres,
            None => panic!("this test shares its Postgres with others"),
        }
    }

    /// The Redis that is this test's own.
    ///
    /// # Panics
    /// When there is none.
    pub fn redis(&self) -> &Redis {
        match &self.redis {
            Some(redis) => redis,
            None => panic!("this server has no Redis"),
        }
    }

    /// What stands between the server and Postgres.
    ///
    /// # Panics
    /// When nothing does.
    pub fn proxy(&self) -> &FaultProxy {
        match &self.proxy {
            Some(proxy) => proxy,
            None => panic!("nothing stands between this server and Postgres"),
        }
    }

    /// A connection to its database, for looking behind the server.
    ///
    /// # Panics
    /// When there is none to be had.
    pub async fn sql(&self) -> tokio_postgres::Client {
        match self.database.connect().await {
            Ok(client) => client,
            Err(error) => panic!("no connection to the database: {error}"),
        }
    }

    /// Its database.
    pub fn database(&self) -> &TestDatabase {
        &self.database
    }

    /// Where its buffer is.
    pub fn buffer_path(&self) -> PathBuf {
        PathBuf::from(&self.variables["BUFFER_PATH"])
    }

    /// The program with the settings of this server.
    pub fn command(&self) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .env_clear()
            .envs(&self.variables)
            .current_dir(self.home.path())
            .kill_on_drop(true);
        command
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        std::fs::read(self.home.path().join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Its port.
    ///
    /// # Panics
    /// Never: it is set when the app is prepared.
    pub fn port(&self) -> u16 {
        match self.variables["SERVER_PORT"].parse() {
            Ok(port) => port,
            Err(_) => panic!("the port is no number"),
        }
    }

    /// A user with a row.
    pub fn alice(&self) -> Actor {
        Actor::own(Arc::clone(&self.target), ALICE, "user")
    }

    /// Another user with a row.
    pub fn bob(&self) -> Actor {
        Actor::own(Arc::clone(&self.target), BOB, "user")
    }

    /// A machine account, role admin.
    pub fn admin(&self) -> Actor {
        Actor::own(Arc::clone(&self.target), ADMIN, "admin")
    }

    /// A machine account, role service.
    pub fn service(&self) -> Actor {
        Actor::own(Arc::clone(&self.target), SERVICE, "service")
    }

    /// Anyone else with an own token.
    pub fn actor(&self, id: Uuid, role: &str) -> Actor {
        Actor::own(Arc::clone(&self.target), id, role)
    }

    /// Someone without a token.
    pub fn nobody(&self) -> Actor {
        Actor::nobody(Arc::clone(&self.target))
    }

    /// `/health`.
    pub async fn health(&self) -> Answer {
        self.nobody().get("/health").await
    }

    /// `/ready`.
    pub async fn ready(&self) -> Answer {
        self.nobody().get("/ready").await
    }

    /// A part of `/ready`, by JSON pointer.
    pub async fn reported(&self, pointer: &str) -> Value {
        self.ready()
            .await
            .json()
            .pointer(pointer)
            .cloned()
            .unwrap_or_default()
    }

    /// Waits until `/ready` has `wanted` at `pointer`.
    ///
    /// # Panics
    /// When it never does.
    pub async fn reports(&self, pointer: &str, wanted: impl Into<Value>) {
        let wanted = wanted.into();
        eventually(&format!("{pointer} is {wanted}"), || async {
            (self.reported(pointer).await == wanted).then_some(())
        })
        .await;
    }

    /// Waits until it finds everything up.
    ///
    /// # Panics
    /// When it never does.
    pub async fn healthy(&self) {
        self.reports("/status", "healthy").await;
    }

    /// Waits until it has noticed that Postgres is down: at once, since it is asked for something that only Postgres knows.
    ///
    /// # Panics
    /// When it never does.
    pub async fn in_the_dark(&self) {
        eventually("it notices that Postgres is down", || async {
            self.actor(Uuid::now_v7(), "service").get("/api/v1/tasks").await;
            (self.reported("/services/postgresql/status").await == false).then_some(())
        })
        .await;
    }

    /// Waits until it finds everything up and has nothing buffered.
    ///
    /// # Panics
    /// When it never does.
    pub async fn drained(&self) {
        self.healthy().await;
        self.reports("/buffer/size", 0).await;
    }

    /// A metric's value by the start of its line: its name, perhaps with labels. The sum if there are several.
    ///
    /// # Panics
    /// When there is no such metric.
    pub async fn metric(&self, start: &str) -> f64 {
        let text = self.nobody().get("/metrics").await.must_be(200).text();
        let values = text
            .lines()
            .filter(|line| line.starts_with(start))
            .filter_map(|line| line.rsplit_once(' '));
        values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(30)..].join("\n");
            #[allow(clippy::print_stderr)] // the one thing that explains a failed test
            {
                eprintln!("the server's log ends with:\n{tail}");
            }
        }
    }
}
