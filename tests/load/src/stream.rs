//! `gravity-load stream`: what the caches before the stream give, beside two bounds in the same run: the *ceiling*, the bare
//! framework serving the same bytes from memory, and the *floor*, the same page from Postgres for each request.
//!
//! The users are rows of [`Plan::users`] streams of 100 items; who is asked for follows Zipf's law. The server's metrics
//! tell the hit rates and how many pages Postgres has been asked for.

mod data;

use crate::bench::{connect, median, shown};
use crate::client::request;
use crate::generate::{Pace, Requests, Seen, send};
use crate::report::Report;
use crate::server::{SECRET, Server};
use data::{Zipf, fill, first_item, scramble, user};
use gravity_test_support::builders::{Claims, item};
use gravity_test_support::services::{Postgres, PostgresOptions, Redis};
use serde_json::json;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const CONNECTIONS: usize = 32;
/// How often each of the compared is measured in turn.
const ROUNDS: usize = 3;
const PAGE: &str = "/v2/stream";
/// Seconds of the mix before it is measured: who users are is asked for every 20 s.
const STEADY: u64 = 25;
const READERS: usize = 1_000;
/// What a node may keep that is to find its pages in Redis only, in bytes: the least there is.
const NEXT_TO_NOTHING: &str = "1048576";

pub(crate) struct Plan {
    pub(crate) server: PathBuf,
    pub(crate) seconds: u64,
    pub(crate) users: usize,
    /// Only the bounds, the mix, and the mix in the dark.
    pub(crate) mix_only: bool,
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
    let world = World::start(plan, &postgres, &redis).await?;
    let mut report = Report::default();
    let bounds = world.bounds(plan, &mut report).await?;
    if !plan.mix_only {
        world.hot(plan, &mut report).await?;
        world.one_load(&mut report).await?;
        world.cold(&mut report).await?;
        world.shared(plan, &redis, &mut report).await?;
    }
    world.mixed(plan, &bounds, &mut report).await?;
    world.dark(plan, &postgres, &mut report).await?;
    report.print();
    Ok(())
}

/// What a page is served in between: requests a second.
struct Bounds {
    ceiling: f64,
    floor: f64,
}

/// A server over streams that were there before it.
struct World {
    server: Server,
    program: PathBuf,
    database: String,
    redis: String,
    /// Of each user.
    tokens: Arc<Vec<String>>,
    /// The first item of each user.
    items: Arc<Vec<Uuid>>,
    service: String,
    buffer: tempfile::TempDir,
}

impl World {
    async fn start(plan: &Plan, postgres: &Postgres, redis: &Redis) -> Outcome<Self> {
        connect(&postgres.url("postgres"))
            .await?
            .batch_execute("CREATE DATABASE bench_stream")
            .await?;
        let (database, redis) = (postgres.url("bench_stream"), redis.url());
        let buffer = tempfile::tempdir_in("target")?;
        let settings = settings(&database, &redis, &buffer.path().join("one"));
        let server = Server::start(&plan.server, &["serve"], &settings).await?;
        server.wait("/health", |answer| answer.status == 200).await?;
        fill(&database, plan.users).await?;
        let tokens = (0..plan.users + READERS).map(|n| token(user(n))).collect();
        Ok(Self {
            server,
            program: plan.server.clone(),
            database,
            redis,
            tokens: Arc::new(tokens),
            items: Arc::new((0..plan.users).map(first_item).collect()),
            service: token_of(Uuid::from_u128(0x5e41ce), "service"),
            buffer,
        })
    }

    fn users(&self) -> usize {
        self.items.len()
    }

    /// The list of a user.
    fn list(&self, n: usize) -> Arc<[u8]> {
        request("GET", PAGE, Some(&self.tokens[n]), None).into()
    }

    /// The first item of a user.
    fn detail(&self, n: usize) -> Arc<[u8]> {
        let path = format!("{PAGE}/{}", self.items[n]);
        request("GET", &path, Some(&self.tokens[n]), None).into()
    }

