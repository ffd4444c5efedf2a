//! Chat between two people: conversations, messages, read markers, blocks, and the log of events that sockets follow.
//!
//! A message, a read mark and a block are operations like any other write ([`crate::sync`]). Every committed change appends
//! events to the logs of those whom it concerns, in the same transaction; a user's log is what sockets replay, and its
//! newest offset is the version of all that the user sees of chat.

pub mod block;
pub mod conversation;
pub mod event;
pub mod live;
pub mod logged;
pub mod message;
pub mod notification;
pub mod ports;
pub mod presence;
pub mod read;
pub mod ticket;

pub use block::{BlockChange, BlockState, BlockStatus, Blocked};
pub use conversation::{Conversation, Inbox, Opened, Person, UnreadTotals};
pub use event::{EventCursor, EventKind, LogHead, LogReplay, UserEvent};
pub use live::{Hint, Signal};
pub use logged::{LoggedMessage, message_new};
pub use message::{Content, Message, MessageCursor, MessagePage, NewMessage};
pub use notification::{
    Delivery, EndpointRefused, Notice, NotificationJob, NotificationJobs, NotificationPreferences, Progress,
    PushEndpoints, PushKeys, PushNotifier, PushSubscription, Summons, Target, WebhookNotifier,
};
pub use ports::{
    ChatCache, ChatStore, EventLog, Known, Live, LocalDelivery, NotificationStore, PresenceBoard, Relay,
    Tickets,
};
pub use presence::{ConnectionId, Presence, PresenceStatus};
pub use read::{ReadMark, ReadMarker};
pub use ticket::{Ticket, TicketHolder};
