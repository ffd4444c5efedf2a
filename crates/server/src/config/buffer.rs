//! Section `buffer`: the write buffer and its drain.

use super::reader::Reader;
use gravity_infra::write_buffer::BufferEngine;
use std::path::PathBuf;
use std::time::Duration;

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `path` | a directory on a local disk, one process only; unwritable or on a lost volume breaks the promise that 202 is durable |
/// | `engine` | `sled` or `redb`; after a change, what waits in the other is taken over |
/// | `max_size`, `max_per_user`, `max_bytes` | operations, those of one user, and bytes it holds; beyond, writes answer 503 `buffer_full`. More than the disk has: full earlier |
/// | `min_free_bytes`, `reserve_bytes` | free disk space below which it takes no more, and space set aside to open and drain on a full disk; too much takes nothing |
/// | `retention_hours` | older operations are parked as dead letters; shorter than an outage parks what could be applied |
/// | `sync_interval_seconds` | the drain looks at least this often; it wakes on its own, so this is a safety net |
/// | `max_retry_attempts` | failures of the operation itself before it is parked |
/// | `batch_size` | operations per transaction; large ones hold row locks longer |
#[derive(Debug, Clone)]
pub struct BufferConfig {
    /// Where it lies.
    pub path: PathBuf,
    /// What keeps it.
    pub engine: BufferEngine,
    /// Operations it holds at most.
    pub max_size: u64,
    /// Operations of one user that it holds at most.
    pub max_per_user: u64,
    /// Bytes it holds at most.
    pub max_bytes: u64,
    /// Disk space it leaves free, at most a tenth of the file system.
    pub min_free_bytes: u64,
    /// Disk space set aside, at most a twentieth of the file system.
    pub reserve_bytes: u64,
    /// Age at which an operation is parked.
    pub retention: Duration,
    /// How often the drain looks at least.
    pub sync_interval: Duration,
    /// Failures before an operation is parked.
    pub max_retry_attempts: u32,
    /// Operations per transaction.
    pub batch_size: usize,
}

impl BufferConfig {
    pub(super) fn read(reader: &mut Reader) -> Self {
        Self {
            path: PathBuf::from(reader.required("buffer.path")),
            engine: reader.choice(
                "buffer.engine",
                &[("sled", BufferEngine::Sled), ("redb", BufferEngine::Redb)],
            ),
            max_size: reader.number("buffer.max_size", 1..=1_000_000_000),
            max_per_user: reader.number("buffer.max_per_user", 1..=1_000_000_000),
            max_bytes: reader.number("buffer.max_bytes", 4_096..=1 << 44),
            min_free_bytes: reader.number("buffer.min_free_bytes", 0..=1 << 44),
            reserve_bytes: reader.number("buffer.reserve_bytes", 1 << 20..=1 << 34),
            retention: reader.hours("buffer.retention_hours", 1..=8_760),
            sync_interval: reader.seconds("buffer.sync_interval_seconds", 1..=3_600),
            max_retry_attempts: reader.small("buffer.max_retry_attempts", 1..=1_000),
            batch_size: reader.count("buffer.batch_size", 1..=5_000),
        }
    }
}
