//! What a server is started with, and the making of its database.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio_postgres::NoTls;

use super::TestApp;
use crate::actors::{SECRET, rows};
use crate::calls::Target;
use crate::services::databases::{DatabaseError, TestDatabase};
use crate::services::fault_proxy::FaultProxy;
use crate::services::{Postgres, PostgresOptions, Redis, port, shared};

/// What a server is started with.
#[derive(Debug)]
pub struct Setup {
    pub(super) program: PathBuf,
    pub(super) variables: BTreeMap<String, String>,
    pub(super) postgres: Option<Arc<Postgres>>,
    pub(super) database: Option<Arc<TestDatabase>>,
    pub(super) redis: Option<Arc<Redis>>,
    pub(super) proxied: bool,
    pub(super) empty: bool,
}

impl Setup {
    /// The program at this path, on the shared Postgres, without Redis.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        let variables = [
            ("GRAVITY_ENV", "test"),
            ("SERVER_WORKERS", "2"),
            ("DB_POOL_SIZE", "6"),
            ("JWT_SECRET", SECRET),
            ("SHUTDOWN_GRACE_SECONDS", "0"),
            ("GRAVITY__SERVER__DRAIN_TIMEOUT_SECONDS", "2"),
            ("GRAVITY__BUFFER__MIN_FREE_BYTES", "0"),
            ("IP_BLOCK_THRESHOLD", "1000000"),
            ("LOG_FORMAT", "json"),
            ("RUST_LOG", "info"),
        ];
        Self {
            program: program.into(),
            variables: variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            postgres: None,
            database: None,
            redis: None,
            proxied: false,
            empty: false,
        }
    }

    /// With this setting; an empty value takes it away.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// With a Postgres that the test may break.
    ///
    /// # Panics
    /// When none can be started.
    #[must_use]
    pub fn private_postgres(self) -> Self {
        self.postgres_with(&[])
    }

    /// The same, with these settings of Postgres.
    ///
    /// # Panics
    /// When none can be started.
    #[must_use]
    pub fn postgres_with(mut self, settings: &[(&str, &str)]) -> Self {
        let options = PostgresOptions {
            settings: settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..PostgresOptions::default()
        };
        match Postgres::launch(options) {
            Ok(server) => self.postgres = Some(Arc::new(server)),
            Err(error) => panic!("{error}"),
        }
        self
    }

    /// With a Redis that the test may break.
    ///
    /// # Panics
    /// When none can be started.
    #[must_use]
    pub fn private_redis(mut self) -> Self {
        match Redis::start_private() {
            Ok(server) => {
                self = self.set("REDIS_URL", server.url());
                self.redis = Some(Arc::new(server));
            }
            Err(error) => panic!("{error}"),
        }
        self
    }

    /// With a proxy between the server and Postgres.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// With a database that nobody has migrated.
    #[must_use]
    pub fn unmigrated(mut self) -> Self {
        self.empty = true;
        self
    }

    /// All but the process.
    ///
    /// # Panics
    /// When something cannot be made.
    pub async fn prepare(self) -> TestApp {
        let database = match &self.database {
            Some(database) => Arc::clone(database),
            None => Arc::new(self.make_database().await),
        };
        let Ok(mut url) = reqwest::Url::parse(&database.url()) else {
            panic!("{} is no URL", database.url());
        };
        let proxy = self
            .proxied
            .then(|| match FaultProxy::to_port(url.port().unwrap_or(5_432)) {
                Ok(proxy) => proxy,
                Err(error) => panic!("no proxy: {error}"),
            });
        if let Some(proxy) = &proxy {
            let _ = url.set_port(Some(proxy.port()));
        }
        let home = match tempfile::Builder::new().prefix("gravity-app-").tempdir() {
            Ok(home) => Arc::new(home),
            Err(error) => panic!("no directory: {error}"),
        };
        let mut variables = self.variables;
        variables.insert("DATABASE_URL".to_owned(), url.to_string());
        let buffer = home.path().join("buffer");
        variables
            .entry("BUFFER_PATH".to_owned())
            .or_insert(buffer.display().to_string());
        let port = port::free().unwrap_or(0);
        variables.insert("SERVER_PORT".to_owned(), port.to_string());
        TestApp {
            process: Mutex::new(None),
            target: Arc::new(Target::on_port(port)),
            program: self.program,
            variables,
            database,
            proxy,
            postgres: self.postgres,
            redis: self.redis,
            home,
        }
    }

    /// A server that runs and finds everything up.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn start(self) -> TestApp {
        let app = self.prepare().await;
        app.start().await;
        app
    }

    async fn make_database(&self) -> TestDatabase {
        let server = self
            .postgres
            .as_ref()
            .map_or_else(|| shared::postgres().to_owned(), |own| own.url("postgres"));
        let made = if self.empty {
            TestDatabase::create_empty(&server).await
        } else {
            let program = self.program.clone();
            TestDatabase::create(&server, &template_name(), |url| migrate(program, url)).await
        };
        match made {
            Ok(database) => database,
            Err(error) => panic!("no database: {error:?}"),
        }
    }
}

/// The migrations decide what the template holds.
fn template_name() -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        hasher.write(&std::fs::read(file).unwrap_or_default());
    }
    hasher.write(rows().as_bytes());
    format!("gravity_template_{:016x}", hasher.finish())
}

async fn migrate(program: PathBuf, url: String) -> Result<(), DatabaseError> {
    let output = tokio::process::Command::new(program)
        .arg("migrate")
        .current_dir("/")
        .env_clear()
        .env("GRAVITY_ENV", "test")
        .env("JWT_SECRET", SECRET)
        .env("DATABASE_URL", &url)
        .output()
        .await?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute(&rows()).await?;
    drop(client);
    let _ = connection.await;
    Ok(())
}
