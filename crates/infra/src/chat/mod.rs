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
pub use redis_presence::{PresenceSettings, RedisPresence};
pub use redis_tickets::RedisTickets;
pub use vapid::{VapidError, VapidKey};
pub use web_push::WebPush;
pub use webhook::{Webhook, WebhookError};

use metrics::{describe_counter, describe_gauge};

/// Says what the metrics of chat mean, but for those of its sockets.
pub fn describe_metrics() {
    describe_counter!(
        "gravity_chat_cache_total",
        "Snapshots of chat looked for, by kind and result."
    );
    describe_counter!(
        "gravity_chat_hints_total",
        "Hints between nodes, by direction and result."
    );
    describe_gauge!("gravity_chat_relay_up", "1 while hints of other nodes are heard.");
    describe_counter!(
        "gravity_chat_relay_silences_total",
        "Times that the subscription to hints was silent and made anew."
    );
    describe_counter!(
        "gravity_chat_ticket_fallback_total",
        "Tickets that only this node knows, because Redis did not answer."
    );
    describe_counter!(
        "gravity_chat_notifications_total",
        "Notifications, by channel and result."
    );
    describe_gauge!("gravity_chat_notification_jobs", "Notifications that wait.");
}
