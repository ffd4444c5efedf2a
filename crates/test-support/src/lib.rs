//! What tests and project commands stand on: private Postgres and Redis servers, databases per test, faults.
//!
//! Without default features only the light part is built (`services` without the proxy and the databases),
//! which is what the project's commands use. `app` adds a whole server.

#[cfg(feature = "app")]
pub mod actors;
#[cfg(feature = "app")]
pub mod builders;
#[cfg(feature = "app")]
pub mod calls;
pub mod history;
pub mod services;
#[cfg(feature = "app")]
pub mod test_app;
