//! What became of each message, by the client's id: when it was meant to be sent, and who has told of it how often.

use hdrhistogram::Histogram;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// One message.
#[derive(Debug, Clone, Copy)]
struct Fate {
    meant: Instant,
    delivered: bool,
    stored_deliveries: u32,
    accepted_acks: u32,
    stored_acks: u32,
    rejected: u32,
}

/// Latencies in microseconds, counted from the time a message was meant to be sent.
pub(super) struct Latency(Histogram<u64>);

impl Latency {
    fn new() -> Self {
        Self(Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are valid"))
    }

    fn record(&mut self, since: Instant) {
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    /// `p50 … p95 … p99 … max … ms`.
    #[allow(clippy::cast_precision_loss, reason = "a latency")]
    pub(super) fn shown(&self) -> String {
        let ms = |percentile| self.0.value_at_percentile(percentile) as f64 / 1_000.0;
        format!(
            "p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms ({} messages)",
            ms(50.0),
            ms(95.0),
            ms(99.0),
            self.0.max() as f64 / 1_000.0,
            self.0.len()
        )
    }
}

/// All that was seen of one run.
pub(super) struct Seen {
    pub(super) delivery: Latency,
    pub(super) accepted: Latency,
    pub(super) stored: Latency,
    messages: HashMap<Uuid, Fate>,
    strangers: u64,
    sent_again: usize,
}

/// How it ended.
pub(super) struct Balance {
    pub(super) sent: usize,
    pub(super) undelivered: usize,
    pub(super) lost: usize,
    pub(super) doubled: usize,
    pub(super) acknowledged_twice: usize,
    pub(super) unacknowledged: usize,
    pub(super) rejected: usize,
    pub(super) sent_again: usize,
}

impl Balance {
    pub(super) fn is_settled(&self) -> bool {
        self.lost == 0 && self.unacknowledged == 0
    }

    pub(super) fn shown(&self) -> String {
        format!(
            "{} sent: {} not delivered, {} not in the receiver's log, {} doubled, {} acknowledged again, {} without a last ack, {} rejected, {} tries again",
            self.sent,
            self.undelivered,
            self.lost,
            self.doubled,
            self.acknowledged_twice,
            self.unacknowledged,
            self.rejected,
            self.sent_again
        )
    }
}

/// Shared by every socket of a run.
pub(super) struct Tally(Mutex<Seen>);

impl Tally {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Seen {
            delivery: Latency::new(),
            accepted: Latency::new(),
            stored: Latency::new(),
            messages: HashMap::new(),
            strangers: 0,
            sent_again: 0,
        }))
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was measured so far does not count; what becomes of the messages does.
    pub(super) fn forget_latencies(&self) {
        let mut seen = self.seen();
        (seen.delivery, seen.accepted, seen.stored) = (Latency::new(), Latency::new(), Latency::new());
    }

    /// Before a message is sent.
    pub(super) fn sending(&self, id: Uuid, meant: Instant) {
        let fate = Fate {
            meant,
            delivered: false,
            stored_deliveries: 0,
            accepted_acks: 0,
            stored_acks: 0,
            rejected: 0,
        };
        self.seen().messages.insert(id, fate);
    }

    /// A message is sent again, under its id.
    pub(super) fn sent_again(&self) {
        self.seen().sent_again += 1;
    }

    /// The receiver was told.
    pub(super) fn delivered(&self, id: Uuid, is_stored: bool) {
        let mut seen = self.seen();
        let seen = &mut *seen;
        let Some(fate) = seen.messages.get_mut(&id) else {
            seen.strangers += 1;
            return;
        };
        if !fate.delivered {
            fate.delivered = true;
            seen.delivery.record(fate.meant);
        }
        fate.stored_deliveries += u32::from(is_stored);
    }

    /// The sender was told.
    pub(super) fn acknowledged(&self, id: Uuid, status: &str) {
        let mut seen = self.seen();
        let seen = &mut *seen;
        let Some(fate) = seen.messages.get_mut(&id) else {
            seen.strangers += 1;
            return;
        };
        match status {
            "accepted" => {
                fate.accepted_acks += 1;
                seen.accepted.record(fate.meant);
            }
            "stored" => {
                fate.stored_acks += 1;
                if fate.accepted_acks == 0 {
                    seen.stored.record(fate.meant);
                }
            }
            _ => fate.rejected += 1,
        }
    }

    /// Waits until every message has its end, or `patience` is over.
    pub(super) async fn settled(&self, patience: Duration) -> Balance {
        let start = Instant::now();
        loop {
            let balance = self.balance();
            if balance.is_settled() || start.elapsed() > patience {
                return balance;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn balance(&self) -> Balance {
        let seen = self.seen();
        let count = |test: &dyn Fn(&Fate) -> bool| seen.messages.values().filter(|fate| test(fate)).count();
        Balance {
            sent: seen.messages.len(),
            undelivered: count(&|fate| !fate.delivered && fate.rejected == 0),
            lost: count(&|fate| fate.stored_deliveries == 0 && fate.rejected == 0),
            doubled: count(&|fate| fate.stored_deliveries > 1),
            acknowledged_twice: count(&|fate| fate.stored_acks > 1),
            unacknowledged: count(&|fate| fate.stored_acks == 0 && fate.rejected == 0),
            rejected: count(&|fate| fate.rejected > 0),
            sent_again: seen.sent_again,
        }
    }
}
