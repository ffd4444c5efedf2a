//! What every store must do, as the ports promise it.

use crate::home::{Home, all, drain, ids, large, task, until, update, urgent, user};
use crate::on_both_engines;
use gravity_domain::sync::ports::{DrainBuffer, WriteBuffer};
use gravity_domain::sync::{BufferError, BufferState, EntityKind, Operation, Pending};
use gravity_infra::write_buffer::{BufferEngine, BufferSettings, MAX_PER_ENTITY};
use std::collections::BTreeSet;
use std::time::Duration;

on_both_engines!(
    operations_survive_a_restart_in_order,
    what_waits_together_is_committed_together,
    an_empty_buffer_answers_that_nothing_waits,
    an_operation_that_waits_already_is_not_appended_twice,
    another_operation_under_an_id_that_waits_is_not_taken_for_it,
    higher_priorities_drain_first_but_never_overtake_within_a_lane,
    an_emptied_lane_takes_the_priority_of_its_next_operation,
    pending_operations_are_found_by_entity_by_kind_and_by_id,
    a_record_of_many_parts_comes_back_whole,
    an_operation_over_half_a_mebibyte_is_too_large,
    the_limit_of_operations_holds,
    a_user_at_the_limit_is_refused_and_the_others_are_not,
    an_entity_at_its_limit_is_refused_and_the_rest_of_its_lane_is_not,
    appends_that_were_given_up_leave_nothing_twice_and_nothing_half,
    the_limit_of_bytes_holds,
    numbers_go_on_after_the_buffer_was_emptied_and_reopened,
    the_oldest_is_the_first_accepted,
    removing_what_is_gone_does_nothing,
    an_append_wakes_the_drain,
    a_second_buffer_waits_until_the_first_one_closes,
    a_large_store_is_made_anew_when_it_is_empty,
    another_engines_operations_are_taken_over,
    a_closed_buffer_refuses,
);

async fn operations_survive_a_restart_in_order(engine: BufferEngine) {
    let home = Home::new(engine);
    let buffer = home.open().await;
    let operations: Vec<Operation> = (0..50)
        .map(|n| update(user(n % 3), task(n % 5), n as u64))
        .collect();
    for operation in &operations {
        buffer.append(operation.clone()).await.unwrap();
    }
    buffer.close().await;
    let buffer = home.open().await;
    let back: Vec<Operation> = all(&buffer)
        .await
        .into_iter()
        .map(|it| it.operation.unwrap())
        .collect();
    assert_eq!(back, operations);
    assert_eq!(buffer.status().size, 50);
    assert_eq!(buffer.lane_length(user(0)).await.unwrap(), 17);
}

async fn what_waits_together_is_committed_together(engine: BufferEngine) {
    let buffer = Home::new(engine);
    let home = &buffer;
    let buffer = home.open().await;
    let appends = (0..500u64).map(|n| {
        let buffer = buffer.clone();
        tokio::spawn(async move { buffer.append(update(user(u128::from(n)), task(0), n)).await })
    });
    for append in appends.collect::<Vec<_>>() {
        append.await.unwrap().unwrap();
    }
    let status = buffer.status();
    assert_eq!((status.size, status.appended), (500, 500));
    drop(buffer);
    assert_eq!(ids(&home.open().await).await.len(), 500);
}

async fn an_empty_buffer_answers_that_nothing_waits(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    assert_eq!(buffer.lane_length(user(1)).await.unwrap(), 0);
    assert_eq!(
        buffer
            .pending_on(user(1), EntityKind::Task, task(1).0)
            .await
            .unwrap(),
        vec![]
    );
    assert_eq!(
        buffer.pending_of(user(1), EntityKind::Task).await.unwrap(),
        vec![]
    );
    assert_eq!(buffer.find(update(user(1), task(1), 1).id).await.unwrap(), None);
    assert_eq!(
        buffer.find_dead(update(user(1), task(1), 1).id).await.unwrap(),
        None
    );
    assert_eq!(buffer.peek(None, 10).await.unwrap(), vec![]);
    let status = buffer.status();
    assert_eq!(
        (status.state, status.size, status.oldest),
        (BufferState::Empty, 0, None)
    );
}

