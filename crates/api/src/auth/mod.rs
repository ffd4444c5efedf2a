//! `/api/v1/auth`.

pub mod dto;
pub mod handlers;
