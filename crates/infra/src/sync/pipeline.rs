//! Several operations in one transaction, sent without waiting for answers in between.

use super::plan::Plan;
use super::statement::Call;
use crate::chat::statement::{CHAT_LOCK, Locks};
use crate::postgres::{QueryError, Session};
use crate::stream::action::LOCK_VERSIONS;
use futures_util::future::{MaybeDone, maybe_done};
use gravity_domain::sync::{Change, Operation};
use std::collections::{BTreeSet, HashMap};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error as DriverError, Row, Statement};

/// Of each call, the rows it was answered with.
pub(super) type Rows = Vec<Result<Vec<Row>, DriverError>>;

/// `begin`, what `operations` lock, every call of their `plan`, and `end`. The outer result is that of the session, the inner
/// ones are the server's. Where one of those is an error, a `COMMIT` at the end has rolled everything back.
pub(super) async fn run(
    session: &Session,
    (begin, end): (&str, Option<&str>),
    operations: &[Operation],
    plan: &Plan<'_>,
) -> Result<Rows, QueryError> {
    let calls = &plan.calls;
    let statements = prepare(session, calls).await?;
    let locks = match calls.len() {
        1 => None,
        _ => prepare_locks(session, operations).await?,
    };
    let streams = prepare_streams(session, operations).await?;
    let sent = send_all(
        session,
        (begin, end),
        locks.as_ref(),
        streams.as_ref(),
        calls,
        &statements,
    );
    let Answers { begun, rows, ended } = session.within(async { Ok(sent.await) }).await?;
    begun?;
    if rows.iter().all(Result::is_ok) {
        ended?;
    }
    Ok(rows)
}

struct Answers {
    begun: Result<(), DriverError>,
    rows: Rows,
    ended: Result<(), DriverError>,
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

/// What a batch of several statements locks first, so that sessions never wait for each other in a circle: one that is alone
/// locks in that order by itself.
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

async fn send_all(
    session: &Session,
    (begin, end): (&str, Option<&str>),
    locks: Option<&(Locks, Statement)>,
    streams: Option<&(Vec<uuid::Uuid>, Statement)>,
    calls: &[Call<'_>],
    statements: &HashMap<&'static str, Statement>,
) -> Answers {
    let begin = start(session.client().batch_execute(begin)).await;
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
        let answer = async move { session.client().query(statement, &call.parameters()).await };
        started.push(start(answer).await);
    }
    let ended = start(async move {
        match end {
            Some(end) => session.client().batch_execute(end).await,
            None => Ok(()),
        }
    })
    .await;
    let begun = join(begin).await.and(join(lock).await);
    let begun = begun.and(join(lock_streams).await);
    let mut rows = Vec::with_capacity(calls.len());
    for answer in started {
        rows.push(join(answer).await);
    }
    let ended = join(ended).await;
    Answers { begun, rows, ended }
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
