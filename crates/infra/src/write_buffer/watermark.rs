//! What the store should hold, in a small file beside it: how far it has acknowledged, written with every group but
//! synced only once a second, and whether it may hold anything at all, synced before the first thing it holds is
//! acknowledged.
//!
//! The first tells a store that has silently lost its end; the second lets a node whose store cannot be opened go on
//! with what needs no buffer, when it is certain that nothing waits in it.

use super::queue::Counters;
use super::slots::{self, SlotFile};
use std::io;
use std::path::Path;

const LENGTH: usize = 25;

/// The content of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Watermark {
    /// The last sequence number acknowledged, or a little less.
    pub(super) acknowledged: u64,
    /// Every sequence number below has left the queue.
    pub(super) lowest: u64,
    /// Operations waiting, as of then.
    pub(super) count: u64,
    /// Dead letters kept, as of then.
    pub(super) dead: u64,
    /// What may be in it.
    pub(super) held: Held,
}

/// What may be in a store: `false` is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Held {
    pub(super) operations: bool,
    pub(super) letters: bool,
}

impl Held {
    /// Anything may be in it.
    pub(super) const UNKNOWN: Self = Self {
        operations: true,
        letters: true,
    };

    /// What these counters tell.
    pub(super) fn by(counters: &Counters) -> Self {
        Self {
            operations: counters.count > 0,
            letters: counters.dead > 0,
        }
    }

    /// What may be in it by either.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            operations: self.operations || other.operations,
            letters: self.letters || other.letters,
        }
    }
}

impl Watermark {
    /// What the file at `path` says.
    pub(super) fn read(path: &Path) -> Option<Self> {
        slots::read(path).map(Self::from_bytes)
    }

    /// How many acknowledged operations are missing from a store whose last number is `last`.
    pub(super) fn missing_after(&self, last: u64) -> u64 {
        let floor = last.max(self.lowest.saturating_sub(1));
        if self.held.operations {
            self.acknowledged.saturating_sub(floor)
        } else {
            0
        }
    }

    fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        let number = |at: usize| {
            let mut eight = [0u8; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_be_bytes(eight)
        };
        Self {
            acknowledged: number(0),
            lowest: number(8),
            count: number(16) & u64::from(u32::MAX),
            dead: number(16) >> 32,
            held: Held {
                operations: bytes[24] & 1 != 0,
                letters: bytes[24] & 2 != 0,
            },
        }
    }

    fn to_bytes(self) -> [u8; LENGTH] {
        let mut bytes = [0u8; LENGTH];
        bytes[..8].copy_from_slice(&self.acknowledged.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.lowest.to_be_bytes());
        for (at, number) in [(16, self.dead), (20, self.count)] {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
        bytes[24] = u8::from(self.held.operations) | u8::from(self.held.letters) << 1;
        bytes
    }
}

/// The file, open.
pub(super) struct WatermarkFile {
    slots: SlotFile<LENGTH>,
    written: Option<Watermark>,
    durable: bool,
}

impl WatermarkFile {
    /// Opens or creates it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (slots, bytes) = SlotFile::open(path)?;
        let written = bytes.map(Watermark::from_bytes);
        Ok(Self {
            slots,
            written,
            durable: written.is_some(),
        })
    }

    /// What it says.
    pub(super) fn written(&self) -> Option<Watermark> {
        self.written
    }

    /// Writes it unless it says so already. Survives the process in any case, and the machine if `durable`.
    pub(super) fn write(&mut self, watermark: Watermark, durable: bool) -> io::Result<()> {
        if self.written != Some(watermark) || (durable && !self.durable) {
            self.slots.write(&watermark.to_bytes(), durable)?;
            (self.written, self.durable) = (Some(watermark), durable);
        }
        Ok(())
    }
}
