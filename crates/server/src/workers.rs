//! Scheduled work: the drain's safety net, purges, and the upkeep of metrics, of the pool and of the clock.
//!
//! A run that is due while the one before still works is skipped. Purges hold an advisory lock, so one node at a time does
//! them. Everything here may be skipped or repeated without harm.

use gravity_domain::clock::{HybridClock, RESERVE_EVERY_MS};
use gravity_domain::sync::ports::Breaker;
use gravity_infra::monitor::StoreState;
use gravity_infra::postgres::Pool;
use gravity_infra::processor::ProcessorHandle;
use gravity_infra::sync::RowsPurge;
use gravity_usecase::chat::NotifyAbsent;
use metrics_exporter_prometheus::PrometheusHandle;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};
use tokio_util::sync::CancellationToken;

/// Seconds field first. Not on the hour, when everybody's jobs run.
const HOURLY: &str = "0 17 * * * *";
const UPKEEP: Duration = Duration::from_secs(5);
/// How often it is looked who is to be told of messages.
const TELL: Duration = Duration::from_secs(1);
/// For what is being told at the end; another node takes it up again.
const LAST_WORD: Duration = Duration::from_secs(3);

/// What the jobs work on.
#[derive(Clone)]
pub struct Work {
    /// The drain.
    pub processor: Arc<ProcessorHandle>,
    /// Lets go of old rows.
    pub purge: RowsPurge,
    /// Whether Postgres is worth trying.
    pub breaker: Arc<dyn Breaker>,
    /// Its status goes into the metrics, and its connections go with the outage that they may have died in.
    pub pool: Pool,
    /// Tells of outages of Postgres.
    pub postgres: watch::Receiver<StoreState>,
    /// Has its stamps reserved ahead.
    pub clock: Arc<HybridClock>,
    /// Tells those who are not there of their messages.
    pub notify: Arc<NotifyAbsent>,
    /// The recorder that wants upkeep.
    pub recorder: PrometheusHandle,
    /// How long tombstones are kept.
    pub tombstone_retention: Duration,
    /// How long operation ids are kept.
    pub applied_retention: Duration,
    /// How long users' events are kept.
    pub event_retention: Duration,
    /// How often the drain looks at least.
    pub sync_interval: Duration,
}

/// The running schedule, and what goes on beside it.
pub struct Workers {
    scheduler: JobScheduler,
    stop: CancellationToken,
    beside: [JoinHandle<()>; 3],
}

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
        let (pool, recorder, notify) = (work.pool.clone(), work.recorder.clone(), Arc::clone(&work.notify));
        let upkeep = move || {
            pool.publish_metrics();
            recorder.run_upkeep();
            let notify = Arc::clone(&notify);
            async move { notify.publish_metrics().await }
        };
        scheduler.add(every(UPKEEP, upkeep)?).await?;
        let stop = CancellationToken::new();
        let fresh = keep_fresh(work.pool.clone(), work.postgres.clone());
        let ahead = reserve_ahead(Arc::clone(&work.clock), stop.clone());
        let telling = tell_absent(Arc::clone(&work.notify), stop.clone());
        let beside = [tokio::spawn(fresh), tokio::spawn(ahead), tokio::spawn(telling)];
        scheduler.add(hourly(move || purge(work.clone()))?).await?;
        scheduler.start().await?;
        Ok(Self {
            scheduler,
            stop,
            beside,
        })
    }

    /// No job begins any more, and no stamps are reserved.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let [fresh, ahead, mut telling] = self.beside;
        fresh.abort();
        // A panic has been told of.
        let _ = ahead.await;
        if timeout(LAST_WORD, &mut telling).await.is_err() {
            telling.abort();
        }
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::warn!(
                error = &error as &dyn Error,
                "the scheduler did not stop in order"
            );
        }
    }
}

/// Closes the pooled connections whenever Postgres goes, comes back, or takes no more writes: those of the time before may
/// have died unseen, or lead to what is a standby now.
async fn keep_fresh(pool: Pool, mut postgres: watch::Receiver<StoreState>) {
    while postgres.changed().await.is_ok() {
        pool.clear();
    }
}

/// Tells those who are not there of their messages, round after round while there are jobs.
async fn tell_absent(notify: Arc<NotifyAbsent>, stop: CancellationToken) {
    let mut ticks = interval(TELL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        while notify.round().await && !stop.is_cancelled() {}
    }
}

/// Has stamps reserved where a synced write keeps nobody waiting.
async fn reserve_ahead(clock: Arc<HybridClock>, stop: CancellationToken) {
    let mut ticks = interval(Duration::from_millis(RESERVE_EVERY_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if clock.wants_reservation() {
            let clock = Arc::clone(&clock);
            if let Err(error) = spawn_blocking(move || clock.reserve_ahead()).await {
                tracing::error!(error = &error as &dyn Error, "stamps could not be reserved ahead");
            }
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
    let events = work.purge.purge_events(work.event_retention).await;
    note("user_events", events, &*work.breaker);
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
    use gravity_domain::clock::{NodeId, StampStore, Timestamp, WallClock};
    use gravity_infra::monitor::Condition;
    use gravity_infra::postgres::PostgresSettings;
    use gravity_test_support::services::Postgres;
    use std::sync::atomic::{AtomicU64, AtomicUsize};
    use tokio::runtime::Handle;
    use tokio::sync::Notify;

    async fn until(mut is_so: impl FnMut() -> bool) {
        let patience = Duration::from_secs(10);
        let waiting = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(patience, waiting)
            .await
            .expect("it never was");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_connection_of_before_an_outage_is_used_after_it() {
        let server = Postgres::start_private().unwrap();
        let settings = PostgresSettings::from_url(server.url("postgres"));
        let pool = Pool::new(&settings, Handle::current()).unwrap();
        let state = |condition| StoreState {
            condition,
            last_check: None,
            since: Timestamp::EPOCH,
        };
        let up = state(Condition::Up {
            latency: Duration::ZERO,
        });
        let (tell, postgres) = watch::channel(up);
        let keeping = tokio::spawn(keep_fresh(pool.clone(), postgres));
        pool.execute("test", "SELECT 1", &[]).await.unwrap();
        assert_eq!(pool.status().size, 1);
        tell.send_replace(state(Condition::Down { reason: "timeout" }));
        until(|| pool.status().size == 0).await;
        pool.execute("test", "SELECT 1", &[]).await.unwrap();
        tell.send_replace(up);
        until(|| pool.status().size == 0).await;
        keeping.abort();
    }

    struct Wall(AtomicU64);
    impl WallClock for Wall {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(i64::try_from(self.0.load(Ordering::SeqCst)).unwrap())
        }
    }

    #[derive(Default)]
    struct Kept(AtomicU64);
    impl StampStore for Kept {
        fn reserve(&self, ceiling_ms: u64) {
            self.0.store(ceiling_ms, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn stamps_are_reserved_before_somebody_needs_them_until_the_end() {
        let (wall, kept) = (Arc::new(Wall(5_000.into())), Arc::new(Kept::default()));
        let clock = HybridClock::new(NodeId(1), 0, 1_000, wall.clone(), kept.clone());
        let (clock, stop) = (Arc::new(clock), CancellationToken::new());
        clock.stamp();
        wall.0.store(5_700, Ordering::SeqCst);
        let reserving = tokio::spawn(reserve_ahead(Arc::clone(&clock), stop.clone()));
        until(|| kept.0.load(Ordering::SeqCst) == 6_700).await;
        stop.cancel();
        reserving.await.unwrap();
    }

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
