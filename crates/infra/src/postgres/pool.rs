//! The pool: connections with a deadline around everything.
//!
//! A timeout does not stop a query, so a connection whose query did not come to its end (deadline, a caller that went
//! away, a lost connection, a server that became read-only) leaves the pool with it, and nobody inherits its wait.

use super::connect::Connector;
use super::error::QueryError;
use super::settings::{PostgresSettings, SettingsError};
use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, PoolError, RecyclingMethod, Runtime, TimeoutType, Timeouts,
};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error as DriverError, Row};

type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// Hands out connections. Cheap to clone; usable from any runtime.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    connections: deadpool_postgres::Pool,
    /// Raised by [`Pool::clear`]: sessions of an earlier generation do not come back.
    generation: AtomicU64,
    deadline: Duration,
    batch_deadline: Duration,
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
        let connector = Connector::new(settings, handle)?;
        let method = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_connect(connector.config.clone(), connector, method);
        let connections = deadpool_postgres::Pool::builder(manager)
            .max_size(settings.max_connections)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(settings.wait_timeout.min(settings.deadline)),
                create: Some(settings.connect_timeout),
                recycle: None,
            })
            .build()
            .map_err(|_| SettingsError::Value("the Postgres pool cannot be built"))?;
        let shared = Shared {
            connections,
            generation: AtomicU64::new(0),
            deadline: settings.deadline,
            batch_deadline: settings.batch_deadline,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
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
        let session = self.session_by(name, deadline).await?;
        let answer = session.within(session.query_opt(sql, parameters)).await;
        session.finish(answer)
    }

    /// When a call that starts now must have its answer.
    pub fn deadline(&self) -> Instant {
        Instant::now() + self.shared.deadline
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
        self.session_by(name, self.deadline()).await
    }

    /// A connection for a batch of the drain or a purge.
    ///
    /// # Errors
    /// [`QueryError`] when there is none to be had.
    pub async fn batch_session(&self, name: &'static str) -> Result<Session, QueryError> {
        self.session_by(name, Instant::now() + self.shared.batch_deadline)
            .await
    }

    async fn session_by(&self, name: &'static str, deadline: Instant) -> Result<Session, QueryError> {
        let started = Instant::now();
        let generation = self.shared.generation.load(Ordering::Acquire);
        let got = match tokio::time::timeout_at(deadline, self.shared.connections.get()).await {
            Ok(got) => got.map_err(why_none),
            Err(_) => Err(QueryError::Deadline),
        };
        let object = got.inspect_err(count_error)?;
        Ok(Session {
            object: Some(object),
            pool: self.clone(),
            generation,
            name,
            started,
            deadline,
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
    deadline: Instant,
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
    /// [`QueryError::Deadline`], [`QueryError::Driver`].
    pub async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, QueryError> {
        match tokio::time::timeout_at(self.deadline, answer).await {
            Ok(answer) => answer.map_err(QueryError::Driver),
            Err(_) => Err(QueryError::Deadline),
        }
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
