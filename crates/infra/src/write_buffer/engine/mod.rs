//! What a store must do to carry the write buffer: apply one atomic, durable batch, and be read while it does.
//!
//! An [`Engine`] belongs to the writer thread alone. A [`Reader`] is shared with everybody; all of them must be gone
//! before the store can be opened again, so they are only lent out under the lock of
//! [`Shared`](super::shared::Shared).

pub(super) mod redb;
pub(super) mod sled;

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

/// Which store keeps the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BufferEngine {
    /// sled 0.34.
    #[default]
    Sled,
    /// redb 4.
    Redb,
}

impl BufferEngine {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sled, Self::Redb];

    /// The name in settings and in file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sled => "sled",
            Self::Redb => "redb",
        }
    }

    /// sled drops the end of a log that is broken in the middle, and says nothing.
    pub(super) fn cuts_off_silently(self) -> bool {
        self == Self::Sled
    }
}

/// Keys to put (`Some`) and to delete (`None`): applied as one.
pub(super) type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Why a store did not do what it was asked. After any of these from a commit its handle is dead.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum EngineError {
    /// The disk is full.
    #[error("no space left: {0}")]
    NoSpace(String),
    /// Another process has it open.
    #[error("locked by another process: {0}")]
    Locked(String),
    /// What is on the disk is not what was written.
    #[error("damaged: {0}")]
    Damaged(String),
    /// It panicked, which may be its way to say that it is damaged.
    #[error("{0}")]
    Panicked(String),
    /// Anything else, such as an I/O error.
    #[error("{0}")]
    Failed(String),
}

impl From<io::Error> for EngineError {
    fn from(error: io::Error) -> Self {
        let text = error.to_string();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::NoSpace(text)
            }
            io::ErrorKind::WouldBlock => Self::Locked(text),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Self::Damaged(text),
            _ => Self::Failed(text),
        }
    }
}

/// Takes one key and its value; says whether to go on.
pub(super) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Reads the store, also while it is written.
pub(super) trait Reader: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;
    /// Visits the keys in `from..to` in order.
    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), EngineError>;
}

/// An open store.
pub(super) trait Engine: Send {
    /// A handle to read it with.
    fn reader(&self) -> Arc<dyn Reader>;
    /// Applies the batch as one; it is on disk when this returns `Ok`.
    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError>;
    /// What it takes on disk, in bytes.
    fn disk_bytes(&self) -> u64;
    /// Leaves it so that it opens again without repair.
    fn close(self: Box<Self>) -> Result<(), EngineError>;
}

/// Opens a store in a directory of its own, creating what is missing.
pub(super) trait OpenEngine: Send {
    /// May panic on damage: callers wrap it in [`opening`].
    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError>;
}

impl OpenEngine for BufferEngine {
    fn open(&self, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
        match self {
            Self::Sled => sled::open(dir),
            Self::Redb => redb::open(dir),
        }
    }
}

/// Opens, taking a panic for damage.
pub(super) fn opening(opener: &dyn OpenEngine, dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
    catch_unwind(AssertUnwindSafe(|| opener.open(dir)))
        .unwrap_or_else(|panic| Err(EngineError::Damaged(panic_text(&*panic))))
}

/// Runs a read or a commit, taking a panic for a failure of the handle.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(EngineError::Panicked(panic_text(&*panic))))
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panicked: {}", text.unwrap_or("no message"))
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(dir: &Path) -> io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}
