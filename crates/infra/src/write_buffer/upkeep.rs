//! The room on the disk, and stores that are copied: an empty one that has grown large, or that of the other engine.

use super::engine::EngineError;
use super::open::{close, failed, open_at};
use super::queue::{Draft, Limits, Parcelled};
use super::writer::{End, Store, Writer};
use super::{query, search};
use gravity_domain::clock::Timestamp;
use gravity_domain::sync::DeadLetter;
use std::collections::HashSet;
use std::path::Path;

const COPY: usize = 256;
/// Letters may hold a whole record each.
const COPY_LETTERS: usize = 16;
/// A store of this size is made anew, when empty, on a disk that is full.
const WORTH_SHRINKING: u64 = 8 << 20;

impl Writer {
    /// Makes an empty store that has grown large anew: it never gives space back by itself. Dead letters move along.
    pub(super) fn shrink(&mut self, store: &mut Store, bytes: u64) -> Result<(), End> {
        let large = bytes > self.settings.compact_bytes || self.disk_full && bytes > WORTH_SHRINKING;
        if store.counters.count > 0 || !large {
            return Ok(());
        }
        let path = self.directory.new_store();
        if let Err(error) = self.make_small_copy(store, &path) {
            tracing::error!(%error, "the write buffer's store could not be made smaller");
            let _ = std::fs::remove_dir_all(&path);
            self.settings.compact_bytes = self.settings.compact_bytes.max(bytes) * 2;
            return Ok(());
        }
        Err(End::Replaced)
    }

    fn make_small_copy(&self, store: &mut Store, path: &Path) -> Result<(), EngineError> {
        let mut small = open_at(&*self.opener, path)?;
        small.counters.next = store.counters.next;
        copy_letters(store, &mut small)?;
        close(small)
    }

    fn reserve_missing(&self) -> u64 {
        self.directory.reserve_missing(self.settings.reserve_bytes)
    }

    /// The reserve is made only where as much again stays free: else the store that it was given to would lose it again
    /// before it has drained.
    fn fits_reserve(&self, free: u64) -> bool {
        free >= self
            .settings
            .min_free_bytes
            .saturating_add(2 * self.reserve_missing())
    }

    pub(super) fn first_reserve(&self) {
        let free = self.directory.free_bytes().unwrap_or(u64::MAX);
        if self.reserve_missing() > 0 && !self.disk_full && self.fits_reserve(free) {
            self.make_reserve();
        }
    }

    fn make_reserve(&self) {
        if let Err(error) = self.directory.make_reserve(self.settings.reserve_bytes) {
            tracing::error!(%error, "the write buffer's reserve cannot be made");
        }
    }

    /// Gives the reserve to the store, and takes no more appends.
    pub(super) fn run_out_of_space(&mut self) {
        if !self.disk_full {
            tracing::error!("the write buffer's disk is full");
        }
        self.directory.release_reserve();
        self.disk_full = true;
        self.shared.set_room(false);
    }

    /// Refuses early on a disk that is nearly full; after a full one, waits until the reserve is back.
    pub(super) fn check_room(&mut self) {
        let free = self.directory.free_bytes().unwrap_or(u64::MAX);
        let room = free >= self.settings.min_free_bytes;
        if self.disk_full && self.fits_reserve(free) {
            if self.reserve_missing() > 0 {
                self.make_reserve();
            }
            self.disk_full = self.reserve_missing() > 0;
        }
        self.shared.set_room(room && !self.disk_full);
    }
}

/// Appends all that `from` holds to `to`, lane by lane in order. Records that cannot be read become letters first.
pub(super) fn copy_all(from: &mut Store, to: &mut Store, now: Timestamp) -> Result<(), EngineError> {
    let mut after = None;
    loop {
        let entries = query::peek(&*from.reader, after, COPY, u64::MAX)?;
        let Some(last) = entries.last() else { break };
        after = Some(last.parcel);
        let (old_reader, new_reader) = (from.reader.clone(), to.reader.clone());
        let mut broken = Draft::new(&*old_reader, from.counters, Limits::NONE);
        let mut draft = Draft::new(&*new_reader, to.counters, Limits::NONE);
        let unread = entries.iter().filter(|entry| entry.operation.is_err());
        let unread: HashSet<u64> = unread.map(|entry| entry.parcel.sequence).collect();
        let mut found = search::walk(&*old_reader, &unread)?;
        for entry in entries {
            if let Some(entries) = found.take(entry.parcel.sequence) {
                broken.know(entry.parcel.sequence, entries);
            }
            let item = entry
                .operation
                .and_then(|it| Parcelled::of(&it).map_err(|fault| fault.to_string()));
            match item {
                Ok(item) => draft.put_back(&item).map_err(failed)?,
                Err(reason) => broken.bury(entry.parcel, 0, &reason, now)?,
            }
        }
        to.commit(draft)?;
        from.commit(broken)?;
    }
    copy_letters(from, to)
}

fn copy_letters(from: &mut Store, to: &mut Store) -> Result<(), EngineError> {
    let mut after = None;
    loop {
        let letters: Vec<DeadLetter> = query::letters(&*from.reader, after, COPY_LETTERS)?;
        let reader = to.reader.clone();
        let mut draft = Draft::new(&*reader, to.counters, Limits::NONE);
        for letter in &letters {
            draft.put_letter(letter)?;
        }
        to.commit(draft)?;
        match letters.last() {
            Some(last) => after = Some(last.id),
            None => return Ok(()),
        }
    }
}
