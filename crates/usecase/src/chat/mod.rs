//! Chat: one file per use case.
//!
//! What a user reads comes from the cache ([`ChatCache`](gravity_domain::chat::ChatCache)) or, where it does not reach, from
//! Postgres; over either, the user's pending messages, read marks and blocks are folded in (see `overlay.rs`). Messages, marks and
//! blocks are written through the write path ([`crate::sync`]), and so are accepted while Postgres is away, if what they need to
//! know is known (see `judge.rs`). Everything else that changes something needs Postgres.

mod block;
mod blocks;
mod connect;
mod conversations;
mod error;
mod judge;
mod known;
mod message;
mod messages;
mod notifications;
mod notify;
mod open;
mod overlay;
mod presence;
mod read;
mod send;
#[cfg(test)]
mod tests;
mod ticket;
mod typing;
mod unread;

pub use block::{BlockUser, BlockedUser, UnblockUser, UnblockedUser};
pub use blocks::{GetBlockStatus, ListBlocks};
pub use connect::{Connect, ReplayLog};
pub use conversations::ListConversations;
pub use error::ChatError;
pub use judge::MessageJudge;
pub use message::GetMessage;
pub use messages::{ListMessages, MessageList, Which};
pub use notifications::{
    AddSubscription, GetPreferences, NewSubscription, RemoveSubscription, SetPreferences, Subscribed,
};
pub use notify::{IsHere, NotifyAbsent, NotifyPorts, NotifySettings};
pub use open::{OpenConversation, OpenedConversation};
pub use presence::{LookUpPresence, TellPresence};
pub use read::MarkRead;
pub use send::{NewSend, SendMessage, SendPorts, Sent};
pub use ticket::{IssueTicket, RedeemTicket};
pub use typing::TellTyping;
pub use unread::CountUnread;
