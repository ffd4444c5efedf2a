//! The measurements.

use crate::generate::{Pace, Seen, create_tasks};
use crate::report::Report;
use crate::server::Server;
use gravity_test_support::services::{Postgres, PostgresOptions, Redis};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;
use uuid::Uuid;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const CONNECTIONS: usize = 32;
const USERS: usize = 32;
/// How often the healthy path and its baseline are measured in turn.
const ROUNDS: usize = 5;
/// R7's rate.
const DARK_RATE: u32 = 1_000;
/// New writes a second while the backlog drains.
const DRAIN_RATE: u32 = 200;

pub(crate) struct Plan {
    pub(crate) server: PathBuf,
    pub(crate) seconds: u64,
    pub(crate) backlog: u64,
}

pub(crate) fn run(plan: &Plan) -> Outcome {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(all(plan))
}

async fn all(plan: &Plan) -> Outcome {
    let postgres = Postgres::launch(PostgresOptions {
        fsync: true,
        ..PostgresOptions::default()
    })?;
    let redis = Redis::start_private()?;
    let mut report = Report::default();
    for engine in ["sled", "redb"] {
        let world = World::start(plan, &postgres, &redis, engine).await?;
        if engine == "sled" {
            world.healthy(plan, &mut report).await?;
        }
        world.dark(plan, &postgres, engine, &mut report).await?;
        world.back(plan, &postgres, engine, &mut report).await?;
        world.hung(&postgres, engine, &mut report).await?;
    }
    report.print();
    Ok(())
}

/// A server with users on a database of its own.
struct World {
    server: Server,
    tokens: Arc<Vec<String>>,
    database: String,
    _buffer: tempfile::TempDir,
}

impl World {
    async fn start(plan: &Plan, postgres: &Postgres, redis: &Redis, engine: &str) -> Outcome<Self> {
        let name = format!("bench_{engine}");
        connect(&postgres.url("postgres"))
            .await?
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await?;
        let database = postgres.url(&name);
        // Not in memory: the sync of an append is part of what is measured.
        let buffer = tempfile::tempdir_in("target")?;
        let settings = [
            ("DATABASE_URL", database.clone()),
            ("REDIS_URL", redis.url()),
            ("BUFFER_ENGINE", engine.to_owned()),
            ("BUFFER_PATH", buffer.path().join("buffer").display().to_string()),
            ("LOGIN_ATTEMPTS_PER_MINUTE", "100000".to_owned()),
            ("REGISTRATIONS_PER_HOUR", "100000".to_owned()),
        ];
        let server = Server::start(&plan.server, &["serve"], &settings).await?;
        server.wait("/health", |answer| answer.status == 200).await?;
        let tokens = Arc::new(server.users(USERS).await?);
        Ok(Self {
            server,
            tokens,
            database,
            _buffer: buffer,
        })
    }

    async fn load(&self, pace: Pace, length: Duration) -> Seen {
        create_tasks(self.server.address, &self.tokens, CONNECTIONS, pace, length).await
    }

    /// The healthy path in turn with the same handler without the machinery.
    async fn healthy(&self, plan: &Plan, report: &mut Report) -> Outcome {
        let own = std::env::current_exe()?;
        let unused = tempfile::tempdir()?;
        let settings = [
            ("DATABASE_URL", self.database.clone()),
            ("BUFFER_PATH", unused.path().display().to_string()),
        ];
        let bare = Server::start(&own, &["baseline"], &settings).await?;
        let length = Duration::from_secs(plan.seconds);
        let mut ratios = Vec::new();
        let (mut with, mut without) = (Vec::new(), Vec::new());
        self.load(Pace::Closed, Duration::from_secs(3)).await;
        create_tasks(
            bare.address,
            &self.tokens,
            CONNECTIONS,
            Pace::Closed,
            Duration::from_secs(3),
        )
        .await;
        for _ in 0..ROUNDS {
            let gravity = self.load(Pace::Closed, length).await;
            let baseline = create_tasks(bare.address, &self.tokens, CONNECTIONS, Pace::Closed, length).await;
            ratios.push(gravity.rate() / baseline.rate());
            with.push(gravity);
            without.push(baseline);
        }
        let ratio = median(ratios);
        let describe = |runs: &[Seen]| {
            let over = |figure: fn(&Seen) -> f64| median(runs.iter().map(figure).collect());
            let (rate, p50, p99) = (over(Seen::rate), over(|s| s.ms(50.0)), over(|s| s.ms(99.0)));
            format!("{rate:.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms")
        };
        report.row("healthy create, closed loop, 32 connections", describe(&with), "");
        report.row("the same handler without the machinery", describe(&without), "");
        report.row("healthy / without the machinery", format!("{ratio:.2}"), "≥ 0.85");
        Ok(())
    }

