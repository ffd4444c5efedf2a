//! Finders and lists.

use crate::fixture::{Author, Fixture, at, task};
use gravity_domain::id::{TaskId, UserId};
use gravity_domain::page::PageKey;
use gravity_domain::sync::ports::EntityStore;
use gravity_domain::task::{Task, TaskChange, TaskFilter, TaskPatch, TaskStatus, TaskStore};
use std::collections::BTreeSet;
use uuid::Uuid;

#[tokio::test]
async fn pages_follow_each_other_without_a_gap_or_a_repeat() {
    let fixture = Fixture::new().await;
    let (alice, bob) = (Author::new(), Author::new());
    let mut expected = Vec::new();
    for n in 0..23u64 {
        // Several of the same millisecond.
        let create = alice.create(at(n / 4), "one");
        let mut created = fixture.apply(&create).await;
        if n % 3 == 0 {
            let patch = TaskPatch {
                status: Some(TaskStatus::Completed),
                ..TaskPatch::default()
            };
            let update = alice.operation(at(100), task(create.entity_id(), TaskChange::Update(patch)));
            created = fixture.apply(&update).await;
        }
        if n % 7 == 0 {
            fixture.apply(&alice.delete(at(200), create.entity_id())).await;
        } else {
            expected.push(created);
        }
    }
    fixture.apply(&bob.create(at(3), "bob's")).await;
    expected.sort_by_key(|task| std::cmp::Reverse(task.page_key()));
    for status in [None, Some(TaskStatus::Completed), Some(TaskStatus::Cancelled)] {
        let filter = TaskFilter { status };
        let shown: Vec<Task> = expected
            .iter()
            .filter(|task| filter.shows(task))
            .cloned()
            .collect();
        let mut seen: Vec<Task> = Vec::new();
        loop {
            let after = seen.last().map(Task::page_key);
            let page = fixture.tasks.list(alice.0, filter, after, 5).await.unwrap();
            let is_last = page.len() < 5;
            seen.extend(page);
            if is_last {
                break;
            }
        }
        assert_eq!(seen, shown);
    }
    let nowhere = PageKey {
        at: at(0).timestamp(),
        id: Uuid::nil(),
    };
    let none = fixture
        .tasks
        .list(alice.0, TaskFilter::default(), Some(nowhere), 5)
        .await;
    assert_eq!(none.unwrap(), []);
}

#[tokio::test]
async fn only_the_owner_finds_a_row_and_tombstones_are_found() {
    let fixture = Fixture::new().await;
    let (alice, bob) = (Author::new(), Author::new());
    let kept = fixture.apply(&alice.create(at(1), "one")).await;
    let create = alice.create(at(2), "two");
    fixture.apply(&create).await;
    let deleted = fixture.apply(&alice.delete(at(3), create.entity_id())).await;
    let other = fixture.apply(&bob.create(at(1), "bob's")).await;

    let ids = [kept.id, deleted.id, other.id, TaskId(Uuid::now_v7())];
    let found = fixture.tasks.find_many(alice.0, &ids).await.unwrap();
    let found: BTreeSet<TaskId> = found.iter().map(|task| task.id).collect();
    assert_eq!(found, BTreeSet::from([kept.id, deleted.id]));
    assert_eq!(fixture.tasks.find_many(alice.0, &[]).await.unwrap(), []);
    assert_eq!(fixture.tasks.find(alice.0, other.id.0).await.unwrap(), None);
    assert_eq!(
        fixture.tasks.find(alice.0, deleted.id.0).await.unwrap(),
        Some(deleted)
    );
}

#[tokio::test]
async fn a_profile_is_found_by_its_user_alone() {
    let fixture = Fixture::new().await;
    let alice = UserId::random();
    fixture.insert_user(alice).await;
    let profile = fixture.profiles.find(alice, alice.0).await.unwrap().unwrap();
    assert_eq!((profile.id, profile.version), (alice, 1));
    assert_eq!(profile.created_at.to_string(), "2024-01-01T00:00:00.123Z");
    let bob = UserId::random();
    assert_eq!(fixture.profiles.find(bob, alice.0).await.unwrap(), None);
    assert_eq!(fixture.profiles.find(bob, bob.0).await.unwrap(), None);
}

#[tokio::test]
async fn lists_are_read_from_their_index() {
    let fixture = Fixture::new().await;
    let client = fixture.database.connect().await.unwrap();
    client
        .batch_execute("SET enable_seqscan = off; SET enable_sort = off")
        .await
        .unwrap();
    for (condition, index) in [
        ("", "tasks_list_index"),
        ("AND status = 'completed'", "tasks_list_by_status_index"),
    ] {
        let sql = format!(
            "EXPLAIN SELECT id FROM tasks WHERE user_id = '{0}' AND deleted_stamp IS NULL {condition}
                AND (created_at, id) < (COALESCE(now(), 'infinity'), COALESCE('{0}'::uuid, '{0}'))
                ORDER BY created_at DESC, id DESC LIMIT 20",
            Uuid::nil()
        );
        let rows = client.query(&sql, &[]).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(index) && !plan.contains("Sort"), "{plan}");
    }
}
