//! Where Postgres is, and how long anything with it may take.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

/// A text that does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostgresAddress {
    /// A libpq connection URL; several hosts are allowed. `sslmode` and `sslrootcert` in it win over the settings.
    Url(Secret),
    /// Its parts.
    Parts {
        /// Host names (or socket directories) and ports, tried in order.
        hosts: Vec<(String, u16)>,
        /// The database.
        database: String,
        /// The role.
        user: String,
        /// Its password, if it needs one.
        password: Option<Secret>,
    },
}

/// How the connection is protected (`DB_SSL_MODE`), as libpq defines it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Never TLS.
    Disable,
    /// TLS if the server offers it; its certificate is not checked.
    #[default]
    Prefer,
    /// TLS or no connection. The certificate is checked when a root certificate is set, as by `verify-full`.
    Require,
    /// TLS or no connection; the certificate must be valid for the host name.
    VerifyFull,
}

impl TlsMode {
    /// The mode of this name: `disable`, `prefer`, `require` or `verify-full`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "disable" => Some(Self::Disable),
            "prefer" => Some(Self::Prefer),
            "require" => Some(Self::Require),
            "verify-full" => Some(Self::VerifyFull),
            _ => None,
        }
    }
}

/// Everything the pool and single connections need to know. [`Self::new`] has the defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresSettings {
    /// Where the server is. With several hosts only one that takes writes is used.
    pub address: PostgresAddress,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
    /// How the connection is protected.
    pub tls_mode: TlsMode,
    /// PEM file of the authorities to trust instead of the built-in ones (`DB_SSL_ROOT_CERT`).
    pub tls_root_cert: Option<PathBuf>,
    /// The most connections the pool opens.
    pub max_connections: usize,
    /// The longest a new connection may take, handshake included.
    pub connect_timeout: Duration,
    /// The longest wait for a pooled connection while all are in use; at most half of [`Self::deadline`].
    pub wait_timeout: Duration,
    /// The longest a call may take: getting a connection, and the query. Less when the request it is for has less left.
    pub deadline: Duration,
    /// The longest a whole batch of the drain may take.
    pub batch_deadline: Duration,
    /// The server gives up a statement after this.
    pub statement_timeout: Duration,
    /// The server gives up waiting for a lock after this.
    pub lock_timeout: Duration,
    /// The server ends a session that idles in a transaction for longer.
    pub idle_in_transaction_timeout: Duration,
    /// The kernel gives up a connection when sent data is unacknowledged for longer.
    pub tcp_user_timeout: Duration,
    /// Idle time before the first keep-alive probe.
    pub keepalive_idle: Duration,
    /// Time between probes.
    pub keepalive_interval: Duration,
    /// Unanswered probes after which the connection is dead.
    pub keepalive_retries: u32,
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SettingsError {
    /// The URL or a part of it is malformed. The text never holds the password.
    #[error("the Postgres address is not usable: {0}")]
    Address(String),
    /// The root certificate file cannot be read or holds no certificate.
    #[error("the Postgres root certificate is not usable: {0}")]
    RootCert(String),
    /// A number is out of bounds.
    #[error("{0}")]
    Value(&'static str),
}

impl PostgresSettings {
    /// The defaults, for the server at `address`.
    pub fn new(address: PostgresAddress) -> Self {
        Self {
            address,
            application_name: "gravity".to_owned(),
            tls_mode: TlsMode::default(),
            tls_root_cert: None,
            max_connections: 16,
            connect_timeout: Duration::from_secs(1),
            wait_timeout: Duration::from_millis(500),
            deadline: Duration::from_secs(1),
            batch_deadline: Duration::from_secs(15),
            statement_timeout: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(2),
            idle_in_transaction_timeout: Duration::from_secs(10),
            tcp_user_timeout: Duration::from_secs(5),
            keepalive_idle: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(5),
            keepalive_retries: 3,
        }
    }

    /// The defaults, for the server at a URL.
    pub fn from_url(url: impl Into<String>) -> Self {
        Self::new(PostgresAddress::Url(Secret(url.into())))
    }

    /// The driver's configuration, and the settings with what the URL says of TLS taken over.
    pub(super) fn resolve(&self) -> Result<(Config, Self), SettingsError> {
        if self.max_connections == 0 {
            return Err(SettingsError::Value(
                "the Postgres pool needs at least one connection",
            ));
        }
        let mut settings = self.clone();
        let mut config = match &self.address {
            PostgresAddress::Url(Secret(url)) => settings.read_url(url)?,
            PostgresAddress::Parts {
                hosts,
                database,
                user,
                password,
            } => parts(hosts, database, user, password.as_ref())?,
        };
        config
            .application_name(self.application_name.as_str())
            .connect_timeout(self.connect_timeout)
            .tcp_user_timeout(self.tcp_user_timeout)
            .keepalives(true)
            .keepalives_idle(self.keepalive_idle)
            .keepalives_interval(self.keepalive_interval)
            .keepalives_retries(self.keepalive_retries)
            .ssl_mode(match settings.tls_mode {
                TlsMode::Disable => SslMode::Disable,
                TlsMode::Prefer => SslMode::Prefer,
                TlsMode::Require | TlsMode::VerifyFull => SslMode::Require,
            });
        let options = self.session_options(config.get_options());
        config.options(options);
        if config.get_hosts().len().max(config.get_hostaddrs().len()) > 1 {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        Ok((config, settings))
    }

    /// What each session sets for itself, as command-line options: before what the URL gives, which wins.
    fn session_options(&self, given: Option<&str>) -> String {
        let millis = |time: Duration| time.as_millis().to_string();
        let settings = [
            ("statement_timeout", millis(self.statement_timeout)),
            ("lock_timeout", millis(self.lock_timeout)),
            (
                "idle_in_transaction_session_timeout",
                millis(self.idle_in_transaction_timeout),
            ),
            ("default_transaction_isolation", "read\\ committed".to_owned()),
            // Each statement finds rows by key: planning anew for each set of values would cost more than running it.
            ("plan_cache_mode", "force_generic_plan".to_owned()),
            // Such a plan is kept: made while a table is empty or small, it would go on reading all of the table as it grows.
            ("enable_seqscan", "off".to_owned()),
            ("jit", "off".to_owned()),
        ];
        let mut options: String = settings
            .iter()
            .map(|(name, value)| format!("-c {name}={value} "))
            .collect();
        options.push_str(given.unwrap_or_default());
        options
    }

    /// Parses the URL without its TLS parameters, which the driver knows only in part, and takes those over.
    fn read_url(&mut self, url: &str) -> Result<Config, SettingsError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut kept = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", mode)) => {
                    self.tls_mode = TlsMode::parse(mode)
                        .ok_or_else(|| SettingsError::Address(format!("sslmode {mode} is not known")))?;
                }
                Some(("sslrootcert", path)) => self.tls_root_cert = Some(PathBuf::from(path)),
                _ => kept.push(pair),
            }
        }
        let url = if kept.is_empty() {
            base.to_owned()
        } else {
            format!("{base}?{}", kept.join("&"))
        };
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(SettingsError::Address("it must begin with postgres://".into()));
        }
        let config = Config::from_str(&url).map_err(|_| SettingsError::Address("it is malformed".into()))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(SettingsError::Address("it names no host".into()));
        }
        Ok(config)
    }
}

