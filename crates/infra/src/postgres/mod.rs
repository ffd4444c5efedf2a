//! Postgres plumbing: settings, connections, the pool, error translation, migrations. It names no feature.
//!
//! - [`PostgresSettings`] says where the server is and how long anything may take.
//! - [`Pool`] hands out [`Session`]s. Connections are driven on one shared runtime, whichever runtime asks for them, and
//!   a connection whose query did not come to its end is never given to anybody else.
//! - [`connect`] makes a connection outside the pool, for pings and migrations.
//! - [`QueryError`] becomes a [`StoreError`](gravity_domain::error::StoreError) by SQLSTATE, in one place.

mod connect;
mod error;
mod gather;
mod migrate;
mod pool;
pub mod probe;
mod settings;
mod tls;
pub(crate) mod values;

pub use connect::connect;
pub use error::{QueryError, Refusal, refusal};
pub(crate) use gather::{Asked, Gather};
pub use migrate::{
    LOCK_PATIENCE, MigrateError, Migrated, STATEMENT_LIMIT, Schema, TABLE_LOCK_LIMIT, latest_version, look,
    migrate, migrate_within, schema_digest,
};
pub use pool::{Pool, PoolStatus, Session};
pub use settings::{PostgresAddress, PostgresSettings, Secret, SettingsError, TlsMode};
