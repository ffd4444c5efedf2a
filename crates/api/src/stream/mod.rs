//! `/v2/stream` and `/v2/ingest`.

pub mod action_dto;
pub mod dto;
pub mod handlers;
pub mod ingest;
pub mod ingest_dto;
pub mod ingest_shape;
pub mod query;
