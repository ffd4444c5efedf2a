//! Tasks in Postgres: finders, and the statements that apply operations (see [`crate::sync::statement`]).

use crate::postgres::values::{At, Stamp};
use crate::postgres::{Pool, QueryError};
use crate::sync::statement::{
    Call, column, expected, field_json, fresh, read_stamp, read_version, record, time_json,
};
use async_trait::async_trait;
use gravity_domain::error::StoreError;
use gravity_domain::id::{TaskId, UserId};
use gravity_domain::page::PageKey;
use gravity_domain::sync::ports::EntityStore;
use gravity_domain::sync::{Entity as _, EntityState, Lww, Operation};
use gravity_domain::task::{
    Description, NewTask, Task, TaskChange, TaskFilter, TaskPatch, TaskStatus, TaskStore, Title,
};
use tokio_postgres::Row;
use uuid::Uuid;

/// The columns of a task, in the order in which [`read`] takes them.
macro_rules! columns {
    () => {
        "id, user_id, title, description, status, created_stamp, title_stamp, description_stamp, status_stamp,
         deleted_stamp, version, updated_at"
    };
}

/// The same of one of several tables.
macro_rules! columns_of {
    ($table:literal) => {
        concat!(
            $table,
            ".id, ",
            $table,
            ".user_id, ",
            $table,
            ".title, ",
            $table,
            ".description, ",
            $table,
            ".status, ",
            $table,
            ".created_stamp, ",
            $table,
            ".title_stamp, ",
            $table,
            ".description_stamp, ",
            $table,
            ".status_stamp, ",
            $table,
            ".deleted_stamp, ",
            $table,
            ".version, ",
            $table,
            ".updated_at"
        )
    };
}

/// The JSON of a task, equal to that of `EntityState`.
macro_rules! json {
    () => {
        concat!(
            "jsonb_build_object('kind', 'task', 'id', id, 'user_id', user_id, 'title', ",
            field_json!("title"),
            ", 'description', ",
            field_json!("description"),
            ", 'status', ",
            field_json!("status"),
            ", 'created', encode(created_stamp, 'hex'), 'deleted', encode(deleted_stamp, 'hex'),
              'version', version, 'updated_at', ",
            time_json!("updated_at"),
            ")"
        )
    };
}

/// The zero stamp: a new task's fields yield to every write.
macro_rules! zero {
    () => {
        "'\\x00000000000000000000000000000000'::bytea"
    };
}

/// Both rows or neither: an operation that is recorded, or a task that is there, fails the statement on its primary key.
const TASK_CREATE: &str = concat!(
    "WITH effect AS (
        INSERT INTO tasks (id, user_id, title, description, status, created_at, updated_at, version,
            created_stamp, title_stamp, description_stamp, status_stamp)
        SELECT $2, $3, $10, $11, $12, $5::timestamptz, $5, 1, $4, ",
    zero!(),
    ", ",
    zero!(),
    ", ",
    zero!(),
    ") INSERT INTO applied_operations (id, user_id, entity, entity_id, kind, accepted_at, attempts, superseded,
        fingerprint, buffered, answer)
    VALUES ($1, $3, 'task', $2, 'create', $4, $7, false, $8, NOT $6::boolean, $9)
    RETURNING 'applied'"
);

