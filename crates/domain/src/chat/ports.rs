//! The ports of chat.

use super::block::{BlockStatus, Blocked};
use super::conversation::{Conversation, Inbox, Opened, Person};
use super::event::{EventCursor, LogReplay, UserEvent};
use super::live::{Hint, Signal};
use super::message::{Message, MessagePage};
use super::notification::{NotificationPreferences, PushSubscription};
use super::presence::{ConnectionId, Presence};
use super::ticket::{Ticket, TicketHolder};
use crate::auth::Username;
use crate::error::StoreError;
use crate::id::{ChatMessageId, ConversationId, UserId};
use crate::page::{Page, PageKey, PageLimit};
use crate::sync::outcome::Freshness;
use async_trait::async_trait;
use std::sync::Arc;

/// Chat in Postgres, to read. What changes it are operations, but for [`Self::open`].
///
/// # Errors
/// Every call: the store could not answer.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait ChatStore: Send + Sync {
    /// Who has this username.
    async fn person(&self, username: &Username) -> Result<Option<Person>, StoreError>;

    /// The conversation of `user` with `other`, if there is one.
    async fn find_with(&self, user: UserId, other: UserId) -> Result<Option<Conversation>, StoreError>;

    /// The same, made when there is none. Both must exist.
    async fn open(&self, user: UserId, other: UserId) -> Result<Opened, StoreError>;

    /// What `user` sees first, in one snapshot.
    async fn inbox(&self, user: UserId) -> Result<Inbox, StoreError>;

    /// A page of conversations, newest activity first.
    async fn conversations(
        &self,
        user: UserId,
        after: Option<PageKey>,
        limit: PageLimit,
    ) -> Result<Page<Conversation>, StoreError>;

    /// One of the user's conversations; `None` also when it is not theirs.
    async fn conversation(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Option<Conversation>, StoreError>;

    /// Messages before the place `before` (from the end when `None`), newest first; `None` when the conversation is not theirs.
    async fn messages(
        &self,
        user: UserId,
        id: ConversationId,
        before: Option<u64>,
        limit: PageLimit,
    ) -> Result<Option<MessagePage>, StoreError>;

    /// Messages after the place `after`, oldest first; `None` when the conversation is not theirs.
    async fn messages_after(
        &self,
        user: UserId,
        id: ConversationId,
        after: u64,
        limit: PageLimit,
    ) -> Result<Option<MessagePage>, StoreError>;

    /// A message of one of the user's conversations.
    async fn message(&self, user: UserId, id: ChatMessageId) -> Result<Option<Message>, StoreError>;

    /// Whom `user` blocks, latest first.
    async fn blocks(&self, user: UserId) -> Result<Vec<Blocked>, StoreError>;

    /// Who of the two blocks whom.
    async fn block_status(&self, user: UserId, other: UserId) -> Result<BlockStatus, StoreError>;
}

/// The logs of users, in Postgres.
///
/// # Errors
/// Every call: the store could not answer.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait EventLog: Send + Sync {
    /// The end of a user's log, with the version of the stream.
    async fn head(&self, user: UserId) -> Result<EventCursor, StoreError>;

    /// The ends of these users' logs, in their order. For finding what nobody told of.
    async fn heads(&self, users: &[UserId]) -> Result<Vec<(UserId, EventCursor)>, StoreError>;

    /// What follows `cursor`, whole or not at all: more than `limit` entries, entries no longer kept, another epoch or a place
    /// beyond the end are [`LogReplay::Reset`].
    async fn since(&self, user: UserId, cursor: EventCursor, limit: usize) -> Result<LogReplay, StoreError>;
}

/// A value, and whether it is the last known one only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known<T> {
    /// The value.
    pub value: T,
    /// [`Freshness::Current`] or [`Freshness::Stale`].
    pub freshness: Freshness,
}

