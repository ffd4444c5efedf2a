//! `/api/v1/tasks`.

pub mod dto;
pub mod handlers;
