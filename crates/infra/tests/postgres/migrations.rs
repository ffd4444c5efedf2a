//! Migrations.

use gravity_infra::postgres::{PostgresSettings, latest_version, migrate};
use gravity_test_support::services::databases::TestDatabase;
use gravity_test_support::services::shared;
use tokio::runtime::Handle;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_together_migrate_once() {
    let database = TestDatabase::create_empty(shared::postgres()).await.unwrap();
    let settings = PostgresSettings::from_url(database.url());
    let handle = Handle::current();
    let (one, two, three) = tokio::join!(
        migrate(&settings, &handle),
        migrate(&settings, &handle),
        migrate(&settings, &handle)
    );
    let mut counts = [one, two, three].map(|done| done.unwrap().applied.len());
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, usize::try_from(latest_version()).unwrap()]);
}
