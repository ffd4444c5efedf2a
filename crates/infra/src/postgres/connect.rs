//! Making connections. Each is opened and driven on one shared multi-threaded runtime, whichever runtime asks: a
//! connection driven on a web worker's own runtime would stall with that worker, and end with it.

use super::error::QueryError;
use super::settings::{PostgresSettings, SettingsError};
use super::tls;
use deadpool_postgres::Connect;
use gravity_domain::error::StoreError;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Opens a connection outside the pool, within the connect timeout. It is driven on `handle` and closes when the client is
/// dropped.
///
/// # Errors
/// [`StoreError::Unavailable`] for settings that cannot work and for whatever keeps the server from answering.
pub async fn connect(settings: &PostgresSettings, handle: &Handle) -> Result<Client, StoreError> {
    let connector = Connector::new(settings, handle.clone()).map_err(|error| StoreError::Unavailable {
        reason: "connect",
        source: Some(Box::new(error)),
    })?;
    Ok(connector.open().await?)
}

/// Opens connections to one server.
pub(super) struct Connector {
    pub(super) config: Config,
    tls: MakeRustlsConnect,
    handle: Handle,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(settings: &PostgresSettings, handle: Handle) -> Result<Self, SettingsError> {
        let (config, settings) = settings.resolve()?;
        Ok(Self {
            config,
            tls: tls::connector(&settings)?,
            handle,
            timeout: settings.connect_timeout,
        })
    }

    /// A connection without the pool's bookkeeping.
    pub(super) async fn open(&self) -> Result<Client, QueryError> {
        let opened = tokio::time::timeout(self.timeout, self.connect(&self.config)).await;
        let (client, _driver) = opened
            .map_err(|_| QueryError::Connect(None))?
            .map_err(|error| QueryError::Connect(Some(error)))?;
        Ok(client)
    }
}

type Connecting<'a> = Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + 'a>>;

impl Connect for Connector {
    fn connect(&self, config: &Config) -> Connecting<'_> {
        let (config, tls, handle) = (config.clone(), self.tls.clone(), self.handle.clone());
        Box::pin(async move {
            let driver_handle = handle.clone();
            let opening = handle.spawn(async move {
                let (client, connection) = config.connect(tls).await?;
                let driver = driver_handle.spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(
                            error = &error as &dyn std::error::Error,
                            "a Postgres connection ended"
                        );
                    }
                });
                Ok((client, driver))
            });
            match Opening(opening).await {
                Ok(opened) => opened,
                // The runtime is shutting down.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

/// Gives up the attempt when nobody waits for it any more.
struct Opening<T>(JoinHandle<T>);

impl<T> Future for Opening<T> {
    type Output = Result<T, tokio::task::JoinError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for Opening<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
