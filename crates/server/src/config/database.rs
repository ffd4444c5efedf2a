//! Section `database`: Postgres and how long to wait for it.

use super::reader::Reader;
use gravity_infra::postgres::{PostgresAddress, PostgresSettings, Secret, TlsMode};
use std::path::PathBuf;
use std::time::Duration;

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `url`, or `host` `port` `name` `user` `password` | which database; neither stops the start. `url` wins. A wrong one starts degraded |
/// | `ssl_mode`, `ssl_root_cert` | `disable prefer require verify-full`; stricter than the server offers starts degraded |
/// | `pool_size` | connections of this node; nodes times this must stay below the server's `max_connections` |
/// | `connect_timeout_ms`, `acquire_timeout_ms` | for a new connection, for a free one (at most a quarter of the write deadline); too short makes writes buffered under load |
/// | `write_deadline_ms` | no request waits longer for Postgres, one call at most half of it; too short makes healthy queries count as an outage |
/// | `batch_timeout_ms` | for one batch of the drain; too short and a big batch never gets through |
/// | `migrate_on_start` | off: somebody runs `gravity migrate`; until then the server stays degraded |
/// | `applied_operations_retention_hours` | how long a retry is recognised; at least 24 and at least `buffer.retention_hours`, or the start stops |
/// | `tombstone_retention_hours` | how long deletes are remembered; at least `buffer.retention_hours`, or the start stops |
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Where it is; several hosts allowed.
    pub address: PostgresAddress,
    /// How the connection is protected, unless the URL says.
    pub ssl_mode: TlsMode,
    /// PEM of the authorities to trust; the well-known ones when not set.
    pub ssl_root_cert: Option<PathBuf>,
    /// Connections of this node.
    pub pool_size: usize,
    /// For a new connection.
    pub connect_timeout: Duration,
    /// For a free connection.
    pub acquire_timeout: Duration,
    /// For a request, waiting included.
    pub write_deadline: Duration,
    /// For a batch of the drain.
    pub batch_timeout: Duration,
    /// Whether the server migrates.
    pub migrate_on_start: bool,
    /// How long operation ids are kept.
    pub applied_operations_retention: Duration,
    /// How long tombstones are kept.
    pub tombstone_retention: Duration,
}

impl DatabaseConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let address = read_address(reader);
        Self {
            address,
            ssl_mode: reader.choice(
                "database.ssl_mode",
                &[
                    ("disable", TlsMode::Disable),
                    ("prefer", TlsMode::Prefer),
                    ("require", TlsMode::Require),
                    ("verify-full", TlsMode::VerifyFull),
                ],
            ),
            ssl_root_cert: reader.readable_file("database.ssl_root_cert"),
            pool_size: reader.count("database.pool_size", 2..=1_000),
            connect_timeout: reader.millis("database.connect_timeout_ms", 50..=60_000),
            acquire_timeout: reader.millis("database.acquire_timeout_ms", 10..=60_000),
            write_deadline: reader.millis("database.write_deadline_ms", 50..=60_000),
            batch_timeout: reader.millis("database.batch_timeout_ms", 500..=600_000),
            migrate_on_start: reader.flag("database.migrate_on_start"),
            applied_operations_retention: reader
                .hours("database.applied_operations_retention_hours", 24..=87_600),
            tombstone_retention: reader.hours("database.tombstone_retention_hours", 1..=87_600),
        }
    }

    /// The same for the adapters.
    pub fn settings(&self) -> PostgresSettings {
        let mut settings = PostgresSettings::new(self.address.clone());
        settings.tls_mode = self.ssl_mode;
        settings.tls_root_cert.clone_from(&self.ssl_root_cert);
        settings.max_connections = self.pool_size;
        settings.connect_timeout = self.connect_timeout;
        settings.wait_timeout = self.acquire_timeout;
        // The other half is for what the request waits for besides: its turn, another call, the append.
        settings.deadline = self.write_deadline / 2;
        // Sooner than the call's deadline, also after the longest wait for a connection, or a locked row would look like
        // an outage.
        settings.lock_timeout = settings.deadline * 2 / 5;
        settings.batch_deadline = self.batch_timeout;
        settings
    }

    pub(super) fn check_against(&self, buffer_retention: Duration, reader: &mut Reader) {
        let hours = buffer_retention.as_secs() / 3_600;
        if self.applied_operations_retention < buffer_retention {
            reader.refuse(
                "database.applied_operations_retention_hours",
                format!("must be at least buffer.retention_hours ({hours})"),
            );
        }
        if self.tombstone_retention < buffer_retention {
            reader.refuse(
                "database.tombstone_retention_hours",
                format!("must be at least buffer.retention_hours ({hours})"),
            );
        }
    }
}

fn read_address(reader: &mut Reader) -> PostgresAddress {
    let hosts: Vec<String> = reader.list("database.host", "a host");
    let ports: Vec<u16> = reader.list("database.port", "a port");
    let database = reader.text("database.name");
    let user = reader.text("database.user");
    let password = reader.secret("database.password");
    if let Some(url) = reader.secret("database.url") {
        let known = ["postgres://", "postgresql://"];
        if !known.iter().any(|scheme| url.expose().starts_with(scheme)) {
            reader.refuse("database.url", "must start with postgres:// or postgresql://");
        }
        return PostgresAddress::Url(Secret(url.expose().to_owned()));
    }
    if hosts.is_empty() {
        reader.refuse(
            "database.url",
            "is needed, or DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD",
        );
    } else if ports.len() != 1 && ports.len() != hosts.len() {
        reader.refuse("database.port", "must be one for all hosts, or one each");
    }
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(5_432);
    PostgresAddress::Parts {
        hosts: (hosts.into_iter().enumerate())
            .map(|(index, host)| (host, port(index)))
            .collect(),
        database,
        user,
        password: password.map(|password| Secret(password.expose().to_owned())),
    }
}
