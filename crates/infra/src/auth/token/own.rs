//! Own tokens: HS256 under `JWT_SECRET`.

use gravity_domain::auth::{AccessClaims, AccessToken, AuthError, Secret, TokenSigner};
use gravity_domain::clock::WallClock;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// What own tokens say of themselves.
#[derive(Debug, Clone)]
pub struct OwnTokenSettings {
    /// `JWT_SECRET`.
    pub secret: Secret,
    /// `iss`, when set.
    pub issuer: Option<String>,
    /// `aud`, when set.
    pub audience: Option<String>,
    /// How long an access token lives (15 min).
    pub access_ttl: Duration,
}

/// Signs access tokens.
pub struct OwnTokens {
    settings: OwnTokenSettings,
    key: EncodingKey,
    clock: Arc<dyn WallClock>,
}

impl std::fmt::Debug for OwnTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnTokens")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    sub: Uuid,
    role: &'static str,
    sid: Uuid,
    iat: i64,
    exp: i64,
    jti: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

impl OwnTokens {
    /// A signer under the settings' secret.
    pub fn new(settings: OwnTokenSettings, clock: Arc<dyn WallClock>) -> Self {
        let key = EncodingKey::from_secret(settings.secret.expose().as_bytes());
        Self { settings, key, clock }
    }
}

impl TokenSigner for OwnTokens {
    fn sign(&self, claims: &AccessClaims) -> Result<AccessToken, AuthError> {
        let now = self.clock.now().millis() / 1_000;
        let ttl = i64::try_from(self.settings.access_ttl.as_secs()).unwrap_or(i64::MAX);
        let claims = Claims {
            sub: claims.user_id.0,
            role: claims.role.as_str(),
            sid: claims.session_id.0,
            iat: now,
            exp: now.saturating_add(ttl),
            jti: Uuid::now_v7(),
            iss: self.settings.issuer.as_deref(),
            aud: self.settings.audience.as_deref(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)
            .map_err(|error| AuthError::Internal(format!("signing: {error}")))?;
        Ok(AccessToken {
            token: Secret::new(token),
            expires_in: self.settings.access_ttl,
        })
    }
}
