//! Profiles: how a user appears.

mod merge;
mod model;

pub use model::{AvatarUrl, Name, Profile, ProfilePatch};
