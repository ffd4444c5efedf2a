//! Profiles as JSON.

use crate::extract::{Body, Fields};
use crate::respond::Sync;
use gravity_domain::clock::Timestamp;
use gravity_domain::profile::{AvatarUrl, Name, Profile, ProfilePatch};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A role by name.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// One's own data.
    User,
    /// The operators' calls too.
    Admin,
    /// A machine.
    Service,
}

/// A user's status by name.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UserStatusName {
    /// May do things.
    Active,
    /// May not.
    Suspended,
}

/// A profile, as its owner sees it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileView<'a> {
    /// The user.
    pub id: Uuid,
    /// Unique, never changes.
    #[schema(example = "ada")]
    pub username: &'a str,
    /// How the user wants to be called.
    #[schema(required = true, example = "Ada")]
    pub name: Option<&'a str>,
    /// The picture.
    #[schema(required = true, format = "uri")]
    pub avatar_url: Option<&'a str>,
    /// What the user may do.
    #[schema(value_type = RoleName)]
    pub role: &'static str,
    /// Whether the user may do anything.
    #[schema(value_type = UserStatusName)]
    pub status: &'static str,
    /// When the user registered.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the profile last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// 1 when registered, raised by each change.
    pub version: u64,
    /// Whether all of it is in Postgres.
    pub sync: Sync,
}

impl<'a> ProfileView<'a> {
    /// `profile` as its owner sees it.
    pub fn of(profile: &'a Profile, sync: Sync) -> Self {
        Self {
            id: profile.id.0,
            username: profile.username.as_str(),
            name: profile.name.value.as_ref().map(Name::as_str),
            avatar_url: profile.avatar_url.value.as_ref().map(AvatarUrl::as_str),
            role: profile.role.as_str(),
            status: profile.status.as_str(),
            created_at: profile.created_at,
            updated_at: profile.updated_at,
            version: profile.version,
            sync,
        }
    }
}

/// The fields to set; those not given stay as they are, `null` clears.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct UpdateProfileBody {
    /// One line; `null` clears it.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, example = "Ada")]
    pub name: Option<Option<Name>>,
    /// An http or https URL; `null` clears it.
    #[schema(value_type = Option<String>, format = "uri", max_length = 2_048)]
    pub avatar_url: Option<Option<AvatarUrl>>,
}

impl Body for UpdateProfileBody {
    const FIELDS: &'static [&'static str] = &["name", "avatarUrl"];
    const IS_UPDATE: bool = true;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.clearable("name", Name::parse);
        let avatar_url = fields.clearable("avatarUrl", AvatarUrl::parse);
        Some(Self {
            name: name?,
            avatar_url: avatar_url?,
        })
    }
}

impl From<UpdateProfileBody> for ProfilePatch {
    fn from(body: UpdateProfileBody) -> Self {
        Self {
            name: body.name,
            avatar_url: body.avatar_url,
        }
    }
}
