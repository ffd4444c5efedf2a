//! Asks Postgres whether it is there and takes writes, for the connection monitor.

use super::connect::Connector;
use super::error::QueryError;
use super::settings::{PostgresSettings, SettingsError};
use crate::monitor::{Probe, ProbeAnswer};
use async_trait::async_trait;
use gravity_domain::error::StoreError;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio_postgres::{Client, SimpleQueryMessage};

/// `on` also on a standby, and where an operator has made read-only the default.
const READ_ONLY: &str = "SHOW transaction_read_only";

/// A connection of its own, made when there is none. It is kept only after an answer of a writable server: a ping that was
/// given up leaves its query behind, and with several hosts the next connection may find the one that takes writes.
pub struct PostgresProbe {
    connector: Connector,
    connection: Mutex<Option<Client>>,
}

impl std::fmt::Debug for PostgresProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresProbe").finish_non_exhaustive()
    }
}

impl PostgresProbe {
    /// A probe whose connection is driven on `handle`. Connects at the first ping.
    ///
    /// # Errors
    /// Settings that cannot work.
    pub fn new(settings: &PostgresSettings, handle: Handle) -> Result<Self, SettingsError> {
        let mut settings = settings.clone();
        settings.application_name.push_str("-monitor");
        Ok(Self {
            connector: Connector::new(&settings, handle)?,
            connection: Mutex::new(None),
        })
    }
}

#[async_trait]
impl Probe for PostgresProbe {
    async fn ping(&self) -> Result<ProbeAnswer, StoreError> {
        let mut kept = self.connection.lock().await;
        let connection = match kept.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connector.open().await?,
        };
        let answer = connection
            .simple_query(READ_ONLY)
            .await
            .map_err(QueryError::Driver)?;
        let writable = answer.iter().any(
            |message| matches!(message, SimpleQueryMessage::Row(row) if row.try_get(0).ok().flatten() == Some("off")),
        );
        if writable {
            *kept = Some(connection);
        }
        Ok(ProbeAnswer { writable })
    }
}