    /// The pages of the first `users` users in turn.
    fn lists(&self, users: usize) -> Requests {
        let all: Vec<_> = (0..users).map(|n| self.list(n)).collect();
        Arc::new(move |turn| all.get(turn % all.len()).cloned())
    }

    async fn load(&self, requests: Requests, seconds: u64) -> Seen {
        send(
            self.server.address,
            requests,
            CONNECTIONS,
            Pace::Closed,
            Duration::from_secs(seconds),
        )
        .await
    }

    /// A hot page, a hot item and a page that did not change, in turn with both bounds.
    async fn bounds(&self, plan: &Plan, report: &mut Report) -> Outcome<Bounds> {
        let own = std::env::current_exe()?;
        let page = self.server.get(PAGE, Some(&self.tokens[0])).await?;
        if page.status != 200 {
            return Err(format!("the page is {}: {}", page.status, page.json()).into());
        }
        let held = self.buffer.path().join("page");
        std::fs::write(&held, page.body())?;
        let held = [("GRAVITY_LOAD_PAGE", held.display().to_string())];
        let ceiling = Server::start(&own, &["ceiling"], &held).await?;
        let at_floor = settings(&self.database, &self.redis, &self.buffer.path().join("floor"));
        let floor = Server::start(&own, &["floor"], &at_floor).await?;
        let same = floor.get(PAGE, Some(&self.tokens[0])).await?;
        if same.json()["data"] != page.json()["data"] {
            return Err(format!("the floor answers otherwise: {}", same.json()).into());
        }
        let lists = self.lists(1);
        let (mut hot, mut above, mut below) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let length = Duration::from_secs(if round == 0 { 2 } else { plan.seconds });
            for (address, runs) in [
                (self.server.address, &mut hot),
                (ceiling.address, &mut above),
                (floor.address, &mut below),
            ] {
                let seen = send(address, Arc::clone(&lists), CONNECTIONS, Pace::Closed, length).await;
                // The first round warms up.
                if round > 0 {
                    runs.push(seen);
                }
            }
        }
        let rate = |runs: &[Seen]| median(runs.iter().map(Seen::rate).collect());
        let (hot_rate, ceiling, floor) = (rate(&hot), rate(&above), rate(&below));
        let bytes = page.body().len();
        report.row(
            format!("list page ({bytes} bytes) hot in the process, closed loop, 32 connections"),
            shown(&hot[ROUNDS / 2]),
            "",
        );
        report.row(
            "ceiling: the bare framework, the same bytes, no token",
            shown(&above[ROUNDS / 2]),
            "",
        );
        report.row(
            "floor: the same page from Postgres",
            shown(&below[ROUNDS / 2]),
            "",
        );
        report.row("hot / ceiling", format!("{:.2}", hot_rate / ceiling), "≥ 0.70");
        report.row("hot / floor", format!("{:.1}", hot_rate / floor), "");
        Ok(Bounds { ceiling, floor })
    }

    async fn hot(&self, plan: &Plan, report: &mut Report) -> Outcome {
        let detail = self.detail(0);
        let seen = self
            .load(Arc::new(move |_| Some(Arc::clone(&detail))), plan.seconds)
            .await;
        report.row("detail hot in the process", shown(&seen), "");
        let tag = self.server.tag(PAGE, &self.tokens[0]).await?;
        let mut same = self.list(0).to_vec();
        same.truncate(same.len() - 2);
        same.extend_from_slice(format!("If-None-Match: {tag}\r\n\r\n").as_bytes());
        let same: Arc<[u8]> = same.into();
        let queries = self.queries().await;
        let seen = self
            .load(Arc::new(move |_| Some(Arc::clone(&same))), plan.seconds)
            .await;
        let asked = self.queries().await - queries;
        report.row(
            "304",
            format!("{}; {asked:.0} stream queries", shown(&seen)),
            "no query",
        );
        Ok(())
    }

    /// Many readers of one page that nobody knows.
    async fn one_load(&self, report: &mut Report) -> Outcome {
        let cold = self.users() - 1;
        let (before, bytes) = (self.pages_loaded().await, self.list(cold));
        let once: Requests = Arc::new(move |turn| (turn < READERS).then(|| Arc::clone(&bytes)));
        let address = self.server.address;
        let seen = send(address, once, READERS, Pace::Closed, Duration::from_secs(30)).await;
        let loads = self.pages_loaded().await - before;
        report.row(
            format!("{READERS} concurrent readers of a cold page"),
            format!("{loads:.0} loads; {}", shown(&seen)),
            "1 load",
        );
        Ok(())
    }

    /// Each page for the first time.
    async fn cold(&self, report: &mut Report) -> Outcome {
        let users = self.users() - 1;
        let all: Vec<_> = (1..users).map(|n| self.list(n)).collect();
        let seen = self.load(Arc::new(move |turn| all.get(turn).cloned()), 600).await;
        report.row("list page cold: each user's once", shown(&seen), "");
        Ok(())
    }

    /// A node that remembers next to nothing, beside one that has filled Redis.
    async fn shared(&self, plan: &Plan, redis: &Redis, report: &mut Report) -> Outcome {
        let mut settings = settings(&self.database, &redis.url(), &self.buffer.path().join("two"));
        settings.push(("STREAM_CACHE_BYTES", NEXT_TO_NOTHING.to_owned()));
        let other = Server::start(&self.program, &["serve"], &settings).await?;
        other.wait("/health", |answer| answer.status == 200).await?;
        let users = self.users().min(2_000);
        self.load(self.lists(users), 5).await;
        let length = Duration::from_secs(plan.seconds);
        let before = loads_of(&other).await;
        let seen = send(
            other.address,
            self.lists(users),
            CONNECTIONS,
            Pace::Closed,
            length,
        )
        .await;
        let rates = hits(&other).await;
        let loaded = loads_of(&other).await - before;
        report.row(
            "list page hot in Redis only",
            format!("{}; {loaded:.0} loads from Postgres; {rates}", shown(&seen)),
            "",
        );
        Ok(())
    }

    /// The usual mix: at saturation, and at half of it.
    async fn mixed(&self, plan: &Plan, bounds: &Bounds, report: &mut Report) -> Outcome {
        // Each page and each item once, so that what is measured is not the filling of the caches.
        let users = self.users();
        let all: Vec<_> = (0..users)
            .rev()
            .flat_map(|n| [self.detail(n), self.list(n)])
            .collect();
        self.load(Arc::new(move |turn| all.get(turn).cloned()), 600).await;
        let reads = self.load(self.mix(0), plan.seconds).await;
        report.row("the reads of the mix alone, closed loop", shown(&reads), "");
        let mix = self.mix(1);
        self.load(Arc::clone(&mix), STEADY).await;
        let before = Hits::of(&self.server).await;
        let full = self.load(Arc::clone(&mix), plan.seconds).await;
        report.row(
            "mixed: 90 % list, 10 % detail, Zipf over all users, 1 % ingest; closed loop",
            shown(&full),
            "",
        );
        let rates = Hits::of(&self.server).await.since(&before);
        report.row(
            "mixed / floor",
            format!("{:.1}", full.rate() / bounds.floor),
            "≥ 10",
        );
        report.row(
            "mixed / ceiling",
            format!("{:.2}", full.rate() / bounds.ceiling),
            "",
        );
        report.row("hit rates under the mix", rates.to_string(), "over 80 %");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
        let half = (full.rate() / 2.0) as u32;
        let seen = send(
            self.server.address,
            mix,
            CONNECTIONS * 2,
            Pace::Open(half.max(1)),
            Duration::from_secs(plan.seconds),
        )
        .await;
        report.row(
            format!("mixed at half of saturation, {half}/s"),
            format!("p95 {:.2} ms, {}", seen.ms(95.0), shown(&seen)),
            "p99 < 10 ms",
        );
        Ok(())
    }

    /// Reads with Postgres killed, from the first after it.
    async fn dark(&self, plan: &Plan, postgres: &Postgres, report: &mut Report) -> Outcome {
        const RATE: u32 = 1_000;
        postgres.kill();
        let seen = send(
            self.server.address,
            self.mix(0),
            CONNECTIONS,
            Pace::Open(RATE),
            Duration::from_secs(plan.seconds),
        )
        .await;
        report.row(
            format!("reads of the mix while Postgres is down, {RATE}/s"),
            format!("p95 {:.2} ms, {}", seen.ms(95.0), shown(&seen)),
            "p95 < 100 ms",
        );
        postgres.start()?;
        Ok(())
    }

    /// `ingests` in a hundred are ingests of one new item; of the others 90 % are lists, 10 % details.
    fn mix(&self, ingests: u64) -> Requests {
        let zipf = Zipf::over(self.users());
        let service = self.service.clone();
        let lists: Vec<_> = (0..self.users()).map(|n| self.list(n)).collect();
        let details: Vec<_> = (0..self.users()).map(|n| self.detail(n)).collect();
        let run = Uuid::now_v7();
        Arc::new(move |turn| {
            let dice = scramble(turn as u64);
            let n = zipf.pick(scramble(dice));
            Some(match dice % 1_000 {
                dice if dice < ingests * 10 => {
                    let name = format!("{run}-{turn}");
                    let body =
                        json!({"items": [item(user(n), &name, "Something new", "2026-06-01T00:00:00.000Z")]});
                    request("POST", "/v2/ingest/items", Some(&service), Some(&body)).into()
                }
                dice if dice >= 900 => Arc::clone(&details[n]),
                _ => Arc::clone(&lists[n]),
            })
        })
    }

    async fn queries(&self) -> f64 {
        self.server
            .metric("gravity_postgres_query_seconds_count{query=\"stream")
            .await
    }

    async fn pages_loaded(&self) -> f64 {
        loads_of(&self.server).await
    }
}

