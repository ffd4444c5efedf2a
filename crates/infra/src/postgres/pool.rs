//! The pool: connections with a deadline around everything.
//!
//! A timeout does not stop a query, so a connection whose query did not come to its end (deadline, a caller that went
//! away, a lost connection, a server that became read-only) leaves the pool with it, and nobody inherits its wait.
//!
//! **Deadlines.** A call for a request ends with [`PostgresSettings::deadline`] or with what is left of the request's own
//! [`deadline`], whichever is sooner. A call that got less than half of the former and no answer is no evidence of an
//! outage. Batches of the drain and purges have their own deadline and belong to no request.
//!
//! **Company in misfortune.** A pool that [heeds](Pool::heed) a monitor gives its callers up when that finds Postgres gone:
//! one of them has waited for all. [`PARTING`] lets answers through that are on their way, when it was one connection only.

use super::connect::Connector;
use super::error::QueryError;
use super::gather::Gather;
use super::settings::{PostgresSettings, SettingsError};
use crate::monitor::StoreState;
use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, PoolError, RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use gravity_domain::deadline;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error as DriverError, Row};

/// How long a call goes on after Postgres was found gone.
const PARTING: Duration = Duration::from_millis(20);

type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// Hands out connections. Cheap to clone; usable from any runtime.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    connections: deadpool_postgres::Pool,
    handle: Handle,
    /// Raised by [`Pool::clear`]: sessions of an earlier generation do not come back.
    generation: AtomicU64,
    deadline: Duration,
    batch_deadline: Duration,
    /// What is known of Postgres.
    monitor: OnceLock<watch::Receiver<StoreState>>,
}

/// Until when a session lasts.
#[derive(Debug, Clone, Copy)]
struct Limit {
    ends: Instant,
    /// False when so little time was left that no answer says nothing.
    is_fair: bool,
    is_batch: bool,
}

impl Limit {
    fn of_call(ends: Instant, usual: Duration) -> Self {
        Self {
            ends,
            is_fair: ends.saturating_duration_since(Instant::now()) >= usual / 2,
            is_batch: false,
        }
    }

    fn passed(self) -> QueryError {
        if self.is_fair {
            QueryError::Deadline
        } else {
            QueryError::Hurried
        }
    }
}

impl Shared {
    /// What `work` gives, unless the limit passes or Postgres is found gone before.
    async fn within<T>(&self, limit: Limit, work: impl Future<Output = T>) -> Result<T, QueryError> {
        let work = tokio::time::timeout_at(limit.ends, work);
        let done = match self.monitor.get().filter(|_| !limit.is_batch) {
            None => work.await,
            Some(monitor) => {
                let mut monitor = monitor.clone();
                tokio::select! {
                    biased;
                    done = work => done,
                    () = gone(&mut monitor) => return Err(QueryError::GivenUp),
                }
            }
        };
        done.map_err(|_| limit.passed())
    }
}

/// Resolves when Postgres was found gone, and still is a little later.
async fn gone(monitor: &mut watch::Receiver<StoreState>) {
    loop {
        let watched = monitor.wait_for(|state| !state.condition.is_reachable()).await;
        if watched.map(drop).is_err() {
            return std::future::pending().await;
        }
        tokio::time::sleep(PARTING).await;
        if !monitor.borrow().condition.is_reachable() {
            return;
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("status", &self.status()).finish()
    }
}

/// How many connections there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// The most there may be.
    pub max_size: usize,
    /// Open connections.
    pub size: usize,
    /// Open and not in use.
    pub available: usize,
    /// Callers that wait for one.
    pub waiting: usize,
}

