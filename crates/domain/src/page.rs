//! Pages: keyset cursors on (time, id), newest first, so that paging has no gap and no repeat while rows are inserted.
//!
//! A cursor is opaque to clients: base64url of a version byte, 8 bytes of milliseconds, 16 of id, and a 4-byte check
//! (FNV-1a), which tells a mistyped or truncated cursor from a good one. It grants nothing, so it is not signed.

use crate::clock::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

const VERSION: u8 = 1;
const LENGTH: usize = 1 + 8 + 16 + 4;

/// The position of a row in a list: the last row a client has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PageKey {
    /// The row's time.
    pub at: Timestamp,
    /// The row's id: the tie-break.
    pub id: Uuid,
}

/// A text that is no cursor of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the cursor is not one this API gave out")]
pub struct InvalidCursor;

impl PageKey {
    /// The opaque cursor for this position.
    pub fn encode(self) -> String {
        let mut bytes = [0u8; LENGTH];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.at.millis().to_be_bytes());
        bytes[9..25].copy_from_slice(self.id.as_bytes());
        let check = fnv1a(&bytes[..25]).to_be_bytes();
        bytes[25..].copy_from_slice(&check);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position of `cursor`.
    ///
    /// # Errors
    /// [`InvalidCursor`] for anything that [`Self::encode`] did not make.
    pub fn decode(cursor: &str) -> Result<Self, InvalidCursor> {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| InvalidCursor)?;
        let bytes: [u8; LENGTH] = bytes.try_into().map_err(|_| InvalidCursor)?;
        let (body, check) = bytes.split_at(25);
        if body[0] != VERSION || check != fnv1a(body).to_be_bytes() {
            return Err(InvalidCursor);
        }
        let millis = i64::from_be_bytes(body[1..9].try_into().map_err(|_| InvalidCursor)?);
        let id = Uuid::from_slice(&body[9..25]).map_err(|_| InvalidCursor)?;
        if !(0..=Timestamp::MAX.millis()).contains(&millis) {
            return Err(InvalidCursor);
        }
        Ok(Self {
            at: Timestamp::from_millis(millis),
            id,
        })
    }
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// How many rows a page has: 1..=100, 20 when not given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PageLimit(usize);

impl PageLimit {
    /// The greatest page.
    pub const MAX: usize = 100;

    /// `limit` when it is in bounds.
    pub fn new(limit: usize) -> Option<Self> {
        (1..=Self::MAX).contains(&limit).then_some(Self(limit))
    }

    /// The number of rows.
    pub fn get(self) -> usize {
        self.0
    }
}

impl Default for PageLimit {
    fn default() -> Self {
        Self(20)
    }
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The rows, newest first.
    pub items: Vec<T>,
    /// Where the next page starts; `None` when this was the last.
    pub next: Option<PageKey>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_cursor_leads_back_to_its_position(millis in 0i64..=Timestamp::MAX.millis(), id in any::<u128>()) {
            let key = PageKey { at: Timestamp::from_millis(millis), id: Uuid::from_u128(id) };
            prop_assert_eq!(PageKey::decode(&key.encode()), Ok(key));
        }

        #[test]
        fn a_changed_cursor_is_refused(id in any::<u128>(), at in 0usize..LENGTH, flip in 1u8..) {
            let key = PageKey { at: Timestamp::from_millis(1_700_000_000_000), id: Uuid::from_u128(id) };
            let mut bytes = URL_SAFE_NO_PAD.decode(key.encode()).unwrap();
            bytes[at] ^= flip;
            prop_assert_eq!(PageKey::decode(&URL_SAFE_NO_PAD.encode(bytes)), Err(InvalidCursor));
        }

        #[test]
        fn any_text_is_refused_without_a_panic(text in ".{0,60}") {
            prop_assert_eq!(PageKey::decode(&text), Err(InvalidCursor));
        }
    }
}