/// Pages that a server has asked Postgres for.
async fn loads_of(server: &Server) -> f64 {
    server
        .metric("gravity_postgres_query_seconds_count{query=\"stream_page")
        .await
}

async fn hits(server: &Server) -> String {
    Hits::of(server).await.to_string()
}

/// What each level of the cache was asked, and what it had.
struct Hits([(f64, f64); 2]);

impl Hits {
    const LEVELS: [&str; 2] = ["process", "redis"];

    async fn of(server: &Server) -> Self {
        let mut levels = [(0.0, 0.0); 2];
        for (level, name) in levels.iter_mut().zip(Self::LEVELS) {
            for (result, count) in [("hit", &mut level.0), ("miss", &mut level.1)] {
                for kind in ["page", "detail"] {
                    *count += server
                        .metric(&format!(
                            "gravity_stream_cache_total{{kind=\"{kind}\",level=\"{name}\",result=\"{result}\"}}"
                        ))
                        .await;
                }
            }
        }
        Self(levels)
    }

    fn since(mut self, before: &Self) -> Self {
        for (now, then) in self.0.iter_mut().zip(before.0) {
            *now = (now.0 - then.0, now.1 - then.1);
        }
        self
    }
}

impl std::fmt::Display for Hits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = |(hits, misses): (f64, f64)| 100.0 * hits / (hits + misses).max(1.0);
        let [process, redis] = self.0;
        let either = (process.0 + redis.0, redis.1);
        write!(
            f,
            "process {:.1} %, Redis {:.1} % of the rest, either {:.1} %",
            rate(process),
            rate(redis),
            rate(either)
        )
    }
}

fn settings(database: &str, redis: &str, buffer: &std::path::Path) -> Vec<(&'static str, String)> {
    vec![
        ("DATABASE_URL", database.to_owned()),
        ("REDIS_URL", redis.to_owned()),
        ("BUFFER_PATH", buffer.display().to_string()),
        ("INGEST_CALLS_PER_MINUTE", "10000000".to_owned()),
    ]
}

fn token(id: Uuid) -> String {
    token_of(id, "user")
}

fn token_of(id: Uuid, role: &str) -> String {
    Claims::of(id).role(role).expires_in(86_400).signed(SECRET)
}
