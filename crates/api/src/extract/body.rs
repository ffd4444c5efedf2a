//! The body of a request: read within a size and a time, then JSON, then a domain value.
//!
//! Bytes are counted as received: an encoded body (gzip) is refused, so nothing unpacks to more than was sent. What is
//! over the limit is read on for a while and thrown away, so that a client that is still sending gets to see the 413.

use crate::error::{ApiError, ErrorCode};
use crate::extract::fields::{self, Body};
use crate::extract::json;
use crate::state::ApiState;
use actix_web::dev::Payload;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use actix_web::{FromRequest, HttpRequest, web};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use gravity_domain::deadline;
use gravity_domain::sync::Fingerprint;

/// How many bytes over the limit are read and thrown away before the answer.
const DISCARDED: usize = 1024 * 1024;

/// A JSON body, read into `T`.
#[derive(Debug)]
pub struct JsonBody<T> {
    /// What it says.
    pub value: T,
    /// Of method, path and body, for the `Idempotency-Key`.
    pub fingerprint: Fingerprint,
}

impl<T: Body> FromRequest for JsonBody<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (req, payload) = (req.clone(), payload.take());
        Box::pin(async move {
            must_be_json(req.headers())?;
            let bytes = receive(&req, payload, T::IS_BATCH).await?;
            let body = json::parse(&bytes)?;
            Ok(Self {
                value: fields::read(&body)?,
                fingerprint: Fingerprint::of(req.method().as_str(), req.path(), Some(&body)),
            })
        })
    }
}

/// A JSON body of a call that takes no `Idempotency-Key`.
#[derive(Debug)]
pub struct UnkeyedJsonBody<T>(pub T);

impl<T: Body> FromRequest for UnkeyedJsonBody<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (req, payload) = (req.clone(), payload.take());
        Box::pin(async move {
            must_be_json(req.headers())?;
            let bytes = receive(&req, payload, T::IS_BATCH).await?;
            fields::read(&json::parse(&bytes)?).map(Self)
        })
    }
}

/// A JSON body that may be left out: no bytes are an empty object, whatever the content type.
#[derive(Debug)]
pub struct OptionalJsonBody<T> {
    /// What it says.
    pub value: T,
    /// Of method, path and body, for the `Idempotency-Key`.
    pub fingerprint: Fingerprint,
}

impl<T: Body> FromRequest for OptionalJsonBody<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (req, payload) = (req.clone(), payload.take());
        Box::pin(async move {
            let bytes = receive(&req, payload, T::IS_BATCH).await?;
            let body = if bytes.is_empty() {
                serde_json::json!({})
            } else {
                must_be_json(req.headers())?;
                json::parse(&bytes)?
            };
            Ok(Self {
                value: fields::read(&body)?,
                fingerprint: Fingerprint::of(req.method().as_str(), req.path(), Some(&body)),
            })
        })
    }
}

/// `application/json`, in UTF-8, not encoded.
fn must_be_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let refused = || ApiError::new(ErrorCode::UnsupportedMediaType);
    let encoding = headers.get(CONTENT_ENCODING).map(|value| value.as_bytes());
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
        return Err(refused());
    }
    let mut given = headers.get_all(CONTENT_TYPE);
    let (Some(first), None) = (given.next(), given.next()) else {
        return Err(refused());
    };
    let text = first.to_str().map_err(|_| refused())?;
    let mut parts = text.split(';').map(str::trim);
    if !parts
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
    {
        return Err(refused());
    }
    let is_utf8 = |part: &str| match part.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    };
    if parts.all(is_utf8) {
        Ok(())
    } else {
        Err(refused())
    }
}

async fn receive(req: &HttpRequest, payload: Payload, is_batch: bool) -> Result<BytesMut, ApiError> {
    let http = req.app_data::<web::Data<ApiState>>().map(|state| {
        let limit = if is_batch {
            state.http.batch_limit
        } else {
            state.http.body_limit
        };
        (limit, state.http.body_timeout)
    });
    let Some((limit, timeout)) = http else {
        return Err(ApiError::new(ErrorCode::InternalError).caused_by("the app has no state"));
    };
    let arriving = tokio::time::timeout(timeout, collect(req, payload, limit));
    // A client that sends slowly has the whole deadline before it all the same.
    match deadline::uncounted(arriving).await {
        Ok(received) => received,
        Err(_) => Err(ApiError::detailed(
            ErrorCode::RequestTimeout,
            "The body took too long to arrive.",
        )),
    }
}

async fn collect(req: &HttpRequest, mut payload: Payload, limit: usize) -> Result<BytesMut, ApiError> {
    let announced = req
        .headers()
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok())
        .unwrap_or(0);
    let mut body = BytesMut::with_capacity(announced.min(limit));
    let mut received = 0usize;
    if announced > limit.saturating_add(DISCARDED) {
        return Err(too_large(limit));
    }
    while let Some(chunk) = payload.next().await {
        let chunk =
            chunk.map_err(|error| ApiError::new(ErrorCode::InvalidBody).caused_by(error.to_string()))?;
        received = received.saturating_add(chunk.len());
        if received <= limit {
            body.extend_from_slice(&chunk);
        } else if received > limit.saturating_add(DISCARDED) {
            break;
        }
    }
    if received > limit {
        Err(too_large(limit))
    } else {
        Ok(body)
    }
}

fn too_large(limit: usize) -> ApiError {
    ApiError::detailed(
        ErrorCode::PayloadTooLarge,
        format!("The body may have at most {limit} bytes."),
    )
}