/// The same of many: one row for each, in their order. What is there already fails none of them: of an operation that is
/// recorded nothing is said; a task that is there is the answer to a replayed one, and nothing is done for a direct one.
/// Another session that makes one of them at the same time fails the statement on a primary key.
///
/// Nothing is joined with the parameters but by an index, whatever the planner takes their number for.
const TASKS_CREATE: &str = concat!(
    "WITH input AS MATERIALIZED (
        SELECT one.*, CASE
            WHEN (SELECT true FROM applied_operations WHERE id = one.operation) THEN NULL
            WHEN (SELECT true FROM tasks WHERE id = one.task) THEN CASE WHEN NOT $6::boolean THEN 'superseded' END
            ELSE 'applied' END AS word
        FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bytea[], $5::timestamptz[], $7::integer[], $8::bytea[],
                $9::jsonb[], $10::text[], $11::text[], $12::text[]) WITH ORDINALITY
            AS one (operation, task, owner, stamp, at, attempts, fingerprint, answer, title, description, status, place)
    ), effect AS (
        INSERT INTO tasks (id, user_id, title, description, status, created_at, updated_at, version,
            created_stamp, title_stamp, description_stamp, status_stamp)
        SELECT task, owner, title, description, status, at, at, 1, stamp, ",
    zero!(),
    ", ",
    zero!(),
    ", ",
    zero!(),
    " FROM input WHERE word = 'applied'
    ), log AS (
        INSERT INTO applied_operations (id, user_id, entity, entity_id, kind, accepted_at, attempts, superseded,
            fingerprint, buffered, answer)
        SELECT operation, owner, 'task', task, 'create', stamp, attempts, word = 'superseded', fingerprint,
            NOT $6::boolean, answer
        FROM input WHERE word IN ('applied', 'superseded')
    ) SELECT word, found.*
    FROM input LEFT JOIN LATERAL (SELECT ",
    columns!(),
    " FROM tasks WHERE id = input.task AND input.word = 'superseded' OFFSET 0) AS found ON true
    ORDER BY place"
);

/// Of many, each to another task: one row for each, in their order, without a word where the operation is recorded or there
/// is no such task.
const TASKS_UPDATE: &str = concat!(
    "WITH target AS MATERIALIZED (
        SELECT one.*, found.*, CASE
            WHEN found.id IS NULL OR (SELECT true FROM applied_operations WHERE id = one.operation) THEN NULL
            WHEN deleted_stamp IS NOT NULL THEN CASE WHEN $6::boolean THEN 'missing' ELSE 'superseded' END
            WHEN version <> expected THEN 'precondition_failed'
            WHEN $6 AND GREATEST(created_stamp, title_stamp, description_stamp, status_stamp) >= stamp THEN 'late'
            WHEN (new_title IS NOT NULL AND stamp > title_stamp) OR (sets_description AND stamp > description_stamp)
                OR (new_status IS NOT NULL AND stamp > status_stamp) THEN 'applied'
            ELSE 'superseded' END AS word
        FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bytea[], $5::timestamptz[], $7::integer[], $8::bytea[],
                $9::jsonb[], $10::bigint[], $11::text[], $12::boolean[], $13::text[], $14::text[]) WITH ORDINALITY
            AS one (operation, task, owner, stamp, at, attempts, fingerprint, answer, expected, new_title,
                sets_description, new_description, new_status, place)
        LEFT JOIN LATERAL (SELECT ",
    columns!(),
    " FROM tasks WHERE id = one.task AND user_id = one.owner FOR NO KEY UPDATE) AS found ON true
    ), effect AS (
        UPDATE tasks SET
            title = CASE WHEN new_title IS NOT NULL AND stamp > tasks.title_stamp THEN new_title ELSE tasks.title END,
            title_stamp = CASE WHEN new_title IS NOT NULL AND stamp > tasks.title_stamp THEN stamp
                ELSE tasks.title_stamp END,
            description = CASE WHEN sets_description AND stamp > tasks.description_stamp THEN new_description
                ELSE tasks.description END,
            description_stamp = CASE WHEN sets_description AND stamp > tasks.description_stamp THEN stamp
                ELSE tasks.description_stamp END,
            status = CASE WHEN new_status IS NOT NULL AND stamp > tasks.status_stamp THEN new_status
                ELSE tasks.status END,
            status_stamp = CASE WHEN new_status IS NOT NULL AND stamp > tasks.status_stamp THEN stamp
                ELSE tasks.status_stamp END,
            version = tasks.version + 1,
            updated_at = GREATEST(tasks.updated_at, target.at)
        FROM target WHERE tasks.id = target.task AND target.word = 'applied'
        RETURNING place, operation, owner, stamp, attempts, fingerprint, answer, ",
    columns_of!("tasks"),
    "), state AS (
        SELECT 'applied' AS word, effect.* FROM effect
        UNION ALL
        SELECT word, place, operation, owner, stamp, attempts, fingerprint, answer, ",
    columns!(),
    " FROM target WHERE word IS DISTINCT FROM 'applied'
    ), log AS (
        INSERT INTO applied_operations (id, user_id, entity, entity_id, kind, accepted_at, attempts, superseded,
            fingerprint, buffered, answer)
        SELECT operation, owner, 'task', id, 'update', stamp, attempts, word = 'superseded', fingerprint,
            NOT $6::boolean, CASE WHEN fingerprint IS NULL THEN NULL WHEN answer IS NOT NULL THEN answer ELSE ",
    json!(),
    " END
        FROM state WHERE word IN ('applied', 'superseded')
    ) SELECT word, ",
    columns!(),
    " FROM state ORDER BY place"
);

