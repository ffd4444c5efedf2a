//! sled 0.34.7, made durable.
//!
//! Its `flush()` writes but does not fsync on Linux, so a commit is `apply_batch`, `flush`, and `sync_data` on our own
//! descriptor of its `db` file. The flush mode, the flush interval and the segment size stay at their defaults, and no
//! value is larger than 4 KiB: larger leaves become blob files, which nobody syncs.

use super::{Batch, Engine, EngineError, Reader, Visit, guarded, sync_directory};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Of the log: in memory a page takes several times as much.
const CACHE_BYTES: u64 = 16 << 20;

struct SledEngine {
    db: ::sled::Db,
    file: File,
    path: PathBuf,
}

struct SledReader(::sled::Db);

/// Opens the store in `dir`. The caller holds the lock of the directory above.
pub(super) fn open(dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
    let path = dir.join("db");
    let existed = path.exists();
    std::fs::create_dir_all(dir)?;
    remove_unfinished_snapshots(dir)?;
    let db = ::sled::Config::new()
        .path(dir)
        .cache_capacity(CACHE_BYTES)
        .open()
        .map_err(error)?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    db.flush().map_err(error)?;
    file.sync_data()?;
    if !existed {
        sync_directory(dir)?;
        dir.parent().map_or(Ok(()), sync_directory)?;
    }
    Ok(Box::new(SledEngine { db, file, path }))
}

/// A kill while a snapshot is written leaves a file that stops the next open. Finished snapshots are never touched.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Engine for SledEngine {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(SledReader(self.db.clone()))
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        let mut writes = ::sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => writes.insert(key.as_slice(), value.as_slice()),
                None => writes.remove(key.as_slice()),
            }
        }
        guarded(|| {
            self.db.apply_batch(writes).map_err(error)?;
            self.db.flush().map_err(error)?;
            Ok(self.file.sync_data()?)
        })
    }

    fn disk_bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |data| data.len())
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        guarded(move || {
            self.db.flush().map_err(error)?;
            self.file.sync_data()?;
            drop(self.db);
            Ok(())
        })
    }
}

impl Reader for SledReader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        guarded(|| Ok(self.0.get(key).map_err(error)?.map(|value| value.to_vec())))
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), EngineError> {
        guarded(|| {
            for item in self.0.range::<&[u8], _>(from..to) {
                let (key, value) = item.map_err(error)?;
                if visit(&key, &value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn error(error: ::sled::Error) -> EngineError {
    match error {
        ::sled::Error::Io(error) if error.to_string().contains("could not acquire lock") => {
            EngineError::Locked(error.to_string())
        }
        ::sled::Error::Io(error) => error.into(),
        other => EngineError::Damaged(other.to_string()),
    }
}
