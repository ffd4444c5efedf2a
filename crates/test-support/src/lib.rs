//! What tests and project commands stand on: private Postgres and Redis servers, databases per test, faults.
//!
//! Without default features only the light part is built (`services` without the proxy and the databases),
//! which is what the project's commands use. `app` adds a whole server.

pub mod services;
