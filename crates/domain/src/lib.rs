//! The domain of Gravity: entities, value types, rules and ports. No I/O, no SQL, no HTTP.
//!
//! One feature, one name, in every layer: `auth`, `profile`, `task`, `stream`, and `sync`, which holds what an
//! operation is and how it merges. Ports are traits; their docs say what an adapter must return in each case.

pub mod auth;
pub mod chat;
pub mod clock;
pub mod deadline;
pub mod error;
pub mod id;
pub mod page;
pub mod profile;
pub mod stream;
pub mod sync;
pub mod task;
pub mod text;
