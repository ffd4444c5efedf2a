//! What is answered while Postgres is away, or has not answered.

use super::*;

#[tokio::test]
async fn when_the_answer_is_lost_the_very_same_operation_is_buffered_and_the_breaker_is_told() {
    let tried = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&tried);
    let (mut world, appended) = World::new(true)
        .lane(0)
        .cached(Found::Unknown)
        .pending(vec![])
        .appends();
    world.store.expect_apply().times(1).returning(move |operation| {
        *seen.lock().unwrap() = Some(operation.clone());
        Err(StoreError::unavailable("closed"))
    });
    world.breaker.expect_failed().times(1).return_const(());
    let (writer, reader) = world.build();
    let written = writer
        .write(request(UserId::random(), None), &reader, create("t"))
        .await
        .unwrap();
    assert!(matches!(written.outcome, WriteOutcome::Buffered(_)));
    assert_eq!(
        tried.lock().unwrap().clone().unwrap(),
        appended.lock().unwrap()[0]
    );
}

#[tokio::test]
async fn while_the_lane_cannot_be_looked_into_nothing_is_written() {
    let mut world = World::new(true);
    let closed = || BufferError::Unavailable("opening".into());
    world
        .buffer
        .expect_lane_length()
        .returning(move |_| Err(closed()));
    world.buffer.expect_find().returning(move |_| Err(closed()));
    world.store.expect_apply().never();
    let (writer, reader) = world.build();
    let refused = writer
        .write(request(UserId::random(), None), &reader, create("t"))
        .await;
    assert!(matches!(
        refused,
        Err(WriteError::Buffer(BufferError::Unavailable(_)))
    ));
}

#[tokio::test]
async fn what_may_have_been_committed_is_never_answered_from_the_cache() {
    let (mut world, appended) = World::new(true)
        .lane(0)
        .cached(Found::Absent)
        .pending(vec![])
        .appends();
    world
        .store
        .expect_apply()
        .returning(|_| Err(StoreError::unavailable("closed")));
    world.breaker.expect_failed().return_const(());
    let (writer, reader) = world.build();
    let change = rename(TaskId(uuid::Uuid::now_v7()), "x");
    let unknown = writer
        .write(request(UserId::random(), None), &reader, change)
        .await;
    assert!(matches!(unknown, Err(WriteError::Unknown)));
    assert!(appended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn in_the_dark_what_is_not_known_is_refused_and_what_is_known_is_judged() {
    let user = UserId::random();
    let known = task(user, 5);
    for (found, version, expected) in [
        (Found::Unknown, None, "unknown"),
        (Found::Absent, None, "not found"),
        (Found::Known(known.clone()), Some(9), "mismatch"),
        (Found::Known(known.clone()), Some(1), "buffered"),
    ] {
        let (world, appended) = World::new(false).lane(0).cached(found).pending(vec![]).appends();
        let (writer, reader) = world.build();
        let mut conditional = request(user, None);
        conditional.expected_version = version;
        let got = match writer.write(conditional, &reader, rename(known.id, "x")).await {
            Ok(written) if matches!(written.outcome, WriteOutcome::Buffered(_)) => "buffered",
            Err(WriteError::Unknown) => "unknown",
            Err(WriteError::NotFound) => "not found",
            Err(WriteError::VersionMismatch { current: 1 }) => "mismatch",
            other => panic!("{other:?}"),
        };
        assert_eq!(got, expected);
        assert_eq!(
            appended.lock().unwrap().len(),
            usize::from(expected == "buffered")
        );
    }
}

#[tokio::test]
async fn a_request_for_a_commit_is_never_buffered() {
    let (world, appended) = World::new(false)
        .lane(0)
        .cached(Found::Unknown)
        .pending(vec![])
        .appends();
    let (writer, reader) = world.build();
    let mut strict = request(UserId::random(), None);
    strict.must_commit = true;
    assert!(matches!(
        writer.write(strict, &reader, create("t")).await,
        Err(WriteError::NotCommittable)
    ));
    assert!(appended.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_full_buffer_refuses_and_acknowledges_nothing() {
    let mut world = World::new(false).lane(0).cached(Found::Unknown).pending(vec![]);
    world.buffer.expect_append().returning(|_| Err(BufferError::Full));
    let (writer, reader) = world.build();
    let refused = writer
        .write(request(UserId::random(), Some(("k", 1))), &reader, create("t"))
        .await;
    assert!(matches!(refused, Err(WriteError::Buffer(BufferError::Full))));
}

#[tokio::test]
async fn a_pending_delete_hides_the_task_from_reads_and_from_later_writes() {
    let user = UserId::random();
    let known = task(user, 5);
    let id = known.id;
    let delete = operation(user, 10, move |_| Change::Task {
        id,
        change: TaskChange::Delete,
    });
    let (world, appended) = World::new(false)
        .lane(1)
        .cached(Found::Known(known))
        .pending(vec![delete])
        .appends();
    let (writer, reader) = world.build();
    assert!(matches!(
        reader.get(user, id.0).await,
        Err(gravity_domain::sync::ReadError::NotFound)
    ));
    let late = writer.write(request(user, None), &reader, rename(id, "x")).await;
    assert!(matches!(late, Err(WriteError::NotFound)));
    assert!(appended.lock().unwrap().is_empty());
}
