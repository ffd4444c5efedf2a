//! The write path, read-your-writes, and the operators' view of both.

pub mod dead_letter;
mod lanes;
mod operation;
pub mod overlay;
mod recent;
#[cfg(test)]
mod tests;
pub mod warm;
pub mod write;

pub use dead_letter::{DiscardDeadLetter, ListDeadLetters, RetryDeadLetter};
pub use operation::GetOperation;
pub use overlay::{EntityReader, Read};
pub use warm::{Loader, Warmer};
pub use write::{IdempotencyKey, WriteRequest, WriteSettings, Writer, Written};
