//! How a dead letter lies on the disk: JSON, in the same frames as a record.

use super::record::{self, Fault, Kind, frames};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::{DeadLetter, Operation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The most of a broken record's bytes that a letter keeps: all of them, with the headers of their frames.
pub const MAX_RAW: usize = record::MAX_OPERATION + (32 << 10);
/// The most of them that is shown.
pub const MAX_SHOWN: usize = 4_096;
const BROKEN_NAMESPACE: Uuid = Uuid::from_u128(0x8b1f_5c1e_52b0_5e0e_9d5c_5f6f_0b0e_7a04);

#[derive(Serialize, Deserialize)]
struct Stored {
    id: OperationId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<Operation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    reason: String,
    died_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
}

/// The payload of a letter.
///
/// # Errors
/// [`Fault::Undecodable`] when it has no JSON form.
pub fn encode(letter: &DeadLetter) -> Result<Vec<u8>, Fault> {
    let stored = Stored {
        id: letter.id,
        operation: letter.operation.clone(),
        user_id: letter.user_id,
        reason: letter.reason.clone(),
        died_at: letter.died_at,
        raw: letter.raw.as_ref().map(|raw| STANDARD.encode(raw)),
    };
    serde_json::to_vec(&stored).map_err(|error| Fault::Undecodable(error.to_string()))
}

/// The letter of a payload. Where only its operation cannot be decoded, the letter is given without it, and with the
/// operation's JSON as `raw`.
///
/// # Errors
/// [`Fault::Undecodable`].
pub fn decode(payload: &[u8]) -> Result<DeadLetter, Fault> {
    let fault = |error: serde_json::Error| Fault::Undecodable(error.to_string());
    let stored: Stored = match serde_json::from_slice(payload) {
        Ok(stored) => stored,
        Err(_) => without_operation(payload).map_err(fault)?,
    };
    let raw = stored.raw.map(|raw| STANDARD.decode(raw)).transpose();
    Ok(DeadLetter {
        id: stored.id,
        operation: stored.operation,
        user_id: stored.user_id,
        reason: stored.reason,
        died_at: stored.died_at,
        raw: raw.map_err(|error| Fault::Undecodable(error.to_string()))?,
    })
}

fn without_operation(payload: &[u8]) -> Result<Stored, serde_json::Error> {
    let mut value: serde_json::Value = serde_json::from_slice(payload)?;
    let operation = value
        .as_object_mut()
        .and_then(|fields| fields.remove("operation"))
        .unwrap_or_default();
    let mut stored: Stored = serde_json::from_value(value)?;
    stored.raw = Some(STANDARD.encode(kept(operation.to_string().as_bytes())));
    Ok(stored)
}

/// The letter kept under `id` in these frames; one that cannot be read is shown as what is left of it.
pub(super) fn read<B: AsRef<[u8]>>(id: OperationId, frames: &[B]) -> DeadLetter {
    let decoded =
        record::assemble(Kind::Letter, id.0.into_bytes(), frames).and_then(|payload| decode(&payload));
    match decoded {
        Ok(letter) if letter.id == id => letter,
        other => {
            let fault = other.err().unwrap_or(Fault::Checksum);
            let raw: Vec<u8> = frames.iter().flat_map(|frame| frame.as_ref()).copied().collect();
            DeadLetter {
                id,
                operation: None,
                user_id: None,
                reason: fault.to_string(),
                died_at: Timestamp::EPOCH,
                raw: Some(kept(&raw).to_vec()),
            }
        }
    }
}

/// The frames of a letter.
///
/// # Errors
/// As [`encode`].
pub(super) fn write(letter: &DeadLetter) -> Result<Vec<Vec<u8>>, Fault> {
    Ok(frames(Kind::Letter, letter.id.0.into_bytes(), &encode(letter)?))
}

/// As much of a broken record as a letter keeps.
pub(super) fn kept(raw: &[u8]) -> &[u8] {
    &raw[..raw.len().min(MAX_RAW)]
}

/// The letter as it is shown.
pub(super) fn shown(mut letter: DeadLetter) -> DeadLetter {
    if let Some(raw) = &mut letter.raw {
        raw.truncate(MAX_SHOWN);
    }
    letter
}

/// The letter with its operation, where that could not be decoded before and now can: its bytes are those of a record, or
/// the JSON of an operation.
pub(super) fn revived(letter: DeadLetter) -> DeadLetter {
    let (None, Some(raw)) = (&letter.operation, &letter.raw) else {
        return letter;
    };
    let decoded = record::decode(raw)
        .ok()
        .or_else(|| serde_json::from_slice(raw).ok());
    match decoded.filter(|operation: &Operation| operation.id == letter.id) {
        Some(operation) => DeadLetter {
            user_id: Some(operation.user_id),
            operation: Some(operation),
            raw: None,
            ..letter
        },
        None => letter,
    }
}

/// The id of a letter for bytes of which nobody knows whose they are.
pub(super) fn id_from(raw: &[u8]) -> OperationId {
    OperationId(Uuid::new_v5(&BROKEN_NAMESPACE, raw))
}
