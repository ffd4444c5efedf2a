//! How fast the buffer drains, smoothed over a few seconds.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(5);
const GRAIN: Duration = Duration::from_millis(100);

/// Counts of the last [`WINDOW`], one for each [`GRAIN`] in which anything drained: at most 51.
#[derive(Debug, Default)]
pub(super) struct Rate {
    counts: Mutex<VecDeque<(Instant, u64)>>,
}

impl Rate {
    /// `count` operations have left the buffer.
    pub(super) fn add(&self, count: u64) {
        let now = Instant::now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        forget(&mut counts, now);
        match counts.back_mut() {
            Some((at, sum)) if now.duration_since(*at) < GRAIN => *sum += count,
            _ => counts.push_back((now, count)),
        }
    }

    /// Over the time since the oldest count, a second at least.
    #[allow(clippy::cast_precision_loss, reason = "a count of a few seconds")]
    pub(super) fn per_second(&self) -> f64 {
        let now = Instant::now();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        forget(&mut counts, now);
        let Some((oldest, _)) = counts.front() else {
            return 0.0;
        };
        let span = now.duration_since(*oldest).max(Duration::from_secs(1));
        let sum: u64 = counts.iter().map(|(_, count)| count).sum();
        sum as f64 / span.as_secs_f64()
    }
}

fn forget(counts: &mut VecDeque<(Instant, u64)>, now: Instant) {
    while counts
        .front()
        .is_some_and(|(at, _)| now.duration_since(*at) > WINDOW)
    {
        counts.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_drain_and_falls_to_nothing_after_it() {
        let rate = Rate::default();
        for _ in 0..100 {
            rate.add(50);
            advance(Duration::from_millis(100)).await;
        }
        assert!(
            (450.0..=550.0).contains(&rate.per_second()),
            "{}",
            rate.per_second()
        );
        assert!(rate.counts.lock().unwrap().len() <= 51);
        advance(Duration::from_secs(6)).await;
        assert!(rate.per_second().abs() < f64::EPSILON);
    }
}
