//! Operations in Postgres: what applies and remembers them. See `direct` and `replay`.

use super::direct;
use super::statement::{Call, OPERATION_FIND, read_record};
use crate::postgres::{Gather, Pool, QueryError};
use crate::{chat, profile, stream, task};
use async_trait::async_trait;
use gravity_domain::error::StoreError;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::ports::OperationStore;
use gravity_domain::sync::{AppliedRecord, Change, Operation, OperationKind, Verdict};
use tokio::time::Instant;

pub(super) const RECORDED_TWICE: &str = "applied_operations_pkey";
pub(super) const CREATED_TWICE: &str = "tasks_pkey";
/// A message that another session is storing. Another try finds it stored, and compares.
const SENT_TWICE: [&str; 2] = ["messages_pkey", "messages_client_id"];

/// Operations in Postgres. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PostgresOperations {
    pub(super) pool: Pool,
    direct: Gather<Operation, Result<Verdict, StoreError>>,
}

pub(super) fn is_sent_twice(error: &QueryError) -> bool {
    SENT_TWICE
        .iter()
        .any(|constraint| error.is_duplicate_of(constraint))
}

/// Another session makes the same at this moment.
pub(super) fn is_made_twice(error: &QueryError) -> bool {
    error.is_duplicate_of(RECORDED_TWICE) || error.is_duplicate_of(CREATED_TWICE) || is_sent_twice(error)
}

pub(super) fn call(operation: &Operation, direct: bool) -> Call<'_> {
    match &operation.change {
        Change::Profile(patch) => profile::postgres::call(operation, patch, direct),
        Change::Task { change, .. } => task::postgres::call(operation, change, direct),
        Change::StreamAction(action) => stream::action::call(operation, action, direct),
        Change::Message { message, .. } => chat::statement::send(&[(operation, message)], direct),
        Change::ReadMark(mark) => chat::statement::mark(operation, mark, direct),
        Change::Block(change) => chat::statement::block(operation, change, direct),
    }
}

/// Nothing was done, and nothing is recorded. A create that does nothing has met one of the same entity that was still
/// under way when it began.
pub(super) fn nothing_done(operation: &Operation) -> Result<Verdict, StoreError> {
    match operation.kind() {
        OperationKind::Create => Err(raced()),
        OperationKind::Update | OperationKind::Delete => Ok(Verdict::Missing),
    }
}

pub(super) fn raced() -> StoreError {
    StoreError::Busy {
        reason: "serialization",
        source: None,
    }
}

/// What is remembered of an operation, of this user or of anyone.
pub(super) async fn recorded(
    pool: &Pool,
    user: Option<UserId>,
    id: OperationId,
    deadline: Instant,
) -> Result<Option<AppliedRecord>, QueryError> {
    let user = user.map(|user| user.0);
    let row = pool
        .query_opt_by(deadline, "operation_find", OPERATION_FIND, &[&id.0, &user])
        .await?;
    row.map(|row| read_record(&row, 0)).transpose()
}

impl PostgresOperations {
    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        let for_direct = pool.clone();
        let bounds = (direct::TOGETHER, direct::AT_ONCE);
        let direct = Gather::with(pool.handle(), bounds, move |asked| {
            direct::apply_all(for_direct.clone(), asked)
        });
        Self { pool, direct }
    }
}

#[async_trait]
impl OperationStore for PostgresOperations {
    async fn apply(&self, operation: &Operation) -> Result<Verdict, StoreError> {
        self.pool.gathered(&self.direct, operation.clone()).await
    }

    async fn find(&self, user: UserId, id: OperationId) -> Result<Option<AppliedRecord>, StoreError> {
        Ok(recorded(&self.pool, Some(user), id, self.pool.deadline()).await?)
    }
}
