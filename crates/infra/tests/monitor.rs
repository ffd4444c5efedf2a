//! The monitors over real servers that are killed, stopped, cut off, and made read-only.

use gravity_domain::auth::Secret;
use gravity_domain::clock::SystemClock;
use gravity_domain::error::StoreError;
use gravity_domain::sync::ports::Breaker as _;
use gravity_infra::monitor::{Condition, Monitor, MonitorSettings, Probe};
use gravity_infra::postgres::PostgresSettings;
use gravity_infra::postgres::probe::PostgresProbe;
use gravity_infra::redis::RedisSettings;
use gravity_infra::redis::probe::RedisProbe;
use gravity_test_support::services::{Postgres, Redis};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

const SECOND: Duration = Duration::from_secs(1);

fn watch(store: &'static str, probe: impl Probe) -> Monitor {
    let settings = MonitorSettings {
        // So that no test depends on whether a failure came within it.
        doubt_window: Duration::ZERO,
        ..MonitorSettings::default()
    };
    Monitor::spawn(
        store,
        Arc::new(probe),
        settings,
        Arc::new(SystemClock),
        CancellationToken::new(),
    )
}

fn watch_postgres(server: &Postgres) -> Monitor {
    let settings = PostgresSettings::from_url(server.url("postgres"));
    watch(
        "postgres",
        PostgresProbe::new(&settings, Handle::current()).unwrap(),
    )
}

fn watch_redis(server: &Redis) -> Monitor {
    let settings = RedisSettings::new(Secret::new(server.url()));
    watch("redis", RedisProbe::new(&settings).unwrap())
}

/// How long it took.
async fn becomes(monitor: &Monitor, name: &str) -> Duration {
    let began = Instant::now();
    let mut states = monitor.subscribe();
    let turned = states.wait_for(|state| state.condition.as_str() == name);
    tokio::time::timeout(20 * SECOND, turned)
        .await
        .unwrap_or_else(|_| panic!("it does not become {name}: {:?}", monitor.state()))
        .unwrap();
    began.elapsed()
}

/// Gives evidence as writes do that keep failing: the first may be told before Postgres has read its settings again.
async fn fails_until(monitor: &Monitor, name: &str) {
    let deadline = Instant::now() + 2 * SECOND;
    while monitor.state().condition.as_str() != name {
        assert!(
            Instant::now() < deadline,
            "it does not become {name}: {:?}",
            monitor.state()
        );
        monitor.failed(&StoreError::unavailable("read_only"));
        tokio::time::sleep(SECOND / 10).await;
    }
}

/// A server's call that blocks.
async fn blocking<S: Send + Sync + 'static, T: Send + 'static>(
    server: &Arc<S>,
    call: impl FnOnce(&S) -> T + Send + 'static,
) -> T {
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || call(&server)).await.unwrap()
}

fn evidence() -> StoreError {
    StoreError::unavailable("closed")
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_and_started_again_is_up_within_a_second() {
    let server = Arc::new(Postgres::start_private().unwrap());
    let monitor = watch_postgres(&server);
    becomes(&monitor, "up").await;
    for _ in 0..3 {
        blocking(&server, Postgres::kill).await;
        monitor.failed(&evidence());
        assert!(!monitor.allows_writes());
        becomes(&monitor, "down").await;
        tokio::time::sleep(SECOND / 2).await;
        assert!(!monitor.allows_reads());
        blocking(&server, |server| server.start().unwrap()).await;
        let time = becomes(&monitor, "up").await;
        assert!(time < SECOND, "{time:?}");
        assert!(monitor.allows_writes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_stopped_is_down_until_it_goes_on() {
    let server = Arc::new(Postgres::start_private().unwrap());
    let monitor = watch_postgres(&server);
    becomes(&monitor, "up").await;
    blocking(&server, |server| server.pause().unwrap()).await;
    monitor.failed(&StoreError::unavailable("timeout"));
    tokio::time::sleep(3 * SECOND).await;
    assert!(!monitor.state().condition.is_reachable());
    assert!(!monitor.allows_reads());
    blocking(&server, |server| server.resume().unwrap()).await;
    let time = becomes(&monitor, "up").await;
    assert!(time < SECOND, "{time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_that_takes_no_writes_is_read_only_until_it_does() {
    let server = Postgres::start_private().unwrap();
    let (client, connection) = tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let monitor = watch_postgres(&server);
    becomes(&monitor, "up").await;
    for (setting, name) in [("on", "read_only"), ("off", "up")] {
        client
            .execute("SET default_transaction_read_only = off", &[])
            .await
            .unwrap();
        let change = format!("ALTER SYSTEM SET default_transaction_read_only = {setting}");
        client.execute(change.as_str(), &[]).await.unwrap();
        client.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
        if setting == "on" {
            fails_until(&monitor, name).await;
        }
        let time = becomes(&monitor, name).await;
        assert!(time < SECOND, "{time:?}");
        assert!(monitor.allows_reads());
        assert_eq!(monitor.allows_writes(), setting == "off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_of_the_probe_is_not_left_behind() {
    let server = Postgres::start_private().unwrap();
    let (client, connection) = tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let monitor = watch_postgres(&server);
    becomes(&monitor, "up").await;
    for _ in 0..20 {
        monitor.failed(&evidence());
        becomes(&monitor, "up").await;
    }
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'gravity-monitor'";
    let open: i64 = client.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(open, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_stopped_and_started_again_is_up_within_a_second() {
    let server = Arc::new(Redis::start_private().unwrap());
    let monitor = watch_redis(&server);
    becomes(&monitor, "up").await;
    blocking(&server, Redis::kill).await;
    monitor.failed(&evidence());
    becomes(&monitor, "down").await;
    tokio::time::sleep(SECOND / 2).await;
    assert!(!monitor.allows_reads());
    blocking(&server, |server| server.start().unwrap()).await;
    let time = becomes(&monitor, "up").await;
    assert!(time < SECOND, "{time:?}");

    blocking(&server, |server| server.pause().unwrap()).await;
    monitor.failed(&StoreError::unavailable("timeout"));
    tokio::time::sleep(3 * SECOND).await;
    assert!(!monitor.allows_reads());
    blocking(&server, |server| server.resume().unwrap()).await;
    let time = becomes(&monitor, "up").await;
    assert!(time < SECOND, "{time:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_of_nothing_starts_and_stays_down() {
    let settings = PostgresSettings::from_url("postgres://nobody@127.0.0.1:1/nothing");
    let monitor = watch(
        "postgres",
        PostgresProbe::new(&settings, Handle::current()).unwrap(),
    );
    tokio::time::sleep(SECOND).await;
    assert_eq!(monitor.state().condition, Condition::Down { reason: "connect" });
    assert!(monitor.state().last_check.is_some());
}
