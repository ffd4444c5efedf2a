//! A private PostgreSQL server on a loopback port.
//!
//! The superuser is `postgres`. There are no Unix sockets, locale `C`, encoding UTF-8. Commits are always
//! synchronous, so a killed server keeps what it acknowledged; only `fsync`, which matters when the machine
//! itself fails, is a choice, and off by default.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use super::supervise::{Account, Signal, Spec, Supervised};
use super::{Place, ServiceError, find, log_tail, poll_until, port};
use std::os::unix::process::CommandExt;

const NAME: &str = "PostgreSQL";
const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const BIND_TRIES: usize = 5;

/// How a server is run.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Where its data lives.
    pub place: Place,
    /// The port; a free one when not given.
    pub port: Option<u16>,
    /// Whether commits reach the disk itself. Off is faster and still survives a kill of the server.
    pub fsync: bool,
    /// The superuser's password. Without one, every local connection is trusted. Counts when the data is made.
    pub password: Option<String>,
    /// A database to create with the data, beside `postgres`: lower-case letters, digits and underscores.
    pub database: Option<String>,
    /// More server settings, as `name` and `value`; they win over ours.
    pub settings: Vec<(String, String)>,
}

/// A private server. Dropping it kills it and removes temporary data.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    home: PathBuf,
    port: u16,
    options: PostgresOptions,
    process: Mutex<Option<Supervised>>,
    temporary: Option<TempDir>,
}

impl Postgres {
    /// A server for one test: temporary data, free port, no fsync.
    ///
    /// # Errors
    /// PostgreSQL is missing or did not start.
    pub fn start_private() -> Result<Self, ServiceError> {
        Self::launch(PostgresOptions::default())
    }

