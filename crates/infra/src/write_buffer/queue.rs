//! The queue's logic, once for all stores: each request becomes puts and deletes in a [`Draft`], which is committed as
//! one batch.
//!
//! Drain order is (rank, sequence), rank being 5 minus the effective priority. An operation's effective priority is its
//! own, but never higher than that of its lane's tail while the lane is not empty: ranks never fall along a lane, so that
//! drain order and order of acceptance agree within it.
//!
//! A draft sees its own changes, so that requests of one group may touch the same keys. Nothing is changed by a request
//! that is refused.

use super::engine::{Batch, EngineError, Reader};
use super::record::{self, Envelope, Fault, Kind};
use super::search::{self, Found, IndexEntries};
use super::{key, letter};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::{BufferError, DeadLetter, Operation, Parcel};
use std::ops::ControlFlow;

/// Operations that may wait for one entity: each write of it, and each read, folds all of them.
pub const MAX_PER_ENTITY: u64 = 1_000;

/// What the store holds, kept beside it so that opening it counts nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    /// The next sequence number. Only rises.
    pub(super) next: u64,
    /// Operations waiting.
    pub(super) count: u64,
    /// Bytes of their frames.
    pub(super) bytes: u64,
    /// Dead letters.
    pub(super) dead: u64,
    /// Bytes of their frames.
    pub(super) dead_bytes: u64,
}

impl Counters {
    /// Those of an empty store whose first number is `next`.
    pub(super) fn starting_at(next: u64) -> Self {
        Self {
            next,
            count: 0,
            bytes: 0,
            dead: 0,
            dead_bytes: 0,
        }
    }

    /// What the store says it holds; `None` when it has never been written.
    pub(super) fn load(reader: &dyn Reader) -> Result<Option<Self>, EngineError> {
        let Some(sealed) = reader.get(key::COUNTERS)? else {
            return Ok(None);
        };
        let value = key::unseal(key::COUNTERS, &sealed)?;
        let value: &[u8; 40] = value.try_into().map_err(|_| key::misshapen())?;
        let number = |at: usize| {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(&value[at * 8..at * 8 + 8]);
            u64::from_be_bytes(bytes)
        };
        Ok(Some(Self {
            next: number(0),
            count: number(1),
            bytes: number(2),
            dead: number(3),
            dead_bytes: number(4),
        }))
    }

    fn to_bytes(self) -> Vec<u8> {
        [self.next, self.count, self.bytes, self.dead, self.dead_bytes]
            .into_iter()
            .flat_map(u64::to_be_bytes)
            .collect()
    }
}

/// How much the queue may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Operations.
    pub(super) operations: u64,
    /// Bytes of frames, dead letters included.
    pub(super) bytes: u64,
    /// Operations of one lane.
    pub(super) per_user: u64,
    /// Operations on one entity.
    pub(super) per_entity: u64,
}

impl Limits {
    /// No limits, for what is already ours: salvage and migration.
    pub(super) const NONE: Self = Self {
        operations: u64::MAX,
        bytes: u64::MAX,
        per_user: u64::MAX,
        per_entity: u64::MAX,
    };

    /// True when nothing more fits.
    pub(super) fn reached(self, counters: &Counters) -> bool {
        counters.count >= self.operations || counters.bytes + counters.dead_bytes >= self.bytes
    }
}

/// A key and its value.
type Item = (Vec<u8>, Vec<u8>);

/// Why a request was not drafted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is refused; the group goes on without it.
    Refused(BufferError),
    /// The store failed; the whole group fails.
    Store(EngineError),
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        Self::Store(error)
    }
}

/// An operation ready to be appended.
#[derive(Debug, Clone)]
pub(super) struct Parcelled {
    pub(super) envelope: Envelope,
    pub(super) priority: u8,
    pub(super) payload: Vec<u8>,
}

impl Parcelled {
    pub(super) fn of(operation: &Operation) -> Result<Self, Fault> {
        Ok(Self {
            envelope: Envelope::of(operation),
            priority: operation.priority.get(),
            payload: record::encode(operation)?,
        })
    }
}

/// The changes of one group.
pub(super) struct Draft<'a> {
    reader: &'a dyn Reader,
    limits: Limits,
    batch: Batch,
    /// As they will be.
    pub(super) counters: Counters,
    /// Operations appended by it.
    pub(super) appended: u64,
    /// Operations removed by it.
    pub(super) removed: u64,
    /// The lanes that it appends to, and those that it removes from, once for each operation.
    pub(super) entered: Vec<UserId>,
    pub(super) left: Vec<UserId>,
    /// Index entries of records that cannot name themselves.
    known: Found,
}

