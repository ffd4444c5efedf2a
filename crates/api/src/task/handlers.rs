//! The calls on tasks.

use super::dto::{CreateTaskBody, LIST_QUERY, TaskView, UpdateTaskBody, filter};
use crate::error::ApiError;
use crate::extract::{CurrentUser, JsonBody, PathId, Query, WriteHeaders};
use crate::respond::{self, Data, DeletedView, List, Meta, Sync};
use crate::state::ApiState;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use gravity_domain::id::TaskId;
use gravity_usecase::task::Listed;

type Answer = Result<HttpResponse, ApiError>;

/// One's tasks, newest first.
#[utoipa::path(get, path = "/api/v1/tasks", tag = "tasks", operation_id = "listTasks",
    params(
        ("status" = Option<super::dto::TaskStatusName>, Query, description = "Only tasks that stand here."),
        ("cursor" = Option<String>, Query, description = "`nextCursor` of the page before."),
        ("limit" = Option<u8>, Query, description = "How many, 20 when not given.", minimum = 1, maximum = 100)),
    responses((status = 200, description = "A page.", body = List<TaskView<'_>>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn list(
    CurrentUser(who): CurrentUser,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let query = Query::of(&req, LIST_QUERY)?;
    let (filter, after, limit) = (filter(&query)?, query.cursor()?, query.limit()?);
    let read = state.task.list.run(who.user_id, filter, after, limit).await?;
    let page = List {
        data: read.value.items.iter().map(view).collect(),
        meta: Meta::next(read.value.next),
    };
    respond::list(&req, who.user_id, read.freshness, &page)
}

fn view(listed: &Listed) -> TaskView<'_> {
    TaskView::of(&listed.task, Sync::of(listed.is_pending))
}

/// Makes a task.
#[utoipa::path(post, path = "/api/v1/tasks", tag = "tasks", operation_id = "createTask",
    request_body = CreateTaskBody,
    responses((status = 201, description = "Made.", body = Data<TaskView<'_>>),
        (status = 202, description = "On disk; it will be made.", body = Data<TaskView<'_>>)))]
pub(crate) async fn create(
    CurrentUser(who): CurrentUser,
    headers: WriteHeaders,
    body: JsonBody<CreateTaskBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let request = headers.creating(who.user_id, body.fingerprint);
    let written = state.task.create.run(request, body.value.into()).await?;
    respond::created(who.user_id, &written, "/api/v1/tasks", TaskView::of)
}

/// One of one's tasks.
#[utoipa::path(get, path = "/api/v1/tasks/{id}", tag = "tasks", operation_id = "getTask",
    params(("id" = uuid::Uuid, Path, description = "The task.")),
    responses((status = 200, description = "The task.", body = Data<TaskView<'_>>),
        (status = 304, description = "It is as `If-None-Match` says.")))]
pub(crate) async fn get(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<TaskId>,
    req: HttpRequest,
    state: web::Data<ApiState>,
) -> Answer {
    let read = state.task.get.run(who.user_id, id).await?;
    respond::entity(&req, who.user_id, &read, TaskView::of)
}

/// Sets the fields given.
#[utoipa::path(put, path = "/api/v1/tasks/{id}", tag = "tasks", operation_id = "updateTask",
    params(("id" = uuid::Uuid, Path, description = "The task.")),
    request_body = UpdateTaskBody,
    responses((status = 200, description = "Changed.", body = Data<TaskView<'_>>),
        (status = 202, description = "On disk; it will be changed.", body = Data<TaskView<'_>>)))]
pub(crate) async fn update(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<TaskId>,
    headers: WriteHeaders,
    body: JsonBody<UpdateTaskBody>,
    state: web::Data<ApiState>,
) -> Answer {
    let current = async {
        state
            .task
            .get
            .run(who.user_id, id)
            .await
            .map(|read| read.value.version)
    };
    let request = headers
        .changing(who.user_id, id.0, Some(body.fingerprint), current)
        .await?;
    let written = state.task.update.run(request, id, body.value.into()).await?;
    respond::written(who.user_id, &written, StatusCode::OK, TaskView::of)
}

/// Deletes a task.
#[utoipa::path(delete, path = "/api/v1/tasks/{id}", tag = "tasks", operation_id = "deleteTask",
    params(("id" = uuid::Uuid, Path, description = "The task.")),
    responses((status = 204, description = "Deleted."),
        (status = 202, description = "On disk; it will be deleted.", body = Data<DeletedView>)))]
pub(crate) async fn delete(
    CurrentUser(who): CurrentUser,
    PathId(id): PathId<TaskId>,
    headers: WriteHeaders,
    state: web::Data<ApiState>,
) -> Answer {
    let current = async {
        state
            .task
            .get
            .run(who.user_id, id)
            .await
            .map(|read| read.value.version)
    };
    let request = headers.changing(who.user_id, id.0, None, current).await?;
    let written = state.task.delete.run(request, id).await?;
    Ok(respond::deleted(&written))
}
