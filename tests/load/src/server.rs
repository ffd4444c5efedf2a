//! A `gravity` process to load, and what it says of itself.

use crate::client::{Answer, Client, request};
use serde_json::{Value, json};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The secret the bench's servers sign with.
pub(crate) const SECRET: &str = "bench-secret-6f1d0c9a7e5b4832-not-for-use";
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server; dropping it kills it.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts `program` with `arguments` and the settings every bench shares, and waits until it answers.
    pub(crate) async fn start(
        program: &Path,
        arguments: &[&str],
        settings: &[(&str, String)],
    ) -> Result<Self, Box<dyn Error>> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
            .env("SERVER_PORT", port.to_string())
            .env("JWT_SECRET", SECRET)
            .env("RUST_LOG", "warn");
        command.env("GRAVITY_ENV", "production").env("LOG_FORMAT", "json");
        command.envs(settings.iter().map(|(name, value)| (name, value)));
        let server = Self {
            child: command.spawn()?,
            address: ([127, 0, 0, 1], port).into(),
        };
        server.wait("/ready", |answer| answer.status == 200).await?;
        Ok(server)
    }

    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> io::Result<Answer> {
        Client::new(self.address)
            .send(&request("GET", path, token, None))
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> io::Result<Answer> {
        Client::new(self.address)
            .send(&request("POST", path, None, Some(body)))
            .await
    }

    /// Asks `path` every 5 ms until the answer is as wanted; how long that took.
    pub(crate) async fn wait(
        &self,
        path: &str,
        is_wanted: impl Fn(&Answer) -> bool,
    ) -> Result<Duration, Box<dyn Error>> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if self.get(path, None).await.is_ok_and(|answer| is_wanted(&answer)) {
                return Ok(start.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(format!("{path} did not become as wanted within {PATIENCE:?}").into())
    }

    /// The `ETag` of what is at `path`.
    pub(crate) async fn tag(&self, path: &str, token: &str) -> io::Result<String> {
        let answer = self.get(path, Some(token)).await?;
        let tag = answer.header("etag").map(str::to_owned);
        tag.ok_or_else(|| io::Error::other(format!("{path} has no ETag")))
    }

    /// The sum of the metrics whose lines begin with `start`.
    pub(crate) async fn metric(&self, start: &str) -> f64 {
        let answer = self.get("/metrics", None).await;
        let text = answer.map_or_else(
            |_| String::new(),
            |answer| String::from_utf8_lossy(answer.body()).into_owned(),
        );
        let values = text
            .lines()
            .filter(|line| line.starts_with(start))
            .filter_map(|line| line.rsplit_once(' '));
        values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }

    /// The `buffer` part of `/ready`.
    pub(crate) async fn buffered(&self) -> u64 {
        let ready = self
            .get("/ready", None)
            .await
            .map(|answer| answer.json())
            .unwrap_or_default();
        ready["buffer"]["size"].as_u64().unwrap_or(0)
    }

    /// Registers `count` users and logs them in; their access tokens.
    pub(crate) async fn users(&self, count: usize) -> Result<Vec<String>, Box<dyn Error>> {
        let mut tokens = Vec::with_capacity(count);
        for n in 0..count {
            let who = json!({"username": format!("load_{n}"), "password": "a-long-password"});
            let registered = self.post("/api/v1/auth/register", &who).await?;
            if !matches!(registered.status, 201 | 409) {
                return Err(format!("register: {}", registered.json()).into());
            }
            let session = self.post("/api/v1/auth/login", &who).await?.json();
            let token = session["data"]["accessToken"]
                .as_str()
                .ok_or_else(|| format!("login: {session}"))?;
            tokens.push(token.to_owned());
        }
        Ok(tokens)
    }

    /// Resident memory, in MiB.
    pub(crate) fn memory_mib(&self) -> u64 {
        self.memory_kib() / 1024
    }

    /// Resident memory, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap_or_default();
        line.split_whitespace()
            .next()
            .and_then(|kib| kib.parse::<u64>().ok())
            .unwrap_or(0)
    }

    /// Processor time so far. Linux counts it in hundredths of a second.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name, in parentheses, may hold anything; user and system time are the 12th and 13th after it.
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        let ticks: u64 = after
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|ticks| ticks.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
