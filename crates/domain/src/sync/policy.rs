//! When an operation is given up, and how long to wait before the next try.

use super::operation::Operation;
use crate::clock::Timestamp;

/// The settings `MAX_RETRY_ATTEMPTS` and `BUFFER_RETENTION_HOURS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failures of the operation itself after which it becomes a dead letter.
    pub max_attempts: u32,
    /// Age in milliseconds after which it is parked as a dead letter instead of applied.
    pub retention_ms: u64,
}

impl RetryPolicy {
    /// True when an operation that has failed `attempts` times is given up.
    pub fn is_exhausted(&self, attempts: u32) -> bool {
        attempts >= self.max_attempts
    }

    /// True when `operation` is older than the retention time, and was not put back by an admin.
    pub fn is_expired(&self, operation: &Operation, now: Timestamp) -> bool {
        !operation.retried && now.millis_since(operation.accepted_at.timestamp()) > self.retention_ms
    }
}

/// Exponential back-off with full jitter: before try `n` (from 0) a random wait of at most `base · 2ⁿ`, capped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first bound, in milliseconds.
    pub base_ms: u64,
    /// The greatest bound, in milliseconds.
    pub cap_ms: u64,
}

impl Backoff {
    /// The wait before try `n`; `random` is uniform in 0..1.
    pub fn wait_ms(&self, n: u32, random: f64) -> u64 {
        let bound = self.base_ms.saturating_mul(1u64 << n.min(20)).min(self.cap_ms);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a wait"
        )]
        let wait = (bound as f64 * random.clamp(0.0, 1.0)) as u64;
        wait.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_are_never_zero() {
        let backoff = Backoff {
            base_ms: 50,
            cap_ms: 2_000,
        };
        assert_eq!(backoff.wait_ms(0, 1.0), 50);
        assert_eq!(backoff.wait_ms(3, 1.0), 400);
        assert_eq!(backoff.wait_ms(60, 1.0), 2_000);
        assert_eq!(backoff.wait_ms(3, 0.0), 1);
    }
}
