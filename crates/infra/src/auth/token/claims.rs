//! What the claims of a token must be, once its signature is right.

use gravity_domain::auth::{AuthError, Issuer, OutsideClaims, Role, Username, VerifiedToken};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{SessionId, UserId};
use gravity_domain::profile::Name;
use serde_json::{Map, Value};
use std::time::Duration;
use uuid::Uuid;

/// A token's claims.
pub(super) type Claims = Map<String, Value>;

/// The rules.
#[derive(Debug, Clone)]
pub struct ClaimRules {
    /// `iss` must be this, when set.
    pub issuer: Option<String>,
    /// `aud` must be or contain this, when set.
    pub audience: Option<String>,
    /// Tolerance for `exp` and `nbf`.
    pub leeway: Duration,
    /// The claim of outside tokens that tells the role (`AUTH_ROLE_CLAIM`); a path of names joined by dots is understood.
    pub role_claim: String,
    /// Its values that mean admin (`AUTH_ADMIN_VALUES`); none by default.
    pub admin_values: Vec<String>,
}

impl Default for ClaimRules {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(30),
            role_claim: "role".to_owned(),
            admin_values: Vec::new(),
        }
    }
}

fn refuse(why: &'static str) -> AuthError {
    AuthError::unauthenticated(why)
}

impl ClaimRules {
    /// An own token: the subject is a user's UUID, the role one of ours.
    pub(super) fn own(&self, claims: &Claims, now: Timestamp) -> Result<VerifiedToken, AuthError> {
        let expires_at = self.check(claims, now)?;
        let id = Uuid::try_parse(subject(claims)?).map_err(|_| refuse("subject"))?;
        let role = match text(claims, "role", "role")? {
            None => Role::User,
            Some(name) => Role::parse(name).ok_or(refuse("role"))?,
        };
        let session_id = match text(claims, "sid", "session")? {
            None => None,
            Some(sid) => Some(SessionId(Uuid::try_parse(sid).map_err(|_| refuse("session"))?)),
        };
        Ok(VerifiedToken {
            issuer: Issuer::Own,
            user_id: UserId(id),
            role,
            session_id,
            expires_at,
        })
    }

    /// A token of an outside provider: any subject, the role by [`Self::role_claim`].
    pub(super) fn outside(&self, claims: &Claims, now: Timestamp) -> Result<VerifiedToken, AuthError> {
        let expires_at = self.check(claims, now)?;
        let issuer = claims.get("iss").and_then(Value::as_str).unwrap_or_default();
        let user_id = UserId::of_subject(issuer, subject(claims)?);
        let told = |name: &str| claims.get(name).and_then(Value::as_str);
        let about = OutsideClaims {
            username: told("preferred_username").and_then(|text| Username::parse(text).ok()),
            name: told("name").and_then(|text| Name::parse(text).ok()),
        };
        Ok(VerifiedToken {
            issuer: Issuer::Outside(about),
            user_id,
            role: self.outside_role(claims),
            session_id: None,
            expires_at,
        })
    }

    fn outside_role(&self, claims: &Claims) -> Role {
        let is_admin = |value: &Value| {
            value
                .as_str()
                .is_some_and(|text| self.admin_values.iter().any(|admin| admin == text))
        };
        let admin = match self.role_value(claims) {
            Some(Value::Array(values)) => values.iter().any(is_admin),
            Some(value) => is_admin(value),
            None => false,
        };
        if admin { Role::Admin } else { Role::User }
    }

    fn role_value<'a>(&self, claims: &'a Claims) -> Option<&'a Value> {
        if let Some(value) = claims.get(&self.role_claim) {
            return Some(value);
        }
        let mut names = self.role_claim.split('.');
        let first = claims.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }

    /// When the token ends.
    fn check(&self, claims: &Claims, now: Timestamp) -> Result<Timestamp, AuthError> {
        let now = seconds(now.millis());
        let leeway = self.leeway.as_secs_f64();
        let expires = moment(claims, "exp", "exp")?.ok_or(refuse("exp"))?;
        if now >= expires + leeway {
            return Err(refuse("expired"));
        }
        if moment(claims, "nbf", "nbf")?.is_some_and(|from| now < from - leeway) {
            return Err(refuse("not_yet_valid"));
        }
        if let Some(issuer) = &self.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(refuse("issuer"));
        }
        if let Some(audience) = &self.audience
            && !is_for(claims.get("aud"), audience)
        {
            return Err(refuse("audience"));
        }
        Ok(at(expires))
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a time that is too large becomes the last one there is"
)]
fn at(seconds: f64) -> Timestamp {
    Timestamp::from_millis((seconds * 1_000.0) as i64)
}

#[allow(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 fit 53 bits until the year 287396"
)]
fn seconds(millis: i64) -> f64 {
    millis as f64 / 1_000.0
}

fn is_for(claim: Option<&Value>, audience: &str) -> bool {
    match claim {
        Some(Value::String(one)) => one == audience,
        Some(Value::Array(many)) => many.iter().any(|one| one.as_str() == Some(audience)),
        _ => false,
    }
}

/// A number; absent and `null` are `None`.
fn moment(claims: &Claims, name: &str, why: &'static str) -> Result<Option<f64>, AuthError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(refuse(why)),
    }
}

/// A string; absent and `null` are `None`.
fn text<'a>(claims: &'a Claims, name: &str, why: &'static str) -> Result<Option<&'a str>, AuthError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or(refuse(why)),
    }
}

fn subject(claims: &Claims) -> Result<&str, AuthError> {
    let named = match text(claims, "sub", "subject")? {
        Some(subject) => Some(subject),
        None => text(claims, "user_id", "subject")?,
    };
    named
        .filter(|subject| !subject.trim().is_empty())
        .ok_or(refuse("subject"))
}
