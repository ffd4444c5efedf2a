//! What handlers take: each argument is parsed and checked by its type, and a broken request never reaches a handler.

pub mod body;
pub mod conditional;
pub mod fields;
pub mod json;
pub mod object;
pub mod path;
pub mod principal;
pub mod query;
pub mod write;

pub use body::{JsonBody, OptionalJsonBody, UnkeyedJsonBody};
pub use fields::{Body, Fields};
pub use path::PathId;
pub use principal::{Admin, Bearer, CurrentUser, Service};
pub use query::Query;
pub use write::WriteHeaders;
