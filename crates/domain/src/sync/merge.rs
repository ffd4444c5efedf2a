//! Last writer wins, per field.
//!
//! Each field carries the stamp of the operation that set it. A later stamp wins; an equal or earlier one does nothing.
//! Applying is therefore commutative, associative and idempotent, and the same rule serves Postgres (the same
//! comparison, in SQL), the read overlay and the drain. A delete leaves a tombstone that no write undoes.

use crate::clock::Hlc;
use serde::{Deserialize, Serialize};

/// A field and the stamp of the write that set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lww<T> {
    /// The value.
    pub value: T,
    /// When it was set.
    pub stamp: Hlc,
}

impl<T> Lww<T> {
    /// A field set at `stamp`.
    pub fn new(value: T, stamp: Hlc) -> Self {
        Self { value, stamp }
    }

    /// Takes `value` if `stamp` is later. True when it did.
    pub fn set(&mut self, value: T, stamp: Hlc) -> bool {
        let wins = stamp > self.stamp;
        if wins {
            self.value = value;
            self.stamp = stamp;
        }
        wins
    }
}

/// What applying an operation to an entity did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// At least one field took the operation's value, or the entity was created or deleted.
    Applied,
    /// Newer writes had won every field already, or a delete had; nothing changed.
    Superseded,
    /// There is no such entity.
    Missing,
    /// The entity is not at the version that the operation demands.
    PreconditionFailed,
}
