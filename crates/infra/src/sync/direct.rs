//! Direct writes: operations as they are accepted.
//!
//! One that comes alone is one statement, its own transaction. Those that come while others are under way are committed together:
//! what a commit costs (round trips, the flush of the log, the work between processes) is then shared by all of them. They touch
//! each other no more than before: they are of different users (a user has one turn at a time), and when the server refuses one of
//! them, or makes them wait for somebody's lock, all is rolled back and each is tried alone.

use super::pipeline;
use super::plan::Plan;
use super::postgres::{CREATED_TWICE, RECORDED_TWICE, call, is_sent_twice, nothing_done, raced, recorded};
use super::statement::Answer;
use crate::postgres::{Asked, Pool, QueryError, Session};
use gravity_domain::error::StoreError;
use gravity_domain::sync::{EntityKind, Operation, OperationKind, Verdict};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_postgres::Error as DriverError;

/// The most that are committed together.
pub(super) const TOGETHER: usize = 32;
/// Transactions under way: the next gather meanwhile.
pub(super) const AT_ONCE: usize = 1;
/// The most that are tried one by one at the same time.
const APART: usize = 4;
/// How long the next wait for those that are tried one by one.
const PATIENCE: Duration = Duration::from_millis(50);
/// A lock is mostly that of another node's transaction, and soon gone. Whoever waits for one that is not makes the others wait no
/// longer than this.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '250ms'";
/// Of those that are tried one by one.
const IMPATIENT: &str = "BEGIN; SET LOCAL lock_timeout = '30ms'";

type Applied = Result<Verdict, StoreError>;

/// Applies them together if that can be, else each by itself.
#[allow(clippy::cast_precision_loss, reason = "a few")]
pub(super) async fn apply_all(pool: Pool, mut asked: Vec<Asked<Operation, Applied>>) {
    metrics::histogram!("gravity_write_group_size").record(asked.len() as f64);
    if asked.len() == 1
        && let Some((operation, caller)) = asked.pop()
    {
        return alone(&pool, operation, caller).await;
    }
    // So that sessions seldom wait for each other in a circle.
    asked.sort_by_key(|(operation, _)| operation.entity_id());
    let (operations, callers): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    let together = apply_together(&pool, BEGIN, &operations).await;
    let each = operations.into_iter().zip(callers);
    match together {
        Ok(answers) => {
            for ((operation, caller), answer) in each.zip(answers) {
                settle(&pool, operation, caller, answer);
            }
        }
        Err(Failed::Whole(error)) => {
            for (_, caller) in each {
                let _ = caller.send(Err(error.shared()));
            }
        }
        Err(Failed::OneOfThem) => apart(&pool, each).await,
    }
}

/// The final word at once; what has to be looked up is looked up beside.
fn settle(pool: &Pool, operation: Operation, caller: oneshot::Sender<Applied>, answer: Answer) {
    if let Answer::Verdict(verdict @ Verdict::Applied(_)) = answer {
        // Who has gone needs no answer.
        let _ = caller.send(Ok(verdict));
        return;
    }
    let pool = pool.clone();
    tokio::spawn(async move {
        let _ = caller.send(verdict(&pool, &operation, answer, pool.deadline()).await);
    });
}

/// Each by itself: those that nobody holds up at once, the others beside.
async fn apart(pool: &Pool, each: impl Iterator<Item = (Operation, oneshot::Sender<Applied>)>) {
    let (mut tries, turns) = (JoinSet::new(), Arc::new(Semaphore::new(APART)));
    for (operation, caller) in each {
        let (pool, turns) = (pool.clone(), Arc::clone(&turns));
        tries.spawn(async move {
            let turn = turns.acquire().await;
            // Who has gone has put the operation into the buffer.
            if caller.is_closed() {
                return;
            }
            match apply_together(&pool, IMPATIENT, std::slice::from_ref(&operation)).await {
                Ok(mut answers) => {
                    if let Some(answer) = answers.pop() {
                        settle(&pool, operation, caller, answer);
                    }
                }
                Err(Failed::Whole(error)) => drop(caller.send(Err(error))),
                Err(Failed::OneOfThem) => {
                    drop(turn);
                    // Who has gone needs no answer.
                    let _ = caller.send(apply(&pool, &operation).await);
                }
            }
        });
    }
    finish_or_go_on(tries).await;
}

/// Waits a little; the slow ones finish beside.
async fn finish_or_go_on(mut tries: JoinSet<()>) {
    let all = async { while tries.join_next().await.is_some() {} };
    let _ = timeout(PATIENCE, all).await;
    tries.detach_all();
}

