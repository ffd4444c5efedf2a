//! What became of an operation.

use super::dto::OperationView;
use crate::error::ApiError;
use crate::extract::{CurrentUser, PathId};
use crate::respond::{self, Data};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use gravity_domain::id::OperationId;

/// What became of one of one's operations.
#[utoipa::path(get, path = "/api/v1/operations/{id}", tag = "operations", operation_id = "getOperation",
    params(("id" = uuid::Uuid, Path, description = "As in `Operation-Id`.")),
    responses((status = 200, description = "The operation.", body = Data<OperationView<'_>>)))]
pub(crate) async fn get(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<OperationId>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let report = state.sync.operation.run(who.user_id, id).await?;
    Ok(respond::data(StatusCode::OK, OperationView::of(&report)))
}
