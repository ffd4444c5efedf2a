//! The servers that ordinary tests share: the ones the environment names, else one per test binary.
//!
//! Nothing that kills, pauses or reconfigures a server may use these; such tests start their own.

use std::sync::OnceLock;

use super::{Postgres, Redis};

/// Names a Postgres server for the tests: a URL to any database of it, as a role that may create databases.
pub const POSTGRES_VARIABLE: &str = "TEST_DATABASE_URL";
/// Names a Redis server for the tests.
pub const REDIS_VARIABLE: &str = "TEST_REDIS_URL";

/// A URL to the `postgres` database of the shared server, which is started on the first call.
///
/// # Panics
/// When there is none and none can be started: no test that needs it could pass.
pub fn postgres() -> &'static str {
    static SERVER: OnceLock<(String, Option<Postgres>)> = OnceLock::new();
    let (url, _) = SERVER.get_or_init(|| {
        named_by(POSTGRES_VARIABLE).map_or_else(
            || match Postgres::start_private() {
                Ok(server) => (server.url("postgres"), Some(server)),
                Err(error) => panic!("{error}"),
            },
            |url| (url, None),
        )
    });
    url
}

/// A URL to the shared Redis, which is started on the first call. Tests keep apart by the names of their keys.
///
/// # Panics
/// When there is none and none can be started.
pub fn redis() -> &'static str {
    static SERVER: OnceLock<(String, Option<Redis>)> = OnceLock::new();
    let (url, _) = SERVER.get_or_init(|| {
        named_by(REDIS_VARIABLE).map_or_else(
            || match Redis::start_private() {
                Ok(server) => (server.url(), Some(server)),
                Err(error) => panic!("{error}"),
            },
            |url| (url, None),
        )
    });
    url
}

fn named_by(variable: &str) -> Option<String> {
    #[allow(clippy::disallowed_methods)] // a setting of the tests, not of the server
    std::env::var(variable).ok().filter(|url| !url.is_empty())
}
