//! Migrates when Postgres appears, before anything else may use it.
//!
//! The monitor's probe is wrapped: until the schema is up to date, a ping that finds Postgres there starts an attempt in the
//! background, waits for it a little, and answers `migrating` if that was not enough. So the breaker stays open, writes are
//! buffered, and nobody else needs to know; and where nothing is to be done, the first ping finds the store up. With
//! `migrate_on_start = false`, and on a server that takes no writes, the schema is only looked at.
//!
//! An attempt that did not succeed is followed by another: soon when Postgres was to blame, and at once when it has been
//! away in between, so that a recovery is never slept through; after a rest when a migration is. An attempt that
//! panicked or was dropped counts as one that failed.

use crate::config::Config;
use async_trait::async_trait;
use gravity_domain::error::StoreError;
use gravity_infra::monitor::{Probe, ProbeAnswer};
use gravity_infra::postgres::{self, MigrateError, Migrated, PostgresSettings, Schema};
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

/// After a failed migration, before the next try.
const REST: Duration = Duration::from_secs(5);
/// After a look that found the schema out of date.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// After the first attempt in a row that failed for Postgres's sake, doubled by each further one up to the cap.
const SOON: Duration = Duration::from_millis(50);
const SOON_CAP: Duration = Duration::from_millis(800);
/// How long a ping waits for an attempt: within the limit of a ping of a store that is down.
const PING_PATIENCE: Duration = Duration::from_millis(600);

/// How long the command waits for Postgres.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

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
    /// An attempt ended.
    ended: Notify,
}

#[derive(Default)]
struct Attempt {
    running: bool,
    not_before: Option<Instant>,
    why: Option<Why>,
    /// Attempts in a row that failed for Postgres's sake.
    away: u32,
}

/// Why the schema is not known to be up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Postgres went away or was too busy, or another session migrates.
    Away,
    /// It was only looked at, and is not up to date.
    Behind,
    /// A migration failed, or the attempt was cut off.
    Failed,
}

impl Why {
    /// The reason the breaker gives.
    fn as_str(self) -> &'static str {
        match self {
            Self::Away => "migrating",
            Self::Behind => "not_migrated",
            Self::Failed => "migration_failed",
        }
    }
}

impl Attempt {
    fn end(&mut self, result: Result<(), Why>) {
        self.running = false;
        self.why = result.err();
        let rest = match self.why {
            None => return,
            Some(Why::Away) => {
                let rest = SOON.saturating_mul(1 << self.away.min(10)).min(SOON_CAP);
                self.away += 1;
                rest
            }
            Some(Why::Behind) => LOOK_AGAIN,
            Some(Why::Failed) => REST,
        };
        if self.why != Some(Why::Away) {
            self.away = 0;
        }
        self.not_before = Some(Instant::now() + rest);
    }
}

/// An attempt that goes on. Dropped without a result, it has failed.
struct Running(Arc<Work>);

impl Running {
    fn end(&self, result: Result<(), Why>) {
        if result.is_ok() {
            self.0.done.store(true, Ordering::Release);
        }
        self.0.lock().end(result);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut attempt = self.0.lock();
        if attempt.running {
            attempt.end(Err(Why::Failed));
        }
        drop(attempt);
        self.0.ended.notify_waiters();
    }
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
                ended: Notify::new(),
            }),
        }
    }
}

#[async_trait]
impl Probe for MigrateFirst {
    async fn ping(&self) -> Result<ProbeAnswer, StoreError> {
        let work = &self.work;
        let answer = self.inner.ping().await.inspect_err(|_| work.postgres_is_away())?;
        if work.done.load(Ordering::Acquire) {
            return Ok(answer);
        }
        let mut ended = std::pin::pin!(work.ended.notified());
        ended.as_mut().enable();
        if work.begin(answer.writable) {
            // Not in time: it goes on, and the next ping asks again.
            let _ = tokio::time::timeout(PING_PATIENCE, ended).await;
        }
        if work.done.load(Ordering::Acquire) {
            return Ok(answer);
        }
        let why = work.lock().why.unwrap_or(Why::Away);
        Err(StoreError::unavailable(why.as_str()))
    }
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, Attempt> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it comes back to is another chance.
    fn postgres_is_away(&self) {
        let mut attempt = self.lock();
        attempt.not_before = None;
        attempt.away = 0;
    }

    /// Starts an attempt unless one goes on or it is too early. True when one goes on now.
    fn begin(self: &Arc<Self>, writable: bool) -> bool {
        let mut attempt = self.lock();
        if attempt.running {
            return true;
        }
        if attempt.not_before.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        attempt.running = true;
        // A runtime that is shutting down drops the task at once, and that takes the lock again.
        drop(attempt);
        let running = Running(Arc::clone(self));
        self.handle.spawn(async move {
            let result = running.0.attempt(writable).await;
            running.end(result);
        });
        true
    }

    async fn attempt(&self, writable: bool) -> Result<(), Why> {
        if writable && self.may_migrate {
            self.migrate().await
        } else {
            self.look().await
        }
    }

