mod failures;
mod fakes;
mod random;

use super::*;
use crate::monitor::Condition;
use fakes::{BEGINNING, Stage, keyed, lock};
use gravity_domain::id::UserId;
use std::sync::atomic::Ordering;

fn ids(operations: &[gravity_domain::sync::Operation]) -> Vec<gravity_domain::id::OperationId> {
    operations.iter().map(|operation| operation.id).collect()
}

#[tokio::test(start_paused = true)]
async fn everything_is_applied_in_order_and_leaves_the_buffer() {
    let stage = Stage::new();
    let user = UserId::random();
    let operations: Vec<_> = (0..1_234).map(|_| stage.create(user)).collect();
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log(), ids(&operations));
    assert_eq!(stage.store.transactions(), [500, 500, 234]);
    assert!(handle.rate() > 1_000.0, "{}", handle.rate());
}

#[tokio::test(start_paused = true)]
async fn the_listener_hears_of_a_row_before_its_operation_is_removed() {
    let stage = Stage::new();
    let operation = stage.create(UserId::random());
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    let expected = [
        format!("applied {}", operation.entity_id()),
        format!("removed {}", operation.id),
    ];
    assert_eq!(*lock(&stage.trace), expected);
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_unheard_is_forgotten_here_and_removed() {
    let stage = Stage::new();
    let operation = stage.create(UserId::random());
    stage.store.apply_before(&operation);
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    let expected = [
        format!("already {}", operation.id),
        format!("removed {}", operation.id),
    ];
    assert_eq!(*lock(&stage.trace), expected);
    assert_eq!(stage.store.log(), [operation.id]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_used_for_another_request_is_a_dead_letter_and_for_the_same_one_is_not() {
    let stage = Stage::new();
    let user = UserId::random();
    for (first, second) in [("a", "a"), ("a", "b")] {
        let mut operation = stage.operation(user, None, 3);
        keyed(&mut operation, first);
        stage.store.apply_before(&operation);
        keyed(&mut operation, second);
        stage.buffer.append(operation);
    }
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    let letters = stage.buffer.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "idempotency_key_reused");
    assert_eq!(letters[0].sequence, 2);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_set_aside_with_its_reason_and_the_rest_goes_on() {
    let stage = Stage::new();
    let user = UserId::random();
    let before = stage.create(user);
    stage.buffer.append_broken("checksum_mismatch");
    let after = stage.create(user);
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log(), [before.id, after.id]);
    let letters = stage.buffer.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "checksum_mismatch");
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_is_set_aside_unless_it_was_put_back() {
    let stage = Stage::new();
    let user = UserId::random();
    let old = stage.create(user);
    let mut put_back = stage.operation(user, None, 3);
    put_back.retried = true;
    stage.buffer.append(put_back.clone());
    stage.clock.0.store(BEGINNING + 86_400_001, Ordering::SeqCst);
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log(), [put_back.id]);
    let letters = stage.buffer.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].id, letters[0].reason.as_str()),
        (Some(old.id), "expired")
    );
}

#[tokio::test(start_paused = true)]
async fn a_higher_priority_that_arrives_during_a_drain_comes_next() {
    let stage = Stage::new();
    let user = UserId::random();
    for _ in 0..100 {
        stage.create(user);
    }
    let handle = stage.start(ProcessorSettings {
        batch_size: 10,
        ..ProcessorSettings::default()
    });
    tokio::time::sleep(Duration::from_millis(12)).await;
    let urgent = stage.operation(UserId::random(), None, 5);
    stage.buffer.append(urgent.clone());
    stage.emptied(&handle).await;
    let place = stage.store.log().iter().position(|id| *id == urgent.id).unwrap();
    assert!(place <= 40, "it was number {place}");
}

#[tokio::test(start_paused = true)]
async fn a_long_backlog_is_read_only_about_once() {
    let stage = Stage::new();
    for _ in 0..200 {
        let user = UserId::random();
        for _ in 0..50 {
            stage.create(user);
        }
    }
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    let peeked = stage.buffer.peeked.load(Ordering::Relaxed);
    assert!(peeked <= 10_100, "{peeked} records read for 10,000");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_while_the_breaker_is_open_and_the_monitor_wakes_the_drain() {
    let stage = Stage::new();
    stage.turns(Condition::Down { reason: "connect" });
    stage.create(UserId::random());
    let handle = stage.start(ProcessorSettings::default());
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(stage.store.transactions(), [0usize; 0]);
    let began = Instant::now();
    stage.turns(Condition::Up {
        latency: Duration::ZERO,
    });
    while stage.buffer.len() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(
        began.elapsed() < Duration::from_millis(50),
        "{:?}",
        began.elapsed()
    );
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn asked_to_drain_now_with_the_breaker_open_it_says_no_at_once() {
    let stage = Stage::new();
    stage.turns(Condition::Down { reason: "connect" });
    stage.create(UserId::random());
    let handle = stage.start(ProcessorSettings::default());
    let began = Instant::now();
    assert!(!handle.drain_now(began + Duration::from_secs(30)).await);
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn an_append_and_a_kick_wake_an_idle_drain() {
    let stage = Stage::new();
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    stage.create(UserId::random());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(stage.buffer.len(), 0);
    let before = stage.buffer.peeked.load(Ordering::Relaxed);
    stage.buffer.append_broken("undecodable: test");
    handle.kick();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(stage.buffer.peeked.load(Ordering::Relaxed), before + 1);
    assert_eq!(stage.buffer.letters().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn stopping_finishes_the_batch_in_hand_and_its_removal() {
    let stage = Stage::new();
    let user = UserId::random();
    for _ in 0..2_000 {
        stage.create(user);
    }
    let handle = stage.start(ProcessorSettings::default());
    tokio::time::sleep(Duration::from_millis(7)).await;
    handle.stop(Duration::from_secs(5)).await;
    let applied = stage.store.log().len();
    assert_eq!(applied % 500, 0);
    assert!(applied < 2_000);
    assert_eq!(stage.buffer.len(), 2_000 - applied);
    assert!(!handle.drain_now(Instant::now() + Duration::from_secs(1)).await);
}
