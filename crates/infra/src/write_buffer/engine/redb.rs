//! redb 4: one table, every commit durable as it comes (`Durability::Immediate`).

use super::{Batch, Engine, EngineError, Reader, Visit, guarded, sync_directory};
use ::redb::{Database, ReadableDatabase, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CACHE_BYTES: usize = 64 << 20;
const TABLE: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("buffer");

struct RedbEngine {
    db: Arc<Database>,
    path: PathBuf,
}

struct RedbReader(Arc<Database>);

/// Opens the store in `dir`.
pub(super) fn open(dir: &Path) -> Result<Box<dyn Engine>, EngineError> {
    let path = dir.join("store.redb");
    let existed = path.exists();
    std::fs::create_dir_all(dir)?;
    let db = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(&path)
        .map_err(error)?;
    let engine = RedbEngine {
        db: Arc::new(db),
        path,
    };
    let writes = engine.db.begin_write().map_err(error)?;
    writes.open_table(TABLE).map_err(error)?;
    writes.commit().map_err(error)?;
    if !existed {
        sync_directory(dir)?;
        dir.parent().map_or(Ok(()), sync_directory)?;
    }
    Ok(Box::new(engine))
}

impl RedbEngine {
    fn write(&self, batch: &Batch) -> Result<(), EngineError> {
        let writes = self.db.begin_write().map_err(error)?;
        {
            let mut table = writes.open_table(TABLE).map_err(error)?;
            for (key, value) in batch {
                match value {
                    Some(value) => table.insert(key.as_slice(), value.as_slice()).map_err(error)?,
                    None => table.remove(key.as_slice()).map_err(error)?,
                };
            }
        }
        writes.commit().map_err(error)
    }
}

impl Engine for RedbEngine {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(RedbReader(self.db.clone()))
    }

    fn commit(&mut self, batch: &Batch) -> Result<(), EngineError> {
        guarded(|| self.write(batch))
    }

    fn disk_bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |data| data.len())
    }

    fn close(self: Box<Self>) -> Result<(), EngineError> {
        guarded(move || {
            drop(self.db);
            Ok(())
        })
    }
}

impl Reader for RedbReader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        guarded(|| {
            let table = self
                .0
                .begin_read()
                .map_err(error)?
                .open_table(TABLE)
                .map_err(error)?;
            Ok(table.get(key).map_err(error)?.map(|value| value.value().to_vec()))
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut Visit<'_>) -> Result<(), EngineError> {
        guarded(|| {
            let table = self
                .0
                .begin_read()
                .map_err(error)?
                .open_table(TABLE)
                .map_err(error)?;
            for item in table.range::<&[u8]>(from..to).map_err(error)? {
                let (key, value) = item.map_err(error)?;
                if visit(key.value(), value.value()).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }
}

fn error(error: impl Into<::redb::Error>) -> EngineError {
    match error.into() {
        ::redb::Error::Io(error) => error.into(),
        ::redb::Error::DatabaseAlreadyOpen => EngineError::Locked("the store is open elsewhere".into()),
        other @ (::redb::Error::Corrupted(_)
        | ::redb::Error::UpgradeRequired(_)
        | ::redb::Error::RepairAborted
        | ::redb::Error::TableTypeMismatch { .. }
        | ::redb::Error::TypeDefinitionChanged { .. }) => EngineError::Damaged(other.to_string()),
        other => EngineError::Failed(other.to_string()),
    }
}
