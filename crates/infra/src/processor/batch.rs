//! Taking a batch from the buffer.
//!
//! Each look begins at the front, so that a record of a higher priority comes first whenever it arrives. What lies at
//! the front but is dealt with (it is on its way out, or its lane is parked) is skipped: for each rank a cursor remembers
//! up to where that is so. Sequence numbers only grow, so nothing new appears behind a cursor; it goes back to the front
//! when a lane is freed or anything failed.

use super::drain::Drain;
use gravity_domain::sync::Operation;
use gravity_domain::sync::ports::{BufferError, Entry, Parcel};
use std::collections::BTreeMap;

/// An operation under way.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) parcel: Parcel,
    /// With the failures of the operation itself so far, in this run.
    pub(super) operation: Operation,
}

/// A record that will not be applied.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) parcel: Parcel,
    /// Absent when it cannot be read.
    pub(super) operation: Option<Operation>,
    pub(super) reason: String,
}

#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) lost: Vec<Lost>,
    /// Up to where the records of each rank were looked at.
    seen: BTreeMap<u8, u64>,
}

impl Batch {
    pub(super) fn len(&self) -> usize {
        self.items.len() + self.lost.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// For each rank, up to where everything is dealt with.
#[derive(Debug, Default)]
pub(super) struct Cursors(BTreeMap<u8, u64>);

impl Cursors {
    /// The batch has been dealt with.
    pub(super) fn pass(&mut self, batch_seen: &BTreeMap<u8, u64>) {
        for (rank, sequence) in batch_seen {
            let cursor = self.0.entry(*rank).or_default();
            *cursor = (*cursor).max(*sequence);
        }
    }

    pub(super) fn rewind(&mut self) {
        self.0.clear();
    }

    /// Where to go on instead, when `parcel` is dealt with.
    fn beyond(&self, parcel: Parcel) -> Option<Parcel> {
        let sequence = *self.0.get(&parcel.rank)?;
        (parcel.sequence <= sequence).then_some(Parcel {
            rank: parcel.rank,
            sequence,
        })
    }
}

impl Drain {
    /// Up to a batch of records that can be dealt with now; empty when there is none.
    pub(super) async fn take(&mut self) -> Result<Batch, BufferError> {
        let size = self.limit;
        let mut batch = Batch::default();
        let mut after = None;
        // With cursors, one record tells whether anything came in before them.
        let mut limit = if self.cursors.0.is_empty() { size } else { 1 };
        while batch.len() < size {
            let entries = self.ports.buffer.peek(after, limit).await?;
            let at_end = entries.len() < limit;
            let mut jumped = false;
            for entry in entries {
                if batch.len() >= size {
                    break;
                }
                if let Some(beyond) = self.cursors.beyond(entry.parcel) {
                    after = Some(beyond);
                    jumped = true;
                    break;
                }
                after = Some(entry.parcel);
                batch.seen.insert(entry.parcel.rank, entry.parcel.sequence);
                self.sort(entry, &mut batch);
            }
            if at_end && !jumped {
                break;
            }
            limit = size;
        }
        if batch.is_empty() {
            self.cursors.pass(&batch.seen);
        }
        Ok(batch)
    }

    fn sort(&self, entry: Entry, batch: &mut Batch) {
        let parcel = entry.parcel;
        if self.leaving.contains(&parcel) {
            return;
        }
        match entry.operation {
            Ok(operation) if self.parked.holds(operation.user_id) => {}
            Err(reason) => batch.lost.push(Lost {
                parcel,
                operation: None,
                reason,
            }),
            Ok(operation) if self.policy.is_expired(&operation, self.ports.clock.now()) => {
                batch.lost.push(Lost {
                    parcel,
                    operation: Some(operation),
                    reason: "expired".to_owned(),
                });
            }
            Ok(operation) => batch.items.push(Item { parcel, operation }),
        }
    }
}

impl Batch {
    /// Its parts, to be dealt with one after the other.
    pub(super) fn into_parts(self) -> (Vec<Item>, Vec<Lost>, BTreeMap<u8, u64>) {
        (self.items, self.lost, self.seen)
    }
}
