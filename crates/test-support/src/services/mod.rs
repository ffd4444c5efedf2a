//! Private PostgreSQL and Redis servers, without containers.
//!
//! - [`find`] looks for the programs, [`install`] gets missing ones with the system's package manager.
//! - [`Postgres`] and [`Redis`] are servers of one's own on a loopback port: one can be killed, paused like a black
//!   hole, stopped and started again on the same port and data. A server never outlives the process that
//!   started it, not even when that process is killed ([`supervise`]).
//! - [`shared`] is the one server of each kind that ordinary tests share.
//! - `databases` clones a migrated database per test; `fault_proxy` breaks connections on demand.
//!
//! Everything here is blocking and needs no runtime, except `databases`, which is async.

pub mod find;
pub mod install;
pub(crate) mod port;
mod postgres;
mod redis;
mod redis_cluster;
pub mod shared;
pub mod supervise;
mod wait;

#[cfg(feature = "databases")]
pub mod databases;
#[cfg(feature = "fault-proxy")]
pub mod fault_proxy;

use std::io;
use std::path::PathBuf;

pub use self::port::free as free_port;
pub use self::postgres::{Postgres, PostgresOptions};
pub use self::redis::{Redis, RedisOptions};
pub use self::redis_cluster::RedisCluster;
pub use self::wait::poll_until;

/// Why a server could not be found, started or controlled.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// No usable program was found; the text says what was looked for and what to do.
    #[error("{0}")]
    Missing(String),
    /// The server's program ended or did not become ready; `log` is the end of its log.
    #[error("{name} did not start: {reason}\n{log}")]
    Start {
        /// The server's name, for people.
        name: &'static str,
        /// What went wrong.
        reason: String,
        /// The last lines of its log.
        log: String,
    },
    /// The call does not fit the server's state, such as pausing one that is down.
    #[error("{0}")]
    State(String),
    /// A file or process operation failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl ServiceError {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// Where a server's files live.
#[derive(Clone, Debug, Default)]
pub enum Place {
    /// A temporary directory, removed with the server.
    #[default]
    Temporary,
    /// A directory that is kept. It is created when missing.
    Kept(PathBuf),
}

fn log_tail(path: &std::path::Path) -> String {
    let text = std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
