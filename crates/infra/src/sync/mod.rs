//! Operations in Postgres: applied one by one, replayed in batches, remembered, and purged.

mod direct;
mod pipeline;
mod plan;
mod postgres;
mod purge;
mod replay;
pub(crate) mod statement;

pub use postgres::PostgresOperations;
pub use purge::RowsPurge;
