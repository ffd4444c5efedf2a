//! The configuration: read in layers (`layers`), one struct per concern, checked as a whole.
//!
//! All problems are named at once, each on a line of its own. Secrets are a type that does not print. Nothing
//! else in the program reads the environment.

mod auth;
mod buffer;
mod chat;
mod database;
mod http;
mod layers;
mod names;
mod reader;
mod redis;
mod secret;
mod server;
mod stream;
mod telemetry;

pub use auth::AuthConfig;
pub use buffer::BufferConfig;
pub use chat::{ChatConfig, Webhook};
pub use database::DatabaseConfig;
pub use http::HttpConfig;
pub use layers::Surroundings;
pub use names::SHORT_NAMES;
pub use redis::RedisConfig;
pub use server::{ServerConfig, TlsFiles};
pub use stream::StreamConfig;
pub use telemetry::{LogFormat, TelemetryConfig};

use layers::Layers;
use reader::Reader;
use std::fmt;

/// Every setting, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `GRAVITY_ENV`.
    pub environment: String,
    /// Where it listens, how it stops.
    pub server: ServerConfig,
    /// Postgres.
    pub database: DatabaseConfig,
    /// Redis.
    pub redis: RedisConfig,
    /// Tokens and passwords.
    pub auth: AuthConfig,
    /// The write buffer.
    pub buffer: BufferConfig,
    /// Limits and trust at the door.
    pub http: HttpConfig,
    /// The stream: its cache, and what may be fed into it.
    pub stream: StreamConfig,
    /// Chat: its limits, and how people are told.
    pub chat: ChatConfig,
    /// Logs and traces.
    pub telemetry: TelemetryConfig,
    /// What should be said at the start.
    pub warnings: Vec<String>,
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError(pub Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl Config {
    /// The settings of this process.
    ///
    /// # Errors
    /// Every problem.
    pub fn load() -> Result<Self, ConfigError> {
        Self::read(&Surroundings::of_process())
    }

    /// The built-in defaults and these variables, and nothing of the process's surroundings.
    ///
    /// # Errors
    /// Every problem.
    pub fn from_variables<N: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        Self::read(&Surroundings::of_variables(variables))
    }

    /// The settings in these surroundings.
    ///
    /// # Errors
    /// Every problem.
    pub fn read(from: &Surroundings) -> Result<Self, ConfigError> {
        let environment = from.environment_name();
        let mut reader = Reader::new(Layers::read(from));
        let server = ServerConfig::read(&mut reader);
        let database = DatabaseConfig::read(&mut reader);
        let redis = RedisConfig::read(&mut reader);
        let auth = AuthConfig::read(&mut reader, environment == "development");
        let buffer = BufferConfig::read(&mut reader);
        database.check_against(buffer.retention, &mut reader);
        let http = HttpConfig::read(&mut reader);
        let stream = StreamConfig::read(&mut reader);
        let chat = ChatConfig::read(&mut reader, &http.cors_allowed_origins);
        let telemetry = TelemetryConfig::read(&mut reader);
        let (problems, warnings) = reader.finish();
        if !problems.is_empty() {
            return Err(ConfigError(problems));
        }
        Ok(Self {
            environment,
            server,
            database,
            redis,
            auth,
            buffer,
            http,
            stream,
            chat,
            telemetry,
            warnings,
        })
    }

    /// True in `GRAVITY_ENV=development`.
    pub fn is_development(&self) -> bool {
        self.environment == "development"
    }
}

#[cfg(test)]
mod tests;
