//! Section `server`: where it listens, how it stops.

use super::reader::Reader;
use std::path::PathBuf;
use std::time::Duration;

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `host`, `port` | where it listens; an address that is not there, or taken, stops the start |
/// | `workers` | HTTP threads, 0 for one per core; too many only cost memory |
/// | `max_connections` | per worker; more connections wait in the backlog |
/// | `keep_alive_seconds` | how long an idle connection stays; shorter than a load balancer's gives it resets |
/// | `shutdown_grace_seconds` | from `/ready` 503 to refusing connections; too short, and balancers still send requests |
/// | `shutdown_timeout_seconds` | for requests in flight, then they are cut |
/// | `drain_timeout_seconds` | for the last drain; what is left is drained after the next start |
/// | `tls_cert_file`, `tls_key_file` | both or none; PEM; unreadable files stop the start |
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Host name or address.
    pub host: String,
    /// 0 takes a free one and logs it.
    pub port: u16,
    /// 0: one per core.
    pub workers: usize,
    /// Per worker.
    pub max_connections: usize,
    /// Of idle connections.
    pub keep_alive: Duration,
    /// Between `/ready` 503 and refusing connections.
    pub shutdown_grace: Duration,
    /// For requests in flight.
    pub shutdown_timeout: Duration,
    /// For the last drain.
    pub drain_timeout: Duration,
    /// Certificate chain and key.
    pub tls: Option<TlsFiles>,
}

/// PEM files.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub certificates: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl ServerConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let certificates = reader.readable_file("server.tls_cert_file");
        let key = reader.readable_file("server.tls_key_file");
        let tls = match (certificates, key) {
            (Some(certificates), Some(key)) => Some(TlsFiles { certificates, key }),
            (None, None) => None,
            (Some(_), None) => {
                reader.refuse("server.tls_key_file", "is needed with tls_cert_file");
                None
            }
            (None, Some(_)) => {
                reader.refuse("server.tls_cert_file", "is needed with tls_key_file");
                None
            }
        };
        Self {
            host: reader.required("server.host"),
            port: u16::try_from(reader.number("server.port", 0..=65_535)).unwrap_or(0),
            workers: reader.count("server.workers", 0..=1_024),
            max_connections: reader.count("server.max_connections", 1..=1_000_000),
            keep_alive: reader.seconds("server.keep_alive_seconds", 1..=3_600),
            shutdown_grace: reader.seconds("server.shutdown_grace_seconds", 0..=600),
            shutdown_timeout: reader.seconds("server.shutdown_timeout_seconds", 1..=600),
            drain_timeout: reader.seconds("server.drain_timeout_seconds", 0..=600),
            tls,
        }
    }
}
