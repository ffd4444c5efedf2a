//! Batches of the drain: operations that were accepted earlier, replayed in one transaction.

use super::pipeline;
use super::plan::Plan;
use super::postgres::{PostgresOperations, is_made_twice, nothing_done, raced};
use super::statement::{Answer, OPERATION_FIND, read_record};
use crate::postgres::{QueryError, Session};
use async_trait::async_trait;
use gravity_domain::error::StoreError;
use gravity_domain::sync::ports::ReplayStore;
use gravity_domain::sync::{BatchError, Operation, Verdict};
use tokio_postgres::types::Json;

const OPERATION_KEEP_ANSWER: &str =
    "UPDATE applied_operations SET buffered = true, answer = $2 WHERE id = $1";

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
        let together = Plan::together(operations, false);
        let failure = match run_batch(&session, operations, &together).await {
            Err(BatchError::Operation { .. }) if together.shares() => {
                let rolled_back = session.within(session.client().batch_execute("ROLLBACK")).await;
                match rolled_back {
                    Ok(()) => run_batch(&session, operations, &Plan::apart(operations, false)).await,
                    Err(error) => Err(BatchError::Transient(error.into())),
                }
            }
            outcome => outcome,
        };
        match failure {
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

async fn run_batch(
    session: &Session,
    operations: &[Operation],
    plan: &Plan<'_>,
) -> Result<Vec<Verdict>, BatchError> {
    let transient = |error: QueryError| BatchError::Transient(error.into());
    let blame = |error: QueryError, index: usize| match is_made_twice(&error) {
        true => BatchError::Transient(raced()),
        false => error.in_batch(index),
    };
    let sent = pipeline::run(session, ("BEGIN", None), operations, plan)
        .await
        .map_err(transient)?;
    let mut rows = Vec::with_capacity(sent.len());
    for (call, answered) in sent.into_iter().enumerate() {
        rows.push(answered.map_err(|error| blame(error.into(), plan.blamed(call)))?);
    }
    let answers = plan.read(&rows).map_err(|(index, error)| blame(error, index))?;
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

/// As for a direct write, in the batch's transaction.
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
