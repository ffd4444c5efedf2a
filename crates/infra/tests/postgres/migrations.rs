//! Migrations.

use gravity_domain::error::StoreError;
use gravity_infra::postgres::{
    MigrateError, PostgresSettings, Schema, latest_version, look, migrate, migrate_within,
};
use gravity_test_support::services::databases::TestDatabase;
use gravity_test_support::services::shared;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// The key that nodes of every release take turns by.
const LOCK: &str = "SELECT pg_advisory_lock(7454127494454868224)";

async fn empty() -> (TestDatabase, PostgresSettings) {
    let database = TestDatabase::create_empty(shared::postgres()).await.unwrap();
    let settings = PostgresSettings::from_url(database.url());
    (database, settings)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_together_migrate_once() {
    let (_database, settings) = empty().await;
    let handle = Handle::current();
    assert_eq!(
        look(&settings, &handle).await.unwrap(),
        Schema::Behind { version: None }
    );
    let (one, two, three) = tokio::join!(
        migrate(&settings, &handle),
        migrate(&settings, &handle),
        migrate(&settings, &handle)
    );
    let mut counts = [one, two, three].map(|done| done.unwrap().applied.len());
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, usize::try_from(latest_version()).unwrap()]);
    assert_eq!(look(&settings, &handle).await.unwrap(), Schema::Current);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_waits_for_the_lock_gives_up_at_its_limit_and_goes_on_when_the_lock_is_free() {
    let (database, settings) = empty().await;
    let handle = Handle::current();
    let holder = database.connect().await.unwrap();
    holder.batch_execute(LOCK).await.unwrap();
    let (began, patience) = (Instant::now(), Duration::from_millis(400));
    let refused = migrate_within(&settings, &handle, patience).await;
    assert!(matches!(refused, Err(MigrateError::Locked { .. })), "{refused:?}");
    assert!(began.elapsed() >= patience);
    assert!(began.elapsed() < Duration::from_secs(5));

    let waiting = tokio::spawn(async move { migrate(&settings, &Handle::current()).await });
    holder
        .batch_execute("SELECT pg_sleep(0.3); SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();
    let migrated = waiting.await.unwrap().unwrap();
    assert_eq!(migrated.applied.len(), usize::try_from(latest_version()).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_schema_is_current_nobody_waits_for_the_session_that_holds_the_lock() {
    let (database, settings) = empty().await;
    let handle = Handle::current();
    migrate(&settings, &handle).await.unwrap();
    let holder = database.connect().await.unwrap();
    holder.batch_execute(LOCK).await.unwrap();
    let again = migrate_within(&settings, &handle, Duration::ZERO).await.unwrap();
    assert!(again.applied.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_migrations_of_a_newer_release_are_no_obstacle_and_changed_ones_are() {
    let (database, settings) = empty().await;
    let handle = Handle::current();
    migrate(&settings, &handle).await.unwrap();
    let client = database.connect().await.unwrap();
    let newer = "INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
        VALUES (9999, 'newer', '2030-01-01T00:00:00Z', '1')";
    client.batch_execute(newer).await.unwrap();
    assert!(migrate(&settings, &handle).await.unwrap().applied.is_empty());
    let changed = "UPDATE refinery_schema_history SET checksum = '7' WHERE version = 1";
    client.batch_execute(changed).await.unwrap();
    assert_eq!(
        look(&settings, &handle).await.unwrap(),
        Schema::Behind { version: Some(9999) }
    );
    let refused = migrate(&settings, &handle).await;
    assert!(matches!(refused, Err(MigrateError::Migration(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_that_cannot_have_its_table_is_not_to_blame() {
    let (database, _) = empty().await;
    let handle = Handle::current();
    let client = database.connect().await.unwrap();
    let locked = "CREATE TABLE refinery_schema_history (version int4 PRIMARY KEY, name varchar(255),
            applied_on varchar(255), checksum varchar(255));
        BEGIN; LOCK TABLE refinery_schema_history IN SHARE ROW EXCLUSIVE MODE";
    client.batch_execute(locked).await.unwrap();
    let url = format!("{}?options=-c%20lock_timeout%3D200", database.url());
    let settings = PostgresSettings::from_url(url);
    let refused = migrate(&settings, &handle).await;
    assert!(
        matches!(
            refused,
            Err(MigrateError::Store(StoreError::Busy { reason: "lock", .. }))
        ),
        "{refused:?}"
    );
}
