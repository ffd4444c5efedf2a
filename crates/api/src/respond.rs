//! Successful answers: envelopes, and the headers that go with reads and writes.

use crate::error::ApiError;
use crate::extract::conditional::{entity_tag, list_tag, none_match};
use actix_web::http::StatusCode;
use actix_web::http::header::{AGE, CACHE_CONTROL, ContentType, ETAG, HeaderName, LOCATION, VARY};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::page::PageKey;
use gravity_domain::sync::{Entity, Freshness, WriteOutcome};
use gravity_usecase::sync::{Read, Written};
use serde::Serialize;
use std::sync::{Arc, OnceLock};
use utoipa::ToSchema;
use uuid::Uuid;

/// `Operation-Id`.
pub const OPERATION_ID: HeaderName = HeaderName::from_static("operation-id");
/// `Gravity-Consistency`.
pub const CONSISTENCY: HeaderName = HeaderName::from_static("gravity-consistency");
/// `Idempotency-Replayed`.
pub const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The envelope of one thing.
#[derive(Debug, Serialize, ToSchema)]
pub struct Data<T> {
    /// The thing.
    pub data: T,
}

/// The envelope of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct List<T> {
    /// The things.
    pub data: Vec<T>,
    /// Where the list goes on.
    pub meta: Meta,
}

/// Where a list goes on.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// The `cursor` of the next page; `null` on the last.
    #[schema(example = "AQAAAZmjwnweAZmjwnwefV6PADsfDC1OXxI0Vng")]
    pub next_cursor: Option<String>,
    /// Whether there is a next page.
    pub has_more: bool,
}

impl Meta {
    /// For a page after which the list goes on at `next`.
    pub fn next(next: Option<PageKey>) -> Self {
        Self {
            has_more: next.is_some(),
            next_cursor: next.map(PageKey::encode),
        }
    }
}

/// Where a write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// On this node's disk; it will be in Postgres.
    Pending,
    /// In Postgres.
    Committed,
}

impl Sync {
    pub(crate) fn of(pending: bool) -> Self {
        if pending { Self::Pending } else { Self::Committed }
    }
}

/// Headers of every answer that is for one user only.
pub(crate) fn personal(status: StatusCode) -> HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response.insert_header((CACHE_CONTROL, "private, no-cache"));
    response.insert_header((VARY, "Authorization"));
    response
}

/// An answer with data but without a tag.
pub(crate) fn data(status: StatusCode, data: impl Serialize) -> HttpResponse {
    personal(status).json(Data { data })
}

fn bytes(body: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(body)
        .map_err(|error| ApiError::new(crate::error::ErrorCode::InternalError).caused_by(error))
}

/// The bytes of what never changes, made once and shared from then on.
pub(crate) fn rendered<V: Serialize>(
    once: &OnceLock<Arc<[u8]>>,
    view: impl FnOnce() -> V,
) -> Result<Bytes, ApiError> {
    let shared = match once.get() {
        Some(made) => made,
        None => {
            let made: Arc<[u8]> = bytes(&view())?.into();
            once.get_or_init(|| made)
        }
    };
    Ok(Bytes::from_owner(Arc::clone(shared)))
}

/// True when `If-None-Match` names the tag.
pub(crate) fn is_known(req: &HttpRequest, tag: &str) -> bool {
    none_match(req.headers(), tag)
}

/// 304 for an answer from Postgres.
pub(crate) fn not_modified(tag: String) -> HttpResponse {
    let mut response = personal(StatusCode::NOT_MODIFIED);
    response.insert_header((ETAG, tag));
    response.finish()
}

/// What a read says of itself beside its body.
pub(crate) struct Condition {
    /// `ETag`.
    pub(crate) tag: String,
    /// `Gravity-Consistency`.
    pub(crate) freshness: Freshness,
    /// `Age` of what may be out of date; `None` when nobody knows it.
    pub(crate) age_seconds: Option<u64>,
}

impl Condition {
    fn new(tag: String, freshness: Freshness) -> Self {
        Self {
            tag,
            freshness,
            age_seconds: None,
        }
    }
}

/// 200 with this body, or 304.
pub(crate) fn conditional(req: &HttpRequest, condition: Condition, body: Bytes) -> HttpResponse {
    let known = is_known(req, &condition.tag);
    let mut response = personal(if known {
        StatusCode::NOT_MODIFIED
    } else {
        StatusCode::OK
    });
    response.insert_header((ETAG, condition.tag));
    match condition.freshness {
        Freshness::Current => {}
        Freshness::Stale => drop(response.insert_header((CONSISTENCY, "stale"))),
        Freshness::Pending => drop(response.insert_header((CONSISTENCY, "pending"))),
    }
    if let Some(age) = condition.age_seconds
        && (age > 0 || condition.freshness == Freshness::Stale)
    {
        response.insert_header((AGE, age.to_string()));
    }
    if known {
        return response.finish();
    }
    response.insert_header(ContentType::json());
    response.body(body)
}

/// 200 with one entity of `user`, or 304.
pub(crate) fn entity<'a, E: Entity, V: Serialize>(
    req: &HttpRequest,
    user: UserId,
    read: &'a Read<E>,
    view: impl FnOnce(&'a E, Sync) -> V,
) -> Result<HttpResponse, ApiError> {
    let sync = Sync::of(read.freshness == Freshness::Pending);
    let body = bytes(&Data {
        data: view(&read.value, sync),
    })?;
    let tag = entity_tag(user, read.value.id(), read.value.version(), &body);
    Ok(conditional(req, Condition::new(tag, read.freshness), body.into()))
}

