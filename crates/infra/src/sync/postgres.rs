//! Applies operations to Postgres: one at a time as they are accepted, or in batches from the write buffer.

use super::statement::{Answer, Call, OPERATION_FIND, read_record};
use crate::chat::statement::{CHAT_LOCK, Locks};
use crate::postgres::{Pool, QueryError, Session};
use crate::stream::action::LOCK_VERSIONS;
use crate::{chat, profile, stream, task};
use async_trait::async_trait;
use futures_util::future::{MaybeDone, maybe_done};
use gravity_domain::error::StoreError;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::ports::{OperationStore, ReplayStore};
use gravity_domain::sync::{AppliedRecord, BatchError, Change, Operation, OperationKind, Verdict};
use std::collections::{BTreeSet, HashMap};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use tokio::time::Instant;
use tokio_postgres::types::{Json, ToSql};
use tokio_postgres::{Error as DriverError, Row, Statement};

const OPERATION_KEEP_ANSWER: &str =
    "UPDATE applied_operations SET buffered = true, answer = $2 WHERE id = $1";

const RECORDED_TWICE: &str = "applied_operations_pkey";
const CREATED_TWICE: &str = "tasks_pkey";
/// A message that another session is storing. Another try finds it stored, and compares.
const SENT_TWICE: [&str; 2] = ["messages_pkey", "messages_client_id"];

/// Operations in Postgres.
#[derive(Debug, Clone)]
pub struct PostgresOperations {
    pool: Pool,
}

fn is_sent_twice(error: &QueryError) -> bool {
    SENT_TWICE
        .iter()
        .any(|constraint| error.is_duplicate_of(constraint))
}

fn call(operation: &Operation, direct: bool) -> Call<'_> {
    match &operation.change {
        Change::Profile(patch) => profile::postgres::call(operation, patch, direct),
        Change::Task { change, .. } => task::postgres::call(operation, change, direct),
        Change::StreamAction(action) => stream::action::call(operation, action, direct),
        Change::Message { message, .. } => chat::statement::send(operation, message, direct),
        Change::ReadMark(mark) => chat::statement::mark(operation, mark, direct),
        Change::Block(change) => chat::statement::block(operation, change, direct),
    }
}

impl PostgresOperations {
    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    async fn recorded(
        &self,
        user: Option<UserId>,
        id: OperationId,
        deadline: Instant,
    ) -> Result<Option<AppliedRecord>, QueryError> {
        let user = user.map(|user| user.0);
        let row = self
            .pool
            .query_opt_by(deadline, "operation_find", OPERATION_FIND, &[&id.0, &user])
            .await?;
        row.map(|row| read_record(&row, 0)).transpose()
    }

    /// Nothing was done. That may be because another session with the same operation has just done it (a retry that
    /// overlaps with the first try): a new snapshot tells.
    async fn look_again(
        &self,
        operation: &Operation,
        deadline: Instant,
        otherwise: Result<Verdict, StoreError>,
    ) -> Result<Verdict, StoreError> {
        match self.recorded(None, operation.id, deadline).await? {
            Some(record) => Ok(Verdict::Duplicate(record)),
            None => otherwise,
        }
    }
}

/// Nothing was done, and nothing is recorded. A create that does nothing has met one of the same entity that was still
/// under way when it began.
fn nothing_done(operation: &Operation) -> Result<Verdict, StoreError> {
    match operation.kind() {
        OperationKind::Create => Err(raced()),
        OperationKind::Update | OperationKind::Delete => Ok(Verdict::Missing),
    }
}

/// The entity to create is there although its operation, whose id it derives from, is not recorded (any more).
fn key_reused() -> StoreError {
    StoreError::Rejected {
        reason: "idempotency_key_reused".to_owned(),
        source: None,
    }
}

/// The operation is committed, and its record cannot be read.
fn recorded(error: StoreError) -> StoreError {
    StoreError::Busy {
        reason: "recorded",
        source: Some(Box::new(error)),
    }
}

fn raced() -> StoreError {
    StoreError::Busy {
        reason: "serialization",
        source: None,
    }
}

