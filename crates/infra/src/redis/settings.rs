//! Where Redis is, and how long anything with it may take.

use gravity_domain::auth::Secret;
use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo as _};
use std::time::Duration;
use thiserror::Error;

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
            connect_timeout: Duration::from_millis(300),
            response_timeout: Duration::from_millis(250),
            tcp_user_timeout: Duration::from_secs(3),
        }
    }

    /// The driver's client; connects to nothing yet.
    ///
    /// # Errors
    /// The URL is malformed.
    pub fn client(&self) -> Result<Client, RedisSettingsError> {
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(self.tcp_user_timeout);
        let info = self
            .url
            .expose()
            .into_connection_info()
            .map_err(|_| RedisSettingsError)?
            .set_tcp_settings(tcp);
        Client::open(info).map_err(|_| RedisSettingsError)
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
