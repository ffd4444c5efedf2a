//! A profile and its parts.

use crate::auth::{Role, UserStatus, Username};
use crate::clock::{Hlc, Timestamp};
use crate::id::UserId;
use crate::sync::merge::Lww;
use crate::text::{TextError, patch_field, single_line, text_type};
use serde::{Deserialize, Serialize};

text_type!(
    /// A display name: one line of 1..=255 code points.
    Name,
    |raw| single_line(raw, 1, 255)
);
text_type!(
    /// The address of a picture: an http or https URL of at most 2,048 code points.
    AvatarUrl,
    |raw| {
        let text = single_line(raw, 1, 2_048)?;
        match url::Url::parse(&text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(text),
            _ => Err(TextError::Malformed("must be an http or https URL")),
        }
    }
);

/// A user as the user appears; the id is the user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// The user.
    pub id: UserId,
    /// Unique, case-folded, never changes.
    pub username: Username,
    /// How the user wants to be called.
    pub name: Lww<Option<Name>>,
    /// The picture.
    pub avatar_url: Lww<Option<AvatarUrl>>,
    /// What the user may do.
    pub role: Role,
    /// Whether the user may do anything.
    pub status: UserStatus,
    /// When the user registered.
    pub created_at: Timestamp,
    /// The latest wall time of an operation that took effect.
    pub updated_at: Timestamp,
    /// 1 when registered, raised by each operation that takes effect.
    pub version: u64,
}

impl Profile {
    /// The latest stamp on any of its fields.
    pub(crate) fn newest(&self) -> Hlc {
        self.name.stamp.max(self.avatar_url.stamp)
    }
}

/// The fields an update sets; `Some(None)` clears.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProfilePatch {
    /// A new name.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "patch_field::deserialize"
    )]
    pub name: Option<Option<Name>>,
    /// A new picture.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "patch_field::deserialize"
    )]
    pub avatar_url: Option<Option<AvatarUrl>>,
}

impl ProfilePatch {
    /// True when it sets nothing.
    pub fn is_empty(&self) -> bool {
        self.name.is_none() && self.avatar_url.is_none()
    }
}
