//! Where Redis is, and how long anything with it may take.

use gravity_domain::auth::Secret;
use redis::cluster::ClusterClient;
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, PushInfo};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc::UnboundedSender;

const CONNECT: Duration = Duration::from_millis(300);
const RESPONSE: Duration = Duration::from_millis(250);
const UNACKNOWLEDGED: Duration = Duration::from_secs(3);

/// Everything a connection needs to know. [`Self::new`] has the defaults.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `redis://` or `rediss://`.
    pub url: Secret,
    /// The longest a new connection may take.
    pub connect_timeout: Duration,
    /// The longest an answer may take.
    pub response_timeout: Duration,
    /// The kernel gives up a connection when sent data is unacknowledged for longer.
    pub tcp_user_timeout: Duration,
}

/// Settings that cannot work. Never prints the URL.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the Redis address is not usable")]
pub struct RedisSettingsError;

impl RedisSettings {
    /// The defaults, for the server at a URL.
    pub fn new(url: Secret) -> Self {
        Self {
            url,
            connect_timeout: CONNECT,
            response_timeout: RESPONSE,
            tcp_user_timeout: UNACKNOWLEDGED,
        }
    }

    /// The driver's client; connects to nothing yet.
    ///
    /// # Errors
    /// The URL is malformed.
    pub fn client(&self) -> Result<Client, RedisSettingsError> {
        let info = info(&self.url)?.set_tcp_settings(tcp(self.tcp_user_timeout));
        Client::open(info).map_err(|_| RedisSettingsError)
    }
}

fn info(url: &Secret) -> Result<ConnectionInfo, RedisSettingsError> {
    url.expose()
        .into_connection_info()
        .map_err(|_| RedisSettingsError)
}

fn tcp(user_timeout: Duration) -> TcpSettings {
    TcpSettings::default()
        .set_nodelay(true)
        .set_user_timeout(user_timeout)
}

/// The same of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// Some of its nodes; they tell of the others.
    pub urls: Vec<Secret>,
    /// See [`RedisSettings::connect_timeout`].
    pub connect_timeout: Duration,
    /// See [`RedisSettings::response_timeout`].
    pub response_timeout: Duration,
    /// See [`RedisSettings::tcp_user_timeout`].
    pub tcp_user_timeout: Duration,
}

impl Default for ClusterSettings {
    /// Without a node.
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            connect_timeout: CONNECT,
            response_timeout: RESPONSE,
            tcp_user_timeout: UNACKNOWLEDGED,
        }
    }
}

impl ClusterSettings {
    /// The driver's client, which tells `pushes` what the nodes say unasked; connects to nothing yet.
    ///
    /// # Errors
    /// There is no URL, or one is malformed.
    pub fn client(
        &self,
        pushes: Option<UnboundedSender<PushInfo>>,
    ) -> Result<ClusterClient, RedisSettingsError> {
        const RETRIES: u32 = 2;
        const LONGEST_WAIT_MS: u64 = 100;
        let nodes = self.urls.iter().map(info).collect::<Result<Vec<_>, _>>()?;
        let mut client = ClusterClient::builder(nodes)
            .use_protocol(ProtocolVersion::RESP3)
            .tcp_settings(tcp(self.tcp_user_timeout))
            .connection_timeout(self.connect_timeout)
            .response_timeout(self.response_timeout)
            .retries(RETRIES)
            .max_retry_wait(LONGEST_WAIT_MS);
        if let Some(pushes) = pushes {
            client = client.push_sender(pushes);
        }
        client.build().map_err(|_| RedisSettingsError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_tls_urls_are_taken_and_others_refused_without_printing_them() {
        for good in ["redis://127.0.0.1", "redis://u:p@h:1/2", "rediss://h:6380"] {
            assert!(RedisSettings::new(Secret::new(good)).client().is_ok(), "{good}");
        }
        for bad in ["", "http://hunter2@h", "redis://hunter2@h:port"] {
            let settings = RedisSettings::new(Secret::new(bad));
            let error = settings.client().unwrap_err();
            assert!(!format!("{error} {error:?} {settings:?}").contains("hunter2"));
        }
    }
}