const TASK_DELETE: &str = concat!(
    "WITH target AS (
        SELECT CASE
            WHEN deleted_stamp IS NOT NULL THEN CASE WHEN $6::boolean THEN 'missing' ELSE 'superseded' END
            WHEN version <> $10::bigint THEN 'precondition_failed'
            WHEN $6 AND GREATEST(created_stamp, title_stamp, description_stamp, status_stamp) >= $4::bytea THEN 'late'
            ELSE 'applied' END AS word, ",
    columns!(),
    " FROM tasks WHERE id = $2::uuid AND user_id = $3::uuid AND ",
    fresh!(),
    " FOR NO KEY UPDATE
    ), verdict AS NOT MATERIALIZED (
        SELECT word FROM target
    ), effect AS (
        UPDATE tasks SET deleted_stamp = $4, deleted_at = now(), version = version + 1,
            updated_at = GREATEST(updated_at, $5::timestamptz)
        FROM verdict WHERE id = $2 AND verdict.word = 'applied'
        RETURNING ",
    columns!(),
    ")",
    record!("task", "delete", columns!(), json!())
);

const TASK_FIND: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM tasks WHERE id = $1 AND user_id = $2"
);

const TASK_FIND_MANY: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM tasks WHERE id = ANY($1) AND user_id = $2"
);

/// After everything: where a list without a position begins.
macro_rules! list {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM tasks WHERE user_id = $1 AND deleted_stamp IS NULL AND (created_at, id) < (
                COALESCE($2::timestamptz, 'infinity'), COALESCE($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
            )",
            $condition,
            " ORDER BY created_at DESC, id DESC LIMIT $4"
        )
    };
}

const TASK_LIST: &str = list!("");
const TASK_LIST_BY_STATUS: &str = list!(" AND status = $5");

/// The statement that applies `change`.
pub(crate) fn call<'a>(operation: &'a Operation, change: &'a TaskChange, direct: bool) -> Call<'a> {
    match change {
        TaskChange::Create(new) => create(operation, new, direct),
        TaskChange::Update(patch) => update_all(&[(operation, patch)], direct),
        TaskChange::Delete => {
            Call::new("task_delete", TASK_DELETE, read_state, operation, direct).with_precondition(operation)
        }
    }
}

fn create<'a>(operation: &'a Operation, new: &'a NewTask, direct: bool) -> Call<'a> {
    if !direct {
        return create_all(&[(operation, new)], false);
    }
    let created = created_by(operation);
    Call::creating("task_create", TASK_CREATE, read_state, created, operation, direct)
        .with(new.title.as_str())
        .with(new.description.as_ref().map(Description::as_str))
        .with(new.status.as_str())
}

/// The statement that creates all these tasks, each of which is another.
pub(crate) fn create_all<'a>(creates: &[(&'a Operation, &'a NewTask)], direct: bool) -> Call<'a> {
    let operations = column(creates, |(operation, _)| *operation);
    let created = column(creates, |(operation, _)| created_by(operation));
    Call::of_many(
        "tasks_create",
        TASKS_CREATE,
        read_state,
        &operations,
        created,
        direct,
    )
    .with(column(creates, |(_, new)| new.title.as_str()))
    .with(column(creates, |(_, new)| {
        new.description.as_ref().map(Description::as_str)
    }))
    .with(column(creates, |(_, new)| new.status.as_str()))
}

