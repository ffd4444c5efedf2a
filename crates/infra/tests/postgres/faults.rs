//! Postgres busy, paused, killed, read-only, and connections that die. Whoever breaks a server has one of its own.

use crate::fixture::{Author, Fixture, at};
use gravity_domain::clock::Timestamp;
use gravity_domain::deadline::{self, Deadline};
use gravity_domain::error::StoreError;
use gravity_domain::sync::ports::{EntityStore, OperationStore, ReplayStore};
use gravity_domain::sync::{BatchError, Verdict};
use gravity_infra::monitor::{Condition, StoreState};
use gravity_infra::postgres::{Pool, PostgresAddress, PostgresSettings, Secret, TlsMode, connect};
use gravity_infra::sync::PostgresOperations;
use gravity_infra::task::PostgresTasks;
use gravity_test_support::services::Postgres;
use gravity_test_support::services::fault_proxy::{FaultProxy, POSTGRES_IDLE};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;

const SLACK: Duration = Duration::from_millis(700);

fn unavailable(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unavailable { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

fn busy(error: &StoreError) -> &'static str {
    match error {
        StoreError::Busy { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

fn url(settings: &PostgresSettings) -> &str {
    match &settings.address {
        PostgresAddress::Url(Secret(url)) => url,
        other => panic!("{other:?}"),
    }
}

/// A fixture, a proxy before its server, and operations that go through it.
async fn behind_a_proxy() -> (Fixture, FaultProxy, Pool) {
    let fixture = Fixture::new().await;
    let config: tokio_postgres::Config = url(&fixture.settings).parse().unwrap();
    let port = config.get_ports()[0];
    let proxy = FaultProxy::to_port(port).unwrap();
    let mut settings = fixture.settings.clone();
    let through = url(&settings).replace(&format!(":{port}/"), &format!(":{}/", proxy.port()));
    settings.address = PostgresAddress::Url(Secret(through));
    settings.tls_mode = TlsMode::Disable;
    let pool = Pool::new(&settings, Handle::current()).unwrap();
    (fixture, proxy, pool)
}

#[tokio::test]
async fn when_all_connections_are_in_use_the_store_is_busy_and_not_away() {
    let fixture = Fixture::with(|settings| {
        settings.max_connections = 1;
        settings.wait_timeout = Duration::from_millis(50);
    })
    .await;
    let held = fixture.pool.session("test").await.unwrap();
    let started = Instant::now();
    let error = fixture
        .operations
        .apply(&Author::new().create(at(1), "one"))
        .await
        .unwrap_err();
    assert_eq!(busy(&error), "pool");
    assert!(error.is_transient() && !error.is_outage());
    assert!(started.elapsed() < SLACK);
    held.finish(Ok(())).unwrap();
    fixture.apply(&Author::new().create(at(1), "one")).await;
}

#[tokio::test]
async fn when_the_server_has_no_connection_left_it_is_busy_and_not_away() {
    let fixture = Fixture::new().await;
    let role = format!("limited_{}", Uuid::now_v7().simple());
    fixture
        .execute(&format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT 1"))
        .await;
    let mut settings = fixture.settings.clone();
    let limited = url(&settings).replace("postgres://postgres", &format!("postgres://{role}"));
    settings.address = PostgresAddress::Url(Secret(limited));
    let first = connect(&settings, &Handle::current()).await.unwrap();
    let error = connect(&settings, &Handle::current()).await.unwrap_err();
    assert_eq!(busy(&error), "connections");
    drop(first);
    eventually("the connection of a dropped client is closed", async || {
        connect(&settings, &Handle::current()).await.is_ok()
    })
    .await;
    fixture.execute(&format!("DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_costs_one_deadline_and_nobody_inherits_the_connection() {
    let server = Postgres::start_private().unwrap();
    let fixture = Fixture::on(&server.url("postgres"), |settings| {
        settings.deadline = Duration::from_millis(300);
        settings.connect_timeout = Duration::from_millis(300);
    })
    .await;
    let alice = Author::new();
    fixture.apply(&alice.create(at(1), "one")).await;
    assert_eq!(fixture.pool.status().size, 1);

    server.pause().unwrap();
    let unsure = alice.create(at(2), "two");
    for (operation, reason) in [
        (&unsure, &["timeout"][..]),
        (&alice.create(at(3), "three"), &["connect", "timeout"]),
    ] {
        let started = Instant::now();
        let error = fixture.operations.apply(operation).await.unwrap_err();
        assert!(reason.contains(&unavailable(&error)), "{error:?}");
        assert!(started.elapsed() < Duration::from_millis(300) + SLACK);
        eventually("nobody inherits the connection", async || {
            fixture.pool.status().size == 0
        })
        .await;
    }
    server.resume().unwrap();

    // Whether the unanswered write was committed, only its id tells; either way it takes effect once.
    eventually("the write gets through", async || {
        fixture.operations.apply(&unsure).await.is_ok()
    })
    .await;
    let rows = format!("SELECT count(*) FROM tasks WHERE id = '{}'", unsure.entity_id());
    assert_eq!(fixture.count(&rows).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_with_its_request_and_one_that_had_little_time_is_no_evidence() {
    let server = Postgres::start_private().unwrap();
    let fixture = Fixture::on(&server.url("postgres"), |settings| {
        settings.deadline = Duration::from_secs(4);
        settings.connect_timeout = Duration::from_secs(4);
    })
    .await;
    let alice = Author::new();
    fixture.apply(&alice.create(at(1), "one")).await;
    server.pause().unwrap();
    for (limit, is_evidence) in [(2_800, true), (400, false), (0, false)] {
        let limit = Duration::from_millis(limit);
        let started = Instant::now();
        let create = alice.create(at(2), "two");
        let call = deadline::within(Deadline::of(started, limit), fixture.operations.apply(&create));
        let error = call.await.unwrap_err();
        assert!(started.elapsed() < limit * 4 / 5 + SLACK);
        if is_evidence {
            assert_eq!(unavailable(&error), "timeout");
        } else {
            assert_eq!(busy(&error), "deadline");
        }
    }
    server.resume().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_in_flight_are_given_up_when_the_breaker_opens() {
    let state = |condition| StoreState {
        condition,
        last_check: None,
        since: Timestamp::EPOCH,
    };
    let (monitor, watching) = watch::channel(state(Condition::Up {
        latency: Duration::ZERO,
    }));
    let server = Postgres::start_private().unwrap();
    let fixture = Fixture::on(&server.url("postgres"), |settings| {
        settings.max_connections = 1;
        settings.deadline = Duration::from_secs(60);
        settings.wait_timeout = Duration::from_secs(60);
    })
    .await;
    fixture.pool.heed(watching);
    let alice = Author::new();
    fixture.apply(&alice.create(at(1), "one")).await;
    server.pause().unwrap();
    let asked = alice.create(at(2), "asked");
    let calls = async {
        tokio::join!(
            fixture.operations.apply(&asked),
            fixture.tasks.find(alice.0, Uuid::now_v7())
        )
    };
    let opens = async {
        eventually("one waits for an answer and one for a connection", async || {
            fixture.pool.status().waiting == 1
        })
        .await;
        monitor.send_replace(state(Condition::Down { reason: "timeout" }));
        Instant::now()
    };
    let ((asked, waits), opened) = tokio::join!(calls, opens);
    assert!(opened.elapsed() < SLACK, "{:?}", opened.elapsed());
    for error in [asked.unwrap_err(), waits.unwrap_err()] {
        assert_eq!(unavailable(&error), "breaker_open");
    }
    eventually("nobody inherits the connection", async || {
        fixture.pool.status().size == 0
    })
    .await;
    server.resume().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_flight_outlives_a_breaker_that_closes_again_at_once() {
    let state = |condition| StoreState {
        condition,
        last_check: None,
        since: Timestamp::EPOCH,
    };
    let up = Condition::Up {
        latency: Duration::ZERO,
    };
    let (monitor, watching) = watch::channel(state(up));
    let fixture = Fixture::new().await;
    fixture.pool.heed(watching);
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    fixture.apply(&create).await;
    let holder = fixture.database.connect().await.unwrap();
    holder
        .batch_execute("BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let update = alice.retitle(at(2), create.entity_id(), "two");
    let blip = async {
        eventually("the update waits for its answer", async || {
            fixture.pool.status().available == 0
        })
        .await;
        monitor.send_replace(state(Condition::Down { reason: "timeout" }));
        tokio::task::yield_now().await;
        monitor.send_replace(state(up));
        // Longer than a call that is given up gets for its answer.
        tokio::time::sleep(Duration::from_millis(80)).await;
        holder.batch_execute("COMMIT").await.unwrap();
    };
    let (updated, ()) = tokio::join!(fixture.operations.apply(&update), blip);
    assert!(matches!(updated, Ok(Verdict::Applied(_))), "{updated:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_takes_its_connection_with_it() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    fixture.apply(&create).await;
    let holder = fixture.database.connect().await.unwrap();
    holder
        .batch_execute("BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let find = fixture.tasks.find(alice.0, create.entity_id());
    let gone = tokio::time::timeout(Duration::from_millis(50), find).await;
    assert!(gone.is_err());
    assert_eq!(fixture.pool.status().size, 0);
    holder.batch_execute("COMMIT").await.unwrap();
    assert!(
        fixture
            .tasks
            .find(alice.0, create.entity_id())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_caller_goes_away_comes_to_its_end() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    fixture.apply(&create).await;
    let holder = fixture.database.connect().await.unwrap();
    let lock = "BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE";
    holder.batch_execute(lock).await.unwrap();
    let update = alice.retitle(at(2), create.entity_id(), "two");
    let gone = tokio::time::timeout(Duration::from_millis(50), fixture.operations.apply(&update)).await;
    assert!(gone.is_err());
    holder.batch_execute("COMMIT").await.unwrap();
    eventually("it is recorded", async || {
        fixture
            .operations
            .find(alice.0, update.id)
            .await
            .unwrap()
            .is_some()
    })
    .await;
    let again = fixture.operations.apply(&update).await.unwrap();
    assert!(matches!(again, Verdict::Duplicate(_)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_is_away_at_once_and_serves_again_after_its_start() {
    let server = Postgres::start_private().unwrap();
    let fixture = Fixture::on(&server.url("postgres"), |_| {}).await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    fixture.apply(&create).await;
    server.kill();
    for n in 2..5 {
        let started = Instant::now();
        let error = fixture
            .operations
            .apply(&alice.create(at(n), "x"))
            .await
            .unwrap_err();
        assert!(["closed", "connect"].contains(&unavailable(&error)), "{error:?}");
        let error = fixture
            .operations
            .replay(&[alice.create(at(n), "x")])
            .await
            .unwrap_err();
        assert!(matches!(error, BatchError::Transient(error) if error.is_outage()));
        assert!(started.elapsed() < SLACK);
    }
    server.start().unwrap();
    assert!(
        fixture
            .tasks
            .find(alice.0, create.entity_id())
            .await
            .unwrap()
            .is_some()
    );
    fixture.apply(&alice.create(at(9), "two")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_server_takes_no_writes_but_answers_reads() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    fixture.apply(&create).await;
    let set = |value: &str| {
        format!(
            "ALTER DATABASE {} SET default_transaction_read_only = {value}",
            fixture.database.name()
        )
    };
    fixture.execute(&set("on")).await;
    fixture.pool.clear();
    let error = fixture
        .operations
        .apply(&alice.create(at(2), "x"))
        .await
        .unwrap_err();
    assert_eq!(unavailable(&error), "read_only");
    assert_eq!(fixture.pool.status().size, 0);
    assert!(
        fixture
            .tasks
            .find(alice.0, create.entity_id())
            .await
            .unwrap()
            .is_some()
    );
    let error = fixture
        .operations
        .replay(&[alice.create(at(2), "x")])
        .await
        .unwrap_err();
    assert!(matches!(error, BatchError::Transient(error) if unavailable(&error) == "read_only"));

    let admin = fixture.database.connect().await.unwrap();
    for sql in ["SET default_transaction_read_only = off", &set("off")] {
        admin.batch_execute(sql).await.unwrap();
    }
    fixture.pool.clear();
    fixture.apply(&alice.create(at(3), "two")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_a_duplicate_at_the_next_try() {
    let (fixture, proxy, pool) = behind_a_proxy().await;
    let operations = PostgresOperations::new(pool);
    let alice = Author::new();
    operations.apply(&alice.create(at(1), "warm")).await.unwrap();
    let create = alice.create(at(2), "the lost one");
    proxy.lose_answer("the lost one", POSTGRES_IDLE);
    let error = operations.apply(&create).await.unwrap_err();
    assert_eq!(unavailable(&error), "closed");
    assert_eq!(proxy.rule_cuts(), 1);
    assert!(matches!(
        operations.apply(&create).await.unwrap(),
        Verdict::Duplicate(_)
    ));

    let batch = [alice.create(at(3), "three"), alice.create(at(4), "four")];
    proxy.lose_answer("COMMIT", POSTGRES_IDLE);
    let error = operations.replay(&batch).await.unwrap_err();
    assert!(matches!(error, BatchError::Transient(error) if error.is_outage()));
    let verdicts = operations.replay(&batch).await.unwrap();
    assert!(
        verdicts
            .iter()
            .all(|verdict| matches!(verdict, Verdict::Duplicate(_)))
    );
    assert_eq!(fixture.count("SELECT count(*) FROM tasks").await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_cut_before_its_commit_leaves_nothing() {
    let (fixture, proxy, pool) = behind_a_proxy().await;
    let operations = PostgresOperations::new(pool);
    let alice = Author::new();
    let batch = [alice.create(at(3), "three"), alice.create(at(4), "four")];
    proxy.cut_before_next_match(
        gravity_test_support::services::fault_proxy::Direction::ToServer,
        "COMMIT",
    );
    operations.replay(&batch).await.unwrap_err();
    assert_eq!(fixture.count("SELECT count(*) FROM tasks").await, 0);
    let verdicts = operations.replay(&batch).await.unwrap();
    assert!(
        verdicts
            .iter()
            .all(|verdict| matches!(verdict, Verdict::Applied(_)))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_is_noticed_while_connecting_and_while_waiting_for_an_answer() {
    let (_fixture, proxy, pool) = behind_a_proxy().await;
    let tasks = PostgresTasks::new(pool.clone());
    let alice = Author::new();
    tasks.find(alice.0, Uuid::nil()).await.unwrap();
    proxy.black_hole();
    for reason in [&["timeout"][..], &["connect", "timeout"]] {
        let started = Instant::now();
        let error = tasks.find(alice.0, Uuid::nil()).await.unwrap_err();
        assert!(reason.contains(&unavailable(&error)), "{error:?}");
        assert!(started.elapsed() < Duration::from_secs(1) + SLACK);
    }
    proxy.pass();
    eventually("reads get through", async || {
        tasks.find(alice.0, Uuid::nil()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_cleared_pool_opens_new_connections_and_takes_none_of_the_old_back() {
    let fixture = Fixture::new().await;
    let backend = async || -> i32 {
        let rows = fixture
            .pool
            .query("test", "SELECT pg_backend_pid()", &[])
            .await
            .unwrap();
        rows[0].get(0)
    };
    let first = backend().await;
    assert_eq!(backend().await, first);
    let held = fixture.pool.session("test").await.unwrap();
    fixture.pool.clear();
    held.finish(Ok(())).unwrap();
    assert_eq!(fixture.pool.status().size, 0);
    assert_ne!(backend().await, first);
}

#[test]
fn a_connection_outlives_the_runtime_that_asked_for_it() {
    let shared = tokio::runtime::Runtime::new().unwrap();
    let fixture = shared.block_on(Fixture::new());
    let ask = || {
        let asking = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        asking.block_on(async {
            let rows = fixture
                .pool
                .query("test", "SELECT pg_backend_pid()", &[])
                .await
                .unwrap();
            rows[0].get::<_, i32>(0)
        })
    };
    assert_eq!(ask(), ask());
    assert_eq!(fixture.pool.status().size, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_checked_when_asked_for_and_only_then() {
    let server = Postgres::start_private().unwrap();
    let data = server.directory().join("data");
    let owner = std::fs::metadata(&data).unwrap();
    for (name, text) in [
        ("server.crt", include_str!("tls/server.pem")),
        ("server.key", include_str!("tls/server.key")),
    ] {
        let path = data.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let authority = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(authority.path(), include_str!("tls/ca.pem")).unwrap();

    let open = async |host: &str, mode: TlsMode, checked: bool| {
        let address = server.url("postgres").replace("127.0.0.1", host);
        let mut settings = PostgresSettings::from_url(address);
        settings.tls_mode = mode;
        settings.tls_root_cert = checked.then(|| authority.path().to_owned());
        let client = connect(&settings, &Handle::current()).await?;
        let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let row = client.query_one(encrypted, &[]).await.unwrap();
        Ok::<bool, StoreError>(row.get(0))
    };
    assert!(!open("127.0.0.1", TlsMode::Prefer, false).await.unwrap());
    assert!(open("127.0.0.1", TlsMode::Require, false).await.is_err());
    let admin = connect(
        &PostgresSettings::from_url(server.url("postgres")),
        &Handle::current(),
    )
    .await
    .unwrap();
    for sql in ["ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()"] {
        admin.batch_execute(sql).await.unwrap();
    }
    eventually("TLS is on", async || {
        open("127.0.0.1", TlsMode::Require, false).await.is_ok()
    })
    .await;
    assert!(open("127.0.0.1", TlsMode::Prefer, false).await.unwrap());
    assert!(!open("127.0.0.1", TlsMode::Disable, false).await.unwrap());
    assert!(open("localhost", TlsMode::VerifyFull, true).await.unwrap());
    // Another host name; an authority that is not trusted.
    assert!(open("127.0.0.1", TlsMode::VerifyFull, true).await.is_err());
    assert!(open("localhost", TlsMode::VerifyFull, false).await.is_err());
}
