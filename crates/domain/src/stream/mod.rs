//! The stream: one list per user of what needs attention, fed by services, acted on by its user.
//!
//! Each user has a *version*: a counter raised in the transaction that changes any of the user's items. An item carries
//! the version at which it was changed last, so the version names what may be cached and what has changed since. What
//! services tell of an item is theirs; whether it is unread or archived is a stamped field ([`Lww`](crate::sync::Lww)),
//! because its user sets it through the write path and a later write must win.

mod action;
pub mod details;
mod ingest;
mod item;
mod message;
pub mod ports;
mod query;

pub use action::{Action, ActionReceipt, ItemOutcome, StreamAction};
pub use ingest::{Flags, Ingested, ItemChange, ItemKey, NewItem, NewMessage, NewPerson, Raised, Removed};
pub use item::{ExternalId, ItemTitle, PersonName, Snippet, Source};
pub use item::{Item, ItemDetail, ItemPriority, Person};
pub use message::{ContentType, Message, MessageBody, SenderType};
pub use ports::{Cached, HtmlSanitizer, StreamCache, StreamStore, Versioned};
pub use query::{Changes, Selection, StreamFilter, StreamPage, StreamQuery, View};