#[async_trait]
impl OperationStore for PostgresOperations {
    async fn apply(&self, operation: &Operation) -> Result<Verdict, StoreError> {
        let call = call(operation, true);
        let deadline = self.pool.deadline();
        let answered = self
            .pool
            .query_opt_by(deadline, call.name, call.sql, &call.parameters())
            .await;
        let row = match answered {
            Ok(row) => row,
            Err(error) if error.is_duplicate_of(RECORDED_TWICE) => {
                let looked = self.look_again(operation, deadline, Err(raced())).await;
                return looked.map_err(|error| {
                    if error.is_transient() {
                        recorded(error)
                    } else {
                        error
                    }
                });
            }
            Err(error) if error.is_duplicate_of(CREATED_TWICE) => {
                return self.look_again(operation, deadline, Err(key_reused())).await;
            }
            Err(error) if is_sent_twice(&error) => {
                return self.look_again(operation, deadline, Err(raced())).await;
            }
            Err(error) => return Err(error.into()),
        };
        match call.read(row.as_ref())? {
            Answer::Verdict(verdict @ Verdict::Applied(_)) => Ok(verdict),
            Answer::Verdict(verdict) => self.look_again(operation, deadline, Ok(verdict)).await,
            Answer::Nothing => {
                self.look_again(operation, deadline, nothing_done(operation))
                    .await
            }
        }
    }

    async fn find(&self, user: UserId, id: OperationId) -> Result<Option<AppliedRecord>, StoreError> {
        Ok(self.recorded(Some(user), id, self.pool.deadline()).await?)
    }
}

#[async_trait]
impl ReplayStore for PostgresOperations {
    async fn replay(&self, operations: &[Operation]) -> Result<Vec<Verdict>, BatchError> {
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        let session = self
            .pool
            .batch_session("replay")
            .await
            .map_err(|error| BatchError::Transient(error.into()))?;
        match run_batch(&session, operations).await {
            Ok(verdicts) => {
                let _ = session.finish(Ok(()));
                Ok(verdicts)
            }
            Err(failure) => {
                // A session that cannot even do this leaves the pool.
                let rolled_back = session.within(session.client().batch_execute("ROLLBACK")).await;
                let _ = session.finish(rolled_back);
                Err(failure)
            }
        }
    }
}

async fn run_batch(session: &Session, operations: &[Operation]) -> Result<Vec<Verdict>, BatchError> {
    let transient = |error: QueryError| BatchError::Transient(error.into());
    let calls: Vec<Call<'_>> = operations
        .iter()
        .map(|operation| call(operation, false))
        .collect();
    let statements = prepare(session, &calls).await.map_err(transient)?;
    let locks = prepare_locks(session, operations).await.map_err(transient)?;
    let streams = prepare_streams(session, operations).await.map_err(transient)?;
    let sent = send_all(session, locks.as_ref(), streams.as_ref(), &calls, &statements);
    let sent = session.within(async { Ok(sent.await) });
    let (begun, rows) = sent.await.map_err(transient)?;
    begun.map_err(|error| transient(error.into()))?;
    let mut answers = Vec::with_capacity(calls.len());
    for (index, (call, row)) in calls.iter().zip(rows).enumerate() {
        match row
            .map_err(QueryError::from)
            .and_then(|row| call.read(row.as_ref()))
        {
            Ok(answer) => answers.push(answer),
            Err(error)
                if error.is_duplicate_of(RECORDED_TWICE)
                    || error.is_duplicate_of(CREATED_TWICE)
                    || is_sent_twice(&error) =>
            {
                return Err(BatchError::Transient(raced()));
            }
            Err(error) => return Err(error.in_batch(index)),
        }
    }
    let mut verdicts = Vec::with_capacity(answers.len());
    for (operation, answer) in operations.iter().zip(answers) {
        verdicts.push(match answer {
            Answer::Verdict(verdict @ Verdict::Applied(_)) => verdict,
            Answer::Verdict(verdict) => recorded_here(session, operation, Ok(verdict)).await?,
            Answer::Nothing => recorded_here(session, operation, nothing_done(operation)).await?,
        });
    }
    for (operation, verdict) in operations.iter().zip(&verdicts) {
        keep_first_answer(session, operation, verdict)
            .await
            .map_err(transient)?;
    }
    session
        .within(session.client().batch_execute("COMMIT"))
        .await
        .map_err(transient)?;
    Ok(verdicts)
}

/// An operation that was committed directly, but whose answer was lost, was buffered and answered 202. That is the answer
/// which its `Idempotency-Key` stands for from then on, also when nothing but the record is left to tell.
async fn keep_first_answer(
    session: &Session,
    operation: &Operation,
    verdict: &Verdict,
) -> Result<(), QueryError> {
    let (Verdict::Duplicate(record), Some(replay)) = (verdict, &operation.replay) else {
        return Ok(());
    };
    let is_own_try = !record.buffered && record.accepted_at == operation.accepted_at;
    let Some(accepted) = replay.accepted.as_ref().filter(|_| is_own_try) else {
        return Ok(());
    };
    let update = async {
        let statement = session.client().prepare_cached(OPERATION_KEEP_ANSWER).await?;
        session
            .client()
            .execute(&statement, &[&operation.id.0, &Json(accepted)])
            .await
    };
    session.within(update).await.map(drop)
}

