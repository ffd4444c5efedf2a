//! Migrations: compiled in, run on a connection of their own, one node at a time.
//!
//! What is applied is looked at first. Where nothing is missing no lock is asked for, so that a node starts whatever other
//! sessions hold. Else nodes take turns: the session that holds the advisory lock migrates, the others try again for it, and
//! look again, since the holder may have done the work. Migrations of a newer release are no obstacle to an older one.
//!
//! **Limits.** Nothing here waits for ever. A look and a try for the lock are answered within 5 s; all tries
//! together take [`LOCK_PATIENCE`] at most. A migration waits [`TABLE_LOCK_LIMIT`] for each lock on a table, and is rolled back
//! then: while it waits, everybody else who comes for the table waits behind it. A statement of a migration may take
//! [`STATEMENT_LIMIT`], as one that rewrites a large table does. Options in the connection URL win over these.
//!
//! A migration whose node goes away ends at the server with its statement at the latest, and only then its lock is free.

use super::connect::Connector;
use super::error::{Class, QueryError, class_of};
use super::settings::{PostgresSettings, SettingsError};
use gravity_domain::error::StoreError;
use std::error::Error;
use std::future::Future;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error as DriverError};

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// How long a node tries for the lock while another session holds it.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(60);
/// How long a migration waits for a lock on a table.
pub const TABLE_LOCK_LIMIT: Duration = Duration::from_secs(10);
/// How long a statement of a migration may take.
pub const STATEMENT_LIMIT: Duration = Duration::from_secs(3_600);

/// For the answer to a look or a try.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Between two tries, up to half of it more.
const PAUSE: Duration = Duration::from_millis(100);

/// Held while migrating, so that nodes that start together take turns.
const LOCK: i64 = 0x6772_6176_6974_7900;
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock($1)";
const APPLIED: &str = "SELECT version, checksum FROM refinery_schema_history";

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The migrations that this run applied, in order, such as `V1__users`.
    pub applied: Vec<String>,
}

/// Whether the schema is that of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// Every migration that this program knows is applied.
    Current,
    /// Some are missing, or were others.
    Behind {
        /// The last one applied; `None` when nobody has ever migrated.
        version: Option<i32>,
    },
}

/// Why the schema is not up to date.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// Settings that cannot work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Postgres could not be reached, went away, or could not do it now.
    #[error("the migrations could not run")]
    Store(#[source] StoreError),
    /// Another session held the lock for all of the patience.
    #[error("another session has held the migration lock for {} s", .waited.as_secs())]
    Locked {
        /// How long it was tried for.
        waited: Duration,
    },
    /// A migration failed, or the database's history does not fit.
    #[error("a migration failed")]
    Migration(#[source] Box<refinery::Error>),
}

/// Brings the schema up to date. Waits up to [`LOCK_PATIENCE`] for another node that is doing so. The connection is driven on
/// `handle`.
///
/// # Errors
/// [`MigrateError`]; migrations before a failed one stay applied.
pub async fn migrate(settings: &PostgresSettings, handle: &Handle) -> Result<Migrated, MigrateError> {
    migrate_within(settings, handle, LOCK_PATIENCE).await
}

/// As [`migrate`], with a patience of one's own.
///
/// # Errors
/// [`MigrateError`].
pub async fn migrate_within(
    settings: &PostgresSettings,
    handle: &Handle,
    patience: Duration,
) -> Result<Migrated, MigrateError> {
    let mut settings = settings.clone();
    settings.statement_timeout = STATEMENT_LIMIT;
    settings.lock_timeout = TABLE_LOCK_LIMIT;
    let connector = Connector::new(&settings, handle.clone())?;
    let mut client = connector.open().await.map_err(store)?;
    let began = Instant::now();
    loop {
        if schema(&client).await.map_err(store)? == Schema::Current {
            return Ok(Migrated { applied: Vec::new() });
        }
        if try_lock(&client).await.map_err(store)? {
            break;
        }
        let waited = began.elapsed();
        if waited >= patience {
            return Err(MigrateError::Locked { waited });
        }
        let pause = PAUSE.mul_f64(rand::random::<f64>().mul_add(0.5, 1.0));
        sleep(pause.min(patience.saturating_sub(waited))).await;
    }
    // The lock goes with the connection.
    let report = embedded::migrations::runner()
        .run_async(&mut client)
        .await
        .map_err(failed)?;
    let applied = report.applied_migrations().iter();
    Ok(Migrated {
        applied: applied.map(ToString::to_string).collect(),
    })
}

/// Looks whether the schema is up to date. Changes nothing and takes no lock.
///
/// # Errors
/// [`StoreError`] when Postgres does not tell.
pub async fn look(settings: &PostgresSettings, handle: &Handle) -> Result<Schema, StoreError> {
    let client = super::connect(settings, handle).await?;
    Ok(schema(&client).await?)
}

async fn schema(client: &Client) -> Result<Schema, QueryError> {
    let rows = match answer(client.query(APPLIED, &[])).await {
        Err(QueryError::Driver(error)) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Vec::new(),
        rows => rows?,
    };
    let mut applied = Vec::with_capacity(rows.len());
    for row in &rows {
        let unreadable = |_| QueryError::Row("refinery_schema_history");
        let checksum: String = row.try_get(1).map_err(unreadable)?;
        applied.push((row.try_get::<_, i32>(0).map_err(unreadable)?, checksum));
    }
    let runner = embedded::migrations::runner();
    let mut known = runner.get_migrations().iter();
    if known.all(|known| applied.contains(&(known.version(), known.checksum().to_string()))) {
        return Ok(Schema::Current);
    }
    let version = applied.into_iter().map(|(version, _)| version).max();
    Ok(Schema::Behind { version })
}

async fn try_lock(client: &Client) -> Result<bool, QueryError> {
    let row = answer(client.query_one(TRY_LOCK, &[&LOCK])).await?;
    row.try_get(0)
        .map_err(|_| QueryError::Row("pg_try_advisory_lock"))
}

async fn answer<T>(asked: impl Future<Output = Result<T, DriverError>>) -> Result<T, QueryError> {
    match timeout(ANSWER_LIMIT, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(QueryError::Deadline),
    }
}

/// The number of the last migration that this program knows.
pub fn latest_version() -> i32 {
    let runner = embedded::migrations::runner();
    let versions = runner.get_migrations().iter().map(refinery::Migration::version);
    versions.max().unwrap_or(0)
}

/// Names the schema that this program's migrations make: changes whenever one of them does.
pub fn schema_digest() -> u64 {
    let runner = embedded::migrations::runner();
    let checksums = runner.get_migrations().iter().map(refinery::Migration::checksum);
    checksums.fold(0, |digest: u64, checksum| digest.rotate_left(7) ^ checksum)
}

fn store(error: QueryError) -> MigrateError {
    MigrateError::Store(error.into())
}

/// Whether the migration is to blame, or Postgres.
fn failed(error: refinery::Error) -> MigrateError {
    let class = causes(&error)
        .find_map(|cause| cause.downcast_ref::<DriverError>())
        .map(class_of);
    match class {
        Some(Class::Outage(reason)) => MigrateError::Store(StoreError::Unavailable {
            reason,
            source: Some(Box::new(error)),
        }),
        Some(Class::Busy(reason @ ("lock" | "connections" | "resources" | "serialization"))) => {
            MigrateError::Store(StoreError::Busy {
                reason,
                source: Some(Box::new(error)),
            })
        }
        _ => MigrateError::Migration(Box::new(error)),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}
