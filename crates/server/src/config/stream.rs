//! Section `stream`.

use super::reader::Reader;

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `cache_bytes` | what this process keeps of streams; too little, and most reads go to Redis, too much, and the process is killed for its memory |
/// | `cache_users` | of how many users this process remembers the version; too few, and Redis is asked for it |
/// | `ingest_body_limit_bytes` | larger bodies of ingest calls are 413 |
/// | `ingest_calls_per_minute` | of one account; too few, and services that feed are held up with 429 |
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Of the cache in the process.
    pub cache_bytes: u64,
    /// Users whose version is remembered, some 200 bytes each.
    pub cache_users: usize,
    /// Largest body of an ingest call.
    pub ingest_body_limit: usize,
    /// Ingest calls of one account.
    pub ingest_calls_per_minute: u32,
}

impl StreamConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            cache_bytes: reader.number("stream.cache_bytes", 1 << 20..=1 << 40),
            cache_users: reader.count("stream.cache_users", 1..=100_000_000),
            ingest_body_limit: reader.count("stream.ingest_body_limit_bytes", 65_536..=64 << 20),
            ingest_calls_per_minute: reader.small("stream.ingest_calls_per_minute", 1..=10_000_000),
        }
    }
}
