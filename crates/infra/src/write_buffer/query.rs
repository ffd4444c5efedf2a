//! What is read from the store: a lane's length, what waits for an entity, the drain's next batch, the dead letters.

use super::engine::{EngineError, Reader};
use super::record::{self, Fault, Kind};
use super::wide::Bounds;
use super::{key, letter, queue};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::{BufferError, DeadLetter, Entry, Operation, Parcel, Pending};
use std::ops::ControlFlow;

/// How many operations wait in a lane.
pub(super) fn lane_length(reader: &dyn Reader, user: UserId) -> Result<u64, EngineError> {
    let key = key::lane(user);
    match reader.get(&key)? {
        Some(sealed) => queue::lane_from(&key, &sealed).map(|(length, _)| length),
        None => Ok(0),
    }
}

/// What was found, unless a record that belongs to it cannot be read: nobody can tell the truth then, until the drain has
/// made a dead letter of it; or unless it is more than may be read at a time.
type Legible<T> = Result<T, BufferError>;

/// What waits under the entity keys that begin with `prefix`, in order of acceptance.
pub(super) fn pending(
    reader: &dyn Reader,
    prefix: &[u8],
    bounds: Bounds,
) -> Result<Legible<Vec<Pending>>, EngineError> {
    let mut parcels = Vec::new();
    let mut damage = Ok(());
    reader.scan(prefix, &key::after(prefix), &mut |key, sealed| {
        let parcel = key::unseal(key, sealed).and_then(|value| {
            let (.., sequence) = key::entity_of(key).ok_or_else(key::misshapen)?;
            let rank = *value.first().ok_or_else(key::misshapen)?;
            Ok(Parcel { rank, sequence })
        });
        collect(parcel, &mut parcels, &mut damage)
    })?;
    damage?;
    parcels.sort_unstable_by_key(|parcel| parcel.sequence);
    let mut pending = Vec::with_capacity(parcels.len());
    let mut bytes = 0;
    for parcel in parcels {
        let found = read(reader, parcel, &mut bytes)?;
        match found.and_then(|found| bounds.allow(bytes).map(|()| found)) {
            Ok(found) => pending.extend(found),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(pending))
}

fn collect<T>(
    item: Result<T, EngineError>,
    into: &mut Vec<T>,
    damage: &mut Result<(), EngineError>,
) -> ControlFlow<()> {
    match item {
        Ok(item) => into.push(item),
        Err(error) => {
            *damage = Err(error);
            return ControlFlow::Break(());
        }
    }
    ControlFlow::Continue(())
}

/// The operation waiting under an id.
pub(super) fn find(reader: &dyn Reader, id: OperationId) -> Result<Legible<Option<Pending>>, EngineError> {
    let key = key::operation(id);
    let Some(sealed) = reader.get(&key)? else {
        return Ok(Ok(None));
    };
    read(reader, key::parcel_from(key::unseal(&key, &sealed)?)?, &mut 0)
}

/// `None` when the record is gone. Adds its length to `bytes`. A scan of sled may see a batch half applied: a look-up waits for its end, so what is
/// still broken after one is broken.
fn read(
    reader: &dyn Reader,
    parcel: Parcel,
    bytes: &mut usize,
) -> Result<Legible<Option<Pending>>, EngineError> {
    let key = key::record(parcel);
    let mut found = frames(reader, &key)?;
    let mut read = operation(parcel, &found);
    if read.is_err() && !found.is_empty() {
        reader.get(&key::part(key.clone(), 0))?;
        found = frames(reader, &key)?;
        read = operation(parcel, &found);
    }
    if found.is_empty() {
        return Ok(Ok(None));
    }
    *bytes += found.iter().map(Vec::len).sum::<usize>();
    Ok(read
        .map_err(|fault| {
            tracing::warn!(sequence = parcel.sequence, %fault, "a pending record cannot be read");
            queue::unreadable(&fault)
        })
        .map(|operation| {
            Some(Pending {
                sequence: parcel.sequence,
                operation,
            })
        }))
}

/// False for a record that is there, but too broken to tell what it is about.
pub(super) fn names_itself(reader: &dyn Reader, parcel: Parcel) -> Result<bool, EngineError> {
    let frames = frames(reader, &key::record(parcel))?;
    let payload = record::assemble(Kind::Record, record::place_id(parcel), &frames);
    Ok(frames.is_empty() || payload.is_ok_and(|payload| record::Envelope::parse(&payload).is_ok()))
}

fn operation(parcel: Parcel, frames: &[Vec<u8>]) -> Result<Operation, Fault> {
    let payload = record::assemble(Kind::Record, record::place_id(parcel), frames)?;
    record::decode(&payload)
}

fn frames(reader: &dyn Reader, prefix: &[u8]) -> Result<Vec<Vec<u8>>, EngineError> {
    let mut frames = Vec::new();
    reader.scan(prefix, &key::after(prefix), &mut |_, value| {
        frames.push(value.to_vec());
        ControlFlow::Continue(())
    })?;
    Ok(frames)
}

/// Brings the parts of up to `limit` records or letters together, as they come in order.
struct Groups<K> {
    limit: usize,
    found: Vec<(K, Vec<Vec<u8>>)>,
}

impl<K: PartialEq> Groups<K> {
    fn of(limit: usize) -> Self {
        Self {
            limit,
            found: Vec::new(),
        }
    }

    fn push(&mut self, id: K, part: &[u8]) -> ControlFlow<()> {
        let full = self.found.len() == self.limit;
        match self.found.last_mut() {
            Some((last, parts)) if *last == id => parts.push(part.to_vec()),
            _ if full => return ControlFlow::Break(()),
            _ => self.found.push((id, vec![part.to_vec()])),
        }
        ControlFlow::Continue(())
    }
}

/// Up to `limit` records in drain order after `after`, none of them later than `acknowledged`.
pub(super) fn peek(
    reader: &dyn Reader,
    after: Option<Parcel>,
    limit: usize,
    acknowledged: u64,
) -> Result<Vec<Entry>, EngineError> {
    let from = after.map_or_else(|| vec![key::QUEUE], |parcel| key::after(&key::record(parcel)));
    let mut groups = Groups::of(limit);
    let mut damage = Ok(());
    reader.scan(&from, &[key::QUEUE + 1], &mut |key, value| {
        let Some((parcel, _)) = key::parcel_of(key) else {
            damage = Err(key::misshapen());
            return ControlFlow::Break(());
        };
        if parcel.sequence > acknowledged {
            return ControlFlow::Continue(());
        }
        groups.push(parcel, value)
    })?;
    damage?;
    let entry = |(parcel, frames): (Parcel, Vec<Vec<u8>>)| Entry {
        parcel,
        operation: operation(parcel, &frames).map_err(|fault| fault.to_string()),
    };
    Ok(groups.found.into_iter().map(entry).collect())
}

/// The first waiting record by acceptance, and when it was accepted, if that can be read.
pub(super) fn oldest(reader: &dyn Reader) -> Result<Option<(Parcel, Option<Timestamp>)>, EngineError> {
    let mut oldest: Option<(Parcel, Vec<u8>)> = None;
    for rank in 0..=key::LAST_RANK {
        let mut damage = Ok(());
        reader.scan(&[key::QUEUE, rank], &[key::QUEUE, rank + 1], &mut |key, value| {
            match key::parcel_of(key) {
                Some((parcel, _))
                    if oldest
                        .as_ref()
                        .is_none_or(|(it, _)| parcel.sequence < it.sequence) =>
                {
                    oldest = Some((parcel, value.to_vec()));
                }
                Some(_) => {}
                None => damage = Err(key::misshapen()),
            }
            ControlFlow::Break(())
        })?;
        damage?;
    }
    Ok(oldest.map(|(parcel, frame)| (parcel, accepted(&frame))))
}

fn accepted(frame: &[u8]) -> Option<Timestamp> {
    let frame = record::Frame::parse(frame).ok()?;
    let envelope = record::Envelope::parse(frame.bytes).ok()?;
    Some(envelope.accepted.timestamp())
}

/// The dead letter of an id.
pub(super) fn find_letter(reader: &dyn Reader, id: OperationId) -> Result<Option<DeadLetter>, EngineError> {
    let frames = frames(reader, &key::letter(id))?;
    Ok((!frames.is_empty()).then(|| letter::read(id, &frames)))
}

/// Up to `limit` dead letters in order of id, after `after`.
pub(super) fn letters(
    reader: &dyn Reader,
    after: Option<OperationId>,
    limit: usize,
) -> Result<Vec<DeadLetter>, EngineError> {
    let from = after.map_or_else(|| vec![key::LETTERS], |id| key::after(&key::letter(id)));
    let mut groups = Groups::of(limit);
    let mut damage = Ok(());
    reader.scan(&from, &[key::LETTERS + 1], &mut |key, value| {
        let Some(id) = key::id_of(key) else {
            damage = Err(key::misshapen());
            return ControlFlow::Break(());
        };
        groups.push(id, value)
    })?;
    damage?;
    Ok(groups
        .found
        .into_iter()
        .map(|(id, frames)| letter::read(id, &frames))
        .collect())
}

/// Counts what the store holds by walking it: for a store whose counters cannot be trusted.
pub(super) fn count(reader: &dyn Reader) -> Result<queue::Counters, EngineError> {
    let mut counters = queue::Counters::starting_at(1);
    let mut last = None;
    reader.scan(&[key::QUEUE], &[key::QUEUE + 1], &mut |key, value| {
        if let Some((parcel, _)) = key::parcel_of(key) {
            counters.count += u64::from(last.replace(parcel) != Some(parcel));
            counters.next = counters.next.max(parcel.sequence + 1);
            counters.bytes += value.len() as u64;
        }
        ControlFlow::Continue(())
    })?;
    let mut last = None;
    reader.scan(&[key::LETTERS], &[key::LETTERS + 1], &mut |key, value| {
        let id = key::id_of(key);
        counters.dead += u64::from(last.replace(id) != Some(id));
        counters.dead_bytes += value.len() as u64;
        ControlFlow::Continue(())
    })?;
    Ok(counters)
}
