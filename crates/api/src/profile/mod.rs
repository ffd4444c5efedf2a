//! `/api/v1/profile`.

pub mod dto;
pub mod handlers;
