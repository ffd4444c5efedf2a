//! A task and its parts.

use crate::clock::{Hlc, Timestamp};
use crate::id::{TaskId, UserId};
use crate::page::PageKey;
use crate::sync::merge::Lww;
use crate::text::{long_text, patch_field, single_line, text_type};
use serde::{Deserialize, Serialize};

text_type!(
    /// A task's title: one line of 1..=255 code points.
    Title,
    |raw| single_line(raw, 1, 255)
);
text_type!(
    /// A task's description: text of 0..=10,000 code points.
    Description,
    |raw| long_text(raw, 10_000)
);

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Not begun.
    #[default]
    Pending,
    /// Begun.
    InProgress,
    /// Done.
    Completed,
    /// Given up.
    Cancelled,
}

impl TaskStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::InProgress, Self::Completed, Self::Cancelled];

    /// The name in the API and in Postgres.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// A task with the stamp of each field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Derived from the operation that created it.
    pub id: TaskId,
    /// The owner.
    pub user_id: UserId,
    /// What is to be done.
    pub title: Lww<Title>,
    /// The details.
    pub description: Lww<Option<Description>>,
    /// Where it stands.
    pub status: Lww<TaskStatus>,
    /// The stamp of its creation; its wall time is `createdAt`.
    pub created: Hlc,
    /// The stamp of its deletion: a tombstone.
    pub deleted: Option<Hlc>,
    /// 1 when created, raised by each operation that takes effect.
    pub version: u64,
    /// The latest wall time of an operation that took effect.
    pub updated_at: Timestamp,
}

impl Task {
    /// When it was created.
    pub fn created_at(&self) -> Timestamp {
        self.created.timestamp()
    }

    /// Its place in lists.
    pub fn page_key(&self) -> PageKey {
        PageKey {
            at: self.created_at(),
            id: self.id.0,
        }
    }
}

/// What a new task is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTask {
    /// The title.
    pub title: Title,
    /// The details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<Description>,
    /// `pending` unless given.
    #[serde(default)]
    pub status: TaskStatus,
}

/// The fields an update sets.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TaskPatch {
    /// A new title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<Title>,
    /// A new description; `Some(None)` clears it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "patch_field::deserialize"
    )]
    pub description: Option<Option<Description>>,
    /// A new status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<TaskStatus>,
}

impl TaskPatch {
    /// True when it sets nothing.
    pub fn is_empty(&self) -> bool {
        self.title.is_none() && self.description.is_none() && self.status.is_none()
    }
}

/// What an operation does to a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "fields", rename_all = "snake_case")]
pub enum TaskChange {
    /// Makes it.
    Create(NewTask),
    /// Sets fields.
    Update(TaskPatch),
    /// Leaves a tombstone.
    Delete,
}

/// Which tasks a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TaskFilter {
    /// Only those that stand here.
    pub status: Option<TaskStatus>,
}

impl TaskFilter {
    /// True when `task` is shown: it matches, and is no tombstone.
    pub fn shows(&self, task: &Task) -> bool {
        task.deleted.is_none() && self.status.is_none_or(|status| status == task.status.value)
    }
}
