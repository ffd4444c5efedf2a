//! The calls on one's profile.

use super::dto::{ProfileView, UpdateProfileBody};
use crate::error::ApiError;
use crate::extract::{CurrentUser, JsonBody, WriteHeaders};
use crate::respond::{self, Data};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};

/// One's profile.
#[utoipa::path(get, path = "/api/v1/profile", tag = "profile", operation_id = "getProfile",
    responses((status = 200, description = "The profile.", body = Data<ProfileView<'_>>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn get(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let read = state.profile.get.run(who.user_id).await?;
    respond::entity(&req, who.user_id, &read, ProfileView::of)
}

/// Sets the fields given.
#[utoipa::path(put, path = "/api/v1/profile", tag = "profile", operation_id = "updateProfile",
    request_body = UpdateProfileBody,
    responses((status = 200, description = "Changed.", body = Data<ProfileView<'_>>),
        (status = 202, description = "On disk; it will be changed.", body = Data<ProfileView<'_>>)))]
pub(crate) async fn update(
    CurrentUser(who): CurrentUser,
    headers: WriteHeaders,
    body: JsonBody<UpdateProfileBody>,
    state: web::Data<ApiState>,
) -> Result<HttpResponse, ApiError> {
    let user = who.user_id;
    let current = async { state.profile.get.run(user).await.map(|read| read.value.version) };
    let request = headers
        .changing(user, user.0, Some(body.fingerprint), current)
        .await?;
    let written = state.profile.update.run(request, body.value.into()).await?;
    respond::written(user, &written, StatusCode::OK, ProfileView::of)
}