    /// Makes the data directory when there is none, and starts the server.
    ///
    /// # Errors
    /// PostgreSQL is missing or did not start; the error holds the end of its log.
    pub fn launch(options: PostgresOptions) -> Result<Self, ServiceError> {
        let bin = find::postgres()?.bin;
        let account = Account::for_servers();
        let (home, temporary) = make_home(&options.place, "gravity-postgres-", account)?;
        init(&bin, &home, account, &options)?;
        let mut server = Self {
            bin,
            home,
            port: 0,
            options,
            process: Mutex::new(None),
            temporary,
        };
        if let Some(port) = server.options.port {
            server.port = port;
            server.start()?;
            return Ok(server);
        }
        let mut last = ServiceError::State("no free port on loopback".into());
        for _ in 0..BIND_TRIES {
            let Some(port) = port::free() else { break };
            server.port = port;
            match server.start() {
                Ok(()) => return Ok(server),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A connection URL for the database of this name; `postgres` always exists.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let password = self
            .options
            .password
            .as_ref()
            .map(|password| format!(":{password}"))
            .unwrap_or_default();
        format!("postgres://postgres{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port it listens on, also while it is down.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process()
            .as_ref()
            .filter(|process| process.is_running())
            .map(Supervised::pid)
    }

    /// Where its data and log are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.home
    }

    /// Starts it on the same port and data, and waits until it accepts connections. Does nothing when it runs.
    ///
    /// # Errors
    /// It did not become ready; the error holds the end of its log.
    pub fn start(&self) -> Result<(), ServiceError> {
        let mut slot = self.process();
        if slot.as_ref().is_some_and(Supervised::is_running) {
            return Ok(());
        }
        // One that died on its own is let go of first: until its parent collects it, its process id is taken.
        drop(slot.take());
        let log = self.home.join("log");
        let process = Supervised::start(&Spec {
            command: &self.command(),
            env: &[],
            log: Some(&log),
            account: Account::for_servers(),
            directory: None,
            last_signal: "QUIT",
            trash: self.temporary.as_ref().map(|_| self.home.clone()),
        })
        .map_err(ServiceError::io("start postgres"))?;
        let ready = poll_until(START_PATIENCE, || {
            !process.is_running() || self.is_ready(process.pid())
        });
        if ready && process.is_running() {
            *slot = Some(process);
            return Ok(());
        }
        let reason = if ready {
            "it ended at once".to_owned()
        } else {
            format!("not ready after {START_PATIENCE:?}")
        };
        process.kill();
        Err(ServiceError::Start {
            name: NAME,
            reason,
            log: log_tail(&log),
        })
    }

    /// Kills every process of the server (SIGKILL), as a crash of the machine would.
    pub fn kill(&self) {
        if let Some(process) = self.process().take() {
            process.kill();
        }
    }

    /// Stops it in an orderly way; connections are closed.
    pub fn stop(&self) {
        if let Some(process) = self.process().take() {
            process.stop(Signal::INT, STOP_PATIENCE);
        }
    }

    /// Stops all its processes in their tracks (SIGSTOP): the kernel still accepts connections, nothing answers.
    ///
    /// # Errors
    /// [`ServiceError::State`] when it is down.
    pub fn pause(&self) -> Result<(), ServiceError> {
        self.with_running(Supervised::pause)
    }

    /// Undoes [`Self::pause`].
    ///
    /// # Errors
    /// [`ServiceError::State`] when it is down.
    pub fn resume(&self) -> Result<(), ServiceError> {
        self.with_running(Supervised::resume)
    }

    fn with_running(&self, act: impl FnOnce(&Supervised)) -> Result<(), ServiceError> {
        match self.process().as_ref().filter(|process| process.is_running()) {
            Some(process) => {
                act(process);
                Ok(())
            }
            None => Err(ServiceError::State(format!("{NAME} is not running"))),
        }
    }

    fn process(&self) -> MutexGuard<'_, Option<Supervised>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server itself notes in this file when it accepts connections.
    fn is_ready(&self, pid: u32) -> bool {
        let Ok(text) = fs::read_to_string(self.home.join("data/postmaster.pid")) else {
            return false;
        };
        let mut lines = text.lines();
        let ours = lines.next().is_some_and(|line| line.trim() == pid.to_string());
        ours && lines.nth(6).is_some_and(|status| status.trim() == "ready")
    }

    fn command(&self) -> Vec<String> {
        let mut command = vec![
            self.bin.join("postgres").display().to_string(),
            "-D".into(),
            self.home.join("data").display().to_string(),
        ];
        let on = |flag: bool| if flag { "on" } else { "off" };
        let port = self.port.to_string();
        let ours = [
            ("listen_addresses", "127.0.0.1"),
            ("port", port.as_str()),
            ("unix_socket_directories", ""),
            ("fsync", on(self.options.fsync)),
            ("full_page_writes", on(self.options.fsync)),
            ("synchronous_commit", "on"),
            ("max_connections", "300"),
            ("shared_buffers", "64MB"),
            ("log_min_messages", "warning"),
        ];
        let ours = ours.into_iter().map(|(name, value)| format!("{name}={value}"));
        let theirs = self
            .options
            .settings
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        for setting in ours.chain(theirs) {
            command.extend(["-c".to_owned(), setting]);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.temporary.is_some() {
            self.kill();
        } else {
            self.stop();
        }
    }
}

/// The server's home: `data` inside, owned by the account the server runs as.
pub(super) fn make_home(
    place: &Place,
    prefix: &str,
    account: Option<Account>,
) -> Result<(PathBuf, Option<TempDir>), ServiceError> {
    let (home, temporary) = match place {
        Place::Kept(home) => {
            fs::create_dir_all(home).map_err(ServiceError::io(format!("create {}", home.display())))?;
            (home.clone(), None)
        }
        Place::Temporary => {
            let directory = tempfile::Builder::new()
                .prefix(prefix)
                .tempdir()
                .map_err(ServiceError::io("create a temporary directory"))?;
            (directory.path().to_path_buf(), Some(directory))
        }
    };
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700))
        .map_err(ServiceError::io(format!("restrict {}", home.display())))?;
    if let Some(account) = account {
        account
            .own(&home)
            .map_err(ServiceError::io(format!("hand over {}", home.display())))?;
    }
    Ok((home, temporary))
}

fn init(
    bin: &Path,
    home: &Path,
    account: Option<Account>,
    options: &PostgresOptions,
) -> Result<(), ServiceError> {
    let data = home.join("data");
    if data.join("PG_VERSION").exists() {
        return Ok(());
    }
    // Made beside its place and then moved, so that an interrupted start leaves nothing half-made.
    let draft = home.join("data.new");
    let _ = fs::remove_dir_all(&draft);
    let mut command = Command::new(bin.join("initdb"));
    command
        .arg("-D")
        .arg(&draft)
        .args(["-U", "postgres", "--no-sync", "--encoding=UTF8", "--locale=C"]);
    let password_file = home.join("password.new");
    match &options.password {
        None => command.arg("--auth=trust"),
        Some(password) => {
            write_private(&password_file, password, account)?;
            command
                .arg("--auth=scram-sha-256")
                .arg("--pwfile")
                .arg(&password_file)
        }
    };
    let made = run(command, account, "initdb", "");
    let _ = fs::remove_file(&password_file);
    made?;
    if let Some(database) = &options.database {
        let mut command = Command::new(bin.join("postgres"));
        command
            .arg("--single")
            .arg("-D")
            .arg(&draft)
            .args(["-c", "exit_on_error=on", "postgres"]);
        run(
            command,
            account,
            "postgres --single",
            &format!("CREATE DATABASE {database};\n"),
        )?;
    }
    fs::rename(&draft, &data).map_err(ServiceError::io("move the new data directory into place"))
}

/// Runs a program of PostgreSQL to its end, with `input` on its standard input.
fn run(mut command: Command, account: Option<Account>, name: &str, input: &str) -> Result<(), ServiceError> {
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(ServiceError::io(format!("run {name}")))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ended without reading says why on its standard error.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(ServiceError::io(format!("run {name}")))?;
    if output.status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ServiceError::Start {
        name: NAME,
        reason: format!("{name}: {}", output.status),
        log,
    })
}

fn write_private(path: &Path, text: &str, account: Option<Account>) -> Result<(), ServiceError> {
    let doing = || format!("write {}", path.display());
    fs::write(path, "").map_err(ServiceError::io(doing()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(ServiceError::io(doing()))?;
    if let Some(account) = account {
        account.own(path).map_err(ServiceError::io(doing()))?;
    }
    fs::write(path, text).map_err(ServiceError::io(doing()))
}
