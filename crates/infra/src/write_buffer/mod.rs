//! The write buffer: the durable local queue that takes acknowledged writes while Postgres cannot.
//!
//! One [`DurableBuffer`] serves the three ports. Below it, in order of the way of an append:
//!
//! - [`ports`](self) turn calls into requests, bounded: 4,096 wait at most, and further callers wait for a place.
//! - `writer` is the one thread that changes the store. It commits all requests that wait as one group, with one sync.
//! - `queue` says what each request does to the keys, once for both stores; `key`, [`record`] and [`letter`] how they lie
//!   on the disk.
//! - `engine` is what a store must be able to do; `engine::sled` and `engine::redb` do it.
//! - `open` brings a store up again whatever has happened to it; [`salvage`] gets operations out of one that is broken,
//!   and `watermark` notices one that is broken and does not know it.
//! - `query` and `shared` serve the reads, which go past the thread; `lanes` knows the lanes in which nothing waits, and
//!   `search` finds the index entries of records that are too broken to name themselves, `wide` keeps the reads of whole
//!   lanes within bounds.
//!
//! Nothing is kept in memory per operation. `docs/specs/write-buffer.md` says what is promised under which fault.

mod directory;
mod engine;
mod key;
mod lanes;
pub mod letter;
mod measure;
mod open;
mod ports;
mod query;
mod queue;
mod readers;
pub mod record;
mod request;
pub mod salvage;
mod search;
mod shared;
mod slots;
mod stamps;
mod upkeep;
mod watermark;
mod wide;
mod writer;

#[cfg(test)]
mod tests;

pub use engine::BufferEngine;
pub use measure::describe as describe_metrics;
pub use ports::DurableBuffer;
pub use queue::MAX_PER_ENTITY;
pub use stamps::{FileStampStore, LoadedStamps};

use std::path::{Path, PathBuf};

/// How a buffer is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BufferSettings {
    /// Its directory: on a local disk (ext4, xfs), for one process only. Made if it is not there.
    pub path: PathBuf,
    /// What keeps it. After a change, what the other engine's store holds is taken over when the buffer opens.
    pub engine: BufferEngine,
    /// Operations that may wait; beyond, appends are refused.
    pub max_operations: u64,
    /// Operations of one user that may wait; beyond, that user's appends are refused.
    pub max_per_user: u64,
    /// Bytes of waiting operations and dead letters; beyond, appends are refused. The disk needs about twice as many.
    pub max_bytes: u64,
    /// Free bytes on the disk below which appends are refused.
    pub min_free_bytes: u64,
    /// Bytes set aside so that the store can be opened, and drained, on a full disk.
    pub reserve_bytes: u64,
    /// An empty store larger than this many bytes is made anew.
    pub compact_bytes: u64,
}

impl BufferSettings {
    /// A million operations, 50,000 of one user, or 1 GiB in `path`, 256 MiB left free, 64 MiB in reserve.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            engine: BufferEngine::default(),
            max_operations: 1_000_000,
            max_per_user: 50_000,
            max_bytes: 1 << 30,
            min_free_bytes: 256 << 20,
            reserve_bytes: 64 << 20,
            compact_bytes: 256 << 20,
        }
    }
}
