//! Dead letters: set aside, listed, put back, thrown away.

use crate::home::{Home, all, ids, large, task, update, urgent, user};
use crate::on_both_engines;
use gravity_domain::clock::Timestamp;
use gravity_domain::sync::policy::RetryPolicy;
use gravity_domain::sync::ports::{DeadLetters, DrainBuffer, WriteBuffer};
use gravity_domain::sync::{BufferError, BufferState};
use gravity_infra::write_buffer::BufferEngine;

on_both_engines!(
    a_buried_operation_is_kept_with_its_reason,
    a_retried_operation_goes_to_the_end_of_its_lane_and_is_not_too_old_again,
    a_discarded_letter_is_gone,
    letters_are_listed_in_order_of_id_page_by_page,
    an_unknown_letter_is_not_found,
    a_full_buffer_takes_no_letter_back,
    a_letter_of_an_operation_that_waits_again_is_only_let_go,
);

async fn a_buried_operation_is_kept_with_its_reason(engine: BufferEngine) {
    let home = Home::new(engine);
    let buffer = home.open().await;
    let operation = large(user(1), task(1), 1, 9_000);
    buffer.append(operation.clone()).await.unwrap();
    buffer.append(update(user(1), task(1), 2)).await.unwrap();
    let head = all(&buffer).await[0].parcel;
    buffer.bury(head, 3, "version_mismatch".into()).await.unwrap();
    buffer.close().await;
    let buffer = home.open().await;
    let letter = buffer.find_dead(operation.id).await.unwrap().unwrap();
    let inside = letter.operation.unwrap();
    assert_eq!(
        (inside.attempts, inside.last_error.as_deref()),
        (3, Some("version_mismatch"))
    );
    assert_eq!(inside.change, operation.change);
    assert_eq!(
        (letter.reason.as_str(), letter.user_id, letter.raw),
        ("version_mismatch", Some(user(1)), None)
    );
    assert!(letter.died_at > Timestamp::EPOCH);
    assert_eq!((buffer.status().size, buffer.status().dead_letters), (1, 1));
    assert_eq!(buffer.lane_length(user(1)).await.unwrap(), 1);
    assert_eq!(buffer.find(operation.id).await.unwrap(), None);
}

async fn a_retried_operation_goes_to_the_end_of_its_lane_and_is_not_too_old_again(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    let (first, second) = (urgent(user(1), task(1), 1, 5), urgent(user(1), task(1), 2, 2));
    for operation in [&first, &second] {
        buffer.append(operation.clone()).await.unwrap();
    }
    buffer
        .bury(all(&buffer).await[0].parcel, 7, "expired".into())
        .await
        .unwrap();
    let letter = buffer.retry(first.id).await.unwrap();
    assert_eq!(letter.reason, "expired");
    assert_eq!(ids(&buffer).await, [second.id, first.id]);
    let again = buffer.find(first.id).await.unwrap().unwrap().operation;
    assert_eq!(
        (again.attempts, again.last_error.as_ref(), again.retried),
        (0, None, true)
    );
    assert_eq!(again.accepted_at, first.accepted_at);
    let policy = RetryPolicy {
        max_attempts: 3,
        retention_ms: 1,
    };
    assert!(policy.is_expired(&second, Timestamp::MAX) && !policy.is_expired(&again, Timestamp::MAX));
    assert_eq!((buffer.status().size, buffer.status().dead_letters), (2, 0));
    assert_eq!(buffer.find_dead(first.id).await.unwrap(), None);
}

async fn a_discarded_letter_is_gone(engine: BufferEngine) {
    let home = Home::new(engine);
    let buffer = home.open().await;
    buffer.append(large(user(1), task(1), 1, 50_000)).await.unwrap();
    let id = ids(&buffer).await[0];
    buffer
        .bury(all(&buffer).await[0].parcel, 0, "rejected: no".into())
        .await
        .unwrap();
    let (one, two) = tokio::join!(buffer.discard(id), buffer.discard(id));
    assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|it| **it).count(), 1);
    buffer.close().await;
    let buffer = home.open().await;
    assert_eq!(buffer.list(None, 10).await.unwrap(), vec![]);
    assert_eq!(
        (buffer.status().dead_letters, buffer.status().state),
        (0, BufferState::Empty)
    );
}

async fn letters_are_listed_in_order_of_id_page_by_page(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    for n in (0..10).rev() {
        buffer
            .append(large(user(1), task(1), n, 4_000 + n as usize))
            .await
            .unwrap();
    }
    for entry in all(&buffer).await {
        buffer.bury(entry.parcel, 0, "not_found".into()).await.unwrap();
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = buffer.list(after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        found.extend(page.into_iter().map(|letter| letter.id));
    }
    let expected: Vec<_> = (0..10).map(|n| update(user(1), task(1), n).id).collect();
    assert_eq!(found, expected);
}

async fn an_unknown_letter_is_not_found(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    let id = update(user(1), task(1), 1).id;
    assert_eq!(buffer.retry(id).await, Err(BufferError::NotFound));
    assert_eq!(buffer.discard(id).await, Err(BufferError::NotFound));
}

async fn a_full_buffer_takes_no_letter_back(engine: BufferEngine) {
    let mut home = Home::new(engine);
    home.settings.max_operations = 1;
    let buffer = home.open().await;
    buffer.append(update(user(1), task(1), 1)).await.unwrap();
    let id = ids(&buffer).await[0];
    buffer
        .bury(all(&buffer).await[0].parcel, 0, "expired".into())
        .await
        .unwrap();
    buffer.append(update(user(1), task(1), 2)).await.unwrap();
    assert_eq!(buffer.retry(id).await, Err(BufferError::Full));
    assert_eq!((buffer.status().size, buffer.status().dead_letters), (1, 1));
    assert!(buffer.find_dead(id).await.unwrap().is_some());
}

async fn a_letter_of_an_operation_that_waits_again_is_only_let_go(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    let operation = update(user(1), task(1), 1);
    buffer.append(operation.clone()).await.unwrap();
    buffer
        .bury(all(&buffer).await[0].parcel, 0, "expired".into())
        .await
        .unwrap();
    buffer.append(operation.clone()).await.unwrap();
    buffer.retry(operation.id).await.unwrap();
    assert_eq!((buffer.status().size, buffer.status().dead_letters), (1, 0));
    assert_eq!(buffer.lane_length(user(1)).await.unwrap(), 1);
}
