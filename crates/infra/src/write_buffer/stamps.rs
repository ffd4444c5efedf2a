//! The node's id and the ceiling of its stamps, in the buffer's directory but apart from its store: they are there
//! though the store is locked or broken.
//!
//! `node` is made once. `clock` holds the ceiling, and is locked by the process that uses both: a second process on the
//! same directory gets an id of its own, so that two live clocks never share one. It keeps its ceiling in the file as
//! soon as the first one is gone.

use super::slots::{self, SlotFile};
use gravity_domain::clock::{NodeId, StampStore};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

type Clock = SlotFile<8>;

/// Keeps the ceiling in a file of two checksummed slots, overwritten in place and synced.
#[derive(Debug)]
pub struct FileStampStore {
    path: PathBuf,
    clock: Mutex<Option<Clock>>,
}

/// What a clock starts with.
#[derive(Debug)]
pub struct LoadedStamps {
    /// The node.
    pub node: NodeId,
    /// The ceiling that a former run reserved, 0 when there was none.
    pub floor_ms: u64,
    /// Keeps the next ones.
    pub store: FileStampStore,
}

impl FileStampStore {
    /// Loads the node id and the ceiling from the directory `dir`, which is made if needed. Never fails: where the
    /// directory cannot be written, the node gets a random id for this run, and its ceiling is kept in memory only.
    pub fn load(dir: &Path) -> LoadedStamps {
        let path = dir.join("clock");
        let opened = std::fs::create_dir_all(dir).and_then(|()| lock(&path));
        let (clock, floor_ms, node) = match opened {
            Ok((clock, ceiling)) => {
                let node = node_id(dir).unwrap_or_else(|error| {
                    tracing::error!(%error, "the node id cannot be kept; this run has a random one");
                    random()
                });
                (Some(clock), ceiling, node)
            }
            Err(error) => {
                tracing::error!(%error, "the stamp ceiling cannot be kept; this run has a random node id");
                (None, slots::read(&path).map_or(0, u64::from_be_bytes), random())
            }
        };
        LoadedStamps {
            node,
            floor_ms,
            store: Self {
                path,
                clock: Mutex::new(clock),
            },
        }
    }

    fn write(&self, ceiling_ms: u64) -> io::Result<()> {
        let mut clock = self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = clock.as_mut() {
            return file.write(&ceiling_ms.to_be_bytes(), true);
        }
        let (mut file, before) = lock(&self.path)?;
        file.write(&ceiling_ms.max(before).to_be_bytes(), true)?;
        *clock = Some(file);
        Ok(())
    }
}

impl StampStore for FileStampStore {
    fn reserve(&self, ceiling_ms: u64) {
        if let Err(error) = self.write(ceiling_ms) {
            metrics::counter!("gravity_clock_reserve_failed_total").increment(1);
            tracing::error!(%error, "the stamp ceiling could not be written");
        }
    }
}

fn lock(path: &Path) -> io::Result<(Clock, u64)> {
    let (clock, ceiling) = Clock::open(path)?;
    clock.file().try_lock().map_err(io::Error::from)?;
    Ok((clock, ceiling.map_or(0, u64::from_be_bytes)))
}

fn random() -> NodeId {
    NodeId(rand::random())
}

/// Reads the id, or makes one: written aside, synced and renamed, so that a crash leaves none or a whole one.
fn node_id(dir: &Path) -> io::Result<NodeId> {
    let path = dir.join("node");
    match std::fs::read_to_string(&path) {
        Ok(text) => match u64::from_str_radix(text.trim(), 16) {
            Ok(id) => return Ok(NodeId(id)),
            Err(_) => tracing::error!("the file of the node id is damaged; the node gets a new one"),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let node = random();
    let aside = dir.join("node.new");
    let mut file = std::fs::File::create(&aside)?;
    writeln!(file, "{node}")?;
    file.sync_all()?;
    std::fs::rename(&aside, &path)?;
    super::engine::sync_directory(dir)?;
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_and_ceiling_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = FileStampStore::load(dir.path());
        assert_eq!(first.floor_ms, 0);
        first.store.reserve(1_234);
        first.store.reserve(5_678);
        let node = first.node;
        drop(first);
        let second = FileStampStore::load(dir.path());
        assert_eq!((second.node, second.floor_ms), (node, 5_678));
    }

    #[test]
    fn two_live_processes_never_share_a_node_id_and_the_second_takes_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let first = FileStampStore::load(dir.path());
        first.store.reserve(9_000);
        let second = FileStampStore::load(dir.path());
        assert_ne!(first.node, second.node);
        assert_eq!(second.floor_ms, 9_000);
        let node = first.node;
        drop(first);
        second.store.reserve(8_000);
        drop(second);
        let third = FileStampStore::load(dir.path());
        assert_eq!((third.node, third.floor_ms), (node, 9_000));
    }

    #[test]
    fn a_directory_that_cannot_be_made_gives_a_random_node() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let inside = dir.path().join("file").join("below");
        let (one, two) = (FileStampStore::load(&inside), FileStampStore::load(&inside));
        assert_ne!(one.node, two.node);
        one.store.reserve(1);
    }

    #[test]
    fn a_damaged_node_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("node"), "\u{0}\u{0}").unwrap();
        let node = FileStampStore::load(dir.path()).node;
        assert_eq!(FileStampStore::load(dir.path()).node, node);
    }
}
