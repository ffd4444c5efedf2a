//! Finds the index entries of records that can no longer name themselves, so that they can be buried: a walk over the
//! whole index.
//!
//! It is never made on the writer's thread, which would hold up appends, but beside it, a piece at a time. All burials
//! that wait when a walk begins share it.

use super::engine::{EngineError, Reader};
use super::key;
use super::shared::{Access, Shared};
use gravity_domain::sync::BufferError;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

/// Keys visited at a time: between two pieces the store can be closed.
const PIECE: usize = 8_192;

/// The keys of the index entries of one record: by its entity, and by its operation's id.
pub(super) type IndexEntries = (Vec<u8>, Vec<u8>);

/// What a walk has found, by sequence number.
#[derive(Debug, Default)]
pub(super) struct Found {
    by_entity: HashMap<u64, Vec<u8>>,
    by_id: HashMap<u64, Vec<u8>>,
}

impl Found {
    /// The entries of one record, once.
    pub(super) fn take(&mut self, sequence: u64) -> Option<IndexEntries> {
        self.by_entity.remove(&sequence).zip(self.by_id.remove(&sequence))
    }

    pub(super) fn insert(&mut self, sequence: u64, (by_entity, by_id): IndexEntries) {
        self.by_entity.insert(sequence, by_entity);
        self.by_id.insert(sequence, by_id);
    }

    fn has_all(&self, wanted: &HashSet<u64>) -> bool {
        self.by_entity.len() == wanted.len() && self.by_id.len() == wanted.len()
    }
}

/// The index entries of the records with these numbers, by one walk.
pub(super) fn walk(reader: &dyn Reader, wanted: &HashSet<u64>) -> Result<Found, EngineError> {
    let mut found = Found::default();
    if !wanted.is_empty() {
        piece(reader, wanted, &[key::ENTITIES], usize::MAX, &mut found)?;
    }
    Ok(found)
}

/// Visits up to `steps` keys from `from` on. Returns where to go on; `None` at the end, or when all is found.
fn piece(
    reader: &dyn Reader,
    wanted: &HashSet<u64>,
    from: &[u8],
    steps: usize,
    found: &mut Found,
) -> Result<Option<Vec<u8>>, EngineError> {
    let (mut seen, mut next) = (0, None);
    reader.scan(from, &[key::OPERATIONS + 1], &mut |key, sealed| {
        if seen == steps {
            next = Some(key.to_vec());
            return ControlFlow::Break(());
        }
        seen += 1;
        if let Some((.., sequence)) = key::entity_of(key) {
            if wanted.contains(&sequence) {
                found.by_entity.insert(sequence, key.to_vec());
            }
        } else if key.first() == Some(&key::OPERATIONS)
            && let Ok(parcel) = key::unseal(key, sealed).and_then(key::parcel_from)
            && wanted.contains(&parcel.sequence)
        {
            found.by_id.insert(parcel.sequence, key.to_vec());
        }
        if found.has_all(wanted) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(next)
}

/// The walks of one buffer, one at a time.
#[derive(Default)]
pub(super) struct Search {
    waiting: Mutex<HashMap<u64, Option<IndexEntries>>>,
    pub(super) turn: tokio::sync::Mutex<()>,
    #[cfg(test)]
    pub(super) walks: std::sync::atomic::AtomicU32,
}

/// One who waits for a walk; who gives up is forgotten.
struct Waiter<'a> {
    search: &'a Search,
    sequence: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.search.lock().remove(&self.sequence);
    }
}

impl Search {
    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Option<IndexEntries>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index entries of one record; `None` when it has none, or is gone.
    pub(super) async fn entries_of(
        &self,
        shared: &Arc<Shared>,
        sequence: u64,
    ) -> Result<Option<IndexEntries>, BufferError> {
        self.lock().insert(sequence, None);
        let waiter = Waiter {
            search: self,
            sequence,
        };
        let _turn = self.turn.lock().await;
        if let Some(entries) = self.lock().get_mut(&sequence).and_then(Option::take) {
            return Ok(Some(entries));
        }
        #[cfg(test)]
        self.walks.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let wanted: HashSet<u64> = self.lock().keys().copied().collect();
        let (from, to) = (wanted.clone(), shared.clone());
        let mut found = tokio::task::spawn_blocking(move || walk_aside(&to, &from))
            .await
            .map_err(|error| BufferError::Unavailable(error.to_string()))??;
        let own = found.take(waiter.sequence);
        for (sequence, place) in self.lock().iter_mut() {
            *place = found.take(*sequence).or(place.take());
        }
        Ok(own)
    }
}

fn walk_aside(shared: &Shared, wanted: &HashSet<u64>) -> Result<Found, BufferError> {
    let (mut found, mut from) = (Found::default(), Some(vec![key::ENTITIES]));
    while let Some(at) = from {
        from = match shared.with_waiting(|reader| piece(reader, wanted, &at, PIECE, &mut found))? {
            Access::Asked(next) => next,
            Access::Nothing => None,
        };
    }
    Ok(found)
}
