//! Redis plumbing. It names no feature.
//!
//! - [`RedisSettings`] says where Redis is and how long anything with it may take.
//! - [`Redis`] runs commands and scripts over one multiplexed connection, driven on one shared runtime whichever runtime asks,
//!   and made on first use: the server starts without it. It asks the breaker first and tells it of every outage.
//! - [`probe`] pings over a connection of its own.
//! - [`track`] hears of changes over a connection of its own.
//! - [`subscribe`] hears of messages on channels over a connection of its own, and a [`Carrier`] publishes them.
//!
//! Everything kept in Redis is under the prefix [`PREFIX`].

mod cluster;
mod connection;
mod error;
pub mod probe;
mod pubsub;
mod settings;
mod tracking;

pub use cluster::Cluster;
pub use connection::Redis;
pub use pubsub::{Carrier, ChannelListener, Channels, subscribe};
pub use settings::{ClusterSettings, RedisSettings, RedisSettingsError};
pub use tracking::{KeyListener, track};

/// What every key begins with.
pub const PREFIX: &str = "gravity:";
