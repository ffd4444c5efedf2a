//! The private Postgres and Redis of a run, each behind a fault proxy, and a migrated database for each schedule.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use gravity_test_support::services::databases::TestDatabase;
use gravity_test_support::services::fault_proxy::FaultProxy;
use gravity_test_support::services::{Postgres, PostgresOptions, Redis, ServiceError};

use crate::Failure;
use crate::admin;
use crate::node::SECRET;

/// The role that the server connects as: no superuser, so that a limit of connections holds for it.
pub(crate) const ROLE: &str = "gravity";
const TEMPLATE: &str = "gravity_faults";
const MIGRATION_PATIENCE: Duration = Duration::from_secs(60);

/// Everything that outlives a schedule.
pub(crate) struct Stores {
    pub(crate) postgres: Arc<Postgres>,
    pub(crate) redis: Arc<Redis>,
    pub(crate) postgres_proxy: FaultProxy,
    pub(crate) redis_proxy: FaultProxy,
}

impl Stores {
    /// Starts both, and migrates a template with the server's own program.
    pub(crate) async fn start(server: &Path) -> Result<Self, Failure> {
        let postgres = tokio::task::spawn_blocking(|| {
            let mut settings = vec![("max_wal_size".to_owned(), "256MB".to_owned())];
            if cfg!(target_os = "linux") {
                // After a kill, one call instead of one for each file of each database.
                settings.push(("recovery_init_sync_method".to_owned(), "syncfs".to_owned()));
            }
            Postgres::launch(PostgresOptions {
                fsync: true,
                settings,
                ..PostgresOptions::default()
            })
        })
        .await??;
        let redis = tokio::task::spawn_blocking(Redis::start_private).await??;
        let stores = Self {
            postgres_proxy: FaultProxy::to_port(postgres.port())?,
            redis_proxy: FaultProxy::to_port(redis.port())?,
            postgres: Arc::new(postgres),
            redis: Arc::new(redis),
        };
        let admin = admin::connect(&stores.postgres.url("postgres")).await?;
        admin.batch_execute(&format!("CREATE ROLE {ROLE} LOGIN")).await?;
        drop(stores.database(server).await?);
        Ok(stores)
    }

    /// A fresh database, owned by the server's role.
    pub(crate) async fn database(&self, server: &Path) -> Result<TestDatabase, Failure> {
        let url = self.postgres.url("postgres");
        let database = TestDatabase::create(&url, TEMPLATE, |url| migrate(server.to_owned(), url)).await?;
        let admin = admin::connect(&url).await?;
        let own = format!("ALTER DATABASE {} OWNER TO {ROLE}", database.name());
        admin.batch_execute(&own).await?;
        Ok(database)
    }

    /// Undoes every fault of the stores.
    pub(crate) async fn heal(&self) -> Result<(), Failure> {
        for proxy in [&self.postgres_proxy, &self.redis_proxy] {
            proxy.disarm();
            proxy.delay(Duration::ZERO);
            proxy.pass();
        }
        let (postgres, redis) = (Arc::clone(&self.postgres), Arc::clone(&self.redis));
        blocking(move || {
            // A store that is down cannot be continued, and need not be.
            let _ = postgres.resume();
            let _ = redis.resume();
            postgres.start()?;
            redis.start()
        })
        .await?;
        let admin = admin::connect(&self.postgres.url("postgres")).await?;
        admin::writable(&admin, true).await?;
        admin::connections(&admin, true).await
    }
}

/// Runs something that waits without a runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServiceError> + Send + 'static,
) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

async fn migrate(server: std::path::PathBuf, url: String) -> Result<(), Failure> {
    let admin = admin::connect(&url).await?;
    admin
        .batch_execute(&format!(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO {ROLE}', current_database()); END $$"
        ))
        .await?;
    let run = tokio::process::Command::new(server)
        .arg("migrate")
        .env("DATABASE_URL", url.replacen("postgres@", &format!("{ROLE}@"), 1))
        .env("JWT_SECRET", SECRET)
        .env("GRAVITY_ENV", "production")
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(MIGRATION_PATIENCE, run).await??;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(format!(
        "gravity migrate: {}\n{}",
        output.status,
        String::from_utf8_lossy(&said)
    )
    .into())
}