impl Pool {
    /// A pool whose connections are opened and driven on `handle`, a multi-threaded runtime. Opens none yet.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(settings: &PostgresSettings, handle: Handle) -> Result<Self, SettingsError> {
        let connector = Connector::new(settings, handle.clone())?;
        let method = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_connect(connector.config.clone(), connector, method);
        let connections = deadpool_postgres::Pool::builder(manager)
            .max_size(settings.max_connections)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                // Sooner than the deadline, or a shortage of connections would look like an outage.
                wait: Some(settings.wait_timeout.min(settings.deadline / 2)),
                create: Some(settings.connect_timeout),
                recycle: None,
            })
            .build()
            .map_err(|_| SettingsError::Value("the Postgres pool cannot be built"))?;
        let shared = Shared {
            connections,
            handle,
            generation: AtomicU64::new(0),
            deadline: settings.deadline,
            batch_deadline: settings.batch_deadline,
            monitor: OnceLock::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Gives callers up from now on when this says that Postgres is gone, but for batches. The first call counts.
    pub fn heed(&self, monitor: watch::Receiver<StoreState>) {
        let _ = self.shared.monitor.set(monitor);
    }

    /// All rows of one statement, within the deadline. `name` is for metrics: `task_list`, not the SQL.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn query(
        &self,
        name: &'static str,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, QueryError> {
        let session = self.session(name).await?;
        let answer = session.within(session.query(sql, parameters)).await;
        session.finish(answer)
    }

    /// The only row of one statement, if it gives one.
    ///
    /// # Errors
    /// [`QueryError`], also when there is more than one row.
    pub async fn query_opt(
        &self,
        name: &'static str,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Option<Row>, QueryError> {
        self.query_opt_by(self.deadline(), name, sql, parameters).await
    }

    /// As [`Self::query_opt`], for one of several statements that share a deadline.
    ///
    /// # Errors
    /// [`QueryError`], also when there is more than one row.
    pub async fn query_opt_by(
        &self,
        deadline: Instant,
        name: &'static str,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Option<Row>, QueryError> {
        let limit = Limit::of_call(deadline, self.shared.deadline);
        let session = self.session_by(name, limit).await?;
        let answer = session.within(session.query_opt(sql, parameters)).await;
        session.finish(answer)
    }

    /// When a call that starts now must have its answer: with the request that it is made for, if there is one.
    pub fn deadline(&self) -> Instant {
        let usual = Instant::now() + self.shared.deadline;
        deadline::current().map_or(usual, |request| {
            usual.min(Instant::from_std(request.for_stores()))
        })
    }

    /// The caller's own answer of those that are asked for together, for as long as a call of its own could take. A question that
    /// nobody has come to by then says nothing of the server, as when no connection was free.
    ///
    /// # Errors
    /// What was answered, and [`QueryError`] when nothing was in time.
    pub(crate) async fn gathered<Q, T, E>(
        &self,
        gather: &Gather<Q, Result<T, E>>,
        question: Q,
    ) -> Result<T, E>
    where
        Q: Send + 'static,
        T: Send + 'static,
        E: From<QueryError> + Send + 'static,
    {
        let limit = Limit::of_call(self.deadline(), self.shared.deadline);
        let mut put = gather.put(question);
        match self.shared.within(limit, put.answer()).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(QueryError::Closed.into()),
            Err(QueryError::Deadline) => Err(self.late(put.withdraw()).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// What it means that there was no answer in time to a question that was taken then.
    fn late(&self, taken: Option<Instant>) -> QueryError {
        match taken {
            None => QueryError::Exhausted,
            Some(taken) if taken.elapsed() < self.shared.deadline / 2 => QueryError::Hurried,
            Some(_) => QueryError::Deadline,
        }
    }

    /// Where connections are driven.
    pub(crate) fn handle(&self) -> &Handle {
        &self.shared.handle
    }

    /// Runs one statement and tells how many rows it changed.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn execute(
        &self,
        name: &'static str,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<u64, QueryError> {
        let session = self.session(name).await?;
        let answer = session.within(session.execute(sql, parameters)).await;
        session.finish(answer)
    }

    /// A connection of one's own, until the deadline.
    ///
    /// # Errors
    /// [`QueryError`] when there is none to be had.
    pub async fn session(&self, name: &'static str) -> Result<Session, QueryError> {
        let limit = Limit::of_call(self.deadline(), self.shared.deadline);
        self.session_by(name, limit).await
    }

    /// A connection for a batch of the drain or a purge.
    ///
    /// # Errors
    /// [`QueryError`] when there is none to be had.
    pub async fn batch_session(&self, name: &'static str) -> Result<Session, QueryError> {
        let limit = Limit {
            ends: Instant::now() + self.shared.batch_deadline,
            is_fair: true,
            is_batch: true,
        };
        self.session_by(name, limit).await
    }

    /// A connection for a call that may take as long as a batch; when that has passed, it says nothing of the server. The
    /// limit of a statement is that of the whole.
    ///
    /// # Errors
    /// [`QueryError`] when there is none to be had.
    pub async fn long_session(&self, name: &'static str) -> Result<Session, QueryError> {
        let limit = Limit {
            ends: Instant::now() + self.shared.batch_deadline,
            is_fair: false,
            is_batch: false,
        };
        self.session_by(name, limit).await
    }

    async fn session_by(&self, name: &'static str, limit: Limit) -> Result<Session, QueryError> {
        let started = Instant::now();
        let generation = self.shared.generation.load(Ordering::Acquire);
        let got = if started < limit.ends {
            let got = self.shared.within(limit, self.shared.connections.get()).await;
            got.and_then(|got| got.map_err(why_none))
        } else {
            Err(limit.passed())
        };
        let object = got.inspect_err(count_error)?;
        Ok(Session {
            object: Some(object),
            pool: self.clone(),
            generation,
            name,
            started,
            limit,
        })
    }

    /// Closes all idle connections now, and those in use when they come back: after an outage nobody meets a connection
    /// that died in it unseen.
    pub fn clear(&self) {
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
        self.shared.connections.retain(|_, _| false);
    }

    /// Closes the pool for good: every later call fails.
    pub fn close(&self) {
        self.shared.connections.close();
    }

    /// How many connections there are.
    pub fn status(&self) -> PoolStatus {
        let status = self.shared.connections.status();
        PoolStatus {
            max_size: status.max_size,
            size: status.size,
            available: status.available,
            waiting: status.waiting,
        }
    }

    /// Sets the gauges; to be called before metrics are shown.
    #[allow(clippy::cast_precision_loss, reason = "counts of connections")]
    pub fn publish_metrics(&self) {
        let status = self.status();
        metrics::gauge!("gravity_postgres_pool_size").set(status.size as f64);
        metrics::gauge!("gravity_postgres_pool_available").set(status.available as f64);
        metrics::gauge!("gravity_postgres_pool_waiting").set(status.waiting as f64);
    }
}

