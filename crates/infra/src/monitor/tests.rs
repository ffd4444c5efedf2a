use super::*;
use gravity_domain::clock::SystemClock;
use std::sync::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, advance, sleep, timeout};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Well,
    ReadOnly,
    Refuses,
    Busy,
    Hangs,
    Slow(Duration),
    Panics,
}

struct FakeProbe {
    mood: Mutex<Mood>,
    pings: Mutex<Vec<Instant>>,
    turned: Notify,
}

impl FakeProbe {
    fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
        self.turned.notify_waiters();
    }

    fn pings(&self) -> usize {
        self.pings.lock().unwrap().len()
    }
}

const WRITABLE: Result<ProbeAnswer, StoreError> = Ok(ProbeAnswer { writable: true });

#[async_trait]
impl Probe for FakeProbe {
    async fn ping(&self) -> Result<ProbeAnswer, StoreError> {
        self.pings.lock().unwrap().push(Instant::now());
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well => WRITABLE,
            Mood::ReadOnly => Ok(ProbeAnswer { writable: false }),
            Mood::Refuses => Err(StoreError::unavailable("connect")),
            Mood::Busy => Err(StoreError::Busy {
                reason: "connections",
                source: None,
            }),
            Mood::Slow(time) => {
                sleep(time).await;
                WRITABLE
            }
            Mood::Hangs => {
                // As a stopped server does, it answers once it goes on.
                while *self.mood.lock().unwrap() == Mood::Hangs {
                    self.turned.notified().await;
                }
                WRITABLE
            }
            Mood::Panics => panic!("the probe's panic of this test"),
        }
    }
}

fn start(mood: Mood) -> (Arc<FakeProbe>, Monitor) {
    let probe = Arc::new(FakeProbe {
        mood: Mutex::new(mood),
        pings: Mutex::default(),
        turned: Notify::new(),
    });
    let monitor = Monitor::spawn(
        "postgres",
        Arc::clone(&probe) as Arc<dyn Probe>,
        MonitorSettings::default(),
        Arc::new(SystemClock),
        CancellationToken::new(),
    );
    (probe, monitor)
}

async fn becomes(monitor: &Monitor, name: &str) -> Duration {
    let began = Instant::now();
    let mut states = monitor.subscribe();
    timeout(
        Duration::from_secs(60),
        states.wait_for(|state| state.condition.as_str() == name),
    )
    .await
    .expect("in time")
    .unwrap();
    began.elapsed()
}

/// Up, with the doubt window behind it.
async fn settled() -> (Arc<FakeProbe>, Monitor) {
    let (probe, monitor) = start(Mood::Well);
    becomes(&monitor, "up").await;
    sleep(Duration::from_secs(3)).await;
    (probe, monitor)
}

fn outage() -> StoreError {
    StoreError::unavailable("timeout")
}

#[tokio::test(start_paused = true)]
async fn nothing_is_allowed_before_the_first_ping_and_everything_after_it() {
    let (_probe, monitor) = start(Mood::Well);
    assert!(!monitor.allows_reads() && !monitor.allows_writes());
    assert_eq!(monitor.state().last_check, None);
    becomes(&monitor, "up").await;
    assert!(monitor.allows_reads() && monitor.allows_writes());
    assert!(monitor.state().last_check.is_some());
}

