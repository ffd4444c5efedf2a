//! The server as `dev` runs it: its environment, its process, whether it is ready.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gravity_test_support::services::poll_until;
use gravity_test_support::services::supervise::{Signal, Spec, Supervised};

use super::local;
use super::stores::Stores;
use crate::outage::Act;
use crate::workspace;

const FIRST_PORT: u16 = 8080;
const PORTS: u16 = 100;
const READY_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(60);
const PROBE_PATIENCE: Duration = Duration::from_millis(500);

pub(super) struct Server {
    program: PathBuf,
    port: u16,
    environment: Vec<(String, String)>,
    process: Option<Supervised>,
}

impl Server {
    /// Node 1 is the only one, or the first.
    pub(super) fn new(
        program: PathBuf,
        node: u8,
        port: Option<u16>,
        stores: Option<&Stores>,
    ) -> Result<Self, Box<dyn Error>> {
        let port = match port {
            Some(port) => port,
            None => (FIRST_PORT..FIRST_PORT + PORTS)
                .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
                .ok_or("no port from 8080 on is free; name one with --port")?,
        };
        let mut environment = vec![("SERVER_PORT".to_owned(), port.to_string())];
        // What the caller's environment says of these wins.
        let defaults = [
            ("GRAVITY_ENV", "development".to_owned()),
            ("JWT_SECRET", local::secret("jwt-secret")?),
            ("BUFFER_PATH", buffer(node)?),
        ];
        for (name, value) in defaults {
            // No two nodes share a buffer, whatever the environment says.
            if workspace::variable(name).is_none() || (node > 1 && name == "BUFFER_PATH") {
                environment.push((name.to_owned(), value));
            }
        }
        if let Some(stores) = stores {
            environment.push(("DATABASE_URL".to_owned(), stores.postgres.url("gravity")));
            environment.push(("REDIS_URL".to_owned(), stores.redis.url()));
        }
        Ok(Self {
            program,
            port,
            environment,
            process: None,
        })
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.process
            .as_ref()
            .filter(|process| process.is_running())
            .map(Supervised::pid)
    }

    /// Starts it and waits until it says that it is ready. Does nothing when it runs.
    pub(super) fn start(&mut self) -> Result<(), Box<dyn Error>> {
        if self.pid().is_some() {
            return Ok(());
        }
        drop(self.process.take());
        let root = std::env::current_dir()?;
        let process = Supervised::start(&Spec {
            command: &[self.program.display().to_string(), "serve".to_owned()],
            env: &self.environment,
            log: None,
            account: None,
            directory: Some(&root),
            last_signal: "TERM",
            trash: None,
        })?;
        let settled = poll_until(READY_PATIENCE, || !process.is_running() || is_ready(self.port));
        if !process.is_running() {
            return Err("the server ended at once; it says why above".into());
        }
        if !settled {
            return Err(format!("the server was not ready after {READY_PATIENCE:?}").into());
        }
        self.process = Some(process);
        Ok(())
    }

    pub(super) fn obey(&mut self, act: Act) -> Result<(), Box<dyn Error>> {
        match (act, &self.process) {
            (Act::Start, _) => return self.start(),
            (Act::Kill, _) => {
                if let Some(process) = self.process.take() {
                    process.kill();
                }
            }
            (Act::Stop, Some(process)) => process.pause(),
            (Act::Cont, Some(process)) => process.resume(),
            (Act::Stop | Act::Cont, None) => {}
        }
        Ok(())
    }

    pub(super) fn stop(self) {
        if let Some(process) = self.process {
            process.stop(Signal::TERM, STOP_PATIENCE);
        }
    }
}

fn buffer(node: u8) -> Result<String, Box<dyn Error>> {
    let name = match node {
        1 => "buffer".to_owned(),
        _ => format!("buffer-{node}"),
    };
    Ok(local::path(&name)?.display().to_string())
}

/// Whether `GET /ready` answers 200.
fn is_ready(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), PROBE_PATIENCE)?;
        stream.set_read_timeout(Some(PROBE_PATIENCE))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(&status == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