async fn an_operation_that_waits_already_is_not_appended_twice(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    let operation = update(user(1), task(1), 1);
    let again = tokio::join!(buffer.append(operation.clone()), buffer.append(operation.clone()));
    assert_eq!(again, (Ok(()), Ok(())));
    buffer.append(operation.clone()).await.unwrap();
    assert_eq!(
        (buffer.status().size, buffer.lane_length(user(1)).await.unwrap()),
        (1, 1)
    );
    drain(&buffer).await;
    buffer.append(operation).await.unwrap();
    assert_eq!(buffer.status().size, 1);
}

async fn another_operation_under_an_id_that_waits_is_not_taken_for_it(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    let first = update(user(1), task(1), 1);
    buffer.append(first.clone()).await.unwrap();
    let other = Operation {
        id: first.id,
        ..update(user(1), task(2), 2)
    };
    let refused = buffer.append(other).await;
    assert!(matches!(refused, Err(BufferError::Unavailable(_))), "{refused:?}");
    assert_eq!(buffer.status().size, 1);
}

async fn higher_priorities_drain_first_but_never_overtake_within_a_lane(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    let order = [
        urgent(user(1), task(1), 0, 2),
        urgent(user(1), task(1), 1, 5),
        urgent(user(2), task(2), 2, 5),
        urgent(user(2), task(2), 3, 1),
        urgent(user(2), task(2), 4, 4),
        urgent(user(3), task(3), 5, 3),
    ];
    for operation in &order {
        buffer.append(operation.clone()).await.unwrap();
    }
    let expected: Vec<_> = [2, 5, 0, 1, 3, 4].iter().map(|n| order[*n].id).collect();
    assert_eq!(ids(&buffer).await, expected);
}

async fn an_emptied_lane_takes_the_priority_of_its_next_operation(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    buffer.append(urgent(user(1), task(1), 0, 1)).await.unwrap();
    drain(&buffer).await;
    buffer.append(urgent(user(2), task(1), 1, 3)).await.unwrap();
    buffer.append(urgent(user(1), task(1), 2, 5)).await.unwrap();
    let first = &buffer.peek(None, 1).await.unwrap()[0];
    assert_eq!(first.parcel.rank, 0);
    assert_eq!(first.operation.as_ref().unwrap().user_id, user(1));
}

async fn pending_operations_are_found_by_entity_by_kind_and_by_id(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    let operations = [
        urgent(user(1), task(2), 0, 3),
        urgent(user(1), task(1), 1, 1),
        urgent(user(1), task(2), 2, 5),
        urgent(user(2), task(2), 3, 3),
    ];
    for operation in &operations {
        buffer.append(operation.clone()).await.unwrap();
    }
    let named = |pending: Vec<Pending>| pending.into_iter().map(|it| it.operation).collect::<Vec<_>>();
    let on = buffer
        .pending_on(user(1), EntityKind::Task, task(2).0)
        .await
        .unwrap();
    assert_eq!(named(on), [operations[0].clone(), operations[2].clone()]);
    assert_eq!(
        named(buffer.pending_of(user(1), EntityKind::Task).await.unwrap()),
        operations[..3]
    );
    assert_eq!(
        buffer.pending_of(user(1), EntityKind::Profile).await.unwrap(),
        vec![]
    );
    let found = buffer.find(operations[3].id).await.unwrap().unwrap();
    assert_eq!(found.operation, operations[3]);
    let entries = all(&buffer).await;
    buffer.remove(vec![entries[0].parcel]).await.unwrap();
    assert_eq!(
        named(buffer.pending_of(user(1), EntityKind::Task).await.unwrap()),
        operations[1..3]
    );
    assert_eq!(buffer.lane_length(user(1)).await.unwrap(), 2);
}