#[tokio::test(start_paused = true)]
async fn it_starts_with_the_store_down_and_notices_it_coming() {
    let (probe, monitor) = start(Mood::Refuses);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(monitor.state().condition, Condition::Down { reason: "connect" });
    assert!((20..=21).contains(&probe.pings()), "{} pings", probe.pings());
    probe.set(Mood::Well);
    assert!(becomes(&monitor, "up").await <= Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn it_pings_every_ten_seconds_while_all_is_well_and_wakes_nobody_for_it() {
    let (probe, monitor) = start(Mood::Well);
    becomes(&monitor, "up").await;
    let states = monitor.subscribe();
    sleep(Duration::from_secs(55)).await;
    assert_eq!(probe.pings(), 6);
    assert!(!states.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_failed_request_opens_at_once_and_a_burst_causes_one_ping() {
    let (probe, monitor) = settled().await;
    probe.set(Mood::Refuses);
    let before = probe.pings();
    for _ in 0..1_000 {
        monitor.failed(&outage());
    }
    assert!(!monitor.allows_writes() && !monitor.allows_reads());
    assert_eq!(monitor.state().condition, Condition::Down { reason: "timeout" });
    sleep(Duration::from_millis(100)).await;
    assert_eq!(probe.pings() - before, 1);
    probe.set(Mood::Well);
    assert!(becomes(&monitor, "up").await <= Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_outage_changes_nothing() {
    let (_probe, monitor) = settled().await;
    monitor.failed(&StoreError::Busy {
        reason: "pool",
        source: None,
    });
    monitor.failed(&StoreError::Rejected {
        reason: "check".into(),
        source: None,
    });
    monitor.failed(&StoreError::unavailable("breaker_open"));
    assert!(monitor.allows_writes());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_down_after_the_limit_and_up_as_soon_as_it_goes_on() {
    let (probe, monitor) = settled().await;
    probe.set(Mood::Hangs);
    let time = becomes(&monitor, "down").await;
    assert!(time <= Duration::from_secs(15), "{time:?}");
    assert_eq!(monitor.state().condition, Condition::Down { reason: "timeout" });
    probe.set(Mood::Well);
    assert!(becomes(&monitor, "up").await <= Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn a_ping_in_flight_when_a_request_fails_is_made_again() {
    let (probe, monitor) = settled().await;
    probe.set(Mood::Slow(Duration::from_millis(700)));
    let mut pings = probe.pings();
    while probe.pings() == pings {
        sleep(Duration::from_millis(10)).await;
    }
    pings = probe.pings();
    sleep(Duration::from_millis(600)).await;
    monitor.failed(&outage());
    // The ping in flight would answer in 100 ms, but it began before the failure: it proves nothing.
    assert!(becomes(&monitor, "up").await >= Duration::from_millis(700));
    assert_eq!(probe.pings() - pings, 1);
}

#[tokio::test(start_paused = true)]
async fn late_failures_of_requests_that_began_before_the_recovery_do_not_flap_the_state() {
    let (probe, monitor) = start(Mood::Well);
    becomes(&monitor, "up").await;
    let states = monitor.subscribe();
    for _ in 0..1_000 {
        monitor.failed(&outage());
        sleep(Duration::from_millis(1)).await;
        assert!(monitor.allows_writes());
    }
    assert!(!states.has_changed().unwrap());
    assert!(probe.pings() <= 12, "{} pings", probe.pings());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_away_again_within_the_doubt_window_is_noticed_soon() {
    for mood in [Mood::Hangs, Mood::Refuses] {
        let (probe, monitor) = start(Mood::Well);
        becomes(&monitor, "up").await;
        probe.set(mood);
        monitor.failed(&outage());
        assert!(becomes(&monitor, "down").await <= Duration::from_millis(250));
        probe.set(Mood::Well);
        assert!(becomes(&monitor, "up").await <= Duration::from_millis(250));
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_only_store_serves_reads_and_is_asked_often_until_it_takes_writes() {
    let (probe, monitor) = settled().await;
    probe.set(Mood::ReadOnly);
    monitor.failed(&StoreError::unavailable("read_only"));
    assert!(monitor.allows_reads() && !monitor.allows_writes());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(monitor.state().condition, Condition::ReadOnly);
    assert!(monitor.allows_reads() && !monitor.allows_writes());
    probe.set(Mood::Well);
    assert!(becomes(&monitor, "up").await <= Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn a_store_without_a_connection_to_spare_neither_opens_nor_closes_the_breaker() {
    let (probe, monitor) = settled().await;
    probe.set(Mood::Busy);
    sleep(Duration::from_secs(30)).await;
    assert!(monitor.allows_writes());
    monitor.failed(&outage());
    sleep(Duration::from_secs(5)).await;
    assert!(!monitor.allows_writes());
    assert_eq!(
        monitor.state().condition,
        Condition::Down {
            reason: "connections"
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_probe_counts_as_no_answer_and_does_not_end_the_watch() {
    let (probe, monitor) = settled().await;
    probe.set(Mood::Panics);
    becomes(&monitor, "down").await;
    probe.set(Mood::Well);
    assert!(becomes(&monitor, "up").await <= Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn the_watch_ends_when_it_is_stopped() {
    let stop = CancellationToken::new();
    let probe = Arc::new(FakeProbe {
        mood: Mutex::new(Mood::Well),
        pings: Mutex::default(),
        turned: Notify::new(),
    });
    let monitor = Monitor::spawn(
        "redis",
        Arc::clone(&probe) as Arc<dyn Probe>,
        MonitorSettings::default(),
        Arc::new(SystemClock),
        stop.clone(),
    );
    becomes(&monitor, "up").await;
    stop.cancel();
    advance(Duration::from_secs(60)).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(probe.pings(), 1);
    assert_eq!(Arc::strong_count(&probe), 1);
}
