//! Operations, how they merge, what becomes of them, and the ports of the write path.

pub mod entity;
pub mod error;
pub mod fingerprint;
pub mod merge;
pub mod operation;
pub mod outcome;
pub mod policy;
pub mod ports;

pub use entity::{Entity, EntityKind, EntityState};
pub use error::{ReadError, WriteError};
pub use fingerprint::Fingerprint;
pub use merge::{Effect, Lww};
pub use operation::{Change, Operation, OperationKind, Priority, Replay};
pub use outcome::{
    Applied, AppliedRecord, Freshness, OperationReport, OperationState, Refusal, Refused, Verdict,
    WriteOutcome,
};
pub use ports::{
    BatchError, BufferError, BufferState, BufferStatus, DeadLetter, Entry, Found, Parcel, Pending,
};
