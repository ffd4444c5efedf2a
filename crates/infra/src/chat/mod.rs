//! Chat: in Postgres, in the cache, and on its way to sockets.

mod cache;
mod entities;
mod feed;
mod log;
mod memory_tickets;
mod notifications;
pub(crate) mod postgres;
mod redis_presence;
mod redis_tickets;
pub(crate) mod statement;

pub use cache::{CachedChat, ChatCachePorts, ChatCacheSettings};
pub use entities::ChatEntities;
pub use feed::{Feed, FeedSettings};
pub use log::PostgresEventLog;
pub use memory_tickets::MemoryTickets;
pub use notifications::PostgresNotifications;
pub use postgres::PostgresChat;
pub use redis_presence::{NoPresence, PresenceSettings, RedisPresence};
pub use redis_tickets::RedisTickets;
