//! Scheduled work: the drain's safety net, purges, and the upkeep of metrics.
//!
//! A run that is due while the one before still works is skipped. Purges hold an advisory lock, so one node at a time does
//! them. Everything here may be skipped or repeated without harm.

use gravity_domain::sync::ports::Breaker;
use gravity_infra::postgres::Pool;
use gravity_infra::processor::ProcessorHandle;
use gravity_infra::sync::RowsPurge;
use metrics_exporter_prometheus::PrometheusHandle;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

/// Seconds field first. Not on the hour, when everybody's jobs run.
const HOURLY: &str = "0 17 * * * *";
const UPKEEP: Duration = Duration::from_secs(5);

/// What the jobs work on.
#[derive(Clone)]
pub struct Work {
    /// The drain.
    pub processor: Arc<ProcessorHandle>,
    /// Lets go of old rows.
    pub purge: RowsPurge,
    /// Whether Postgres is worth trying.
    pub breaker: Arc<dyn Breaker>,
    /// Its status goes into the metrics.
    pub pool: Pool,
    /// The recorder that wants upkeep.
    pub recorder: PrometheusHandle,
    /// How long tombstones are kept.
    pub tombstone_retention: Duration,
    /// How long operation ids are kept.
    pub applied_retention: Duration,
    /// How often the drain looks at least.
    pub sync_interval: Duration,
}

/// The running schedule.
pub struct Workers(JobScheduler);

impl Workers {
    /// Starts all jobs on the current runtime.
    ///
    /// # Errors
    /// The scheduler's.
    pub async fn start(work: Work) -> Result<Self, JobSchedulerError> {
        let scheduler = JobScheduler::new().await?;
        let processor = Arc::clone(&work.processor);
        let kick = move || {
            processor.kick();
            std::future::ready(())
        };
        scheduler.add(every(work.sync_interval, kick)?).await?;
        let (pool, recorder) = (work.pool.clone(), work.recorder.clone());
        let upkeep = move || {
            pool.publish_metrics();
            recorder.run_upkeep();
            std::future::ready(())
        };
        scheduler.add(every(UPKEEP, upkeep)?).await?;
        scheduler.add(hourly(move || purge(work.clone()))?).await?;
        scheduler.start().await?;
        Ok(Self(scheduler))
    }

    /// No job begins any more.
    pub async fn stop(mut self) {
        if let Err(error) = self.0.shutdown().await {
            tracing::warn!(
                error = &error as &dyn Error,
                "the scheduler did not stop in order"
            );
        }
    }
}

fn every<F>(interval: Duration, run: impl Fn() -> F + Send + Sync + 'static) -> Result<Job, JobSchedulerError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let one = Alone::new(run);
    Job::new_repeated_async(interval, move |_, _| one.run())
}

fn hourly<F>(run: impl Fn() -> F + Send + Sync + 'static) -> Result<Job, JobSchedulerError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let one = Alone::new(run);
    Job::new_async(HOURLY, move |_, _| one.run())
}

/// Work of which one run at most goes on.
struct Alone<R> {
    work: R,
    running: Arc<AtomicBool>,
}

impl<R, F> Alone<R>
where
    R: Fn() -> F,
    F: Future<Output = ()> + Send + 'static,
{
    fn new(work: R) -> Self {
        Self {
            work,
            running: Arc::default(),
        }
    }

    fn run(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        if self.running.swap(true, Ordering::AcqRel) {
            return Box::pin(std::future::ready(()));
        }
        let over = Over(Arc::clone(&self.running));
        let work = (self.work)();
        Box::pin(async move {
            let _over = over;
            work.await;
        })
    }
}

/// Says that the run is over, however it ended.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

async fn purge(work: Work) {
    if !work.breaker.allows_writes() {
        return;
    }
    let tombstones = work.purge.purge_tombstones(work.tombstone_retention).await;
    note("tombstones", tombstones, &*work.breaker);
    let applied = work.purge.purge_applied(work.applied_retention).await;
    note("applied_operations", applied, &*work.breaker);
}

fn note(what: &'static str, result: Result<u64, gravity_domain::error::StoreError>, breaker: &dyn Breaker) {
    match result {
        Ok(0) => {}
        Ok(rows) => {
            metrics::counter!("gravity_purged_rows_total", "what" => what).increment(rows);
            tracing::info!(what, rows, "purged");
        }
        Err(error) => {
            breaker.failed(&error);
            tracing::warn!(what, error = &error as &dyn Error, "could not purge");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn a_run_that_is_due_while_the_one_before_works_is_skipped() {
        let (begun, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counter, gate) = (Arc::clone(&begun), Arc::clone(&go_on));
        let one = Alone::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
            let gate = Arc::clone(&gate);
            async move { gate.notified().await }
        });
        let first = one.run();
        one.run().await;
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        go_on.notify_one();
        first.await;
        drop(one.run());
        assert_eq!(begun.load(Ordering::SeqCst), 2);
    }
}