    async fn migrate(&self) -> Result<(), Why> {
        match postgres::migrate(&self.settings, &self.handle).await {
            Ok(report) if report.applied.is_empty() => Ok(()),
            Ok(report) => {
                tracing::info!(applied = report.applied.join(" "), "migrated Postgres");
                Ok(())
            }
            Err(error @ (MigrateError::Store(_) | MigrateError::Locked { .. })) => {
                self.tell_away(&error);
                Err(Why::Away)
            }
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn Error,
                    "the schema cannot be brought up to date"
                );
                Err(Why::Failed)
            }
        }
    }

    async fn look(&self) -> Result<(), Why> {
        match postgres::look(&self.settings, &self.handle).await {
            Ok(Schema::Current) => Ok(()),
            Ok(Schema::Behind { version }) => {
                if self.lock().why != Some(Why::Behind) {
                    let latest = postgres::latest_version();
                    tracing::error!(
                        ?version,
                        latest,
                        "the schema is not up to date; run `gravity migrate`"
                    );
                }
                Err(Why::Behind)
            }
            Err(error) => {
                self.tell_away(&error);
                Err(Why::Away)
            }
        }
    }

    /// The first of a series for everybody, the others for those who look closer.
    fn tell_away(&self, error: &(dyn Error + 'static)) {
        let cause = error.source().map(ToString::to_string);
        if self.lock().away == 0 {
            tracing::warn!(error, cause, "the schema could not be brought up to date yet");
        } else {
            tracing::debug!(error, cause, "the schema could not be brought up to date yet");
        }
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

    const LOCK: &str = "SELECT pg_advisory_lock(7454127494454868224)";

    fn probe(server: &Postgres, handle: &Handle, may_migrate: bool) -> MigrateFirst {
        let settings = PostgresSettings::from_url(server.url("postgres"));
        MigrateFirst::new(Arc::new(There), settings, handle.clone(), may_migrate)
    }

    fn reason(answer: Result<ProbeAnswer, StoreError>) -> &'static str {
        match answer {
            Err(StoreError::Unavailable { reason, .. }) => reason,
            other => panic!("{other:?}"),
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

    async fn holder(server: &Postgres) -> tokio_postgres::Client {
        let settings = PostgresSettings::from_url(server.url("postgres"));
        let holder = postgres::connect(&settings, &Handle::current()).await.unwrap();
        holder.batch_execute(LOCK).await.unwrap();
        holder
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres_counts_as_down_until_it_is_migrated() {
        let server = Postgres::start_private().unwrap();
        let handle = Handle::current();
        let holding = holder(&server).await;
        let looking = probe(&server, &handle, false);
        assert_eq!(reason(until_settled(&looking).await), "not_migrated");
        let migrating = probe(&server, &handle, true);
        assert_eq!(reason(migrating.ping().await), "migrating");
        drop(holding);
        assert!(until_settled(&migrating).await.is_ok());
        let after = Instant::now();
        until(|| async { looking.ping().await.is_ok() }).await;
        assert!(after.elapsed() < REST, "{:?}", after.elapsed());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn where_the_schema_is_current_the_first_ping_finds_postgres_up_whoever_holds_the_lock() {
        let server = Postgres::start_private().unwrap();
        let handle = Handle::current();
        assert!(until_settled(&probe(&server, &handle, true)).await.is_ok());
        let _holding = holder(&server).await;
        assert!(probe(&server, &handle, true).ping().await.is_ok());
        assert!(probe(&server, &handle, false).ping().await.is_ok());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_attempt_that_was_cut_off_does_not_keep_the_next_from_beginning() {
        let server = Postgres::start_private().unwrap();
        let _holding = holder(&server).await;
        let others = crate::runtime(1).unwrap();
        let migrating = probe(&server, others.handle(), true);
        assert_eq!(reason(migrating.ping().await), "migrating");
        assert!(migrating.work.lock().running);
        others.shutdown_background();
        until(|| async { !migrating.work.lock().running }).await;
        assert_eq!(reason(migrating.ping().await), "migration_failed");
        assert!(migrating.work.lock().not_before.is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_recovery_of_postgres_is_not_slept_through() {
        let server = Postgres::start_private().unwrap();
        let migrating = probe(&server, &Handle::current(), true);
        server.kill();
        // The probe says that it is there, and it is not: as when it goes away just after a ping.
        for _ in 0..8 {
            let not_before = migrating.work.lock().not_before;
            tokio::time::sleep_until(not_before.unwrap_or_else(Instant::now)).await;
            assert_eq!(reason(migrating.ping().await), "migrating");
        }
        server.start().unwrap();
        let back = Instant::now();
        assert!(until_settled(&migrating).await.is_ok());
        assert!(back.elapsed() < Duration::from_secs(3), "{:?}", back.elapsed());
        migrating.work.lock().end(Err(Why::Failed));
        migrating.work.postgres_is_away();
        assert!(migrating.work.lock().not_before.is_none());
    }

    async fn until<F: Future<Output = bool>>(mut is_so: impl FnMut() -> F) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so().await {
            assert!(Instant::now() < deadline, "it never was");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
