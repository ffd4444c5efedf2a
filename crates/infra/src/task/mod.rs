//! Tasks in Postgres.

pub(crate) mod postgres;

pub use postgres::PostgresTasks;
