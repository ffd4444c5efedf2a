//! The use cases of Gravity: one file each, over the domain's ports. No I/O of their own.

pub mod auth;
pub mod chat;
pub mod profile;
pub mod stream;
pub mod sync;
pub mod task;
