//! The stream: one file per use case.
//!
//! What a user reads comes from the caches ([`StreamCache`](gravity_domain::stream::StreamCache)), which answer with shared,
//! immutable pages. While nothing of the user waits in the write buffer, such a page is answered as it is; else the
//! user's pending actions are folded into a copy (see `overlay.rs`).

mod act;
mod changes;
mod detail;
mod ingest;
mod judge;
mod list;
mod messages;
mod overlay;
mod remove;
mod select;
#[cfg(test)]
mod tests;

pub use act::{ActOnItems, Acted, Selector};
pub use changes::{ChangesError, GetChanges};
pub use detail::{GetItem, ItemRead};
pub use ingest::IngestItems;
pub use judge::StreamJudge;
pub use list::{ListStream, StreamRead};
pub use messages::{ListMessages, MessagesRead};
pub use remove::RemoveItems;
