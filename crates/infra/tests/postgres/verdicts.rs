//! What a direct write answers, case by case.

use crate::fixture::{Author, Fixture, at, keyed, task, task_of};
use gravity_domain::clock::Hlc;
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::profile::{Name, ProfilePatch};
use gravity_domain::sync::ports::{EntityStore, OperationStore};
use gravity_domain::sync::{Applied, EntityKind, EntityState, OperationKind, Verdict};
use gravity_domain::task::{Description, TaskChange, TaskPatch, TaskStatus};
use uuid::Uuid;

#[tokio::test]
async fn a_create_an_update_and_a_delete_leave_what_they_say() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    let created = fixture.apply(&create).await;
    assert_eq!(
        (created.version, created.created, created.user_id),
        (1, at(1), alice.0)
    );
    assert_eq!(created.updated_at, at(1).timestamp());

    let patch = TaskPatch {
        title: None,
        description: Some(Some(Description::parse("how").unwrap())),
        status: Some(TaskStatus::Completed),
    };
    let update = alice.operation(at(2), task(create.entity_id(), TaskChange::Update(patch)));
    let updated = fixture.apply(&update).await;
    assert_eq!(updated.version, 2);
    assert_eq!(
        (
            updated.title.stamp,
            updated.description.stamp,
            updated.status.stamp
        ),
        (Hlc::ZERO, at(2), at(2))
    );
    assert_eq!(
        fixture.tasks.find(alice.0, create.entity_id()).await.unwrap(),
        Some(updated)
    );

    let clear = TaskPatch {
        description: Some(None),
        ..TaskPatch::default()
    };
    let cleared = alice.operation(at(3), task(create.entity_id(), TaskChange::Update(clear)));
    assert_eq!(fixture.apply(&cleared).await.description.value, None);

    let deleted = fixture.apply(&alice.delete(at(4), create.entity_id())).await;
    assert_eq!((deleted.version, deleted.deleted), (4, Some(at(4))));
    assert_eq!(fixture.count("SELECT count(*) FROM applied_operations").await, 4);
}

#[tokio::test]
async fn the_same_operation_again_is_a_duplicate_and_does_nothing() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let mut create = alice.create(at(1), "one");
    create.attempts = 2;
    fixture.apply(&create).await;
    let Verdict::Duplicate(record) = fixture.operations.apply(&create).await.unwrap() else {
        panic!("not a duplicate");
    };
    assert_eq!((record.id, record.user_id), (create.id, alice.0));
    assert_eq!(
        (record.entity, record.entity_id, record.kind),
        (EntityKind::Task, create.entity_id(), OperationKind::Create)
    );
    assert_eq!((record.accepted_at, record.attempts), (at(1), 3));
    assert!(!record.superseded && !record.buffered && record.answer.is_none());
    assert_eq!(fixture.count("SELECT count(*) FROM tasks").await, 1);

    assert_eq!(
        fixture.operations.find(alice.0, create.id).await.unwrap(),
        Some(record)
    );
    assert_eq!(
        fixture
            .operations
            .find(UserId::random(), create.id)
            .await
            .unwrap(),
        None
    );
}

#[tokio::test]
async fn what_is_not_there_not_ones_own_or_deleted_is_missing() {
    let fixture = Fixture::new().await;
    let (alice, bob) = (Author::new(), Author::new());
    let create = alice.create(at(1), "one");
    fixture.apply(&create).await;
    let id = create.entity_id();
    for operation in [
        alice.retitle(at(2), Uuid::now_v7(), "x"),
        bob.retitle(at(2), id, "x"),
        bob.delete(at(2), id),
        alice.profile(at(2), ProfilePatch::default()),
    ] {
        assert_eq!(
            fixture.operations.apply(&operation).await.unwrap(),
            Verdict::Missing
        );
    }
    fixture.apply(&alice.delete(at(2), id)).await;
    for operation in [alice.retitle(at(3), id, "x"), alice.delete(at(3), id)] {
        assert_eq!(
            fixture.operations.apply(&operation).await.unwrap(),
            Verdict::Missing
        );
    }
    assert_eq!(fixture.count("SELECT count(*) FROM applied_operations").await, 2);
}

