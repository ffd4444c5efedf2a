//! Databases per test, against the shared server.
#![cfg(feature = "databases")]

use std::sync::atomic::{AtomicU32, Ordering};

use gravity_test_support::services::databases::{DatabaseError, TestDatabase};
use gravity_test_support::services::{Postgres, shared};

static MIGRATIONS: AtomicU32 = AtomicU32::new(0);

/// Makes one table with one row.
async fn migrate(url: String) -> Result<(), DatabaseError> {
    MIGRATIONS.fetch_add(1, Ordering::SeqCst);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    let driver = tokio::spawn(connection);
    client
        .batch_execute("CREATE TABLE thing (name text); INSERT INTO thing VALUES ('first')")
        .await?;
    drop(client);
    driver.await??;
    Ok(())
}

async fn count(database: &TestDatabase, sql: &str) -> i64 {
    database
        .connect()
        .await
        .unwrap()
        .query_one(sql, &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn each_clone_has_the_migrated_tables_and_no_ones_rows() {
    let template = format!("clones_{}", std::process::id());
    let make = || TestDatabase::create(shared::postgres(), &template, migrate);
    let (a, b, c) = tokio::join!(make(), make(), make());
    let databases = [a.unwrap(), b.unwrap(), c.unwrap()];
    let insert = "INSERT INTO thing VALUES ('mine')";
    databases[0]
        .connect()
        .await
        .unwrap()
        .batch_execute(insert)
        .await
        .unwrap();
    assert_eq!(count(&databases[0], "SELECT count(*) FROM thing").await, 2);
    assert_eq!(count(&databases[1], "SELECT count(*) FROM thing").await, 1);
    assert_eq!(count(&databases[2], "SELECT count(*) FROM thing").await, 1);
    assert_eq!(MIGRATIONS.load(Ordering::SeqCst), 1);

    let others = TestDatabase::create_empty(shared::postgres()).await.unwrap();
    let [first, ..] = &databases;
    let present = format!(
        "SELECT count(*) FROM pg_database WHERE datname = '{}'",
        first.name()
    );
    assert_eq!(count(&others, &present).await, 1);
    drop(databases);
    assert_eq!(count(&others, &present).await, 0);
}

#[tokio::test]
async fn a_migration_that_fails_is_tried_anew_by_the_next_test() {
    let template = format!("fails_{}", std::process::id());
    let failing = |_url: String| async { Err::<(), DatabaseError>("no".into()) };
    let error = TestDatabase::create(shared::postgres(), &template, failing)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "no");
    let working = |_url: String| async { Ok::<(), DatabaseError>(()) };
    TestDatabase::create(shared::postgres(), &template, working)
        .await
        .unwrap();
}

#[tokio::test]
async fn dropping_a_database_of_a_dead_server_does_no_harm() {
    let server = Postgres::start_private().unwrap();
    let database = TestDatabase::create_empty(&server.url("postgres")).await.unwrap();
    server.kill();
    drop(database);
}
