use super::fakes::{Stage, lock};
use super::ids;
use crate::processor::*;
use gravity_domain::id::{TaskId, UserId};
use std::collections::HashSet;
use std::sync::atomic::Ordering;

fn users(count: usize) -> Vec<UserId> {
    (0..count).map(|_| UserId::random()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_counts_for_nothing_however_often_it_comes() {
    let stage = Stage::new();
    let operation = stage.create(UserId::random());
    lock(&stage.store.plan).away = 50;
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log(), [operation.id]);
    assert_eq!(stage.buffer.letters(), []);
    assert_eq!(stage.breaker.failures.load(Ordering::SeqCst), 50);
}

#[tokio::test(start_paused = true)]
async fn a_refused_operation_dies_after_three_tries_and_its_lane_goes_on_behind_it() {
    let stage = Stage::new();
    let user = UserId::random();
    let operations: Vec<_> = (0..5).map(|_| stage.create(user)).collect();
    lock(&stage.store.plan).poison.insert(operations[2].id);
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    let mut expected = ids(&operations);
    expected.remove(2);
    assert_eq!(stage.store.log(), expected);
    let letters = stage.buffer.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].id, Some(operations[2].id));
    assert_eq!(letters[0].attempts, 3);
    assert_eq!(letters[0].reason, "rejected: check_violation");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_passes_keeps_the_order_of_the_lane() {
    let stage = Stage::new();
    let user = UserId::random();
    let operations: Vec<_> = (0..5).map(|_| stage.create(user)).collect();
    lock(&stage.store.plan).refusals.insert(operations[1].id, 2);
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log(), ids(&operations));
    assert_eq!(stage.buffer.letters(), []);
}

#[tokio::test(start_paused = true)]
async fn other_lanes_do_not_wait_for_a_parked_one() {
    let stage = Stage::new();
    let (stuck, other) = (UserId::random(), UserId::random());
    let culprit = stage.create(stuck);
    stage.create(stuck);
    let free = stage.create(other);
    lock(&stage.store.plan).poison.insert(culprit.id);
    let slow = Backoff {
        base_ms: 3_600_000,
        cap_ms: 3_600_000,
    };
    let handle = stage.start(ProcessorSettings {
        retry: slow,
        ..ProcessorSettings::default()
    });
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(stage.store.log(), [free.id]);
    let later = stage.create(other);
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(stage.store.log(), [free.id, later.id]);
    assert_eq!(stage.buffer.len(), 2);
    handle.stop(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_of_nothing_dies_as_not_found_and_one_that_finds_its_task_in_time_does_not() {
    let stage = Stage::new();
    let [lost, late] = [UserId::random(), UserId::random()];
    let never = stage.operation(lost, Some(TaskId(uuid::Uuid::now_v7())), 3);
    stage.buffer.append(never.clone());
    let create = stage.operation(late, None, 3);
    let update = stage.operation(late, Some(TaskId(create.entity_id())), 3);
    stage.buffer.append(update.clone());
    let handle = stage.start(ProcessorSettings::default());
    tokio::time::sleep(Duration::from_millis(8)).await;
    // Another node's buffer drains only now.
    stage.store.apply_before(&create);
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log(), [create.id, update.id]);
    let letters = stage.buffer.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].id, letters[0].attempts, letters[0].reason.as_str()),
        (Some(never.id), 3, "not_found")
    );
}

#[tokio::test(start_paused = true)]
async fn a_write_for_another_version_is_not_tried_again_behind_a_later_one_to_the_same_task() {
    let stage = Stage::new();
    let user = UserId::random();
    let create = stage.create(user);
    let task = Some(TaskId(create.entity_id()));
    let mut early = stage.operation(user, task, 3);
    early.precondition = Some(2);
    let later = stage.operation(user, task, 3);
    // The later write makes version 2: a second try of the early one would succeed, and come too late.
    stage.buffer.append(early.clone());
    stage.buffer.append(later.clone());
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log(), [create.id, later.id]);
    let letters = stage.buffer.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].id, letters[0].attempts, letters[0].reason.as_str()),
        (Some(early.id), 1, "version_mismatch")
    );
}

