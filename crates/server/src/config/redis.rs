//! Section `redis`.

use super::reader::Reader;
use gravity_domain::auth::Secret;
use std::time::Duration;

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `url` | not set: sessions and limits are this node's own, so run one node only. A wrong one starts degraded: login answers 503 |
/// | `pubsub_cluster` | not set: hints between nodes go over `url`. A wrong one: nodes hear of each other's changes by looking, every 2 s |
/// | `connect_timeout_ms`, `response_timeout_ms` | too short, and a busy Redis counts as down; too long, and logins hang |
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// `redis://` or `rediss://`.
    pub url: Option<Secret>,
    /// Nodes of the cluster that carries the hints between nodes.
    pub pubsub_cluster: Vec<Secret>,
    /// For a new connection.
    pub connect_timeout: Duration,
    /// For an answer.
    pub response_timeout: Duration,
}

impl RedisConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let url = reader.secret("redis.url");
        check(reader, "redis.url", url.as_slice());
        let nodes = reader.secret("redis.pubsub_cluster");
        let nodes = nodes.iter().flat_map(|nodes| nodes.expose().split(','));
        let pubsub_cluster: Vec<Secret> = nodes.map(|node| Secret::new(node.trim())).collect();
        check(reader, "redis.pubsub_cluster", &pubsub_cluster);
        Self {
            url,
            pubsub_cluster,
            connect_timeout: reader.millis("redis.connect_timeout_ms", 10..=60_000),
            response_timeout: reader.millis("redis.response_timeout_ms", 10..=60_000),
        }
    }
}

fn check(reader: &mut Reader, key: &str, urls: &[Secret]) {
    let known = ["redis://", "rediss://"];
    let is_good = |url: &Secret| known.iter().any(|scheme| url.expose().starts_with(scheme));
    if !urls.iter().all(is_good) {
        reader.refuse(key, "must start with redis:// or rediss://");
    }
}