/// What is remembered of chat, before [`ChatStore`]. Snapshots are kept by the version of their user, which is the newest offset
/// of the log; when Postgres is away the last known one is given as stale, unless this node has acknowledged something newer
/// that it lacks.
///
/// # Errors
/// Every read: [`StoreError`] when it cannot be loaded and nothing known can stand in.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait ChatCache: Send + Sync {
    /// What the user sees first.
    async fn inbox(&self, user: UserId) -> Result<Known<Arc<Inbox>>, StoreError>;

    /// One conversation of the user; `None` when it is not theirs.
    async fn conversation(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Known<Option<Arc<Conversation>>>, StoreError>;

    /// The newest messages of a conversation of the user, newest first, at most [`PageLimit::MAX`]; `None` when it is not theirs.
    async fn newest_messages(
        &self,
        user: UserId,
        id: ConversationId,
    ) -> Result<Known<Option<Arc<MessagePage>>>, StoreError>;

    /// Whom the user blocks.
    async fn blocks(&self, user: UserId) -> Result<Known<Arc<Vec<Blocked>>>, StoreError>;

    /// Who has this username. Found ones are remembered for a while.
    async fn person(&self, username: &Username) -> Result<Option<Person>, StoreError>;

    /// The last known conversation, from memory only: for what must be judged while Postgres is away. The outer `None`: nothing is known.
    fn known_conversation(&self, user: UserId, id: ConversationId) -> Option<Option<Arc<Conversation>>>;

    /// Loads what the user will ask for next. Failures are nobody's concern.
    async fn warm(&self, user: UserId);

    /// Entries were committed to logs: what is remembered of their users at older versions is no longer current.
    fn raised(&self, events: &[UserEvent]);

    /// Something of the user may have been committed unseen: nothing is current until Postgres is asked.
    fn doubted(&self, user: UserId);
}

/// Where changes are told: the sockets of this node, and those of the others.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait Live: Send + Sync {
    /// Entries that were just committed to logs. Delivered here at once, and told to the other nodes.
    fn committed(&self, events: &[UserEvent]);

    /// Something for the sockets of `user`, wherever they are.
    fn signal(&self, user: UserId, signal: Signal);

    /// Entries of the user's log may have been committed that nobody told of: whoever has sockets of the user looks at it.
    fn missed(&self, user: UserId);
}

/// The sockets of this node: the hub. Called from any thread; never blocks.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait LocalDelivery: Send + Sync {
    /// A hint for the sockets of `user`, if there are any here.
    fn deliver(&self, user: UserId, hint: Hint);

    /// Hints may have been missed: every user's log is looked at anew, and clients are told to `resync` what is in no log.
    fn resync(&self, reason: &'static str);

    /// Hints for these users, newly watched, are heard only from now on: what their logs got between the opening of their sockets
    /// and now was told to nobody here, so their logs are looked at once.
    fn heard_from_now(&self, users: &[UserId]) {
        let _ = users;
    }

    /// How many sockets there are.
    fn sockets(&self) -> usize;
}

/// Carries hints between nodes, for the users whom this node watches.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait Relay: Send + Sync {
    /// From soon on, hints for `user` are heard. Never fails; whatever is missed meanwhile is in the log.
    fn watch(&self, user: UserId);
    /// No more sockets of `user` here.
    fn unwatch(&self, user: UserId);
    /// Whether hints are heard now. While they are not, the hub looks at the logs itself.
    fn is_up(&self) -> bool;
}

/// Who is there, on any node: leases in Redis.
///
/// # Errors
/// Every call: Redis could not answer. Presence is then unknown.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait PresenceBoard: Send + Sync {
    /// A socket opened. True when it is the user's first, anywhere.
    async fn arrived(&self, user: UserId, connection: ConnectionId) -> Result<bool, StoreError>;

    /// A socket has been gone for the time of grace. True when it was the user's last, anywhere.
    async fn left(&self, user: UserId, connection: ConnectionId) -> Result<bool, StoreError>;

    /// These are still here: their leases are good for another while.
    async fn renew(&self, connections: &[(UserId, ConnectionId)]) -> Result<(), StoreError>;

    /// Who of these is there, in their order.
    async fn look_up(&self, users: &[UserId]) -> Result<Vec<Presence>, StoreError>;
}

/// Single-use tickets, in Redis; without Redis in this process.
///
/// # Errors
/// Every call: the store could not answer.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Tickets: Send + Sync {
    /// A new ticket, good for [`Ticket::SECONDS`].
    async fn issue(&self, holder: TicketHolder) -> Result<Ticket, StoreError>;

    /// Spends a ticket: of any number of tries at once, one finds the holder.
    async fn redeem(&self, ticket: &Ticket) -> Result<Option<TicketHolder>, StoreError>;
}

/// What users want to be told, and where: in Postgres.
///
/// # Errors
/// Every call: the store could not answer.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait NotificationStore: Send + Sync {
    /// What the user wants.
    async fn preferences(&self, user: UserId) -> Result<NotificationPreferences, StoreError>;

    /// Sets it.
    async fn set_preferences(
        &self,
        user: UserId,
        preferences: NotificationPreferences,
    ) -> Result<(), StoreError>;

    /// Adds a subscription, or takes over the endpoint's earlier one. True when it is new. A user has a bounded number of them;
    /// the oldest makes room.
    async fn subscribe(&self, subscription: &PushSubscription) -> Result<bool, StoreError>;

    /// Removes the user's subscription of this endpoint. False when there was none.
    async fn unsubscribe(&self, user: UserId, endpoint: &str) -> Result<bool, StoreError>;
}