    /// R7, R6: writes while Postgres is down.
    async fn dark(&self, plan: &Plan, postgres: &Postgres, engine: &str, report: &mut Report) -> Outcome {
        postgres.kill();
        let before = self.server.memory_mib();
        let seen = self
            .load(Pace::Open(DARK_RATE), Duration::from_secs(plan.seconds))
            .await;
        report.row(
            format!("{engine}: dark writes at {DARK_RATE}/s (from the first after the kill)"),
            shown(&seen),
            "p99 ≤ 25 ms",
        );
        let start = Instant::now();
        while self.server.buffered().await < plan.backlog {
            self.load(Pace::Closed, Duration::from_secs(1)).await;
            if start.elapsed() > Duration::from_secs(180) {
                return Err("the backlog did not grow".into());
            }
        }
        let (size, after) = (self.server.buffered().await, self.server.memory_mib());
        report.row(
            format!("{engine}: server memory, empty buffer → {size} operations"),
            format!("{before} → {after} MiB"),
            "does not grow with the backlog",
        );
        Ok(())
    }

    /// R8: recovery, and the drain while new writes flow.
    async fn back(&self, plan: &Plan, postgres: &Postgres, engine: &str, report: &mut Report) -> Outcome {
        let backlog = self.server.buffered().await;
        postgres.start()?;
        let url = self.database.clone();
        let accepting = tokio::spawn(async move {
            while connect(&url).await.is_err() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        accepting.await?;
        let noticed = self.server.wait("/health", |answer| answer.status == 200).await?;
        report.row(
            format!("{engine}: recovery noticed after Postgres accepts connections"),
            format!("{} ms", noticed.as_millis()),
            "≤ 1,000 ms",
        );
        let start = Instant::now();
        let flowing = tokio::spawn({
            let (address, tokens) = (self.server.address, Arc::clone(&self.tokens));
            async move {
                create_tasks(
                    address,
                    &tokens,
                    CONNECTIONS,
                    Pace::Open(DRAIN_RATE),
                    Duration::from_secs(5),
                )
                .await
            }
        });
        self.server
            .wait("/ready", |answer| answer.json()["buffer"]["size"] == 0)
            .await?;
        let took = start.elapsed().as_secs_f64();
        let flow = flowing.await?;
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let rate = backlog as f64 / took;
        report.row(
            format!("{engine}: drain of {backlog} while {DRAIN_RATE} new writes/s flow"),
            format!("{rate:.0} operations/s; new writes {}", shown(&flow)),
            "≥ 5,000/s",
        );
        let plain = plain_insert(&self.database, plan.backlog).await?;
        report.row(
            "plain multi-row insert of the same rows, 500 a statement",
            format!("{plain:.0} rows/s; drain / plain {:.2}", rate / plain),
            "",
        );
        Ok(())
    }

    /// R7: Postgres hangs without closing connections.
    async fn hung(&self, postgres: &Postgres, engine: &str, report: &mut Report) -> Outcome {
        postgres.pause()?;
        let seen = self.load(Pace::Open(DARK_RATE), Duration::from_secs(5)).await;
        postgres.resume()?;
        let (worst, late) = (
            seen.worst_ms(),
            seen.all.len() - seen.all.count_between(0, 100_000),
        );
        report.row(
            format!("{engine}: Postgres hangs: {}", shown(&seen)),
            format!("longest {worst:.0} ms, {late} of {} over 100 ms", seen.all.len()),
            "longest ≤ the write deadline, 1,000 ms",
        );
        self.server
            .wait("/ready", |answer| answer.json()["buffer"]["size"] == 0)
            .await?;
        Ok(())
    }
}

/// Rows a second of the plainest way in: multi-row inserts of 500, one transaction each, into a table like `tasks`.
async fn plain_insert(database: &str, rows: u64) -> Outcome<f64> {
    let client = connect(database).await?;
    client
        .batch_execute("DROP TABLE IF EXISTS plain; CREATE TABLE plain (LIKE tasks INCLUDING INDEXES INCLUDING CONSTRAINTS)")
        .await?;
    let insert = client
        .prepare(
            "INSERT INTO plain (id, user_id, title, description, status, created_at, updated_at, version,
                created_stamp, title_stamp, description_stamp, status_stamp)
             SELECT n.id, t.user_id, t.title, t.description, t.status, t.created_at, t.updated_at, t.version,
                t.created_stamp, t.title_stamp, t.description_stamp, t.status_stamp
             FROM (SELECT * FROM tasks LIMIT 1) AS t, unnest($1::uuid[]) AS n (id)",
        )
        .await?;
    let start = Instant::now();
    for _ in 0..rows.div_ceil(500) {
        let ids: Vec<_> = (0..500).map(|_| Uuid::now_v7()).collect();
        client.execute(&insert, &[&ids]).await?;
    }
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    Ok((rows.div_ceil(500) * 500) as f64 / start.elapsed().as_secs_f64())
}

pub(crate) async fn connect(url: &str) -> Outcome<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move { connection.await.ok() });
    Ok(client)
}

pub(crate) fn shown(seen: &Seen) -> String {
    let statuses: Vec<_> = seen
        .statuses
        .iter()
        .map(|(status, count)| format!("{count}×{status}"))
        .collect();
    format!(
        "{:.0}/s, p50 {:.2} ms, p99 {:.2} ms ({})",
        seen.rate(),
        seen.ms(50.0),
        seen.ms(99.0),
        statuses.join(", ")
    )
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
