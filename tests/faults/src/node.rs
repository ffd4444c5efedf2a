//! One node: the server's process, its port, its buffer and its log.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gravity_test_support::services::supervise::{Signal, Spec, Supervised};

use crate::Failure;
use crate::plan::Plan;

/// Signs the tokens of all schedules.
pub(crate) const SECRET: &str = "0kq7Zr2xW9vT4mB6nJ8hL1cY5dF3gSpaQeUiOo";
const TERM_PATIENCE: Duration = Duration::from_secs(20);

/// A node. Dropping it kills its process.
pub(crate) struct Node {
    pub(crate) port: u16,
    pub(crate) buffer: PathBuf,
    log: PathBuf,
    program: PathBuf,
    env: Vec<(String, String)>,
    process: Mutex<Option<Supervised>>,
}

impl Node {
    /// A node that is not running yet.
    pub(crate) fn new(
        plan: &Plan,
        program: &Path,
        home: &Path,
        name: &str,
        stores: &[(String, String)],
    ) -> Result<Self, Failure> {
        let buffer = home.join(name).join("buffer");
        fs::create_dir_all(&buffer)?;
        let port = gravity_test_support::services::free_port().ok_or("no free port")?;
        Ok(Self {
            port,
            env: environment(plan, port, &buffer, stores),
            buffer,
            log: home.join(format!("{name}.log")),
            program: program.to_owned(),
            process: Mutex::new(None),
        })
    }

    /// Another process on the same buffer, with a port of its own.
    pub(crate) fn intruder(&self) -> Result<Self, Failure> {
        let port = gravity_test_support::services::free_port().ok_or("no free port")?;
        let mut env = self.env.clone();
        for (name, value) in &mut env {
            if name == "SERVER_PORT" {
                *value = port.to_string();
            }
        }
        Ok(Self {
            port,
            buffer: self.buffer.clone(),
            log: self.log.with_extension("intruder.log"),
            program: self.program.clone(),
            env,
            process: Mutex::new(None),
        })
    }

    /// Where it answers.
    pub(crate) fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts it, and does not wait until it answers. Does nothing when it runs.
    pub(crate) fn start(&self) -> Result<(), Failure> {
        let mut process = self.process();
        if process.as_ref().is_some_and(Supervised::is_running) {
            return Ok(());
        }
        drop(process.take());
        let command = [self.program.display().to_string(), "serve".into()];
        *process = Some(Supervised::start(&Spec {
            command: &command,
            env: &self.env,
            log: Some(&self.log),
            account: None,
            directory: None,
            last_signal: "KILL",
            trash: None,
        })?);
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        if let Some(process) = self.process().take() {
            process.kill();
        }
    }

    /// SIGTERM; `false` when it had to be killed.
    pub(crate) fn terminate(&self) -> bool {
        let process = self.process().take();
        process.is_none_or(|process| process.stop(Signal::TERM, TERM_PATIENCE))
    }

    /// Whether it was started, not killed, and is gone all the same.
    pub(crate) fn ended_by_itself(&self) -> bool {
        self.process()
            .as_ref()
            .is_some_and(|process| !process.is_running())
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn process(&self) -> MutexGuard<'_, Option<Supervised>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn environment(plan: &Plan, port: u16, buffer: &Path, stores: &[(String, String)]) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = stores.to_vec();
    let mut set = |name: &str, value: &dyn std::fmt::Display| env.push((name.to_owned(), value.to_string()));
    set("SERVER_HOST", &"127.0.0.1");
    set("SERVER_PORT", &port);
    set("SERVER_WORKERS", &2);
    set("JWT_SECRET", &SECRET);
    set("GRAVITY_ENV", &"production");
    set("BUFFER_PATH", &buffer.display());
    set("BUFFER_ENGINE", &plan.engine);
    set("LOG_FORMAT", &"json");
    set("RUST_LOG", &"info");
    set("IP_BLOCK_THRESHOLD", &1_000_000);
    set("CHAT_MESSAGES_PER_MINUTE", &1_000_000);
    set("SHUTDOWN_GRACE_SECONDS", &0);
    set("WRITE_DEADLINE_MS", &plan.write_deadline_ms);
    set("GRAVITY__DATABASE__BATCH_TIMEOUT_MS", &2_000);
    set("GRAVITY__SERVER__SHUTDOWN_TIMEOUT_SECONDS", &3);
    set("GRAVITY__SERVER__DRAIN_TIMEOUT_SECONDS", &1);
    set("GRAVITY__BUFFER__BATCH_SIZE", &plan.batch_size);
    if let Some(size) = plan.buffer_max_size {
        set("BUFFER_MAX_SIZE", &size);
    }
    if plan.small_disk {
        set("GRAVITY__BUFFER__MIN_FREE_BYTES", &0);
    }
    env
}
