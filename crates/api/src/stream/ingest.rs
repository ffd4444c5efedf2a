//! The calls of services that feed streams.

use super::ingest_dto::{BatchView, IngestBody, IngestStatus, RemoveBody, RemoveStatus, Row, RowView};
use crate::error::{ApiError, ErrorCode, FieldProblem, rate_limit_headers};
use crate::extract::{Service, UnkeyedJsonBody};
use crate::respond::{self, Data};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::http::header::ETAG;
use actix_web::{HttpResponse, web};
use gravity_domain::auth::{AuthError, RateDecision};
use gravity_domain::deadline;
use gravity_domain::error::{FieldError, StoreError};
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{HtmlSanitizer, ItemChange, NewItem, Raised};
use gravity_domain::sync::WriteError;
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::Semaphore;
use uuid::Uuid;

type Answer = Result<HttpResponse, ApiError>;

/// Feeds items: makes them, or brings them up to date. Each item succeeds or fails on its own.
#[utoipa::path(post, path = "/v2/ingest/items", tag = "ingest", operation_id = "ingestItems",
    request_body = IngestBody,
    responses((status = 200, description = "What became of each. Also when all failed.",
        body = Data<BatchView<IngestStatus>>)))]
pub(crate) async fn ingest(
    Service(who): Service,
    body: UnkeyedJsonBody<IngestBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let rate = admit(&state, who.user_id).await?;
    let (good, batch) = split(body.0.items);
    let good = cleaned(&state.stream.html, good).await?;
    let done = state.stream.ingest.run(good).await.map_err(refused)?;
    let mut changes = done.changes.into_iter();
    answer(&rate, batch, &done.versions, || {
        changes.next().map(|(id, change)| (id, status(change)))
    })
}

/// Takes items out. Each succeeds or fails on its own.
#[utoipa::path(delete, path = "/v2/ingest/items", tag = "ingest", operation_id = "removeItems",
    request_body = RemoveBody,
    responses((status = 200, description = "What became of each. Also when all failed.",
        body = Data<BatchView<RemoveStatus>>)))]
pub(crate) async fn remove(
    Service(who): Service,
    body: UnkeyedJsonBody<RemoveBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let rate = admit(&state, who.user_id).await?;
    let (good, batch) = split(body.0.items);
    let ids: Vec<ItemId> = good.iter().map(|key| key.item_id()).collect();
    let done = state.stream.remove.run(good).await.map_err(refused)?;
    let mut removed = ids.into_iter().zip(done.removed);
    answer(&rate, batch, &done.versions, || {
        removed.next().map(|(id, was_there)| match was_there {
            true => (id, RemoveStatus::Removed),
            false => (id, RemoveStatus::NotFound),
        })
    })
}

async fn admit(state: &ApiState, account: UserId) -> Result<RateDecision, ApiError> {
    let stream = &state.stream;
    let rate = stream
        .limiter
        .check(&stream.ingest_quota, &account.to_string())
        .await;
    if rate.allowed {
        Ok(rate)
    } else {
        Err(AuthError::RateLimited(rate).into())
    }
}

/// What a database refuses is the request's fault, as with other writes.
fn refused(error: StoreError) -> ApiError {
    WriteError::Refused(error).into()
}

/// What is left of a row when its value is gone.
type Judged = (Option<String>, Result<(), FieldError>);

/// The values of the good rows, and every row without its value.
fn split<T>(rows: Vec<Row<T>>) -> (Vec<T>, Vec<Judged>) {
    let mut good = Vec::with_capacity(rows.len());
    let batch = rows.into_iter().map(|row| {
        let read = row.read.map(|value| good.push(value));
        (row.external_id, read)
    });
    let batch = batch.collect();
    (good, batch)
}

/// How many batches are cleaned at a time: it takes much of a processor, and of memory.
static CLEANERS: Semaphore = Semaphore::const_new(2);

/// Cleans the HTML of the messages, off the threads that serve. The time is the client's, not that of the stores.
async fn cleaned(html: &Arc<dyn HtmlSanitizer>, mut items: Vec<NewItem>) -> Result<Vec<NewItem>, ApiError> {
    let mut messages = items.iter().flat_map(|item| &item.messages);
    if messages.all(|message| message.full_content_html.is_none()) {
        return Ok(items);
    }
    let html = Arc::clone(html);
    let cleaning = async {
        let turn = CLEANERS.acquire().await;
        web::block(move || {
            let _turn = turn;
            for message in items.iter_mut().flat_map(|item| &mut item.messages) {
                message.full_content_html = message.full_content_html.take().map(|dirty| html.clean(&dirty));
            }
            items
        })
        .await
    };
    deadline::uncounted(cleaning)
        .await
        .map_err(|error| ApiError::new(ErrorCode::Busy).caused_by(error.to_string()))
}

fn status(change: ItemChange) -> IngestStatus {
    match change {
        ItemChange::Created => IngestStatus::Created,
        ItemChange::Updated => IngestStatus::Updated,
        ItemChange::Unchanged => IngestStatus::Unchanged,
    }
}

/// The failure of a row, by status.
trait Failed {
    const FAILED: Self;
}

impl Failed for IngestStatus {
    const FAILED: Self = Self::Failed;
}

impl Failed for RemoveStatus {
    const FAILED: Self = Self::Failed;
}

/// `next` tells of the good rows, in their order.
fn answer<S: Failed + Serialize>(
    rate: &RateDecision,
    batch: Vec<Judged>,
    versions: &[Raised],
    mut next: impl FnMut() -> Option<(ItemId, S)>,
) -> Answer {
    let mut results = Vec::with_capacity(batch.len());
    for (index, (external_id, judged)) in batch.into_iter().enumerate() {
        let (id, status, error) = match judged {
            Err(error) => (None, S::FAILED, Some(FieldProblem::from(&error))),
            Ok(()) => {
                let missing = || ApiError::new(ErrorCode::InternalError).caused_by("an item has no outcome");
                let (id, status) = next().ok_or_else(missing)?;
                (Some(id.0), status, None)
            }
        };
        results.push(RowView {
            index,
            external_id,
            id,
            status,
            error,
        });
    }
    let mut response = respond::personal(StatusCode::OK);
    if let [(_, version)] = versions {
        response.insert_header((ETAG, format!("\"{version}\"")));
    }
    rate_limit_headers(rate).into_iter().for_each(|header| {
        response.insert_header(header);
    });
    let versions = versions.iter().map(|(user, version)| (user.0, *version));
    Ok(response.json(Data {
        data: BatchView {
            results,
            versions: versions.collect::<std::collections::BTreeMap<Uuid, u64>>(),
        },
    }))
}
