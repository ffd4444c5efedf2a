//! What operators ask: is it alive, can it serve, how is it. Nothing here touches a store.

pub mod dto;
pub mod handlers;

pub use dto::{HealthReport, HealthSource, Lifecycle, RedisHealth, ServiceHealth};
