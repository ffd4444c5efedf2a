//! Operations in Postgres: applied one by one, replayed in batches, remembered, and purged.

mod postgres;
mod purge;
pub(crate) mod statement;

pub use postgres::PostgresOperations;
pub use purge::RowsPurge;
