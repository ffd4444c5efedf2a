//! Migrates when Postgres appears, before anything else may use it.
//!
//! The monitor's probe is wrapped: until the schema is up to date, a ping that finds Postgres there starts the migration
//! in the background and answers `migrating`. So the breaker stays open, writes are buffered, and nobody
//! else needs to know. With `migrate_on_start = false`, and on a server that takes no writes, the schema is only looked at.

use crate::config::Config;
use async_trait::async_trait;
use gravity_domain::error::StoreError;
use gravity_infra::monitor::{Probe, ProbeAnswer};
use gravity_infra::postgres::{self, MigrateError, Migrated, PostgresSettings};
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// After a failed migration, before the next try.
const REST: Duration = Duration::from_secs(5);

/// How long the command waits for Postgres.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

const VERSION: &str = "SELECT max(version) FROM refinery_schema_history";

/// Why `gravity migrate` did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Postgres or a migration.
    #[error("the schema is not up to date")]
    Migrate(#[from] MigrateError),
    /// No runtime.
    #[error(transparent)]
    Runtime(#[from] std::io::Error),
}

/// Brings the schema up to date, waiting up to 30 s for Postgres to appear.
///
/// # Errors
/// [`RunError`].
pub fn run(config: &Config) -> Result<Migrated, RunError> {
    let runtime = crate::runtime(1)?;
    runtime.block_on(migrate(&config.database.settings(), runtime.handle()))
}

/// As [`run`], on a runtime that is there.
///
/// # Errors
/// [`RunError`].
pub async fn migrate(settings: &PostgresSettings, handle: &Handle) -> Result<Migrated, RunError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match postgres::migrate(settings, handle).await {
            Err(MigrateError::Store(_)) if Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            other => return Ok(other?),
        }
    }
}

/// A probe of Postgres that counts it as down until its schema is up to date.
pub struct MigrateFirst {
    inner: Arc<dyn Probe>,
    work: Arc<Work>,
}

struct Work {
    settings: PostgresSettings,
    handle: Handle,
    may_migrate: bool,
    done: AtomicBool,
    attempt: Mutex<Attempt>,
}

#[derive(Default)]
struct Attempt {
    running: bool,
    not_before: Option<Instant>,
    reason: Option<&'static str>,
}

impl MigrateFirst {
    /// Wraps `inner`; migrations run on `handle`.
    pub fn new(inner: Arc<dyn Probe>, settings: PostgresSettings, handle: Handle, may_migrate: bool) -> Self {
        Self {
            inner,
            work: Arc::new(Work {
                settings,
                handle,
                may_migrate,
                done: AtomicBool::new(false),
                attempt: Mutex::default(),
            }),
        }
    }
}

#[async_trait]
impl Probe for MigrateFirst {
    async fn ping(&self) -> Result<ProbeAnswer, StoreError> {
        let answer = self.inner.ping().await?;
        if self.work.done.load(Ordering::Acquire) {
            return Ok(answer);
        }
        Err(StoreError::unavailable(self.work.begin(answer.writable)))
    }
}

impl Work {
    /// Starts an attempt unless one runs or it is too early. Says what the state is.
    fn begin(self: &Arc<Self>, writable: bool) -> &'static str {
        let mut attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        let early = attempt.not_before.is_some_and(|at| Instant::now() < at);
        if !attempt.running && !early {
            attempt.running = true;
            let work = Arc::clone(self);
            self.handle.spawn(async move { work.attempt(writable).await });
        }
        attempt.reason.unwrap_or("migrating")
    }

    async fn attempt(&self, writable: bool) {
        let result = if writable && self.may_migrate {
            self.migrate().await
        } else {
            self.look().await
        };
        let mut attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        attempt.running = false;
        attempt.reason = result.err();
        match attempt.reason {
            None => self.done.store(true, Ordering::Release),
            Some(_) => attempt.not_before = Some(Instant::now() + REST),
        }
    }

    async fn migrate(&self) -> Result<(), &'static str> {
        match postgres::migrate(&self.settings, &self.handle).await {
            Ok(report) if report.applied.is_empty() => Ok(()),
            Ok(report) => {
                tracing::info!(applied = report.applied.join(" "), "migrated Postgres");
                Ok(())
            }
            Err(MigrateError::Store(error)) => {
                tracing::warn!(error = &error as &dyn Error, "Postgres went away while migrating");
                Err("migrating")
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn Error,
                    "the schema cannot be brought up to date"
                );
                Err("migration_failed")
            }
        }
    }

    async fn look(&self) -> Result<(), &'static str> {
        let client = postgres::connect(&self.settings, &self.handle)
            .await
            .map_err(|_| "not_migrated")?;
        // A missing table means that nobody has ever migrated.
        let version: Option<i32> = match client.query_opt(VERSION, &[]).await {
            Ok(row) => row.and_then(|row| row.try_get(0).ok().flatten()),
            Err(_) => None,
        };
        let latest = postgres::latest_version();
        if version.is_some_and(|version| version >= latest) {
            return Ok(());
        }
        tracing::error!(
            ?version,
            latest,
            "the schema is not up to date; run `gravity migrate`"
        );
        Err("not_migrated")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_test_support::services::Postgres;

    struct There;
    #[async_trait]
    impl Probe for There {
        async fn ping(&self) -> Result<ProbeAnswer, StoreError> {
            Ok(ProbeAnswer { writable: true })
        }
    }

    async fn until_settled(probe: &MigrateFirst) -> Result<ProbeAnswer, StoreError> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match probe.ping().await {
                Err(StoreError::Unavailable {
                    reason: "migrating", ..
                }) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => return other,
            }
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_counts_as_down_until_it_is_migrated() {
        let server = Postgres::start_private().unwrap();
        let settings = PostgresSettings::from_url(server.url("postgres"));
        let probe = |may| MigrateFirst::new(Arc::new(There), settings.clone(), Handle::current(), may);
        let reason = |answer: Result<ProbeAnswer, StoreError>| match answer {
            Err(StoreError::Unavailable { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(until_settled(&probe(false)).await), "not_migrated");
        let migrating = probe(true);
        assert_eq!(reason(migrating.ping().await), "migrating");
        assert!(until_settled(&migrating).await.is_ok());
        assert!(until_settled(&probe(false)).await.is_ok());
    }
}