#[tokio::test]
async fn a_precondition_on_another_version_fails_and_records_nothing() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let create = alice.create(at(1), "one");
    fixture.apply(&create).await;
    let mut update = alice.retitle(at(2), create.entity_id(), "two");
    update.precondition = Some(7);
    assert_eq!(
        fixture.operations.apply(&update).await.unwrap(),
        Verdict::PreconditionFailed { current: 1 }
    );
    update.precondition = Some(1);
    assert_eq!(fixture.apply(&update).await.version, 2);
    let mut delete = alice.delete(at(3), create.entity_id());
    delete.precondition = Some(1);
    assert_eq!(
        fixture.operations.apply(&delete).await.unwrap(),
        Verdict::PreconditionFailed { current: 2 }
    );
}

#[tokio::test]
async fn a_direct_write_that_is_not_later_than_the_row_is_late() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let create = alice.create(at(5), "one");
    fixture.apply(&create).await;
    let mut update = alice.retitle(at(5), create.entity_id(), "two");
    for stamp in [at(4), at(5)] {
        update.accepted_at = stamp;
        assert_eq!(
            fixture.operations.apply(&update).await.unwrap(),
            Verdict::Late { newest: at(5) }
        );
    }
    update.accepted_at = at(6);
    assert_eq!(fixture.apply(&update).await.title.value.as_str(), "two");
    assert_eq!(
        fixture
            .operations
            .apply(&alice.delete(at(6), create.entity_id()))
            .await
            .unwrap(),
        Verdict::Late { newest: at(6) }
    );
}

#[tokio::test]
async fn a_key_used_again_after_its_record_was_purged_is_refused() {
    let fixture = Fixture::new().await;
    let create = Author::new().create(at(1), "one");
    fixture.apply(&create).await;
    fixture.execute("DELETE FROM applied_operations").await;
    let error = fixture.operations.apply(&create).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Rejected { reason, .. } if reason == "idempotency_key_reused"),
        "{error:?}"
    );
    assert_eq!(fixture.count("SELECT count(*) FROM applied_operations").await, 0);
}

#[tokio::test]
async fn with_a_key_the_first_answer_is_kept_exactly_as_it_was_shown() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let create = keyed(alice.create(at(1), "one \"quoted\" é\u{10348}"), None);
    let mut states = vec![(create.clone(), EntityState::Task(fixture.apply(&create).await))];
    let update = keyed(alice.retitle(at(2), create.entity_id(), "two"), None);
    states.push((update.clone(), EntityState::Task(fixture.apply(&update).await)));
    let delete = keyed(alice.delete(at(3), create.entity_id()), None);
    states.push((delete.clone(), EntityState::Task(fixture.apply(&delete).await)));

    fixture.insert_user(alice.0).await;
    let patch = ProfilePatch {
        name: Some(Some(Name::parse("Alice").unwrap())),
        avatar_url: None,
    };
    let profile = keyed(alice.profile(at(4), patch), None);
    match fixture.operations.apply(&profile).await.unwrap() {
        Verdict::Applied(Applied { state, .. }) => states.push((profile, state)),
        other => panic!("{other:?}"),
    }
    for (operation, state) in states {
        let record = fixture
            .operations
            .find(alice.0, operation.id)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(record.answer, Some(serde_json::to_value(&state).unwrap()));
        assert_eq!(
            record.fingerprint,
            operation.replay.map(|replay| replay.fingerprint)
        );
    }
}

#[tokio::test]
async fn a_value_that_the_schema_refuses_is_named_by_its_constraint_and_never_shown() {
    let fixture = Fixture::new().await;
    fixture
        .execute("ALTER TABLE tasks ADD CONSTRAINT tasks_no_secret CHECK (title <> 'hunter2')")
        .await;
    let error = fixture
        .operations
        .apply(&Author::new().create(at(1), "hunter2"))
        .await
        .unwrap_err();
    let StoreError::Rejected { reason, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(reason, "check_violation (tasks_no_secret)");
    assert!(!error.to_string().contains("hunter2"));
}

#[tokio::test]
async fn the_schema_takes_the_longest_texts_that_the_domain_takes() {
    let fixture = Fixture::new().await;
    let alice = Author::new();
    let create = alice.create(at(1), &"\u{10348}".repeat(255));
    fixture.apply(&create).await;
    let patch = TaskPatch {
        description: Some(Some(Description::parse(&"\u{10348}".repeat(10_000)).unwrap())),
        ..TaskPatch::default()
    };
    let update = alice.operation(at(2), task(create.entity_id(), TaskChange::Update(patch)));
    let updated = task_of(fixture.operations.apply(&update).await.unwrap());
    assert_eq!(
        updated.description.value.unwrap().as_str().chars().count(),
        10_000
    );
}