async fn a_record_of_many_parts_comes_back_whole(engine: BufferEngine) {
    let home = Home::new(engine);
    let buffer = home.open().await;
    let operations: Vec<_> = [0usize, 3_500, 4_000, 10_000, 300_000]
        .into_iter()
        .enumerate()
        .collect();
    let operations: Vec<_> = operations
        .iter()
        .map(|(n, length)| large(user(1), task(*n as u128), *n as u64, *length))
        .collect();
    for operation in &operations {
        buffer.append(operation.clone()).await.unwrap();
    }
    buffer.close().await;
    let buffer = home.open().await;
    let back: Vec<_> = all(&buffer)
        .await
        .into_iter()
        .map(|it| it.operation.unwrap())
        .collect();
    assert_eq!(back, operations);
    drain(&buffer).await;
    let status = buffer.status();
    assert_eq!(
        (status.size, status.bytes, status.state),
        (0, 0, BufferState::Empty)
    );
}

async fn an_operation_over_half_a_mebibyte_is_too_large(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    let refused = buffer.append(large(user(1), task(1), 1, 600_000)).await;
    assert_eq!(refused, Err(BufferError::TooLarge));
    assert_eq!(buffer.status().state, BufferState::Empty);
}

async fn the_limit_of_operations_holds(engine: BufferEngine) {
    let mut home = Home::new(engine);
    home.settings.max_operations = 3;
    let buffer = home.open().await;
    for n in 0..3 {
        buffer.append(update(user(1), task(1), n)).await.unwrap();
    }
    assert_eq!(
        buffer.append(update(user(2), task(1), 3)).await,
        Err(BufferError::Full)
    );
    buffer.append(update(user(1), task(1), 2)).await.unwrap();
    assert_eq!(buffer.status().state, BufferState::Full);
    let first = buffer.peek(None, 1).await.unwrap()[0].parcel;
    buffer.remove(vec![first]).await.unwrap();
    buffer.append(update(user(2), task(1), 3)).await.unwrap();
    assert_eq!(ids(&buffer).await.len(), 3);
}

async fn a_user_at_the_limit_is_refused_and_the_others_are_not(engine: BufferEngine) {
    let mut home = Home::new(engine);
    home.settings.max_per_user = 3;
    let buffer = home.open().await;
    for n in 0..3 {
        buffer.append(update(user(1), task(n), n as u64)).await.unwrap();
    }
    let refused = buffer.append(update(user(1), task(9), 3)).await;
    assert_eq!(refused, Err(BufferError::Full));
    buffer.append(update(user(1), task(1), 1)).await.unwrap();
    buffer.append(update(user(2), task(1), 4)).await.unwrap();
    assert_eq!(buffer.status().state, BufferState::Processing);
    buffer.close().await;
    let buffer = home.open().await;
    let refused = buffer.append(update(user(1), task(9), 3)).await;
    assert_eq!(refused, Err(BufferError::Full));
    let kept = buffer.pending_of(user(1), EntityKind::Task).await.unwrap();
    let kept: Vec<_> = kept.into_iter().map(|it| it.operation.id).collect();
    assert_eq!(kept, [0, 1, 2].map(|n| update(user(1), task(n), n as u64).id));
    let first = buffer.peek(None, 1).await.unwrap()[0].parcel;
    buffer.remove(vec![first]).await.unwrap();
    buffer.append(update(user(1), task(9), 3)).await.unwrap();
}

async fn an_entity_at_its_limit_is_refused_and_the_rest_of_its_lane_is_not(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    buffer.append(update(user(1), task(2), 9_000)).await.unwrap();
    let appends = (0..MAX_PER_ENTITY + 5).map(|n| {
        let buffer = buffer.clone();
        tokio::spawn(async move { buffer.append(update(user(1), task(1), n)).await })
    });
    let mut taken = Vec::new();
    for (n, append) in (0..).zip(appends.collect::<Vec<_>>()) {
        match append.await.unwrap() {
            Ok(()) => taken.push(n),
            Err(error) => assert_eq!(error, BufferError::Full),
        }
    }
    assert_eq!(taken.len() as u64, MAX_PER_ENTITY);
    buffer.append(update(user(1), task(1), taken[0])).await.unwrap();
    buffer.append(update(user(1), task(2), 9_001)).await.unwrap();
    let kept = buffer
        .pending_on(user(1), EntityKind::Task, task(1).0)
        .await
        .unwrap();
    let kept: BTreeSet<_> = kept.into_iter().map(|it| it.operation.id).collect();
    assert!(
        taken
            .iter()
            .all(|n| kept.contains(&update(user(1), task(1), *n).id))
    );
    assert_eq!(kept.len(), taken.len());
}

