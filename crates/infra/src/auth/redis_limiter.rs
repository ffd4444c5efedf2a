//! Rate limits that nodes share: the sliding window of [`LocalLimiter`] as one script in Redis, on Redis' clock.
//! What Redis cannot count is counted in this process.

use super::local_limiter::LocalLimiter;
use crate::redis::{PREFIX, Redis};
use async_trait::async_trait;
use gravity_domain::auth::{Quota, RateDecision, RateLimiter};
use gravity_domain::error::StoreError;
use redis::Script;
use std::time::Duration;

/// The limiter; one per process.
pub struct RedisLimiter {
    redis: Redis,
    local: LocalLimiter,
    script: Script,
}

impl std::fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLimiter").finish_non_exhaustive()
    }
}

impl RedisLimiter {
    /// A limiter that counts in `redis`, and in `local` while Redis does not answer.
    pub fn new(redis: Redis, local: LocalLimiter) -> Self {
        Self {
            redis,
            local,
            script: Script::new(include_str!("limit.lua")),
        }
    }

    async fn shared(&self, quota: &Quota, key: &str) -> Result<RateDecision, StoreError> {
        let window = u64::try_from(quota.window.as_micros()).unwrap_or(u64::MAX);
        let mut call = self.script.key(window_of(quota, key));
        call.arg(quota.limit).arg(window);
        let (allowed, used, left): (u8, u32, u64) = self.redis.script("rate_limit", &call).await?;
        Ok(RateDecision {
            allowed: allowed == 1,
            quota: *quota,
            remaining: quota.limit.saturating_sub(used),
            reset: Duration::from_micros(left),
        })
    }
}

fn window_of(quota: &Quota, key: &str) -> String {
    format!("{PREFIX}limit:{}:{key}", quota.name)
}

#[async_trait]
impl RateLimiter for RedisLimiter {
    async fn check(&self, quota: &Quota, key: &str) -> RateDecision {
        match self.shared(quota, key).await {
            Ok(decision) => decision,
            Err(error) => {
                tracing::debug!(%error, "a call is counted in this process only");
                metrics::counter!("gravity_rate_limit_fallback_total").increment(1);
                self.local.count(quota, key)
            }
        }
    }

    async fn give_back(&self, quota: &Quota, key: &str) {
        let mut command = redis::cmd("ZPOPMAX");
        command.arg(window_of(quota, key));
        let taken: Result<redis::Value, _> = self.redis.command("rate_limit", &command).await;
        if let Err(error) = taken {
            tracing::debug!(%error, "a call is given back in this process only");
            self.local.uncount(quota, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::session_contract::redis;
    use futures_util::future::join_all;
    use gravity_test_support::services;

    fn quota(name: &'static str, window: Duration) -> Quota {
        Quota {
            name,
            limit: 5,
            window,
        }
    }

    #[tokio::test]
    async fn nodes_share_one_window_and_a_refused_call_does_not_count() {
        let url = services::shared::redis();
        let nodes = [
            RedisLimiter::new(redis(url), LocalLimiter::default()),
            RedisLimiter::new(redis(url), LocalLimiter::default()),
        ];
        let window = Duration::from_secs(2);
        let quota = quota("two_nodes", window);
        let calls = (0..20).map(|call| nodes[call % 2].check(&quota, "a"));
        let decisions = join_all(calls).await;
        let allowed: Vec<_> = decisions.iter().filter(|decision| decision.allowed).collect();
        assert_eq!(allowed.len(), 5);
        assert_eq!(allowed.iter().map(|decision| decision.remaining).min(), Some(0));
        let refused = decisions.iter().find(|decision| !decision.allowed).unwrap();
        assert!(refused.reset <= window && !refused.reset.is_zero());
        assert!(nodes[0].check(&quota, "b").await.allowed);
        tokio::time::sleep(refused.reset + Duration::from_millis(20)).await;
        assert!(nodes[1].check(&quota, "a").await.allowed);
    }

    #[tokio::test]
    async fn a_call_that_is_given_back_can_be_made_again() {
        let limiter = RedisLimiter::new(redis(services::shared::redis()), LocalLimiter::default());
        let quota = quota("given_back", Duration::from_secs(60));
        for _ in 0..6 {
            limiter.check(&quota, "a").await;
        }
        limiter.give_back(&quota, "a").await;
        assert!(limiter.check(&quota, "a").await.allowed);
        assert!(!limiter.check(&quota, "a").await.allowed);
    }

    #[tokio::test]
    async fn while_redis_is_down_this_process_counts() {
        let server = services::Redis::start_private().unwrap();
        let limiter = RedisLimiter::new(redis(&server.url()), LocalLimiter::default());
        let quota = quota("down", Duration::from_secs(60));
        assert_eq!(limiter.check(&quota, "a").await.remaining, 4);
        server.kill();
        let mut allowed = 0;
        for _ in 0..8 {
            allowed += u32::from(limiter.check(&quota, "a").await.allowed);
        }
        assert_eq!(allowed, 5);
    }
}
