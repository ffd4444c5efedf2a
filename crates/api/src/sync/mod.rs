//! `/api/v1/operations`, and the operators' calls on the write buffer.

pub mod admin;
pub mod dto;
pub mod handlers;