async fn appends_that_were_given_up_leave_nothing_twice_and_nothing_half(engine: BufferEngine) {
    let home = Home::new(engine);
    let buffer = home.open().await;
    let operations: Vec<_> = (0..200)
        .map(|n| large(user(1), task(n), n as u64, 6_000))
        .collect();
    for (n, operation) in (0..).zip(&operations) {
        let patience = Duration::from_micros(n * 7);
        let _ = tokio::time::timeout(patience, buffer.append(operation.clone())).await;
        buffer.append(operation.clone()).await.unwrap();
    }
    let expected: Vec<_> = operations.iter().map(|operation| operation.id).collect();
    assert_eq!(ids(&buffer).await, expected);
    buffer.close().await;
    let buffer = home.open().await;
    assert_eq!(ids(&buffer).await, expected);
    assert_eq!(
        (buffer.status().size, buffer.lane_length(user(1)).await),
        (200, Ok(200))
    );
}

async fn the_limit_of_bytes_holds(engine: BufferEngine) {
    let mut home = Home::new(engine);
    home.settings.max_bytes = 20_000;
    let buffer = home.open().await;
    for n in 0..2 {
        buffer.append(large(user(1), task(1), n, 8_000)).await.unwrap();
    }
    assert_eq!(
        buffer.append(large(user(1), task(1), 2, 8_000)).await,
        Err(BufferError::Full)
    );
    assert!(buffer.status().bytes <= 20_000);
    drain(&buffer).await;
    buffer.append(large(user(1), task(1), 2, 8_000)).await.unwrap();
}

async fn numbers_go_on_after_the_buffer_was_emptied_and_reopened(engine: BufferEngine) {
    let home = Home::new(engine);
    let mut last = 0;
    for n in 0..4 {
        let buffer = home.open().await;
        buffer.append(update(user(1), task(1), n)).await.unwrap();
        let sequence = buffer.peek(None, 1).await.unwrap()[0].parcel.sequence;
        assert!(sequence > last);
        last = sequence;
        drain(&buffer).await;
        buffer.close().await;
        if n == 2 {
            std::fs::remove_dir_all(home.store()).unwrap();
        }
    }
}

async fn the_oldest_is_the_first_accepted(engine: BufferEngine) {
    let home = Home::new(engine);
    let buffer = home.open().await;
    buffer.append(urgent(user(1), task(1), 10, 1)).await.unwrap();
    buffer.append(urgent(user(2), task(1), 20, 5)).await.unwrap();
    buffer.append(urgent(user(3), task(1), 30, 3)).await.unwrap();
    assert_eq!(buffer.status().oldest.unwrap().millis(), 1_010);
    let entries = all(&buffer).await;
    buffer.remove(vec![entries[2].parcel]).await.unwrap();
    assert_eq!(buffer.status().oldest.unwrap().millis(), 1_020);
    buffer.close().await;
    let buffer = home.open().await;
    assert_eq!(buffer.status().oldest.unwrap().millis(), 1_020);
    drain(&buffer).await;
    assert_eq!(buffer.status().oldest, None);
}

async fn removing_what_is_gone_does_nothing(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    for n in 0..3 {
        buffer.append(update(user(1), task(1), n)).await.unwrap();
    }
    let first = all(&buffer).await[0].parcel;
    buffer.remove(vec![first, first]).await.unwrap();
    let (again, buried) = tokio::join!(buffer.remove(vec![first]), buffer.bury(first, 1, "late".into()));
    assert_eq!((again, buried), (Ok(()), Ok(())));
    let status = buffer.status();
    assert_eq!((status.size, status.dead_letters, status.drained), (2, 0, 1));
}