/// 200 with a list of things of `user`, or 304.
pub(crate) fn list(
    req: &HttpRequest,
    user: UserId,
    freshness: Freshness,
    page: &List<impl Serialize>,
) -> Result<HttpResponse, ApiError> {
    snapshot(req, user, freshness, page)
}

/// 200 with what `user` sees, in its envelope, or 304.
pub(crate) fn snapshot(
    req: &HttpRequest,
    user: UserId,
    freshness: Freshness,
    body: &impl Serialize,
) -> Result<HttpResponse, ApiError> {
    let body = bytes(body)?;
    let condition = Condition::new(list_tag(user, &body), freshness);
    Ok(conditional(req, condition, body.into()))
}

/// The answer to a write that leaves an entity: `committed` with 200 or 201, or 202.
pub(crate) fn written<'a, E: Entity, V: Serialize>(
    user: UserId,
    written: &'a Written<E>,
    committed: StatusCode,
    view: impl FnOnce(&'a E, Sync) -> V,
) -> Result<HttpResponse, ApiError> {
    let (entity, sync) = outcome(&written.outcome);
    let body = bytes(&Data {
        data: view(entity, sync),
    })?;
    let mut response = acknowledged(written, committed);
    response.insert_header((ETAG, entity_tag(user, entity.id(), entity.version(), &body)));
    response.insert_header(ContentType::json());
    Ok(response.body(body))
}

/// The answer to a write that made an entity, which is to be found below `collection`.
pub(crate) fn created<'a, E: Entity, V: Serialize>(
    user: UserId,
    created: &'a Written<E>,
    collection: &str,
    view: impl FnOnce(&'a E, Sync) -> V,
) -> Result<HttpResponse, ApiError> {
    let mut response = written(user, created, StatusCode::CREATED, view)?;
    let (entity, _) = outcome(&created.outcome);
    if let Ok(location) = format!("{collection}/{}", entity.id()).parse() {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// The answer to a write that leaves no entity behind: 200, or 202; its tag is the `version` it left, if that is known.
pub(crate) fn done<'a, E, V: Serialize>(
    written: &'a Written<E>,
    version: impl FnOnce(&'a E) -> Option<u64>,
    view: impl FnOnce(&'a E, Sync) -> V,
) -> Result<HttpResponse, ApiError> {
    let mut response = answered(written, StatusCode::OK, view)?;
    let (receipt, _) = outcome(&written.outcome);
    if let Some(Ok(tag)) = version(receipt).map(|version| format!("\"{version}\"").parse()) {
        response.headers_mut().insert(ETAG, tag);
    }
    Ok(response)
}

/// The answer to a write that leaves nothing with a version: `committed`, or 202.
pub(crate) fn answered<'a, E, V: Serialize>(
    written: &'a Written<E>,
    committed: StatusCode,
    view: impl FnOnce(&'a E, Sync) -> V,
) -> Result<HttpResponse, ApiError> {
    let (receipt, sync) = outcome(&written.outcome);
    let body = bytes(&Data {
        data: view(receipt, sync),
    })?;
    let mut response = acknowledged(written, committed);
    response.insert_header(ContentType::json());
    Ok(response.body(body))
}

/// The answer to a delete: 204, or 202.
pub(crate) fn deleted<E: Entity>(written: &Written<E>) -> HttpResponse {
    gone(written, |entity| DeletedView {
        id: entity.id(),
        sync: Sync::Pending,
    })
}

/// The answer to a write that takes something away: 204, or 202 with `pending`.
pub(crate) fn gone<'a, E, V: Serialize>(
    written: &'a Written<E>,
    pending: impl FnOnce(&'a E) -> V,
) -> HttpResponse {
    let mut response = acknowledged(written, StatusCode::NO_CONTENT);
    match &written.outcome {
        WriteOutcome::Committed(_) => response.finish(),
        WriteOutcome::Buffered(entity) => response.json(Data {
            data: pending(entity),
        }),
    }
}

/// A buffered delete.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedView {
    /// What will be deleted.
    pub id: Uuid,
    /// Always `pending`.
    pub sync: Sync,
}

fn outcome<E>(outcome: &WriteOutcome<E>) -> (&E, Sync) {
    match outcome {
        WriteOutcome::Committed(entity) => (entity, Sync::Committed),
        WriteOutcome::Buffered(entity) => (entity, Sync::Pending),
    }
}

fn acknowledged<E>(written: &Written<E>, committed: StatusCode) -> HttpResponseBuilder {
    let mut response = personal(match written.outcome {
        WriteOutcome::Committed(_) => committed,
        WriteOutcome::Buffered(_) => StatusCode::ACCEPTED,
    });
    operation_id(&mut response, written.operation_id);
    if written.replayed {
        response.insert_header((REPLAYED, "true"));
    }
    response
}

/// Adds `Operation-Id`.
pub(crate) fn operation_id(response: &mut HttpResponseBuilder, id: OperationId) {
    response.insert_header((OPERATION_ID, id.to_string()));
}
