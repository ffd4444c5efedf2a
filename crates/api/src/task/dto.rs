//! Tasks as JSON.

use crate::error::ApiError;
use crate::extract::query::invalid;
use crate::extract::{Body, Fields, Query};
use crate::respond::Sync;
use gravity_domain::clock::Timestamp;
use gravity_domain::task::{Description, NewTask, Task, TaskFilter, TaskPatch, TaskStatus, Title};
use gravity_domain::text::TextError;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A status by name.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatusName {
    /// Not begun.
    Pending,
    /// Begun.
    InProgress,
    /// Done.
    Completed,
    /// Given up.
    Cancelled,
}

/// A task.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskView<'a> {
    /// Its id.
    pub id: Uuid,
    /// What is to be done.
    #[schema(example = "Write the report")]
    pub title: &'a str,
    /// The details.
    #[schema(required = true)]
    pub description: Option<&'a str>,
    /// Where it stands.
    #[schema(value_type = TaskStatusName)]
    pub status: &'static str,
    /// When it was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// 1 when created, raised by each change.
    pub version: u64,
    /// Whether all of it is in Postgres.
    pub sync: Sync,
}

impl<'a> TaskView<'a> {
    /// `task` as its owner sees it.
    pub fn of(task: &'a Task, sync: Sync) -> Self {
        Self {
            id: task.id.0,
            title: task.title.value.as_str(),
            description: task.description.value.as_ref().map(Description::as_str),
            status: task.status.value.as_str(),
            created_at: task.created_at(),
            updated_at: task.updated_at,
            version: task.version,
            sync,
        }
    }
}

/// A new task.
#[derive(Debug, ToSchema)]
pub struct CreateTaskBody {
    /// One line.
    #[schema(value_type = String, min_length = 1, max_length = 255, example = "Write the report")]
    pub title: Title,
    /// Text; tabs and newlines are allowed.
    #[schema(value_type = Option<String>, max_length = 10_000)]
    pub description: Option<Description>,
    /// `pending` when not given.
    #[schema(value_type = Option<TaskStatusName>, required = false, nullable = false)]
    pub status: TaskStatus,
}

impl Body for CreateTaskBody {
    const FIELDS: &'static [&'static str] = &["title", "description", "status"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let title = fields.required("title", Title::parse);
        let description = fields.clearable("description", Description::parse);
        let status = fields.optional("status", status);
        Some(Self {
            title: title?,
            description: description?.flatten(),
            status: status?.unwrap_or_default(),
        })
    }
}

impl From<CreateTaskBody> for NewTask {
    fn from(body: CreateTaskBody) -> Self {
        Self {
            title: body.title,
            description: body.description,
            status: body.status,
        }
    }
}

/// The fields to set; those not given stay as they are.
#[derive(Debug, ToSchema)]
pub struct UpdateTaskBody {
    /// One line.
    #[schema(value_type = Option<String>, nullable = false, min_length = 1, max_length = 255)]
    pub title: Option<Title>,
    /// Text; `null` clears it.
    #[schema(value_type = Option<String>, max_length = 10_000)]
    pub description: Option<Option<Description>>,
    /// Where it stands.
    #[schema(value_type = Option<TaskStatusName>, nullable = false, example = "completed")]
    pub status: Option<TaskStatus>,
}

impl Body for UpdateTaskBody {
    const FIELDS: &'static [&'static str] = &["title", "description", "status"];
    const IS_UPDATE: bool = true;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let title = fields.optional("title", Title::parse);
        let description = fields.clearable("description", Description::parse);
        let status = fields.optional("status", status);
        Some(Self {
            title: title?,
            description: description?,
            status: status?,
        })
    }
}

impl From<UpdateTaskBody> for TaskPatch {
    fn from(body: UpdateTaskBody) -> Self {
        Self {
            title: body.title,
            description: body.description,
            status: body.status,
        }
    }
}

const STATUSES: &str = "must be pending, in_progress, completed or cancelled";

fn status(name: &str) -> Result<TaskStatus, TextError> {
    TaskStatus::parse(name).ok_or(TextError::Malformed(STATUSES))
}

/// The parameters of the list.
pub(crate) const LIST_QUERY: &[&str] = &["status", "cursor", "limit"];

/// Which tasks the query asks for.
///
/// # Errors
/// `invalid_parameter`.
pub(crate) fn filter(query: &Query) -> Result<TaskFilter, ApiError> {
    let status = match query.get("status") {
        None => None,
        Some(name) => Some(TaskStatus::parse(name).ok_or_else(|| invalid(format!("`status` {STATUSES}.")))?),
    };
    Ok(TaskFilter { status })
}
