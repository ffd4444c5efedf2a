//! Purges.

use crate::fixture::{Author, Fixture, at};
use gravity_domain::sync::ports::EntityStore;
use std::time::Duration;

#[tokio::test]
async fn only_old_tombstones_are_purged() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let live = fixture.apply(&alice.create(at(1), "live")).await;
    let create = alice.create(at(1), "deleted");
    fixture.apply(&create).await;
    fixture.apply(&alice.delete(at(2), create.entity_id())).await;
    assert_eq!(
        fixture
            .purge
            .purge_tombstones(Duration::from_secs(60))
            .await
            .unwrap(),
        0
    );
    assert_eq!(fixture.purge.purge_tombstones(Duration::ZERO).await.unwrap(), 1);
    assert!(fixture.tasks.find(alice.0, live.id.0).await.unwrap().is_some());
    assert!(
        fixture
            .tasks
            .find(alice.0, create.entity_id())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn old_operations_are_forgotten_in_batches_by_one_node_at_a_time() {
    let fixture = Fixture::new().await;
    let recorded = "INSERT INTO applied_operations
            (id, user_id, entity, entity_id, kind, accepted_at, applied_at, attempts, superseded, buffered)
        SELECT gen_random_uuid(), gen_random_uuid(), 'task', gen_random_uuid(), 'create', '\\x', t, 1, false, false
        FROM (VALUES (timestamptz '2020-01-01', 4500), (now(), 10)) AS era (t, n), generate_series(1, era.n)";
    fixture.execute(recorded).await;
    let old = Duration::from_secs(365 * 86_400);

    let other = fixture.database.connect().await.unwrap();
    let lock = format!("SELECT pg_advisory_lock({})", 0x6772_6176_6974_7911_i64);
    other.batch_execute(&lock).await.unwrap();
    assert_eq!(fixture.purge.purge_applied(old).await.unwrap(), 0);
    other
        .batch_execute("SELECT pg_advisory_unlock_all()")
        .await
        .unwrap();

    assert_eq!(fixture.purge.purge_applied(old).await.unwrap(), 4500);
    assert_eq!(fixture.count("SELECT count(*) FROM applied_operations").await, 10);
}
