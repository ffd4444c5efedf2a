//! Migrations: compiled in, run on a connection of their own, one node at a time.

use super::connect::Connector;
use super::error::QueryError;
use super::settings::{PostgresSettings, SettingsError};
use gravity_domain::error::StoreError;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;

mod embedded {
    refinery::embed_migrations!("../../migrations");
}

/// Held while migrating, so that nodes that start together take turns.
const LOCK: i64 = 0x6772_6176_6974_7900;

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The migrations that this run applied, in order, such as `V1__users`.
    pub applied: Vec<String>,
}

/// Why the schema is not up to date.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// Settings that cannot work.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Postgres could not be reached, or went away.
    #[error("the migrations could not run")]
    Store(#[source] StoreError),
    /// A migration failed, or the database's history does not fit.
    #[error("a migration failed")]
    Migration(#[source] Box<refinery::Error>),
}

/// Brings the schema up to date. Waits for another node that is doing so. The connection is driven on `handle`.
///
/// # Errors
/// [`MigrateError`]; migrations before a failed one stay applied.
pub async fn migrate(settings: &PostgresSettings, handle: &Handle) -> Result<Migrated, MigrateError> {
    let mut settings = settings.clone();
    // A migration of a large table takes as long as it takes.
    settings.statement_timeout = Duration::ZERO;
    settings.lock_timeout = Duration::ZERO;
    let connector = Connector::new(&settings, handle.clone())?;
    let mut client = connector.open().await.map_err(store)?;
    client
        .execute("SELECT pg_advisory_lock($1)", &[&LOCK])
        .await
        .map_err(|error| store(error.into()))?;
    // The lock goes with the connection.
    let report = embedded::migrations::runner()
        .run_async(&mut client)
        .await
        .map_err(|error| MigrateError::Migration(Box::new(error)))?;
    let applied = report.applied_migrations().iter();
    Ok(Migrated {
        applied: applied.map(ToString::to_string).collect(),
    })
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