/// One that came alone.
async fn alone(pool: &Pool, operation: Operation, caller: oneshot::Sender<Applied>) {
    let (pool, mut tries) = (pool.clone(), JoinSet::new());
    tries.spawn(async move {
        let _ = caller.send(apply(&pool, &operation).await);
    });
    finish_or_go_on(tries).await;
}

/// Why a transaction has not brought all of them where they should be.
enum Failed {
    /// Nobody knows, or it makes no sense to try again now.
    Whole(StoreError),
    /// It was rolled back because of one of them.
    OneOfThem,
}

impl Failed {
    fn of(error: QueryError) -> Self {
        let error = StoreError::from(error);
        if error.is_outage() {
            return Self::Whole(error);
        }
        tracing::debug!(%error, "writes are tried one by one");
        Self::OneOfThem
    }
}

async fn apply_together(pool: &Pool, begin: &str, operations: &[Operation]) -> Result<Vec<Answer>, Failed> {
    let session = pool.session("apply_together").await;
    let session = session.map_err(|error| Failed::Whole(error.into()))?;
    match commit(&session, begin, operations).await {
        Ok(answers) => {
            let _ = session.finish(Ok(()));
            Ok(answers)
        }
        Err(error) => {
            let rolled_back = session.within(session.client().batch_execute("ROLLBACK")).await;
            // A session that cannot even do that leaves the pool, as does one that the error says is of no use.
            let error = match rolled_back {
                Ok(()) => session.finish::<()>(Err(error)).err(),
                Err(_) => Some(error),
            };
            Err(error.map_or(Failed::OneOfThem, Failed::of))
        }
    }
}

/// Every statement and the commit, sent at once.
async fn commit(session: &Session, begin: &str, operations: &[Operation]) -> Result<Vec<Answer>, QueryError> {
    let plan = Plan::together(operations, true);
    let rows = pipeline::run(session, (begin, Some("COMMIT")), operations, &plan).await?;
    let rows = rows.into_iter().collect::<Result<Vec<_>, DriverError>>()?;
    plan.read(&rows).map_err(|(_, error)| error)
}

/// One by itself.
async fn apply(pool: &Pool, operation: &Operation) -> Applied {
    let call = call(operation, true);
    let deadline = pool.deadline();
    let answered = pool
        .query_opt_by(deadline, call.name, call.sql, &call.parameters())
        .await;
    let row = match answered {
        Ok(row) => row,
        Err(error) if error.is_duplicate_of(RECORDED_TWICE) => {
            let looked = look_again(pool, operation, deadline, Err(raced())).await;
            return looked.map_err(|error| {
                if error.is_transient() {
                    is_recorded(error)
                } else {
                    error
                }
            });
        }
        Err(error) if error.is_duplicate_of(CREATED_TWICE) => {
            return look_again(pool, operation, deadline, Err(key_reused())).await;
        }
        Err(error) if is_sent_twice(&error) => {
            return look_again(pool, operation, deadline, Err(raced())).await;
        }
        Err(error) => return Err(error.into()),
    };
    verdict(pool, operation, call.read(0, row.as_ref())?, deadline).await
}

async fn verdict(pool: &Pool, operation: &Operation, answer: Answer, deadline: Instant) -> Applied {
    match answer {
        Answer::Verdict(verdict @ Verdict::Applied(_)) => Ok(verdict),
        Answer::Verdict(verdict) => look_again(pool, operation, deadline, Ok(verdict)).await,
        Answer::Nothing if is_task_create(operation) => {
            look_again(pool, operation, deadline, Err(key_reused())).await
        }
        Answer::Nothing => look_again(pool, operation, deadline, nothing_done(operation)).await,
    }
}

/// One that does nothing, and is not recorded, has met its task.
fn is_task_create(operation: &Operation) -> bool {
    operation.kind() == OperationKind::Create && operation.entity() == EntityKind::Task
}

/// Nothing was done. That may be because another session with the same operation has just done it (a retry that
/// overlaps with the first try): a new snapshot tells.
async fn look_again(pool: &Pool, operation: &Operation, deadline: Instant, otherwise: Applied) -> Applied {
    match recorded(pool, None, operation.id, deadline).await? {
        Some(record) => Ok(Verdict::Duplicate(record)),
        None => otherwise,
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
fn is_recorded(error: StoreError) -> StoreError {
    StoreError::Busy {
        reason: "recorded",
        source: Some(Box::new(error)),
    }
}
