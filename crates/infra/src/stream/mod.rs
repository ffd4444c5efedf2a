//! The stream: in Postgres, and in the two levels of cache before it.

pub(crate) mod action;
pub mod cache;
mod columns;
mod growth;
mod ingest;
mod list;
mod postgres;
mod receipts;
mod rows;
mod sanitize;

pub use cache::{CachedStream, StreamCachePorts, StreamCacheSettings};
pub use postgres::PostgresStream;
pub use receipts::Receipts;
pub use sanitize::AllowList;
