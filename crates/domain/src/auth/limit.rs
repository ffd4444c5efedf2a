//! Rate limits.

use std::time::Duration;

/// At most `limit` calls in any `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// A stable name for keys, headers and metrics: `login_address`, `login_username`, `register_address`.
    pub name: &'static str,
    /// Calls allowed; 0 refuses all.
    pub limit: u32,
    /// The length of the sliding window.
    pub window: Duration,
}

/// What a limiter says about one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateDecision {
    /// Whether the call may go on; a refused one does not count.
    pub allowed: bool,
    /// The quota asked.
    pub quota: Quota,
    /// Calls left in the window.
    pub remaining: u32,
    /// For an allowed call: until the whole quota is free again. For a refused one: until the next call is allowed.
    pub reset: Duration,
}

impl RateDecision {
    /// For `Retry-After`: whole seconds, at least 1.
    pub fn retry_after_seconds(&self) -> u64 {
        seconds_up(self.reset)
    }
}

/// Whole seconds, rounded up, at least 1.
pub fn seconds_up(duration: Duration) -> u64 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    seconds.max(1)
}