fn why_none(error: PoolError) -> QueryError {
    match error {
        PoolError::Timeout(TimeoutType::Wait) => QueryError::Exhausted,
        PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => QueryError::Connect(None),
        PoolError::Backend(error) => QueryError::Connect(Some(error)),
        PoolError::Closed => QueryError::Closed,
        PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => QueryError::Connect(None),
    }
}

fn count_error(error: &QueryError) {
    metrics::counter!("gravity_postgres_errors_total", "reason" => error.word()).increment(1);
}

/// A connection, until its deadline. Unless [`Self::finish`] sees an answer, it leaves the pool for good.
pub struct Session {
    object: Option<Object>,
    pool: Pool,
    generation: u64,
    name: &'static str,
    started: Instant,
    limit: Limit,
}

impl Session {
    /// The connection, for pipelining and transactions.
    pub fn client(&self) -> &ClientWrapper {
        // Only `finish` and `drop` empty it, and both consume the session.
        self.object
            .as_ref()
            .expect("a session has its connection to the end")
    }

    /// Awaits an answer until the deadline.
    ///
    /// # Errors
    /// [`QueryError::Deadline`], [`QueryError::Hurried`], [`QueryError::GivenUp`], [`QueryError::Driver`].
    pub async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, QueryError> {
        let answer = self.pool.shared.within(self.limit, answer).await?;
        answer.map_err(QueryError::Driver)
    }

    /// Gives the connection back if `answer` shows that it can be used again, outside any transaction.
    ///
    /// # Errors
    /// Those of `answer`.
    pub fn finish<T>(mut self, answer: Result<T, QueryError>) -> Result<T, QueryError> {
        let elapsed = self.started.elapsed().as_secs_f64();
        metrics::histogram!("gravity_postgres_query_seconds", "query" => self.name).record(elapsed);
        if let Err(error) = &answer {
            count_error(error);
            if error.outdates_statements() {
                self.pool.shared.connections.manager().statement_caches.clear();
            }
        }
        let usable = answer
            .as_ref()
            .err()
            .is_none_or(QueryError::leaves_session_usable);
        let current = self.generation == self.pool.shared.generation.load(Ordering::Acquire);
        if usable && current {
            drop(self.object.take());
        }
        answer
    }

    async fn query(&self, sql: &str, parameters: &Parameters<'_>) -> Result<Vec<Row>, DriverError> {
        let statement = self.client().prepare_cached(sql).await?;
        self.client().query(&statement, parameters).await
    }

    async fn query_opt(&self, sql: &str, parameters: &Parameters<'_>) -> Result<Option<Row>, DriverError> {
        let statement = self.client().prepare_cached(sql).await?;
        self.client().query_opt(&statement, parameters).await
    }

    async fn execute(&self, sql: &str, parameters: &Parameters<'_>) -> Result<u64, DriverError> {
        let statement = self.client().prepare_cached(sql).await?;
        self.client().execute(&statement, parameters).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            drop(Object::take(object));
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
