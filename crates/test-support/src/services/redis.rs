//! A private Redis (or Valkey) server on a loopback port.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use super::postgres::make_home;
use super::supervise::{Account, Signal, Spec, Supervised};
use super::{Place, ServiceError, find, log_tail, poll_until, port};

const NAME: &str = "Redis";
const START_PATIENCE: Duration = Duration::from_secs(30);
const STOP_PATIENCE: Duration = Duration::from_secs(10);
const PROBE_PATIENCE: Duration = Duration::from_millis(500);
const BIND_TRIES: usize = 5;

/// How a server is run.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Where its data lives.
    pub place: Place,
    /// The port; a free one when not given.
    pub port: Option<u16>,
    /// Whether it keeps its data over a restart (append-only file).
    pub durable: bool,
    /// Whether it is to be a node of a cluster.
    pub cluster: bool,
}

/// A private server. Dropping it stops it and removes temporary data.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
    home: PathBuf,
    port: u16,
    options: RedisOptions,
    process: Mutex<Option<Supervised>>,
    temporary: Option<TempDir>,
}

impl Redis {
    /// A server for one test: free port, nothing kept.
    ///
    /// # Errors
    /// Redis is missing or did not start.
    pub fn start_private() -> Result<Self, ServiceError> {
        Self::launch(RedisOptions::default())
    }

    /// Starts a server.
    ///
    /// # Errors
    /// Redis is missing or did not start; the error holds the end of its log.
    pub fn launch(options: RedisOptions) -> Result<Self, ServiceError> {
        let program = find::redis()?.program;
        let (home, temporary) = make_home(&options.place, "gravity-redis-", Account::for_servers())?;
        let mut server = Self {
            program,
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

    /// A connection URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port it listens on, also while it is down.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id while it runs.
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

    /// Starts it on the same port and data, and waits until it answers. Does nothing when it runs.
    ///
    /// # Errors
    /// It did not become ready; the error holds the end of its log.
    pub fn start(&self) -> Result<(), ServiceError> {
        let mut slot = self.process();
        if slot.as_ref().is_some_and(Supervised::is_running) {
            return Ok(());
        }
        drop(slot.take());
        let log = self.home.join("log");
        let process = Supervised::start(&Spec {
            command: &self.command(),
            env: &[],
            log: Some(&log),
            account: Account::for_servers(),
            directory: Some(&self.home),
            last_signal: "TERM",
            trash: self.temporary.as_ref().map(|_| self.home.clone()),
        })
        .map_err(ServiceError::io("start redis-server"))?;
        let ready = poll_until(START_PATIENCE, || {
            !process.is_running() || self.answers(process.pid())
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

    /// Kills it (SIGKILL).
    pub fn kill(&self) {
        if let Some(process) = self.process().take() {
            process.kill();
        }
    }

    /// Stops it in an orderly way.
    pub fn stop(&self) {
        if let Some(process) = self.process().take() {
            process.stop(Signal::TERM, STOP_PATIENCE);
        }
    }

    /// Stops it in its tracks (SIGSTOP): the kernel still accepts connections, nothing answers.
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

    /// One inline command, and what came back first.
    ///
    /// # Errors
    /// [`ServiceError::State`] when it does not answer.
    pub fn ask(&self, command: &str) -> Result<String, ServiceError> {
        let silent = || ServiceError::State(format!("{NAME} does not answer"));
        ask(self.port, format!("{command}\r\n").as_bytes()).ok_or_else(silent)
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

    /// Whether the server on our port says it is the process we started, and has loaded its data.
    fn answers(&self, pid: u32) -> bool {
        let info = ask(self.port, b"INFO server\r\n").unwrap_or_default();
        let ours = info
            .lines()
            .any(|line| line.trim() == format!("process_id:{pid}"));
        ours && ask(self.port, b"PING\r\n").is_some_and(|answer| answer.starts_with("+PONG"))
    }

    fn command(&self) -> Vec<String> {
        let port = self.port.to_string();
        let home = self.home.display().to_string();
        let appendonly = if self.options.durable { "yes" } else { "no" };
        let cluster = if self.options.cluster { "yes" } else { "no" };
        let arguments = [
            "--port",
            port.as_str(),
            "--bind",
            "127.0.0.1",
            "--dir",
            home.as_str(),
            "--daemonize",
            "no",
            "--save",
            "",
            "--appendonly",
            appendonly,
            "--loglevel",
            "warning",
            "--cluster-enabled",
            cluster,
        ];
        std::iter::once(self.program.display().to_string())
            .chain(arguments.map(String::from))
            .collect()
    }
}

/// One inline command and what came back first.
fn ask(port: u16, command: &[u8]) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PROBE_PATIENCE).ok()?;
    stream.set_read_timeout(Some(PROBE_PATIENCE)).ok()?;
    stream.write_all(command).ok()?;
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}
