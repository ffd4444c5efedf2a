//! A database per test, cloned from a template that was migrated once.
//!
//! The template is made by whoever needs it first, under an advisory lock, so that several test binaries may share
//! a server. Nobody can connect to it afterwards: a session there would make every clone wait. A clone copies
//! files (`STRATEGY FILE_COPY`), which takes tens of milliseconds whatever the number of tables.

use std::collections::HashSet;
use std::error::Error;
use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, NoTls};

/// A failure to make a database; it ends the test, so nobody tells its kinds apart.
pub type DatabaseError = Box<dyn Error + Send + Sync>;

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
const DROP_PATIENCE: Duration = Duration::from_secs(5);
/// Keeps several test binaries from making the same template at once.
const TEMPLATE_LOCK: i64 = 0x6772_6176_6974_7901;

/// A database of a test's own. It is dropped with this value, if the server can be reached then.
#[derive(Debug)]
pub struct TestDatabase {
    server: String,
    name: String,
}

impl TestDatabase {
    /// Clones the template `template` of `server` (a URL to any database of it), making it first if need be:
    /// `migrate` is given the URL of an empty database and must close its connections. Name the template after what it
    /// holds, such as a digest of the migrations, where servers are kept between runs.
    ///
    /// # Errors
    /// The server's, or `migrate`'s.
    pub async fn create<F, Fut, E>(server: &str, template: &str, migrate: F) -> Result<Self, DatabaseError>
    where
        F: FnOnce(String) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: Into<DatabaseError>,
    {
        prepare(server, template, migrate).await?;
        let name = unique_name();
        let admin = connect(server).await?;
        let clone = format!(
            "CREATE DATABASE {name} TEMPLATE {} STRATEGY FILE_COPY",
            quoted(template)
        );
        admin.batch_execute(&clone).await?;
        Ok(Self {
            server: server.to_owned(),
            name,
        })
    }

    /// An empty database.
    ///
    /// # Errors
    /// The server's.
    pub async fn create_empty(server: &str) -> Result<Self, DatabaseError> {
        let name = unique_name();
        connect(server)
            .await?
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await?;
        Ok(Self {
            server: server.to_owned(),
            name,
        })
    }

    /// A connection URL to it.
    #[must_use]
    pub fn url(&self) -> String {
        with_database(&self.server, &self.name)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A plain connection to it, for looking behind the code under test.
    ///
    /// # Errors
    /// The server's.
    pub async fn connect(&self) -> Result<Client, DatabaseError> {
        connect(&self.url()).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // The test's runtime may be ending, so this takes a thread and a runtime of its own.
        let dropper = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                let work = async {
                    let admin = connect(&server).await?;
                    admin
                        .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
                        .await?;
                    Ok::<(), DatabaseError>(())
                };
                // A server that is gone or paused keeps the database; it is private to the test then.
                let _ = tokio::time::timeout(DROP_PATIENCE, work).await;
            });
        });
        let _ = dropper.join();
    }
}

/// Makes the template once per server.
async fn prepare<F, Fut, E>(server: &str, template: &str, migrate: F) -> Result<(), DatabaseError>
where
    F: FnOnce(String) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<DatabaseError>,
{
    static READY: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let mut ready = READY.lock().await;
    let key = with_database(server, template);
    if ready.contains(&key) {
        return Ok(());
    }
    let admin = connect(server).await?;
    admin
        .execute("SELECT pg_advisory_lock($1)", &[&TEMPLATE_LOCK])
        .await?;
    let known = admin
        .query_opt(
            "SELECT datallowconn FROM pg_database WHERE datname = $1",
            &[&template],
        )
        .await?
        .map(|row| row.get::<_, bool>(0));
    if known != Some(false) {
        // One that still allows connections was left half-made.
        let name = quoted(template);
        admin
            .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
            .await?;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        migrate(key.clone()).await.map_err(Into::into)?;
        seal(&admin, template).await?;
    }
    ready.insert(key);
    Ok(())
}

/// Ends every session on the template and lets in no other.
async fn seal(admin: &Client, template: &str) -> Result<(), DatabaseError> {
    admin
        .batch_execute(&format!(
            "ALTER DATABASE {} ALLOW_CONNECTIONS false",
            quoted(template)
        ))
        .await?;
    let sessions = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = $1";
    admin.execute(sessions, &[&template]).await?;
    Ok(())
}

async fn connect(url: &str) -> Result<Client, DatabaseError> {
    let mut config: Config = url.parse()?;
    config.connect_timeout(CONNECT_PATIENCE);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // Its error is also the error of the query that meets it.
        let _ = connection.await;
    });
    Ok(client)
}

/// The same server URL with another database.
fn with_database(server: &str, database: &str) -> String {
    let (base, parameters) = match server.split_once('?') {
        Some((base, parameters)) => (base, format!("?{parameters}")),
        None => (server, String::new()),
    };
    let authority = base.find("://").map_or(0, |at| at + 3);
    let end = base[authority..]
        .find('/')
        .map_or(base.len(), |at| authority + at);
    format!("{}/{database}{parameters}", &base[..end])
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Unique on this server: process id, a random number, a counter.
fn unique_name() -> String {
    use std::hash::BuildHasher;
    use std::sync::atomic::{AtomicU64, Ordering};
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    static SEED: LazyLock<u64> = LazyLock::new(|| std::collections::hash_map::RandomState::new().hash_one(0));
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    format!("test_{}_{:016x}_{serial}", std::process::id(), *SEED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_in_a_url_is_replaced_and_the_rest_kept() {
        let cases = [
            (
                "postgres://postgres@127.0.0.1:5432/postgres",
                "postgres://postgres@127.0.0.1:5432/x",
            ),
            ("postgres://u:p@host", "postgres://u:p@host/x"),
            (
                "postgres://u@a,b/db?sslmode=disable",
                "postgres://u@a,b/x?sslmode=disable",
            ),
        ];
        for (server, expected) in cases {
            assert_eq!(with_database(server, "x"), expected);
        }
    }
}