impl<'a> Draft<'a> {
    pub(super) fn new(reader: &'a dyn Reader, counters: Counters, limits: Limits) -> Self {
        Self {
            reader,
            limits,
            batch: Batch::new(),
            counters,
            appended: 0,
            removed: 0,
            entered: Vec::new(),
            left: Vec::new(),
            known: Found::default(),
        }
    }

    /// The batch to commit, `None` when nothing changes.
    pub(super) fn finish(self) -> Option<(Batch, Counters)> {
        (!self.batch.is_empty()).then(|| self.finish_counters())
    }

    /// The batch to commit, with the counters in any case.
    pub(super) fn finish_counters(mut self) -> (Batch, Counters) {
        let counters = self.counters;
        self.put_sealed(key::COUNTERS.to_vec(), &counters.to_bytes());
        (self.batch, counters)
    }

    /// Appends to the lane's end. A no-op when the operation waits already and can be read.
    pub(super) fn append(&mut self, item: &Parcelled) -> Result<(), Refusal> {
        let by_id = key::operation(item.envelope.id);
        match self.get(&by_id)? {
            Some(sealed) => self.confirm(&by_id, &sealed, &item.payload),
            None => self.add(item, by_id),
        }
    }

    /// As [`Self::append`], for what is already ours: what waits may be broken, and is then left to the drain.
    pub(super) fn put_back(&mut self, item: &Parcelled) -> Result<(), Refusal> {
        let by_id = key::operation(item.envelope.id);
        match self.get(&by_id)? {
            Some(_) => Ok(()),
            None => self.add(item, by_id),
        }
    }

    /// An operation that waits under this id is acknowledged again only if its record is whole, and says the same.
    fn confirm(&self, by_id: &[u8], sealed: &[u8], payload: &[u8]) -> Result<(), Refusal> {
        let parcel = key::parcel_from(key::unseal(by_id, sealed)?)?;
        let frames = self.scan(&key::record(parcel))?;
        match payload_of(parcel, &frames).and_then(|payload| record::decode(&payload)) {
            Ok(waiting) if record::decode(payload).is_ok_and(|again| again.is_retry_of(&waiting)) => Ok(()),
            Ok(_) => Err(Refusal::Refused(BufferError::Unavailable(
                "another operation waits under this id".to_owned(),
            ))),
            Err(fault) => Err(Refusal::Refused(unreadable(&fault))),
        }
    }

    fn add(&mut self, item: &Parcelled, by_id: Vec<u8>) -> Result<(), Refusal> {
        let room = Counters {
            bytes: self.counters.bytes + item.payload.len() as u64,
            ..self.counters
        };
        if self.limits.reached(&room) {
            return Err(Refusal::Refused(BufferError::Full));
        }
        let own = 5u8.saturating_sub(item.priority).min(key::LAST_RANK);
        let (length, tail) = self.lane(item.envelope.user)?;
        if length >= self.limits.per_user || self.is_entity_full(item, length)? {
            return Err(Refusal::Refused(BufferError::Full));
        }
        let parcel = Parcel {
            rank: if length == 0 { own } else { own.max(tail) },
            sequence: self.counters.next,
        };
        self.put_lane(item.envelope.user, length + 1, parcel.rank);
        let frames = record::frames(Kind::Record, record::place_id(parcel), &item.payload);
        let size = self.put_frames(&key::record(parcel), frames);
        let Envelope {
            user,
            entity,
            entity_id,
            ..
        } = item.envelope;
        self.put_sealed(
            key::entity_at(user, entity, entity_id, parcel.sequence),
            &[parcel.rank],
        );
        self.put_sealed(by_id, &key::parcel_value(parcel));
        self.counters.next += 1;
        self.counters.count += 1;
        self.counters.bytes += size;
        self.appended += 1;
        self.entered.push(user);
        Ok(())
    }

