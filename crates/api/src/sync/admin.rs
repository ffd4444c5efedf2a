//! The operators' calls on this node's write buffer.

use super::dto::{BufferReportView, DeadLetterView};
use crate::error::ApiError;
use crate::extract::{Admin, PathId, Query};
use crate::respond::{self, Data, List, Meta};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::OperationId;
use gravity_domain::page::PageKey;
use gravity_domain::sync::{DeadLetter, Freshness};

type Answer = Result<HttpResponse, ApiError>;

/// The parameters of the list of dead letters.
pub(crate) const LIST_QUERY: &[&str] = &["cursor", "limit"];

/// The condition of the write buffer.
#[utoipa::path(get, path = "/api/v1/admin/buffer", tag = "operators", operation_id = "getBuffer",
    responses((status = 200, description = "Its condition.", body = Data<BufferReportView>)))]
pub(crate) async fn buffer(_: Admin, state: web::Data<ApiState>) -> HttpResponse {
    respond::data(StatusCode::OK, BufferReportView::from(&state.health.report()))
}

/// The operations set aside, by id.
#[utoipa::path(get, path = "/api/v1/admin/dead-letters", tag = "operators", operation_id = "listDeadLetters",
    params(
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before."),
        ("limit" = Option<u8>, Query, description = "How many, 20 when not given.", minimum = 1, maximum = 100)),
    responses((status = 200, description = "A page.", body = List<DeadLetterView<'_>>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn list_dead_letters(
    Admin(who): Admin,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let query = Query::of(&req, LIST_QUERY)?;
    let (after, limit) = (query.cursor()?, query.limit()?.get());
    let after = after.map(|key| OperationId(key.id));
    let mut letters = state.sync.list_dead_letters.run(after, limit + 1).await?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters.last().filter(|_| more).map(position);
    let page = List {
        data: letters.iter().map(DeadLetterView::of).collect(),
        meta: Meta::next(next),
    };
    respond::list(&req, who.user_id, Freshness::Current, &page)
}

/// The list is ordered by id alone; the time in the cursor says nothing.
fn position(letter: &DeadLetter) -> PageKey {
    PageKey {
        at: Timestamp::EPOCH,
        id: letter.id.0,
    }
}

/// Puts the operation back at the end of its lane.
#[utoipa::path(post, path = "/api/v1/admin/dead-letters/{id}/retry", tag = "operators", operation_id = "retryDeadLetter",
    params(("id" = uuid::Uuid, Path, description = "The operation.")),
    responses((status = 202, description = "It waits in the buffer again; this is what it was.", body = Data<DeadLetterView<'_>>)))]
pub(crate) async fn retry_dead_letter(
    Admin(who): Admin,
    PathId(id): PathId<OperationId>,
    state: web::Data<ApiState>,
) -> Answer {
    let letter = state.sync.retry_dead_letter.run(who.user_id, id).await?;
    let mut response = respond::personal(StatusCode::ACCEPTED);
    respond::operation_id(&mut response, letter.id);
    Ok(response.json(Data {
        data: DeadLetterView::of(&letter),
    }))
}

/// Throws the operation away.
#[utoipa::path(delete, path = "/api/v1/admin/dead-letters/{id}", tag = "operators", operation_id = "discardDeadLetter",
    params(("id" = uuid::Uuid, Path, description = "The operation.")),
    responses((status = 204, description = "Gone.")))]
pub(crate) async fn discard_dead_letter(
    Admin(who): Admin,
    PathId(id): PathId<OperationId>,
    state: web::Data<ApiState>,
) -> Answer {
    state.sync.discard_dead_letter.run(who.user_id, id).await?;
    Ok(respond::personal(StatusCode::NO_CONTENT).finish())
}