fn parts(
    hosts: &[(String, u16)],
    database: &str,
    user: &str,
    password: Option<&Secret>,
) -> Result<Config, SettingsError> {
    if hosts.is_empty() {
        return Err(SettingsError::Address("it names no host".into()));
    }
    let mut config = Config::new();
    config.dbname(database).user(user);
    for (host, port) in hosts {
        config.host(host.as_str()).port(*port);
    }
    if let Some(Secret(password)) = password {
        config.password(password);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_say_how_to_protect_the_connection() {
        let url = "postgres://u:p@a:1,b:2/db?sslmode=verify-full&sslrootcert=/ca.pem&application_name=x";
        let (config, settings) = PostgresSettings::from_url(url).resolve().unwrap();
        assert_eq!(settings.tls_mode, TlsMode::VerifyFull);
        assert_eq!(settings.tls_root_cert, Some(PathBuf::from("/ca.pem")));
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
        assert_eq!(config.get_ports(), [1, 2]);
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
    }

    #[test]
    fn a_single_host_is_used_for_reads_even_when_it_takes_no_writes() {
        let (config, _) = PostgresSettings::from_url("postgres://u@a/db").resolve().unwrap();
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::Any);
        assert!(config.get_options().unwrap().contains("statement_timeout=5000"));
    }

    #[test]
    fn a_bad_address_is_refused_without_showing_the_password() {
        for url in [
            "postgres://u:hunter2@a:port/db",
            "mysql://u:hunter2@a/db",
            "postgres:///db",
        ] {
            let error = PostgresSettings::from_url(url).resolve().unwrap_err();
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let shown = format!("{:?}", PostgresSettings::from_url("postgres://u:hunter2@a/db"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
