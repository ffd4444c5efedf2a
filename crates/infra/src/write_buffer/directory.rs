//! The buffer's directory: who may use it, what lies where, and how much room is left.
//!
//! ```text
//! lock              held while a process uses the store
//! watermark         what the store should hold
//! node, clock       the stamp store's
//! reserve           space kept for opening and draining the store on a full disk
//! store-<engine>/   the store
//! store-<engine>.new/   a smaller store being made from an empty one
//! store-<engine>.before/   the store as it was before it was opened, until it is known that nothing is missing
//! store-<engine>.damaged-<unix time>/   set aside, never deleted; `salvaged` in it says that its operations were saved
//! ```

use super::engine::{BufferEngine, EngineError, sync_directory};
use gravity_domain::clock::Timestamp;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

const SALVAGED: &str = "salvaged";

/// The paths of one buffer.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    root: PathBuf,
    engine: BufferEngine,
}

impl Directory {
    pub(super) fn new(root: &Path, engine: BufferEngine) -> Self {
        Self {
            root: root.to_owned(),
            engine,
        }
    }

    /// Where the store of the engine in use lies.
    pub(super) fn store(&self) -> PathBuf {
        self.store_of(self.engine)
    }

    /// Where the store of `engine` lies.
    pub(super) fn store_of(&self, engine: BufferEngine) -> PathBuf {
        self.root.join(format!("store-{}", engine.as_str()))
    }

    pub(super) fn watermark(&self) -> PathBuf {
        self.root.join("watermark")
    }

    /// Makes the directory and takes its lock, which lasts as long as the file is open.
    pub(super) fn lock(&self) -> Result<File, EngineError> {
        std::fs::create_dir_all(&self.root)?;
        let path = self.root.join("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(EngineError::Locked("the buffer's directory is in use".into()))
            }
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }

    /// Sets a damaged store aside, as it was before it was opened if that is known, with the watermark of that moment
    /// beside it.
    pub(super) fn set_aside(&self, now: Timestamp) -> io::Result<PathBuf> {
        if self.before().exists() {
            std::fs::remove_dir_all(self.store())?;
            std::fs::rename(self.before(), self.store())?;
        }
        self.rename_damaged(&self.store(), now)
    }

    fn rename_damaged(&self, dir: &Path, now: Timestamp) -> io::Result<PathBuf> {
        let name = format!("damaged-{}", now.millis() / 1_000);
        let mut aside = self.store().with_extension(&name);
        for n in 1u32.. {
            if !aside.exists() {
                break;
            }
            aside = self.store().with_extension(format!("{name}-{n}"));
        }
        if self.watermark().exists() {
            std::fs::copy(self.watermark(), dir.join("watermark"))?;
        }
        std::fs::rename(dir, &aside)?;
        sync_directory(&self.root)?;
        Ok(aside)
    }

    /// The copy of the store as it was before it was opened.
    pub(super) fn before(&self) -> PathBuf {
        self.store().with_extension("before")
    }

    /// Makes that copy, unless there is one: an earlier opening that did not come to its end has left it.
    pub(super) fn copy_before(&self) -> io::Result<()> {
        if self.before().exists() || !self.store().exists() {
            return Ok(());
        }
        let unfinished = self.store().with_extension("copying");
        let _ = std::fs::remove_dir_all(&unfinished);
        let copied = copy_files(&self.store(), &unfinished);
        if copied.is_err() {
            let _ = std::fs::remove_dir_all(&unfinished);
        }
        copied?;
        std::fs::rename(unfinished, self.before())
    }

    /// Removes that copy.
    pub(super) fn remove_before(&self) -> io::Result<()> {
        if self.before().exists() {
            std::fs::remove_dir_all(self.before())?;
        }
        Ok(())
    }

    /// Keeps that copy for good, as a damaged store.
    pub(super) fn keep_before(&self, now: Timestamp) -> io::Result<Option<PathBuf>> {
        let before = self.before();
        before
            .exists()
            .then(|| self.rename_damaged(&before, now))
            .transpose()
    }

    /// Damaged stores whose operations have not been saved yet, the oldest first.
    pub(super) fn unsalvaged(&self) -> io::Result<Vec<PathBuf>> {
        let mut dirs = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let path = entry?.path();
            let damaged = path
                .extension()
                .is_some_and(|it| it.to_string_lossy().starts_with("damaged-"));
            if damaged && path.is_dir() && !path.join(SALVAGED).exists() {
                dirs.push(path);
            }
        }
        dirs.sort();
        Ok(dirs)
    }

    /// Notes that the operations of a damaged store are in the present one.
    pub(super) fn mark_salvaged(damaged: &Path, report: &str) -> io::Result<()> {
        let mut file = File::create(damaged.join(SALVAGED))?;
        writeln!(file, "{report}")?;
        file.sync_all()
    }

    /// Where a smaller store is made.
    pub(super) fn new_store(&self) -> PathBuf {
        self.store().with_extension("new")
    }

    fn old_store(&self) -> PathBuf {
        self.store().with_extension("old")
    }

    /// Puts the new store, which is complete, in the place of the old one.
    pub(super) fn swap_in_new(&self) -> io::Result<()> {
        std::fs::rename(self.store(), self.old_store())?;
        self.finish_swap()
    }

    /// Finishes or undoes what a crash interrupted: the new store is complete once the old one was moved away.
    pub(super) fn finish_swap(&self) -> io::Result<()> {
        if self.old_store().exists() && !self.store().exists() && self.new_store().exists() {
            std::fs::rename(self.new_store(), self.store())?;
            sync_directory(&self.root)?;
        }
        if self.before().exists() && !self.store().exists() {
            std::fs::rename(self.before(), self.store())?;
        }
        for leftover in [self.new_store(), self.old_store()] {
            if leftover.exists() && self.store().exists() {
                std::fs::remove_dir_all(leftover)?;
            }
        }
        Ok(())
    }

    /// Bytes that are free for us on the disk.
    pub(super) fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    /// How much of the reserve is missing.
    pub(super) fn reserve_missing(&self, wanted: u64) -> u64 {
        wanted.saturating_sub(std::fs::metadata(self.reserve()).map_or(0, |data| data.len()))
    }

    /// Really writes the reserve, so that its blocks are ours.
    pub(super) fn make_reserve(&self, bytes: u64) -> io::Result<()> {
        let made = self.write_reserve(bytes);
        if made.is_err() {
            self.release_reserve();
        }
        made
    }

    fn write_reserve(&self, bytes: u64) -> io::Result<()> {
        let mut file = File::create(self.reserve())?;
        let block = vec![0x5au8; 1 << 20];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(block.len() as u64);
            file.write_all(&block[..usize::try_from(now).unwrap_or(block.len())])?;
            left -= now;
        }
        file.sync_all()
    }

    /// Gives the reserve's space back to the disk.
    pub(super) fn release_reserve(&self) {
        if let Err(error) = std::fs::remove_file(self.reserve())
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(%error, "the reserve file cannot be removed");
        }
    }
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() {
            copy_files(&path, &to.join(name))?;
        } else {
            std::fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}
