//! `/api/chat`: conversations, messages, blocks, presence, notifications and tickets by REST; the socket is in `socket`.

pub mod bodies;
pub mod dto;
pub mod handlers;
pub mod notifications;
pub mod people;
pub(crate) mod query;
pub mod socket;