/// A new task is what its operation says, so its columns need not come back.
fn created_by(operation: &Operation) -> Option<EntityState> {
    let mut task = None;
    let _ = Task::apply(&mut task, operation);
    task.map(EntityState::Task)
}

/// The statement that makes all these updates, each to another task.
pub(crate) fn update_all<'a>(updates: &[(&'a Operation, &'a TaskPatch)], direct: bool) -> Call<'a> {
    let operations = column(updates, |(operation, _)| *operation);
    Call::of_many(
        "tasks_update",
        TASKS_UPDATE,
        read_state,
        &operations,
        Vec::new(),
        direct,
    )
    .with(column(updates, |(operation, _)| expected(operation)))
    .with(column(updates, |(_, patch)| {
        patch.title.as_ref().map(Title::as_str)
    }))
    .with(column(updates, |(_, patch)| patch.description.is_some()))
    .with(column(updates, |(_, patch)| {
        patch
            .description
            .as_ref()
            .and_then(Option::as_ref)
            .map(Description::as_str)
    }))
    .with(column(updates, |(_, patch)| patch.status.map(TaskStatus::as_str)))
}

fn read_state(row: &Row, at: usize) -> Result<EntityState, QueryError> {
    read(row, at).map(EntityState::Task)
}

/// The task whose first column is at `at`.
fn read(row: &Row, at: usize) -> Result<Task, QueryError> {
    let title = Title::parse(row.try_get(at + 2)?).map_err(|_| QueryError::Row("tasks.title"))?;
    let description = row
        .try_get::<_, Option<&str>>(at + 3)?
        .map(Description::parse)
        .transpose()
        .map_err(|_| QueryError::Row("tasks.description"))?;
    let status = TaskStatus::parse(row.try_get(at + 4)?).ok_or(QueryError::Row("tasks.status"))?;
    Ok(Task {
        id: TaskId(row.try_get(at)?),
        user_id: UserId(row.try_get(at + 1)?),
        title: Lww::new(title, read_stamp(row, at + 6)?),
        description: Lww::new(description, read_stamp(row, at + 7)?),
        status: Lww::new(status, read_stamp(row, at + 8)?),
        created: read_stamp(row, at + 5)?,
        deleted: row.try_get::<_, Option<Stamp>>(at + 9)?.map(|stamp| stamp.0),
        version: read_version(row, at + 10)?,
        updated_at: row.try_get::<_, At>(at + 11)?.0,
    })
}

/// Finds tasks.
#[derive(Debug, Clone)]
pub struct PostgresTasks {
    pool: Pool,
}

impl PostgresTasks {
    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }
}

#[async_trait]
impl EntityStore<Task> for PostgresTasks {
    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<Task>, StoreError> {
        let row = self
            .pool
            .query_opt("task_find", TASK_FIND, &[&id, &user.0])
            .await?;
        Ok(row.map(|row| read(&row, 0)).transpose()?)
    }
}

#[async_trait]
impl TaskStore for PostgresTasks {
    async fn find_many(&self, user: UserId, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = self
            .pool
            .query("task_find_many", TASK_FIND_MANY, &[&ids, &user.0])
            .await?;
        Ok(read_all(&rows)?)
    }

    async fn list(
        &self,
        user: UserId,
        filter: TaskFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        let at = after.map(|key| At(key.at));
        let id = after.map(|key| key.id);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = match filter.status.map(TaskStatus::as_str) {
            None => {
                self.pool
                    .query("task_list", TASK_LIST, &[&user.0, &at, &id, &limit])
                    .await?
            }
            Some(status) => {
                let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                    [&user.0, &at, &id, &limit, &status];
                self.pool
                    .query("task_list_by_status", TASK_LIST_BY_STATUS, &parameters)
                    .await?
            }
        };
        Ok(read_all(&rows)?)
    }
}

fn read_all(rows: &[Row]) -> Result<Vec<Task>, QueryError> {
    rows.iter().map(|row| read(row, 0)).collect()
}
