//! How a record lies on the disk: frames of at most 4 KiB, each of which says what it is and proves it.
//!
//! ```text
//! frame    magic(4) version(1) kind(1) part(2) parts(2) length(2) id(16) whole(4) crc(4) bytes(length)
//! record   operation id(16) user(16) entity(1) entity id(16) accepted(16) operation as JSON
//! ```
//!
//! Numbers are big-endian. `id` is the place in the queue (rank, sequence, zeros) or the id of a dead letter, `whole` the
//! CRC32C of all parts' bytes together, `crc` that of the frame without itself. A frame can therefore be found in the raw
//! bytes of a broken store, and parts of different records cannot be taken for one.
//!
//! The fixed fields before the JSON let a record go, or be named, without decoding it.

use super::key;
use gravity_domain::clock::Hlc;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::{Operation, Parcel};
use std::fmt;
use uuid::Uuid;

/// The first bytes of every frame.
pub const MAGIC: [u8; 4] = [0xf5, b'G', b'W', b'B'];
/// The greatest frame: what sled keeps inside its pages.
pub const MAX_FRAME: usize = 4_096;
/// The greatest operation, as JSON.
pub const MAX_OPERATION: usize = 512 << 10;
/// The bytes of a frame before its payload.
pub const HEADER: usize = 36;
const VERSION: u8 = 1;
const ENVELOPE: usize = 65;

/// What a frame is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A waiting operation.
    Record,
    /// A dead letter.
    Letter,
}

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// They are not the bytes that were written.
    Checksum,
    /// They are, but mean nothing here.
    Undecodable(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum => f.write_str("checksum_mismatch"),
            Self::Undecodable(why) => write!(f, "undecodable: {why}"),
        }
    }
}

fn undecodable(why: impl fmt::Display) -> Fault {
    Fault::Undecodable(why.to_string())
}

/// One frame, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is a part of.
    pub kind: Kind,
    /// Of which one.
    pub id: [u8; 16],
    /// Which part, from 0.
    pub part: u16,
    /// Of how many.
    pub parts: u16,
    /// CRC32C over the bytes of all parts.
    pub whole: u32,
    /// The bytes.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame that `bytes` begin with.
    ///
    /// # Errors
    /// [`Fault::Checksum`] for anything that [`frames`] did not make.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(Fault::Checksum)?;
        let number = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let long =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let kind = match header[5] {
            1 => Kind::Record,
            2 => Kind::Letter,
            _ => return Err(Fault::Checksum),
        };
        let bytes = rest.get(..usize::from(number(10))).ok_or(Fault::Checksum)?;
        let sum = crc32c::crc32c_append(crc32c::crc32c(&header[..32]), bytes);
        if header[..4] != MAGIC || header[4] != VERSION || sum != long(32) || number(6) >= number(8) {
            return Err(Fault::Checksum);
        }
        let mut id = [0u8; 16];
        id.copy_from_slice(&header[12..28]);
        Ok(Self {
            kind,
            id,
            part: number(6),
            parts: number(8),
            whole: long(28),
            bytes,
        })
    }

    /// Bytes that the whole frame takes.
    pub fn size(&self) -> usize {
        HEADER + self.bytes.len()
    }
}

/// What a broken frame says that it is, and of which one: neither is certain. A header whose kind is none of ours is
/// told by its id, since a place in the queue does not look like the id of a letter.
pub(super) fn claim(bytes: &[u8]) -> Option<(Kind, [u8; 16])> {
    let header = bytes.first_chunk::<HEADER>()?;
    let mut id = [0u8; 16];
    id.copy_from_slice(&header[12..28]);
    let kind = match (header[4], header[5]) {
        (_, 1) => Kind::Record,
        (_, 2) => Kind::Letter,
        _ if parcel_of(id).is_some() => Kind::Record,
        (VERSION, _) => Kind::Letter,
        _ => return None,
    };
    Some((kind, id))
}

/// Cuts `payload` into frames.
pub fn frames(kind: Kind, id: [u8; 16], payload: &[u8]) -> Vec<Vec<u8>> {
    let whole = crc32c::crc32c(payload);
    let chunks: Vec<&[u8]> = payload.chunks(MAX_FRAME - HEADER).collect();
    let parts = u16::try_from(chunks.len()).unwrap_or(u16::MAX);
    let frame = |(part, chunk): (u16, &&[u8])| {
        let mut frame = Vec::with_capacity(HEADER + chunk.len());
        frame.extend_from_slice(&MAGIC);
        frame.extend_from_slice(&[VERSION, if kind == Kind::Record { 1 } else { 2 }]);
        let length = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
        for number in [part, parts, length] {
            frame.extend_from_slice(&number.to_be_bytes());
        }
        frame.extend_from_slice(&id);
        frame.extend_from_slice(&whole.to_be_bytes());
        let sum = crc32c::crc32c_append(crc32c::crc32c(&frame), chunk);
        frame.extend_from_slice(&sum.to_be_bytes());
        frame.extend_from_slice(chunk);
        frame
    };
    (0..parts).zip(&chunks).map(frame).collect()
}

