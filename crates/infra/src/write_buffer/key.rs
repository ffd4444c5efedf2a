//! The keys of the store: one ordered keyspace, told apart by the first byte.
//!
//! | key | value |
//! |---|---|
//! | `q` rank(1) sequence(8) part(2) | a frame of a record: the queue, in drain order |
//! | `e` user(16) entity(1) entity id(16) sequence(8) | rank: what waits for one entity |
//! | `o` operation id(16) | rank, sequence: what waits under one id |
//! | `m` user(16) | length(8), rank of its tail(1): one lane |
//! | `d` operation id(16) part(2) | a frame of a dead letter |
//! | `s` | the [counters](super::queue::Counters) |
//!
//! Frames carry a checksum of their own. The values of `e`, `o`, `m` and `s` are [sealed](seal) with one, so that a
//! flipped bit in an index is found, and the index made anew from the frames.

use super::engine::EngineError;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::Parcel;
use uuid::Uuid;

pub(super) const COUNTERS: &[u8] = b"s";
pub(super) const QUEUE: u8 = b'q';
pub(super) const ENTITIES: u8 = b'e';
pub(super) const OPERATIONS: u8 = b'o';
pub(super) const LETTERS: u8 = b'd';
pub(super) const LANES: u8 = b'm';
/// The greatest rank: that of the lowest priority.
pub(super) const LAST_RANK: u8 = 4;

/// The prefix of all parts of a record.
pub(super) fn record(parcel: Parcel) -> Vec<u8> {
    let mut key = vec![QUEUE, parcel.rank];
    key.extend_from_slice(&parcel.sequence.to_be_bytes());
    key
}

/// The key of one part.
pub(super) fn part(mut prefix: Vec<u8>, part: u16) -> Vec<u8> {
    prefix.extend_from_slice(&part.to_be_bytes());
    prefix
}

/// The place that a record part's key names.
pub(super) fn parcel_of(key: &[u8]) -> Option<(Parcel, u16)> {
    let [QUEUE, rank, rest @ ..] = key else {
        return None;
    };
    let sequence = u64::from_be_bytes(rest.get(..8)?.try_into().ok()?);
    let part = u16::from_be_bytes(rest.get(8..)?.try_into().ok()?);
    let parcel = Parcel {
        rank: *rank,
        sequence,
    };
    Some((parcel, part))
}

/// The prefix of everything that waits for entities of one kind of one user.
pub(super) fn entities(user: UserId, entity: u8) -> Vec<u8> {
    let mut key = vec![ENTITIES];
    key.extend_from_slice(user.0.as_bytes());
    key.push(entity);
    key
}

/// The prefix of what waits for one entity.
pub(super) fn entity(user: UserId, entity: u8, id: Uuid) -> Vec<u8> {
    let mut key = entities(user, entity);
    key.extend_from_slice(id.as_bytes());
    key
}

/// What waits for one entity under one sequence number.
pub(super) fn entity_at(user: UserId, kind: u8, id: Uuid, sequence: u64) -> Vec<u8> {
    let mut key = entity(user, kind, id);
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

/// The user, the entity and the sequence number that an entity key names.
pub(super) fn entity_of(key: &[u8]) -> Option<(UserId, u8, Uuid, u64)> {
    let [ENTITIES, rest @ ..] = key else { return None };
    if rest.len() != 41 {
        return None;
    }
    let user = Uuid::from_slice(&rest[..16]).ok()?;
    let id = Uuid::from_slice(&rest[17..33]).ok()?;
    let sequence = u64::from_be_bytes(rest[33..].try_into().ok()?);
    Some((UserId(user), rest[16], id, sequence))
}

/// What waits under an operation id.
pub(super) fn operation(id: OperationId) -> Vec<u8> {
    prefixed(OPERATIONS, id.0)
}

/// The lane of a user.
pub(super) fn lane(user: UserId) -> Vec<u8> {
    prefixed(LANES, user.0)
}

/// The prefix of all parts of a dead letter.
pub(super) fn letter(id: OperationId) -> Vec<u8> {
    prefixed(LETTERS, id.0)
}

/// The id that an operation's, a letter's or a lane's key names.
pub(super) fn id_of(key: &[u8]) -> Option<OperationId> {
    Uuid::from_slice(key.get(1..17)?).ok().map(OperationId)
}

fn prefixed(prefix: u8, id: Uuid) -> Vec<u8> {
    let mut key = vec![prefix];
    key.extend_from_slice(id.as_bytes());
    key
}

/// The first key after all that begin with `prefix`.
pub(super) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// `value` with a checksum over key and value.
pub(super) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut sealed = value.to_vec();
    sealed.extend_from_slice(&checksum(key, value).to_be_bytes());
    sealed
}

/// The value under the seal.
pub(super) fn unseal<'a>(key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], EngineError> {
    let (value, sum) = sealed
        .split_last_chunk::<4>()
        .map_or((sealed, None), |(value, sum)| {
            (value, Some(u32::from_be_bytes(*sum)))
        });
    if sum == Some(checksum(key, value)) {
        return Ok(value);
    }
    Err(EngineError::Damaged("an index entry has a wrong checksum".into()))
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

/// The value of `o`.
pub(super) fn parcel_value(parcel: Parcel) -> [u8; 9] {
    let mut value = [parcel.rank; 9];
    value[1..].copy_from_slice(&parcel.sequence.to_be_bytes());
    value
}

/// Back from the value of `o`.
pub(super) fn parcel_from(value: &[u8]) -> Result<Parcel, EngineError> {
    let bytes: &[u8; 9] = value.try_into().map_err(|_| misshapen())?;
    let (rank, sequence) = bytes.split_first().ok_or_else(misshapen)?;
    let sequence = sequence.try_into().map_err(|_| misshapen())?;
    Ok(Parcel {
        rank: *rank,
        sequence: u64::from_be_bytes(sequence),
    })
}

/// An index value that cannot be one of ours.
pub(super) fn misshapen() -> EngineError {
    EngineError::Damaged("an index entry has a wrong shape".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_sort_by_rank_then_sequence_then_part(
            a in (0u8..5, any::<u64>(), any::<u16>()), b in (0u8..5, any::<u64>(), any::<u16>())
        ) {
            let make = |(rank, sequence, number)| part(record(Parcel { rank, sequence }), number);
            prop_assert_eq!(make(a).cmp(&make(b)), a.cmp(&b));
            let (parcel, number) = parcel_of(&make(a)).unwrap();
            prop_assert_eq!((parcel.rank, parcel.sequence, number), a);
        }

        #[test]
        fn the_end_of_a_prefix_is_after_every_key_with_it_and_no_other(
            prefix in proptest::collection::vec(any::<u8>(), 1..6), tail in proptest::collection::vec(any::<u8>(), 0..6)
        ) {
            prop_assume!(prefix[0] < u8::MAX);
            let end = after(&prefix);
            let key = [prefix.clone(), tail].concat();
            prop_assert!(prefix <= key && key < end);
            prop_assert!(!end.starts_with(&prefix));
        }

        #[test]
        fn a_flipped_bit_breaks_the_seal(
            key in proptest::collection::vec(any::<u8>(), 1..40), value in proptest::collection::vec(any::<u8>(), 0..40),
            bit in any::<usize>()
        ) {
            let mut sealed = seal(&key, &value);
            prop_assert_eq!(unseal(&key, &sealed).unwrap(), value.as_slice());
            let bit = bit % (sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(unseal(&key, &sealed).is_err());
        }
    }
}