    /// True when no more may wait for the operation's entity. Counted only where the whole lane holds as many.
    fn is_entity_full(&self, item: &Parcelled, lane: u64) -> Result<bool, EngineError> {
        let most = self.limits.per_entity;
        if lane < most {
            return Ok(false);
        }
        let it = item.envelope;
        let from = key::entity(it.user, it.entity, it.entity_id);
        let to = key::after(&from);
        let added = self.batch.range(from.clone()..to.clone());
        let mut count = added.filter(|(_, change)| change.is_some()).count() as u64;
        self.reader.scan(&from, &to, &mut |key, _| {
            count += u64::from(!self.batch.contains_key(key));
            if count >= most {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(count >= most)
    }

    /// Index entries that were found before: the walk for them is spared.
    pub(super) fn know(&mut self, sequence: u64, entries: IndexEntries) {
        self.known.insert(sequence, entries);
    }

    /// Lets a record go. A no-op when it is gone.
    pub(super) fn remove(&mut self, parcel: Parcel) -> Result<(), EngineError> {
        let frames = self.scan(&key::record(parcel))?;
        if !frames.is_empty() {
            let payload = payload_of(parcel, &frames);
            self.drop_record(parcel, &frames, payload.as_deref().ok())?;
        }
        Ok(())
    }

    /// Makes a dead letter of a record. A no-op when it is gone.
    pub(super) fn bury(
        &mut self,
        parcel: Parcel,
        attempts: u32,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), EngineError> {
        let frames = self.scan(&key::record(parcel))?;
        if frames.is_empty() {
            return Ok(());
        }
        let payload = payload_of(parcel, &frames);
        let (id, user) = self.drop_record(parcel, &frames, payload.as_deref().ok())?;
        let decoded = payload.as_deref().map(record::decode);
        let raw = || match &payload {
            Ok(payload) => letter::kept(payload).to_vec(),
            Err(_) => {
                let all: Vec<u8> = frames.iter().flat_map(|(_, value)| value).copied().collect();
                letter::kept(&all).to_vec()
            }
        };
        let operation = decoded.ok().and_then(Result::ok).map(|operation| Operation {
            attempts,
            last_error: Some(reason.to_owned()),
            ..operation
        });
        let raw = operation.is_none().then(raw);
        self.put_letter(&DeadLetter {
            id: id.unwrap_or_else(|| letter::id_from(raw.as_deref().unwrap_or_default())),
            operation,
            user_id: user,
            reason: reason.to_owned(),
            died_at: now,
            raw,
        })
    }

    /// Keeps a letter, in place of one with the same id.
    pub(super) fn put_letter(&mut self, letter: &DeadLetter) -> Result<(), EngineError> {
        let frames = letter::write(letter).map_err(|fault| EngineError::Failed(fault.to_string()))?;
        self.drop_letter(letter.id)?;
        self.counters.dead_bytes += self.put_frames(&key::letter(letter.id), frames);
        self.counters.dead += 1;
        Ok(())
    }

    /// Puts a dead operation back at the end of its lane. One that could not be decoded when it died is tried again.
    pub(super) fn retry(&mut self, id: OperationId) -> Result<DeadLetter, Refusal> {
        let letter = self.letter(id)?.ok_or(Refusal::Refused(BufferError::NotFound))?;
        let undecodable = Refusal::Refused(BufferError::Undecodable);
        let letter = letter::revived(letter);
        let Some(operation) = &letter.operation else {
            return Err(undecodable);
        };
        let again = Operation {
            attempts: 0,
            last_error: None,
            retried: true,
            ..operation.clone()
        };
        let item = Parcelled::of(&again).map_err(|_| undecodable)?;
        self.append(&item)?;
        self.drop_letter(id)?;
        Ok(letter)
    }

    /// Throws a letter away.
    pub(super) fn discard(&mut self, id: OperationId) -> Result<DeadLetter, Refusal> {
        let letter = self.letter(id)?.ok_or(Refusal::Refused(BufferError::NotFound))?;
        self.drop_letter(id)?;
        Ok(letter)
    }

    /// Deletes a record and its index entries. What its own envelope does not tell any more, they do.
    fn drop_record(
        &mut self,
        parcel: Parcel,
        frames: &[Item],
        payload: Option<&[u8]>,
    ) -> Result<(Option<OperationId>, Option<UserId>), EngineError> {
        let named = payload.and_then(|payload| Envelope::parse(payload).ok());
        let (by_entity, by_id) = match named {
            Some(it) => (
                key::entity_at(it.user, it.entity, it.entity_id, parcel.sequence),
                key::operation(it.id),
            ),
            None => self.index_entries_of(parcel)?,
        };
        let user = key::entity_of(&by_entity).map(|(user, ..)| user);
        let id = key::id_of(&by_id);
        let size = self.delete_all(frames);
        self.batch.insert(by_entity, None);
        self.batch.insert(by_id, None);
        if let Some(user) = user {
            let (length, tail) = self.lane(user)?;
            self.put_lane(user, length.checked_sub(1).ok_or_else(miscounted)?, tail);
            self.left.push(user);
        }
        self.counters.count = self.counters.count.checked_sub(1).ok_or_else(miscounted)?;
        self.counters.bytes = self.counters.bytes.checked_sub(size).ok_or_else(miscounted)?;
        self.removed += 1;
        Ok((id, user))
    }

    /// The index entries of a record that cannot be read. Those that nobody has [made known](Self::know) are found by a
    /// walk over all of them.
    fn index_entries_of(&mut self, parcel: Parcel) -> Result<IndexEntries, EngineError> {
        if let Some(entries) = self.known.take(parcel.sequence) {
            return Ok(entries);
        }
        search::walk(self.reader, &[parcel.sequence].into())?
            .take(parcel.sequence)
            .ok_or_else(|| EngineError::Damaged("a record has no index entry".into()))
    }

    fn letter(&self, id: OperationId) -> Result<Option<DeadLetter>, EngineError> {
        let frames: Vec<_> = self
            .scan(&key::letter(id))?
            .into_iter()
            .map(|(_, value)| value)
            .collect();
        Ok((!frames.is_empty()).then(|| letter::read(id, &frames)))
    }

    fn drop_letter(&mut self, id: OperationId) -> Result<(), EngineError> {
        let frames = self.scan(&key::letter(id))?;
        if !frames.is_empty() {
            let size = self.delete_all(&frames);
            self.counters.dead = self.counters.dead.checked_sub(1).ok_or_else(miscounted)?;
            self.counters.dead_bytes = self
                .counters
                .dead_bytes
                .checked_sub(size)
                .ok_or_else(miscounted)?;
        }
        Ok(())
    }

    /// Length and tail rank of a lane.
    fn lane(&self, user: UserId) -> Result<(u64, u8), EngineError> {
        let key = key::lane(user);
        self.get(&key)?
            .map_or(Ok((0, 0)), |sealed| lane_from(&key, &sealed))
    }

    fn put_lane(&mut self, user: UserId, length: u64, tail: u8) {
        let key = key::lane(user);
        if length == 0 {
            self.batch.insert(key, None);
            return;
        }
        let mut value = length.to_be_bytes().to_vec();
        value.push(tail);
        self.put_sealed(key, &value);
    }

    fn put_sealed(&mut self, key: Vec<u8>, value: &[u8]) {
        let sealed = key::seal(&key, value);
        self.batch.insert(key, Some(sealed));
    }

    fn put_frames(&mut self, prefix: &[u8], frames: Vec<Vec<u8>>) -> u64 {
        let mut size = 0;
        for (part, frame) in (0u16..).zip(frames) {
            size += frame.len() as u64;
            self.batch.insert(key::part(prefix.to_vec(), part), Some(frame));
        }
        size
    }

    fn delete_all(&mut self, items: &[Item]) -> u64 {
        let mut size = 0;
        for (key, value) in items {
            size += value.len() as u64;
            self.batch.insert(key.clone(), None);
        }
        size
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        match self.batch.get(key) {
            Some(change) => Ok(change.clone()),
            None => self.reader.get(key),
        }
    }

    /// All keys with this prefix, as they will be.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Item>, EngineError> {
        let (from, to) = (prefix.to_vec(), key::after(prefix));
        let mut items = std::collections::BTreeMap::new();
        self.reader.scan(&from, &to, &mut |key, value| {
            items.insert(key.to_vec(), value.to_vec());
            ControlFlow::Continue(())
        })?;
        for (key, change) in self.batch.range(from..to) {
            match change {
                Some(value) => items.insert(key.clone(), value.clone()),
                None => items.remove(key),
            };
        }
        Ok(items.into_iter().collect())
    }
}

/// Length and tail rank of a lane, from its sealed value.
pub(super) fn lane_from(key: &[u8], sealed: &[u8]) -> Result<(u64, u8), EngineError> {
    let value = key::unseal(key, sealed)?;
    let (length, tail) = value.split_first_chunk::<8>().ok_or_else(key::misshapen)?;
    let tail = tail.first().ok_or_else(key::misshapen)?;
    Ok((u64::from_be_bytes(*length), *tail))
}

fn payload_of(parcel: Parcel, frames: &[Item]) -> Result<Vec<u8>, Fault> {
    let frames: Vec<&[u8]> = frames.iter().map(|(_, value)| value.as_slice()).collect();
    record::assemble(Kind::Record, record::place_id(parcel), &frames)
}

/// What is answered where a record would have to be read and cannot be.
pub(super) fn unreadable(fault: &Fault) -> BufferError {
    BufferError::Unavailable(format!("a pending record cannot be read: {fault}"))
}

fn miscounted() -> EngineError {
    EngineError::Damaged("the counters are lower than what is there".into())
}
