//! Asks Redis whether it is there, for the connection monitor.

use super::error::translate;
use super::settings::{RedisSettings, RedisSettingsError};
use crate::monitor::{Probe, ProbeAnswer};
use async_trait::async_trait;
use gravity_domain::error::StoreError;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};
use std::time::Duration;
use tokio::sync::Mutex;

/// The driver's own limits, for what outlives a ping that the monitor has given up.
const LIMIT: Duration = Duration::from_secs(5);

/// A connection of its own, made when there is none and kept only after an answer.
pub struct RedisProbe {
    client: Client,
    connection: Mutex<Option<MultiplexedConnection>>,
}

impl std::fmt::Debug for RedisProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisProbe").finish_non_exhaustive()
    }
}

impl RedisProbe {
    /// A probe whose connection is driven on the runtime that pings. Connects at the first ping.
    ///
    /// # Errors
    /// The URL is malformed.
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisSettingsError> {
        Ok(Self {
            client: settings.client()?,
            connection: Mutex::new(None),
        })
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LIMIT))
            .set_response_timeout(Some(LIMIT));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }
}

#[async_trait]
impl Probe for RedisProbe {
    async fn ping(&self) -> Result<ProbeAnswer, StoreError> {
        let mut kept = self.connection.lock().await;
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => self.connect().await.map_err(translate)?,
        };
        match redis::cmd("PING").query_async::<()>(&mut connection).await {
            Ok(()) => {
                *kept = Some(connection);
                Ok(ProbeAnswer { writable: true })
            }
            Err(error) => Err(translate(error)),
        }
    }
}
