//! What an operator of Postgres does: a superuser's connection past the proxy.

use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls};

use crate::Failure;
use crate::stores::ROLE;

const PATIENCE: Duration = Duration::from_secs(10);
const TRY: Duration = Duration::from_millis(50);

/// Connects, also while Postgres is still coming up; the session may write whatever the default says.
pub(crate) async fn connect(url: &str) -> Result<Client, Failure> {
    let mut config: Config = url.parse()?;
    config
        .connect_timeout(Duration::from_secs(2))
        .options("-c default_transaction_read_only=off");
    let begun = tokio::time::Instant::now();
    loop {
        match tokio::time::timeout(PATIENCE, config.connect(NoTls)).await? {
            Ok((client, connection)) => {
                tokio::spawn(async move {
                    // Its error is also the error of the query that meets it.
                    let _ = connection.await;
                });
                return Ok(client);
            }
            Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
            Err(_) => tokio::time::sleep(TRY).await,
        }
    }
}

/// Whether transactions may write by default, as after a failover and back.
pub(crate) async fn writable(admin: &Client, writable: bool) -> Result<(), Failure> {
    let set = if writable {
        "ALTER SYSTEM RESET default_transaction_read_only"
    } else {
        "ALTER SYSTEM SET default_transaction_read_only = on"
    };
    // Not in one batch: ALTER SYSTEM cannot run in a transaction.
    admin.batch_execute(set).await?;
    admin.batch_execute("SELECT pg_reload_conf()").await?;
    Ok(())
}

/// Whether the server's role gets connections; those it has are ended when it does not.
pub(crate) async fn connections(admin: &Client, allowed: bool) -> Result<(), Failure> {
    let limit = if allowed { -1 } else { 0 };
    admin
        .batch_execute(&format!("ALTER ROLE {ROLE} CONNECTION LIMIT {limit}"))
        .await?;
    if !allowed {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1";
        admin.query(end, &[&ROLE]).await?;
    }
    Ok(())
}
