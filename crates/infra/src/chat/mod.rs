//! Chat: in Postgres, in the cache, and on its way to sockets.

mod cache;
mod encrypt;
mod endpoint;
mod entities;
mod feed;
mod jobs;
mod log;
mod memory_presence;
mod memory_tickets;
mod notifications;
mod outside;
pub(crate) mod postgres;
mod redis_presence;
mod redis_tickets;
pub(crate) mod statement;
mod vapid;
mod web_push;
mod webhook;

pub use cache::{CachedChat, ChatCachePorts, ChatCacheSettings};
pub use endpoint::{EndpointGuard, LookUp, SystemLookUp};
pub use entities::ChatEntities;
pub use feed::{Feed, FeedSettings};
pub use jobs::PostgresJobs;
pub use log::PostgresEventLog;
pub use memory_presence::MemoryPresence;
pub use memory_tickets::MemoryTickets;
pub use notifications::PostgresNotifications;
pub use outside::NoClient;
pub use postgres::PostgresChat;
pub use redis_presence::{NoPresence, PresenceSettings, RedisPresence};
pub use redis_tickets::RedisTickets;
pub use vapid::{VapidError, VapidKey};
pub use web_push::WebPush;
pub use webhook::{Webhook, WebhookError};
