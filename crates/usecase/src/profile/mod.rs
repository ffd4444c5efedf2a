//! Profiles: one file per use case.

mod get;
mod update;
mod warm;

pub use get::GetProfile;
pub use update::UpdateProfile;
pub use warm::ProfileLoader;