async fn an_append_wakes_the_drain(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    let waiting = tokio::spawn({
        let buffer = buffer.clone();
        async move { buffer.appended().await }
    });
    buffer.append(update(user(1), task(1), 1)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap()
        .unwrap();
}

async fn a_second_buffer_waits_until_the_first_one_closes(engine: BufferEngine) {
    let home = Home::new(engine);
    let first = home.open().await;
    let second = home.start();
    let refused = second.append(update(user(1), task(1), 0)).await;
    assert!(matches!(refused, Err(BufferError::Unavailable(_))), "{refused:?}");
    assert_eq!(second.status().state, BufferState::Unavailable);
    assert_eq!(second.lane_length(user(1)).await, Ok(0));
    first.append(update(user(1), task(1), 1)).await.unwrap();
    until(&second, |status| status.blocks_writes).await;
    assert!(matches!(
        second.lane_length(user(1)).await,
        Err(BufferError::Unavailable(_))
    ));
    first.close().await;
    assert!(second.wait_until_open(Duration::from_secs(20)).await);
    assert_eq!(second.lane_length(user(1)).await, Ok(1));
    second.append(update(user(1), task(1), 2)).await.unwrap();
    assert_eq!(ids(&second).await.len(), 2);
}

async fn a_large_store_is_made_anew_when_it_is_empty(engine: BufferEngine) {
    let mut home = Home::new(engine);
    home.settings.compact_bytes = 2 << 20;
    let buffer = home.open().await;
    for n in 0..20 {
        buffer
            .append(large(user(1), task(n), n as u64, 300_000))
            .await
            .unwrap();
    }
    let first = all(&buffer).await[0].parcel;
    buffer.bury(first, 3, "rejected: test".into()).await.unwrap();
    let before = std::fs::metadata(home.file()).unwrap().len();
    assert!(before > 2 << 20);
    let sequence = all(&buffer).await.last().unwrap().parcel.sequence;
    drain(&buffer).await;
    let smaller = || std::fs::metadata(home.file()).is_ok_and(|it| it.len() < before / 2);
    until(&buffer, |status| smaller() && status.state == BufferState::Empty).await;
    assert_eq!(buffer.status().dead_letters, 1);
    buffer.append(update(user(1), task(1), 99)).await.unwrap();
    assert!(all(&buffer).await[0].parcel.sequence > sequence);
    buffer.close().await;
    let buffer = home.open().await;
    assert_eq!((buffer.status().size, buffer.status().dead_letters), (1, 1));
}

async fn another_engines_operations_are_taken_over(engine: BufferEngine) {
    let mut home = Home::new(engine);
    let buffer = home.open().await;
    let operations: Vec<_> = (0..600)
        .map(|n| urgent(user(n % 4), task(n), n as u64, (n % 5) as u8 + 1))
        .collect();
    for operation in &operations {
        buffer.append(operation.clone()).await.unwrap();
    }
    let buried = all(&buffer).await[5].clone();
    buffer.bury(buried.parcel, 1, "expired".into()).await.unwrap();
    let before = ids(&buffer).await;
    buffer.close().await;
    let [other] = BufferEngine::ALL
        .into_iter()
        .filter(|it| *it != engine)
        .collect::<Vec<_>>()[..]
    else {
        panic!()
    };
    home.settings = BufferSettings {
        engine: other,
        ..home.settings
    };
    let buffer = home.open().await;
    assert_eq!(ids(&buffer).await, before);
    assert_eq!(
        buffer
            .find_dead(buried.operation.unwrap().id)
            .await
            .unwrap()
            .unwrap()
            .reason,
        "expired"
    );
}

async fn a_closed_buffer_refuses(engine: BufferEngine) {
    let buffer = Home::new(engine).open().await;
    buffer.append(update(user(1), task(1), 1)).await.unwrap();
    buffer.close().await;
    assert!(matches!(
        buffer.append(update(user(1), task(1), 2)).await,
        Err(BufferError::Unavailable(_))
    ));
    assert!(matches!(
        buffer.lane_length(user(1)).await,
        Err(BufferError::Unavailable(_))
    ));
    assert!(matches!(
        buffer.peek(None, 1).await,
        Err(BufferError::Unavailable(_))
    ));
    assert_eq!(buffer.status().state, BufferState::Unavailable);
}
