//! Adapters of the domain's ports: Postgres, Redis, the write buffer, caches.
//!
//! Plumbing folders never name a feature; feature folders never open a connection.

pub mod auth;
pub mod cache;
pub mod chat;
pub mod monitor;
pub mod postgres;
pub mod processor;
pub mod profile;
pub mod redis;
pub mod stream;
pub mod sync;
pub mod task;
pub mod write_buffer;
