//! What a client gets that sends a write again.

use super::*;

#[tokio::test]
async fn what_is_known_is_forgotten_when_another_node_committed_the_same_operation() {
    let user = UserId::random();
    let mut world = World::new(true).lane(0).cached(Found::Unknown);
    world.buffer.expect_find().returning(|_| Ok(None));
    world.store.expect_apply().returning(|operation| {
        let Verdict::Applied(first) = applied(operation, None) else {
            panic!("applied is applied")
        };
        Ok(Verdict::Duplicate(AppliedRecord {
            id: operation.id,
            user_id: operation.user_id,
            entity: operation.entity(),
            entity_id: operation.entity_id(),
            kind: operation.kind(),
            accepted_at: operation.accepted_at,
            applied_at: operation.accepted_at.timestamp(),
            attempts: 1,
            superseded: false,
            fingerprint: operation.replay.as_ref().map(|replay| replay.fingerprint),
            buffered: false,
            answer: serde_json::to_value(first.state).ok(),
        }))
    });
    world.known.expect_already_applied().times(1).return_const(());
    let (writer, reader) = world.build();
    let again = writer
        .write(request(user, Some(("key", 1))), &reader, create("t"))
        .await
        .unwrap();
    assert!(again.replayed);
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_and_another_body_is_refused() {
    let user = UserId::random();
    let (mut world, appended) = World::new(false).lane(0).cached(Found::Unknown).appends();
    world.buffer.expect_pending_on().returning(|_, _, _| Ok(vec![]));
    world.buffer.expect_find().returning(|_| Ok(None));
    let (writer, reader) = world.build();
    let first = writer
        .write(request(user, Some(("k", 1))), &reader, create("t"))
        .await
        .unwrap();
    let again = writer
        .write(request(user, Some(("k", 1))), &reader, create("t"))
        .await
        .unwrap();
    assert_eq!((again.replayed, again.operation_id), (true, first.operation_id));
    assert_eq!(again.outcome, first.outcome);
    let other = writer
        .write(request(user, Some(("k", 2))), &reader, create("u"))
        .await;
    assert!(matches!(other, Err(WriteError::KeyReused)));
    assert_eq!(appended.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_retry_after_a_restart_gets_its_first_answer_from_the_buffer() {
    let user = UserId::random();
    let (world, appended) = World::new(false)
        .lane(0)
        .cached(Found::Unknown)
        .pending(vec![])
        .appends();
    let (writer, reader) = world.build();
    let first = writer
        .write(request(user, Some(("k", 1))), &reader, create("t"))
        .await
        .unwrap();
    let kept = appended.lock().unwrap().clone();
    let (mut world, appended) = World::new(true)
        .lane(1)
        .cached(Found::Unknown)
        .pending(kept)
        .appends();
    world.store.expect_apply().never();
    let (restarted, reader) = world.build();
    let again = restarted
        .write(request(user, Some(("k", 1))), &reader, create("t"))
        .await
        .unwrap();
    assert_eq!((again.replayed, &again.outcome), (true, &first.outcome));
    assert!(appended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_write_does_not_spend_its_key() {
    let user = UserId::random();
    let mut world = World::new(true).lane(0).cached(Found::Unknown).pending(vec![]);
    let mut verdicts = vec![true, false];
    world.store.expect_apply().times(2).returning(move |operation| {
        Ok(if verdicts.pop() == Some(false) {
            Verdict::Missing
        } else {
            applied(operation, None)
        })
    });
    world.cache.expect_learn().return_const(());
    let (writer, reader) = world.build();
    let refused = writer
        .write(request(user, Some(("k", 1))), &reader, create("t"))
        .await;
    assert!(matches!(refused, Err(WriteError::NotFound)));
    let taken = writer
        .write(request(user, Some(("k", 2))), &reader, create("u"))
        .await
        .unwrap();
    assert!(!taken.replayed);
}

#[tokio::test]
async fn a_retry_of_what_was_committed_gets_its_first_answer_though_the_lane_is_not_empty() {
    let user = UserId::random();
    let delete = |id| {
        move |_| Change::Task {
            id,
            change: TaskChange::Delete,
        }
    };
    let gone = task(user, 5);
    let record = AppliedRecord {
        id: OperationId::for_key(user, "k"),
        user_id: user,
        entity: EntityKind::Task,
        entity_id: gone.id.0,
        kind: OperationKind::Delete,
        accepted_at: Hlc::ZERO,
        applied_at: Timestamp::EPOCH,
        attempts: 1,
        superseded: false,
        fingerprint: Some(Fingerprint([1; 32])),
        buffered: false,
        answer: Some(serde_json::to_value(gone.clone().into_state()).unwrap()),
    };
    let (mut world, appended) = World::new(true).lane(3).pending(vec![]).appends();
    world
        .store
        .expect_find()
        .returning(move |_, _| Ok(Some(record.clone())));
    world.store.expect_apply().never();
    world.known.expect_already_applied().return_const(());
    let (writer, reader) = world.build();
    let again = writer
        .write(request(user, Some(("k", 1))), &reader, delete(gone.id))
        .await
        .unwrap();
    assert!(again.replayed && matches!(again.outcome, WriteOutcome::Committed(_)));
    let other = writer
        .write(request(user, Some(("k", 2))), &reader, delete(gone.id))
        .await;
    assert!(matches!(other, Err(WriteError::KeyReused)));
    assert!(appended.lock().unwrap().is_empty());
}

/// What is remembered of the creation of `task` by the request with this key.
fn record_of_create(task: &Task, key: &str, body: u8) -> AppliedRecord {
    AppliedRecord {
        id: OperationId::for_key(task.user_id, key),
        user_id: task.user_id,
        entity: EntityKind::Task,
        entity_id: task.id.0,
        kind: OperationKind::Create,
        accepted_at: Hlc::ZERO,
        applied_at: Timestamp::EPOCH,
        attempts: 1,
        superseded: false,
        fingerprint: Some(Fingerprint([body; 32])),
        buffered: true,
        answer: Some(serde_json::to_value(task.clone().into_state()).unwrap()),
    }
}

#[tokio::test]
async fn a_retry_that_another_node_commits_between_two_looks_gets_its_first_answer() {
    let user = UserId::random();
    let made = task(user, 5);
    let row = made.clone();
    for recorded in [true, false] {
        let record = recorded.then(|| record_of_create(&made, "k", 1));
        let (mut world, appended) = World::new(true).lane(3).pending(vec![]).appends();
        let mut answers = vec![record, None];
        world
            .store
            .expect_find()
            .times(2)
            .returning(move |_, _| Ok(answers.pop().flatten()));
        let row = row.clone();
        world
            .rows
            .expect_find()
            .returning(move |_, _| Ok(Some(row.clone())));
        world.cache.expect_mark().return_const(0_u64);
        world.cache.expect_learn_read().return_const(());
        world.cache.expect_find().return_const(Found::Unknown);
        world.known.expect_already_applied().return_const(());
        let (writer, reader) = world.build();
        let again = writer
            .write(request(user, Some(("k", 1))), &reader, create("t"))
            .await;
        if recorded {
            let again = again.unwrap();
            assert!(again.replayed && matches!(again.outcome, WriteOutcome::Buffered(_)));
        } else {
            assert!(matches!(again, Err(WriteError::KeyReused)));
        }
        assert!(appended.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_keyed_write_is_not_taken_while_the_buffer_cannot_tell_its_first_answer() {
    for is_pending_known in [false, true] {
        let mut world = World::default();
        world.breaker.expect_allows_writes().return_const(true);
        world.buffer.expect_lane_length().returning(|_| Ok(1));
        let closed = || BufferError::Unavailable("reopening".to_owned());
        world.buffer.expect_find().returning(
            move |_| {
                if is_pending_known { Ok(None) } else { Err(closed()) }
            },
        );
        world.buffer.expect_find_dead().returning(move |_| Err(closed()));
        world.buffer.expect_append().never();
        let (writer, reader) = world.build();
        let refused = writer
            .write(request(UserId::random(), Some(("k", 1))), &reader, create("t"))
            .await;
        assert!(matches!(refused, Err(WriteError::Buffer(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_write_whose_other_try_is_committed_but_cannot_be_read_is_neither_taken_nor_buffered() {
    let mut world = World::new(true).lane(0).cached(Found::Unknown);
    world.buffer.expect_find().returning(|_| Ok(None));
    world.buffer.expect_append().never();
    world.store.expect_apply().returning(|_| {
        Err(StoreError::Busy {
            reason: "recorded",
            source: None,
        })
    });
    let (writer, reader) = world.build();
    let unknown = writer
        .write(request(UserId::random(), Some(("k", 1))), &reader, create("t"))
        .await;
    assert!(matches!(unknown, Err(WriteError::Unknown)), "{unknown:?}");
}