/// Puts the frames of one record or letter together again, checking that each is where it belongs.
///
/// # Errors
/// [`Fault`] when one is broken, misplaced or missing.
pub fn assemble<B: AsRef<[u8]>>(kind: Kind, id: [u8; 16], frames: &[B]) -> Result<Vec<u8>, Fault> {
    let mut payload = Vec::new();
    let mut whole = None;
    for (at, bytes) in frames.iter().enumerate() {
        let frame = Frame::parse(bytes.as_ref())?;
        let fits = frame.kind == kind && frame.id == id && frame.size() == bytes.as_ref().len();
        if !fits || usize::from(frame.part) != at || *whole.get_or_insert(frame.whole) != frame.whole {
            return Err(Fault::Checksum);
        }
        if usize::from(frame.parts) != frames.len() {
            return Err(undecodable("a part is missing"));
        }
        payload.extend_from_slice(frame.bytes);
    }
    match whole {
        None => Err(undecodable("no parts")),
        Some(sum) if sum != crc32c::crc32c(&payload) => Err(Fault::Checksum),
        Some(_) => Ok(payload),
    }
}

/// The frame id of a place in the queue.
pub fn place_id(parcel: Parcel) -> [u8; 16] {
    let mut id = [0u8; 16];
    id[..9].copy_from_slice(&key::parcel_value(parcel));
    id
}

/// The place in the queue of a frame id; `None` when it is none.
pub fn parcel_of(id: [u8; 16]) -> Option<Parcel> {
    let parcel = key::parcel_from(&id[..9]).ok()?;
    (parcel.rank <= key::LAST_RANK && id[9..] == [0; 7]).then_some(parcel)
}

/// What can be known of a record without decoding its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// The operation.
    pub id: OperationId,
    /// Whose it is.
    pub user: UserId,
    /// [`EntityKind::code`](gravity_domain::sync::EntityKind::code) of what it changes.
    pub entity: u8,
    /// What it changes.
    pub entity_id: Uuid,
    /// When it was accepted.
    pub accepted: Hlc,
}

impl Envelope {
    /// The envelope of an operation.
    pub fn of(operation: &Operation) -> Self {
        Self {
            id: operation.id,
            user: operation.user_id,
            entity: operation.entity().code(),
            entity_id: operation.entity_id(),
            accepted: operation.accepted_at,
        }
    }

    /// The envelope that a payload begins with.
    ///
    /// # Errors
    /// [`Fault::Undecodable`] when it is too short.
    pub fn parse(payload: &[u8]) -> Result<Self, Fault> {
        let (head, _) = payload
            .split_first_chunk::<ENVELOPE>()
            .ok_or_else(|| undecodable("no envelope"))?;
        let sixteen = |at: usize| {
            let mut bytes = [0u8; 16];
            bytes.copy_from_slice(&head[at..at + 16]);
            bytes
        };
        Ok(Self {
            id: OperationId(Uuid::from_bytes(sixteen(0))),
            user: UserId(Uuid::from_bytes(sixteen(16))),
            entity: head[32],
            entity_id: Uuid::from_bytes(sixteen(33)),
            accepted: Hlc::from_bytes(sixteen(49)),
        })
    }
}

/// The payload of an operation: envelope and JSON.
///
/// # Errors
/// [`Fault::Undecodable`] when it has no JSON form or is larger than [`MAX_OPERATION`].
pub fn encode(operation: &Operation) -> Result<Vec<u8>, Fault> {
    let envelope = Envelope::of(operation);
    let mut payload = Vec::with_capacity(512);
    payload.extend_from_slice(envelope.id.0.as_bytes());
    payload.extend_from_slice(envelope.user.0.as_bytes());
    payload.push(envelope.entity);
    payload.extend_from_slice(envelope.entity_id.as_bytes());
    payload.extend_from_slice(&envelope.accepted.to_bytes());
    serde_json::to_writer(&mut payload, operation).map_err(undecodable)?;
    if payload.len() > ENVELOPE + MAX_OPERATION {
        return Err(undecodable("too large"));
    }
    Ok(payload)
}

/// The operation of a payload.
///
/// # Errors
/// [`Fault::Undecodable`], also when the envelope names another operation than the JSON.
pub fn decode(payload: &[u8]) -> Result<Operation, Fault> {
    let envelope = Envelope::parse(payload)?;
    let operation: Operation = serde_json::from_slice(&payload[ENVELOPE..]).map_err(undecodable)?;
    if Envelope::of(&operation) == envelope {
        return Ok(operation);
    }
    Err(undecodable("the envelope names another operation"))
}
