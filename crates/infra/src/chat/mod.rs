//! Chat: in Postgres, in the cache, and on its way to sockets.

mod entities;
mod log;
mod notifications;
pub(crate) mod postgres;
pub(crate) mod statement;

pub use entities::ChatEntities;
pub use log::PostgresEventLog;
pub use notifications::PostgresNotifications;
pub use postgres::PostgresChat;
