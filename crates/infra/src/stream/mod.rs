//! The stream: in Postgres, and in the two levels of cache before it.

pub(crate) mod action;
mod receipts;

pub use receipts::Receipts;
