//! Registration, login and sessions as JSON.

use crate::extract::{Body, Fields};
use crate::profile::dto::ProfileView;
use crate::respond::Sync;
use gravity_domain::auth::{Email, Password, Secret, Session, Username};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::SessionId;
use gravity_domain::profile::Name;
use gravity_domain::text::TextError;
use gravity_usecase::auth::{Registered, TokenPair};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A registration.
#[derive(Debug, ToSchema)]
pub struct RegisterBody {
    /// `[a-z0-9_.]{3,32}`; capitals are folded.
    #[schema(value_type = String, min_length = 3, max_length = 32, example = "ada")]
    pub username: Username,
    /// 10 to 128 characters.
    #[schema(value_type = String, format = Password, min_length = 10, max_length = 128)]
    pub password: Password,
    /// How the user wants to be called.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, example = "Ada")]
    pub name: Option<Name>,
    /// Kept with the credentials, seen only by its owner.
    #[schema(value_type = Option<String>, format = Email, max_length = 254)]
    pub email: Option<Email>,
}

impl Body for RegisterBody {
    const FIELDS: &'static [&'static str] = &["username", "password", "name", "email"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let username = fields.required("username", Username::parse);
        let password = fields.required("password", Password::parse);
        let name = fields.clearable("name", Name::parse);
        let email = fields.clearable("email", Email::parse);
        Some(Self {
            username: username?,
            password: password?,
            name: name?.flatten(),
            email: email?.flatten(),
        })
    }
}

/// Any text, kept from logs.
fn secret(raw: &str) -> Result<Secret, TextError> {
    Ok(Secret::new(raw))
}

/// A login.
#[derive(Debug, ToSchema)]
pub struct LoginBody {
    /// The username.
    #[schema(value_type = String, example = "ada")]
    pub username: Secret,
    /// The password.
    #[schema(value_type = String, format = Password)]
    pub password: Secret,
}

impl Body for LoginBody {
    const FIELDS: &'static [&'static str] = &["username", "password"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let username = fields.required("username", secret);
        let password = fields.required("password", secret);
        Some(Self {
            username: username?,
            password: password?,
        })
    }
}

/// A refresh token to exchange.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct RefreshBody {
    /// As login or the last refresh gave it.
    #[schema(value_type = String)]
    pub refresh_token: Secret,
}

impl Body for RefreshBody {
    const FIELDS: &'static [&'static str] = &["refreshToken"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let refresh_token = fields.required("refreshToken", secret)?;
        Some(Self { refresh_token })
    }
}

/// Which session to end.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct LogoutBody {
    /// That of the access token when not given.
    #[schema(value_type = Option<String>)]
    pub refresh_token: Option<Secret>,
}

impl Body for LogoutBody {
    const FIELDS: &'static [&'static str] = &["refreshToken"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let refresh_token = fields.clearable("refreshToken", secret)?.flatten();
        Some(Self { refresh_token })
    }
}

/// A new user, as its owner sees it.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegisteredView<'a> {
    /// The profile.
    #[serde(flatten)]
    pub profile: ProfileView<'a>,
    /// The e-mail address.
    #[schema(required = true, format = Email)]
    pub email: Option<&'a str>,
}

impl<'a> RegisteredView<'a> {
    /// `registered` as its owner sees it.
    pub fn of(registered: &'a Registered) -> Self {
        Self {
            profile: ProfileView::of(&registered.profile, Sync::Committed),
            email: registered.email.as_ref().map(Email::as_str),
        }
    }
}

/// What login and refresh give.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokensView<'a> {
    /// For `Authorization`.
    pub access_token: &'a str,
    /// Always `Bearer`.
    #[schema(example = "Bearer")]
    pub token_type: &'static str,
    /// How long the access token is valid, in seconds.
    #[schema(example = 900)]
    pub expires_in: u64,
    /// For the next pair; good once.
    pub refresh_token: &'a str,
}

impl<'a> TokensView<'a> {
    /// The pair, for its owner.
    pub fn of(pair: &'a TokenPair) -> Self {
        Self {
            access_token: pair.access.token.expose(),
            token_type: "Bearer",
            expires_in: pair.access.expires_in.as_secs(),
            refresh_token: pair.refresh.expose(),
        }
    }
}

/// A login session.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionView<'a> {
    /// Its id.
    pub id: Uuid,
    /// What logged in, as it called itself.
    #[schema(required = true)]
    pub client: Option<&'a str>,
    /// Whether it is the one of this request.
    pub current: bool,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last refreshed, or began.
    #[schema(value_type = String, format = DateTime)]
    pub last_used_at: Timestamp,
    /// When it ends unless refreshed.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

impl<'a> SessionView<'a> {
    /// `session` as its owner sees it in a request of the session `current`.
    pub fn of(session: &'a Session, current: Option<SessionId>) -> Self {
        Self {
            id: session.id.0,
            client: session.client.as_deref(),
            current: current == Some(session.id),
            created_at: session.created_at,
            last_used_at: session.last_used_at,
            expires_at: session.expires_at,
        }
    }
}