#[tokio::test(start_paused = true)]
async fn many_bad_operations_cost_linear_time_and_hold_nobody_up() {
    let stage = Stage::new();
    let mut good = HashSet::new();
    for (number, user) in users(400).into_iter().enumerate() {
        let operation = stage.create(user);
        if number % 2 == 0 {
            lock(&stage.store.plan).poison.insert(operation.id);
        } else {
            good.insert(operation.id);
        }
    }
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log().into_iter().collect::<HashSet<_>>(), good);
    let letters = stage.buffer.letters();
    assert_eq!(letters.len(), 200);
    assert!(letters.iter().all(|letter| letter.attempts == 3));
    let tried: usize = stage.store.transactions().iter().sum();
    assert!(tried <= 400 * 5 + 400 + 2 * 200, "{tried} operations tried");
}

#[tokio::test(start_paused = true)]
async fn more_failing_lanes_than_can_be_parked_still_get_their_tries() {
    let stage = Stage::new();
    for user in users(40) {
        let operation = stage.create(user);
        lock(&stage.store.plan).poison.insert(operation.id);
        stage.create(user);
    }
    let handle = stage.start(ProcessorSettings {
        parked_lanes: 3,
        ..ProcessorSettings::default()
    });
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log().len(), 40);
    let letters = stage.buffer.letters();
    assert_eq!(letters.len(), 40);
    assert!(letters.iter().all(|letter| letter.attempts == 3));
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_store_is_pinned_to_its_operation() {
    let stage = Stage::new();
    let operations: Vec<_> = users(5).into_iter().map(|user| stage.create(user)).collect();
    lock(&stage.store.plan).panics.insert(operations[3].id);
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log().len(), 4);
    let letters = stage.buffer.letters();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].reason, "rejected: panic");
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_listener_keeps_nothing_in_the_buffer() {
    let stage = Stage::new();
    stage.listener.panics.store(true, Ordering::SeqCst);
    let operation = stage.create(UserId::random());
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(stage.store.log(), [operation.id]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_anywhere_else_starts_the_drain_again() {
    let stage = Stage::new();
    stage.buffer.panics.store(3, Ordering::SeqCst);
    let operation = stage.create(UserId::random());
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(stage.buffer.panics.load(Ordering::SeqCst), 0);
    assert_eq!(stage.store.log(), [operation.id]);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_the_store_is_never_ready_for_holds_back_its_own_lane_only() {
    let stage = Stage::new();
    let stuck = UserId::random();
    let first = stage.create(stuck);
    let unwelcome = stage.create(stuck);
    stage.create(stuck);
    lock(&stage.store.plan).unwelcome.insert(unwelcome.id);
    let others: Vec<_> = users(300).into_iter().map(|user| stage.create(user)).collect();
    let handle = stage.start(ProcessorSettings::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let applied: HashSet<_> = stage.store.log().into_iter().collect();
    assert_eq!(applied.len(), 301);
    assert!(
        others
            .iter()
            .chain([&first])
            .all(|other| applied.contains(&other.id))
    );
    assert_eq!(stage.buffer.len(), 2);
    assert_eq!(stage.buffer.letters(), []);
    lock(&stage.store.plan).unwelcome.clear();
    stage.emptied(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn batches_shrink_while_they_fail_and_grow_again_when_they_do_not() {
    let stage = Stage::new();
    let user = UserId::random();
    for _ in 0..600 {
        stage.create(user);
    }
    lock(&stage.store.plan).away = 3;
    let handle = stage.start(ProcessorSettings::default());
    stage.emptied(&handle).await;
    assert_eq!(
        stage.store.transactions(),
        [500, 125, 31, 8, 16, 32, 64, 128, 256, 96]
    );
}