/// As [`PostgresOperations::look_again`], in the batch's transaction.
async fn recorded_here(
    session: &Session,
    operation: &Operation,
    otherwise: Result<Verdict, StoreError>,
) -> Result<Verdict, BatchError> {
    let find = async {
        let statement = session.client().prepare_cached(OPERATION_FIND).await?;
        let anyone: Option<uuid::Uuid> = None;
        session
            .client()
            .query_opt(&statement, &[&operation.id.0, &anyone])
            .await
    };
    let record = match session.within(find).await {
        Ok(row) => row.map(|row| read_record(&row, 0)).transpose(),
        Err(error) => Err(error),
    };
    match record.map_err(|error| BatchError::Transient(error.into()))? {
        Some(record) => Ok(Verdict::Duplicate(record)),
        None => otherwise.map_err(BatchError::Transient),
    }
}

async fn prepare(
    session: &Session,
    calls: &[Call<'_>],
) -> Result<HashMap<&'static str, Statement>, QueryError> {
    let mut statements = HashMap::new();
    for call in calls {
        if !statements.contains_key(call.name) {
            let prepared = session.within(session.client().prepare_cached(call.sql)).await?;
            statements.insert(call.name, prepared);
        }
    }
    Ok(statements)
}

/// What the batch locks first, so that sessions never wait for each other in a circle.
async fn prepare_locks(
    session: &Session,
    operations: &[Operation],
) -> Result<Option<(Locks, Statement)>, QueryError> {
    let Some(locks) = Locks::of(operations) else {
        return Ok(None);
    };
    let prepared = session.within(session.client().prepare_cached(CHAT_LOCK)).await?;
    Ok(Some((locks, prepared)))
}

type Answers = (Result<(), DriverError>, Vec<Result<Option<Row>, DriverError>>);

/// The versions of the streams that the batch changes, when there are several: users come in the order of their lanes, and
/// services that feed lock them by their ids.
async fn prepare_streams(
    session: &Session,
    operations: &[Operation],
) -> Result<Option<(Vec<uuid::Uuid>, Statement)>, QueryError> {
    let acts = |operation: &&Operation| matches!(operation.change, Change::StreamAction(_));
    let acting = operations.iter().filter(acts);
    let users: BTreeSet<_> = acting.map(|operation| operation.user_id.0).collect();
    if users.len() < 2 {
        return Ok(None);
    }
    let prepared = session
        .within(session.client().prepare_cached(LOCK_VERSIONS))
        .await?;
    Ok(Some((users.into_iter().collect(), prepared)))
}

/// BEGIN, the locks and every statement, sent without waiting for answers in between.
async fn send_all(
    session: &Session,
    locks: Option<&(Locks, Statement)>,
    streams: Option<&(Vec<uuid::Uuid>, Statement)>,
    calls: &[Call<'_>],
    statements: &HashMap<&'static str, Statement>,
) -> Answers {
    let begin = start(session.client().batch_execute("BEGIN")).await;
    let lock = start(async move {
        match locks {
            Some((locks, statement)) => {
                let parameters: [&(dyn ToSql + Sync); 2] = [&locks.conversations, &locks.users];
                session.client().execute(statement, &parameters).await.map(drop)
            }
            None => Ok(()),
        }
    })
    .await;
    let lock_streams = start(async move {
        match streams {
            Some((users, statement)) => session.client().execute(statement, &[users]).await.map(drop),
            None => Ok(()),
        }
    })
    .await;
    let mut started = Vec::with_capacity(calls.len());
    for call in calls {
        let statement = &statements[call.name];
        let answer = async move { session.client().query_opt(statement, &call.parameters()).await };
        started.push(start(answer).await);
    }
    let begun = join(begin).await.and(join(lock).await);
    let begun = begun.and(join(lock_streams).await);
    let mut rows = Vec::with_capacity(calls.len());
    for answer in started {
        rows.push(join(answer).await);
    }
    (begun, rows)
}

type Started<F> = Pin<Box<MaybeDone<F>>>;

/// Polls once: the driver's futures send their request then. So requests go out in the order of these calls.
async fn start<F: Future>(future: F) -> Started<F> {
    let mut started = Box::pin(maybe_done(future));
    poll_fn(|context| {
        let _ = started.as_mut().poll(context);
        Poll::Ready(())
    })
    .await;
    started
}

async fn join<F: Future>(mut started: Started<F>) -> F::Output {
    started.as_mut().await;
    started
        .as_mut()
        .take_output()
        .expect("a future that is done has its output, which is taken once")
}
