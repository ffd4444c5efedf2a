//! The headers of a write: `Idempotency-Key`, `If-Match` and `Gravity-Durability`.

use crate::error::{ApiError, ErrorCode};
use crate::extract::conditional::{Expected, IfMatch};
use actix_web::dev::Payload;
use actix_web::http::header::{HeaderMap, HeaderName};
use actix_web::{FromRequest, HttpRequest};
use gravity_domain::id::UserId;
use gravity_domain::sync::{Fingerprint, ReadError};
use gravity_usecase::sync::{IdempotencyKey, WriteRequest};
use std::future::{Ready, ready};
use uuid::Uuid;

/// `Idempotency-Key`.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// `Gravity-Durability`.
pub const DURABILITY: HeaderName = HeaderName::from_static("gravity-durability");

/// On which conditions a client writes.
#[derive(Debug, Clone)]
pub struct WriteHeaders {
    key: Option<String>,
    if_match: IfMatch,
    must_commit: bool,
    /// Of method and path, for a write without a body.
    bare: Fingerprint,
}

impl FromRequest for WriteHeaders {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(req))
    }
}

impl WriteHeaders {
    fn of(req: &HttpRequest) -> Result<Self, ApiError> {
        Ok(Self {
            key: idempotency_key(req.headers())?,
            if_match: IfMatch::of(req.headers())?,
            must_commit: must_commit(req.headers())?,
            bare: Fingerprint::of(req.method().as_str(), req.path(), None),
        })
    }

    /// A write that creates, with the fingerprint of its body. There is nothing yet that `If-Match` could ask for.
    pub(crate) fn creating(self, user: UserId, fingerprint: Fingerprint) -> WriteRequest {
        self.request(user, fingerprint, None)
    }

    /// A write without a body to what has no version.
    pub(crate) fn bare(self, user: UserId) -> WriteRequest {
        let fingerprint = self.bare;
        self.request(user, fingerprint, None)
    }

    /// A write to `entity` of `user`; `fingerprint` is that of its body, if it has one. `current` reads the version the
    /// entity is at: asked only when `If-Match` names several.
    ///
    /// # Errors
    /// Those of `current`, but not that there is no such entity: the write finds that out.
    pub(crate) async fn changing(
        self,
        user: UserId,
        entity: Uuid,
        fingerprint: Option<Fingerprint>,
        current: impl Future<Output = Result<u64, ReadError>>,
    ) -> Result<WriteRequest, ApiError> {
        let expected = match self.if_match.expected(user, entity) {
            Expected::Anything => None,
            Expected::Version(version) => Some(version),
            Expected::OneOf(versions) => {
                let current = match current.await {
                    Ok(version) => Some(version),
                    Err(ReadError::NotFound) => None,
                    Err(error) => return Err(error.into()),
                };
                let at = versions.iter().find(|version| Some(**version) == current);
                at.or(versions.first()).copied()
            }
        };
        let fingerprint = fingerprint.unwrap_or(self.bare);
        Ok(self.request(user, fingerprint, expected))
    }

    fn request(self, user: UserId, fingerprint: Fingerprint, expected_version: Option<u64>) -> WriteRequest {
        WriteRequest {
            user,
            key: self.key.map(|key| IdempotencyKey { key, fingerprint }),
            expected_version,
            must_commit: self.must_commit,
        }
    }
}

/// The only value of a header. `None`: it is not there.
///
/// # Errors
/// `invalid_header` when it is there twice.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, ApiError> {
    let mut given = headers.get_all(name);
    let first = given.next().map(|value| value.as_bytes());
    if given.next().is_some() {
        return Err(ApiError::detailed(
            ErrorCode::InvalidHeader,
            format!("`{name}` is there twice."),
        ));
    }
    Ok(first)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(bytes) = only(headers, &IDEMPOTENCY_KEY)? else {
        return Ok(None);
    };
    let visible = (1..=255).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(bytes) {
        Ok(key) if visible => Ok(Some(key.to_owned())),
        _ => Err(ApiError::detailed(
            ErrorCode::InvalidHeader,
            "`Idempotency-Key` must have 1 to 255 visible ASCII characters.",
        )),
    }
}

fn must_commit(headers: &HeaderMap) -> Result<bool, ApiError> {
    match only(headers, &DURABILITY)? {
        None => Ok(false),
        Some(b"committed") => Ok(true),
        Some(_) => Err(ApiError::detailed(
            ErrorCode::InvalidHeader,
            "`Gravity-Durability` can only be `committed`.",
        )),
    }
}
