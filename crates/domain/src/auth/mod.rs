//! Who somebody is and what they may do.

mod user;

pub use user::{Principal, Role, UserStatus, Username};
