//! Section `stream`.

use super::reader::Reader;
use std::time::Duration;

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `cache_bytes` | what this process keeps of streams; too little, and most reads go to Redis, too much, and the process is killed for its memory |
/// | `cache_ttl_seconds` | how long Redis keeps a page or an item of a version; too short, and Postgres loads them again, too long, and Redis fills |
/// | `ingest_body_limit_bytes` | larger bodies of ingest calls are 413 |
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Of the cache in the process.
    pub cache_bytes: u64,
    /// In Redis, give or take a tenth.
    pub cache_ttl: Duration,
    /// Largest body of an ingest call.
    pub ingest_body_limit: usize,
}

impl StreamConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            cache_bytes: reader.number("stream.cache_bytes", 1 << 20..=1 << 40),
            cache_ttl: reader.seconds("stream.cache_ttl_seconds", 10..=86_400),
            ingest_body_limit: reader.count("stream.ingest_body_limit_bytes", 65_536..=64 << 20),
        }
    }
}
