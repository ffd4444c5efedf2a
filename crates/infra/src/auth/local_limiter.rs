//! Rate limits in this process: an exact sliding window per key, as a list of the calls in it.
//!
//! Bounded: the keys used longest ago are forgotten first.

use async_trait::async_trait;
use gravity_domain::auth::{Quota, RateDecision, RateLimiter};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

type Calls = Arc<Mutex<VecDeque<Instant>>>;

/// The limiter; one per process.
#[derive(Debug)]
pub struct LocalLimiter {
    calls: Cache<(&'static str, String), Calls>,
}

impl LocalLimiter {
    /// Remembers so many keys. Windows are at most `longest` long.
    pub fn new(capacity: u64, longest: Duration) -> Self {
        let calls = Cache::builder()
            .max_capacity(capacity)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(longest)
            .build();
        Self { calls }
    }

    /// Counts one call; see [`RateLimiter::check`].
    pub fn count(&self, quota: &Quota, key: &str) -> RateDecision {
        let calls = self.calls.get_with((quota.name, key.to_owned()), Calls::default);
        let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        decide(quota, &mut calls, Instant::now())
    }

    /// Takes back the latest counted call; see [`RateLimiter::give_back`].
    pub fn uncount(&self, quota: &Quota, key: &str) {
        if let Some(calls) = self.calls.get(&(quota.name, key.to_owned())) {
            calls.lock().unwrap_or_else(PoisonError::into_inner).pop_back();
        }
    }
}

impl Default for LocalLimiter {
    /// 100,000 keys, windows up to an hour.
    fn default() -> Self {
        Self::new(100_000, Duration::from_secs(3_600))
    }
}

fn decide(quota: &Quota, calls: &mut VecDeque<Instant>, now: Instant) -> RateDecision {
    while calls
        .front()
        .is_some_and(|first| now.duration_since(*first) >= quota.window)
    {
        calls.pop_front();
    }
    let used = u32::try_from(calls.len()).unwrap_or(u32::MAX);
    let allowed = used < quota.limit;
    if allowed {
        calls.push_back(now);
    }
    let decisive = if allowed { calls.back() } else { calls.front() };
    let reset = decisive.map_or(quota.window, |call| {
        quota.window.saturating_sub(now.duration_since(*call))
    });
    RateDecision {
        allowed,
        quota: *quota,
        remaining: quota.limit.saturating_sub(used + u32::from(allowed)),
        reset,
    }
}

#[async_trait]
impl RateLimiter for LocalLimiter {
    async fn check(&self, quota: &Quota, key: &str) -> RateDecision {
        self.count(quota, key)
    }

    async fn give_back(&self, quota: &Quota, key: &str) {
        self.uncount(quota, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUOTA: Quota = Quota {
        name: "test",
        limit: 3,
        window: Duration::from_secs(60),
    };

    #[tokio::test(start_paused = true)]
    async fn the_call_over_the_limit_is_refused_until_the_first_falls_out_of_the_window() {
        let limiter = LocalLimiter::default();
        for remaining in [2, 1, 0] {
            let decision = limiter.count(&QUOTA, "a");
            assert!(decision.allowed);
            assert_eq!(decision.remaining, remaining);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let refused = limiter.count(&QUOTA, "a");
        assert!(!refused.allowed);
        assert_eq!(refused.reset, Duration::from_secs(57));
        assert!(limiter.count(&QUOTA, "b").allowed);
        tokio::time::advance(Duration::from_secs(57)).await;
        assert!(limiter.count(&QUOTA, "a").allowed);
        assert!(!limiter.count(&QUOTA, "a").allowed);
    }

    #[test]
    fn a_call_that_is_given_back_can_be_made_again() {
        let limiter = LocalLimiter::default();
        limiter.uncount(&QUOTA, "a");
        for _ in 0..3 {
            limiter.count(&QUOTA, "a");
        }
        limiter.uncount(&QUOTA, "a");
        assert!(limiter.count(&QUOTA, "a").allowed);
        assert!(!limiter.count(&QUOTA, "a").allowed);
    }

    #[test]
    fn a_limit_of_zero_refuses_all() {
        let quota = Quota { limit: 0, ..QUOTA };
        let decision = LocalLimiter::default().count(&quota, "a");
        assert!(!decision.allowed);
        assert_eq!(decision.reset, QUOTA.window);
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_the_limit(gaps in prop::collection::vec(0u64..40, 1..80)) {
            let mut calls = VecDeque::new();
            let mut now = Instant::now();
            let mut allowed = Vec::new();
            for gap in gaps {
                now += Duration::from_secs(gap);
                if decide(&QUOTA, &mut calls, now).allowed {
                    allowed.push(now);
                }
            }
            for at in &allowed {
                let within = allowed.iter().filter(|other| {
                    **other >= *at && other.duration_since(*at) < QUOTA.window
                });
                prop_assert!(within.count() <= 3);
            }
        }
    }
}
