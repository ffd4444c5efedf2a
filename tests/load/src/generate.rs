//! Load: closed-loop for throughput, open-loop for latency.
//!
//! Open-loop latency is counted from the time a request was *meant* to start, so that a server which stalls is charged for
//! the requests that had to wait (no coordinated omission).

use crate::client::{Client, request};
use hdrhistogram::Histogram;
use serde_json::json;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a timer may be late.
const TICK: Duration = Duration::from_millis(1);

/// What a run saw.
pub(crate) struct Seen {
    /// Microseconds, of requests that were served (2xx and 304).
    pub(crate) latency: Histogram<u64>,
    /// Microseconds, of every request.
    pub(crate) all: Histogram<u64>,
    /// Answers by status; 0 is no answer.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// How long the run took.
    pub(crate) elapsed: Duration,
}

impl Seen {
    fn new() -> Self {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are valid");
        Self {
            latency: histogram(),
            all: histogram(),
            statuses: BTreeMap::new(),
            elapsed: Duration::ZERO,
        }
    }

    fn record(&mut self, status: u16, took: Duration) {
        let micros = u64::try_from(took.as_micros())
            .unwrap_or(u64::MAX)
            .clamp(1, 60_000_000);
        self.all.saturating_record(micros);
        if (200..300).contains(&status) || status == 304 {
            self.latency.saturating_record(micros);
        }
        *self.statuses.entry(status).or_default() += 1;
    }

    fn merge(mut self, other: &Self) -> Self {
        self.latency += &other.latency;
        self.all += &other.all;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self
    }

    /// Served requests a second.
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn rate(&self) -> f64 {
        self.latency.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// A percentile of the served, in milliseconds.
    #[allow(clippy::cast_precision_loss, reason = "a latency")]
    pub(crate) fn ms(&self, percentile: f64) -> f64 {
        self.latency.value_at_percentile(percentile) as f64 / 1_000.0
    }

    /// The longest request of all, in milliseconds.
    #[allow(clippy::cast_precision_loss, reason = "a latency")]
    pub(crate) fn worst_ms(&self) -> f64 {
        self.all.max() as f64 / 1_000.0
    }
}

/// How requests are timed.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// Each connection sends its next request when it has its answer.
    Closed,
    /// So many requests a second in all, whatever the answers.
    Open(u32),
}

/// The bytes of the request with this number; `None` ends the run.
pub(crate) type Requests = Arc<dyn Fn(usize) -> Option<Arc<[u8]>> + Send + Sync>;

/// Creates tasks over `connections` connections as the users of `tokens`, for `length`.
pub(crate) async fn create_tasks(
    address: SocketAddr,
    tokens: &Arc<Vec<String>>,
    connections: usize,
    pace: Pace,
    length: Duration,
) -> Seen {
    let body =
        json!({"title": "Buy oat milk", "description": "Two litres, and the blue one if there is any."});
    let prepare = |n: usize| -> Arc<[u8]> {
        let token = &tokens[n % tokens.len()];
        request("POST", "/api/v1/tasks", Some(token), Some(&body)).into()
    };
    let prepared: Vec<Arc<[u8]>> = (0..connections).map(prepare).collect();
    let next = move |turn: usize| prepared.get(turn % prepared.len()).cloned();
    send(address, Arc::new(next), connections, pace, length).await
}

/// Sends requests over `connections` connections, for `length` or until there are no more.
pub(crate) async fn send(
    address: SocketAddr,
    requests: Requests,
    connections: usize,
    pace: Pace,
    length: Duration,
) -> Seen {
    let start = Instant::now();
    let workers: Vec<_> = (0..connections)
        .map(|n| {
            tokio::spawn(work(
                address,
                Arc::clone(&requests),
                (n, connections),
                pace,
                start,
                length,
            ))
        })
        .collect();
    let mut seen = Seen::new();
    for worker in workers {
        if let Ok(one) = worker.await {
            seen = seen.merge(&one);
        }
    }
    seen.elapsed = start.elapsed();
    seen
}

async fn work(
    address: SocketAddr,
    requests: Requests,
    (worker, workers): (usize, usize),
    pace: Pace,
    start: Instant,
    length: Duration,
) -> Seen {
    let mut seen = Seen::new();
    let mut client = Client::new(address);
    let mut turn = worker;
    loop {
        let mut meant = match pace {
            Pace::Closed => Instant::now(),
            Pace::Open(rate) => start + Duration::from_secs(1).mul_f64(turn as f64 / f64::from(rate)),
        };
        if meant.saturating_duration_since(start) >= length {
            return seen;
        }
        let Some(bytes) = requests(turn) else { return seen };
        if matches!(pace, Pace::Open(_)) && Instant::now() < meant {
            tokio::time::sleep_until(meant.into()).await;
            // The millisecond that the timer is late is not the server's.
            meant += meant.elapsed().min(TICK);
        }
        let status = client.status_of(&bytes).await.unwrap_or(0);
        seen.record(status, meant.elapsed());
        turn += workers;
    }
}
