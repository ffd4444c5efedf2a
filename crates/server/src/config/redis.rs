//! Section `redis`.

use super::reader::Reader;
use gravity_domain::auth::Secret;
use std::time::Duration;

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `url` | not set: sessions and limits are this node's own, so run one node only. A wrong one starts degraded: login answers 503 |
/// | `connect_timeout_ms`, `response_timeout_ms` | too short, and a busy Redis counts as down; too long, and logins hang |
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://` or `rediss://`.
    pub url: Option<Secret>,
    /// For a new connection.
    pub connect_timeout: Duration,
    /// For an answer.
    pub response_timeout: Duration,
}

impl RedisConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let url = reader.secret("redis.url");
        let known = ["redis://", "rediss://"];
        if let Some(url) = &url
            && !known.iter().any(|scheme| url.expose().starts_with(scheme))
        {
            reader.refuse("redis.url", "must start with redis:// or rediss://");
        }
        Self {
            url,
            connect_timeout: reader.millis("redis.connect_timeout_ms", 10..=60_000),
            response_timeout: reader.millis("redis.response_timeout_ms", 10..=60_000),
        }
    }
}
