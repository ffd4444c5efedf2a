//! Actions on items, as operations: applied directly and replayed.

use crate::fixture::{Author, at, keyed};
use crate::stream_world::{Given, World, time};
use gravity_domain::clock::{Hlc, Timestamp};
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{Action, ActionReceipt, ItemOutcome, StreamAction, StreamStore};
use gravity_domain::sync::ports::{OperationStore, ReplayStore};
use gravity_domain::sync::{Applied, Change, EntityState, Operation, Verdict};
use proptest::prelude::*;
use uuid::Uuid;

fn act(user: UserId, stamp: Hlc, action: Action, ids: &[ItemId]) -> Operation {
    act_as_of(user, stamp, action, ids, None)
}

fn act_as_of(
    user: UserId,
    stamp: Hlc,
    action: Action,
    ids: &[ItemId],
    as_of: Option<Timestamp>,
) -> Operation {
    let action = StreamAction {
        action,
        ids: ids.to_vec(),
        as_of,
        judged: Vec::new(),
    };
    Author(user).operation(stamp, Change::StreamAction(action))
}

fn receipt_of(verdict: Verdict) -> ActionReceipt {
    let (receipt, superseded) = judged(verdict);
    assert!(!superseded, "{receipt:?}");
    receipt
}

fn judged(verdict: Verdict) -> (ActionReceipt, bool) {
    match verdict {
        Verdict::Applied(Applied {
            state: EntityState::StreamAction(receipt),
            superseded,
        }) => (receipt, superseded),
        other => panic!("{other:?}"),
    }
}

async fn apply(world: &World, operation: &Operation) -> ActionReceipt {
    receipt_of(world.fixture.operations.apply(operation).await.unwrap())
}

#[tokio::test]
async fn each_item_has_an_outcome_and_what_changes_takes_the_raised_version() {
    let world = World::new().await;
    let (alice, bob) = (UserId::random(), UserId::random());
    let unread = world.put(alice, &Given::new("unread", 1)).await;
    let read = world.put(alice, &Given::new("read", 1).read()).await;
    let newer = world.put(alice, &Given::new("newer", 9)).await;
    let arriving = world.put(alice, &Given::new("arriving", 1)).await;
    let gone = world.put(alice, &Given::new("gone", 1).removed()).await;
    let bobs = world.put(bob, &Given::new("bob's", 1)).await;
    let arrivals = format!(
        "UPDATE priority_items SET arrived_at = '{}';
        UPDATE priority_items SET arrived_at = '{}' WHERE id = '{arriving}'",
        time(5),
        time(6)
    );
    world.fixture.execute(&arrivals).await;

    let ids = [newer, unread, bobs, ItemId(Uuid::now_v7()), read, gone, arriving];
    let operation = act_as_of(alice, at(10), Action::Read, &ids, Some(time(5)));
    let receipt = apply(&world, &operation).await;
    let outcomes: Vec<ItemOutcome> = receipt.results.iter().map(|result| result.1).collect();
    assert_eq!(
        receipt.results.iter().map(|result| result.0).collect::<Vec<_>>(),
        ids
    );
    {
        use ItemOutcome::{Applied, NotFound, Skipped};
        let expected = [Skipped, Applied, NotFound, NotFound, Applied, NotFound, Skipped];
        assert_eq!(outcomes, expected);
    }
    assert_eq!(
        (receipt.id, receipt.user_id, receipt.stamp),
        (operation.id.0, alice, at(10))
    );
    assert_eq!(receipt.version, Some(6));
    assert_eq!(world.stream.version(alice).await.unwrap(), 6);
    assert_eq!(world.stream.version(bob).await.unwrap(), 1);

    let changed = world.item(alice, unread).await;
    assert_eq!(
        (changed.unread.value, changed.unread.stamp, changed.version),
        (false, at(10), 6)
    );
    assert_eq!(changed.archived.stamp, at(0));
    let same = world.item(alice, read).await;
    assert_eq!(
        (same.unread.value, same.unread.stamp, same.version),
        (false, at(10), 2)
    );
    assert!(world.item(alice, newer).await.unread.value);
    assert!(world.item(alice, arriving).await.unread.value);
    assert!(world.item(bob, bobs).await.unread.value);
    let changes = world.stream.changes(alice, 5).await.unwrap().value.unwrap();
    assert_eq!(changes.changed, [unread]);
}

#[tokio::test]
async fn an_action_that_changes_nothing_keeps_the_version() {
    let world = World::new().await;
    let alice = UserId::random();
    let id = world.put(alice, &Given::new("one", 1)).await;
    assert_eq!(
        apply(&world, &act(alice, at(5), Action::Unread, &[id]))
            .await
            .version,
        Some(1)
    );
    assert_eq!(world.item(alice, id).await.unread.stamp, at(5));
    assert_eq!(
        apply(&world, &act(alice, at(6), Action::Archive, &[id]))
            .await
            .version,
        Some(2)
    );
    assert_eq!(
        apply(&world, &act(alice, at(7), Action::Unarchive, &[id]))
            .await
            .version,
        Some(3)
    );
    let nobody = UserId::random();
    let receipt = apply(&world, &act(nobody, at(5), Action::Read, &[id])).await;
    assert_eq!(receipt.results, [(id, ItemOutcome::NotFound)]);
    assert_eq!(receipt.version, Some(0));
    assert_eq!(
        apply(&world, &act(alice, at(5), Action::Read, &[])).await.results,
        []
    );
}

#[tokio::test]
async fn a_later_stamp_wins_whichever_comes_first() {
    let world = World::new().await;
    let alice = UserId::random();
    let one = world.put(alice, &Given::new("one", 1)).await;
    let two = world.put(alice, &Given::new("two", 2)).await;
    apply(&world, &act(alice, at(9), Action::Read, &[one])).await;

    let late = act(alice, at(8), Action::Unread, &[two, one]);
    match world.fixture.operations.apply(&late).await.unwrap() {
        Verdict::Late { newest } => assert_eq!(newest, at(9)),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.fixture.operations.find(alice, late.id).await.unwrap(), None);

    // Replayed, it has no effect on what is newer. Its other flag is its own.
    let archive = act(alice, at(8), Action::Archive, &[one]);
    let verdicts = world.fixture.operations.replay(&[late, archive]).await.unwrap();
    let receipts: Vec<ActionReceipt> = verdicts.into_iter().map(receipt_of).collect();
    assert_eq!(
        receipts[0].results,
        [(two, ItemOutcome::Applied), (one, ItemOutcome::Applied)]
    );
    assert_eq!((receipts[0].version, receipts[1].version), (Some(3), Some(4)));
    let item = world.item(alice, one).await;
    assert_eq!((item.unread.value, item.unread.stamp), (false, at(9)));
    assert_eq!((item.archived.value, item.archived.stamp), (true, at(8)));
    assert_eq!(world.item(alice, two).await.unread.stamp, at(8));
}

#[tokio::test]
async fn a_repeated_action_is_a_duplicate_with_the_first_answer() {
    let world = World::new().await;
    let alice = UserId::random();
    let one = world.put(alice, &Given::new("one", 1)).await;
    let ids = [one, ItemId(Uuid::now_v7())];
    for (n, action) in (5..).zip(Action::ALL) {
        answers_again(&world, &keyed(act(alice, at(n), action, &ids), None)).await;
    }
    answers_again(&world, &keyed(act(alice, at(9), Action::Read, &[]), None)).await;

    let buffered = serde_json::json!({"answered": 202});
    let operation = keyed(act(alice, at(10), Action::Read, &ids), Some(buffered.clone()));
    let version = world.stream.version(alice).await.unwrap();
    world
        .fixture
        .operations
        .replay(std::slice::from_ref(&operation))
        .await
        .unwrap();
    let again = world
        .fixture
        .operations
        .replay(std::slice::from_ref(&operation))
        .await
        .unwrap();
    match &again[..] {
        [Verdict::Duplicate(record)] => assert_eq!(record.answer.as_ref(), Some(&buffered)),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.stream.version(alice).await.unwrap(), version + 1);
}

async fn answers_again(world: &World, operation: &Operation) {
    let receipt = apply(world, operation).await;
    match world.fixture.operations.apply(operation).await.unwrap() {
        Verdict::Duplicate(record) => {
            let answer = serde_json::to_value(EntityState::StreamAction(receipt)).unwrap();
            assert_eq!(record.answer, Some(answer));
            assert_eq!(record.entity_id, operation.id.0);
        }
        other => panic!("{other:?}"),
    }
}

/// What became of it, begun before the transaction of the world's client is committed.
async fn applied_after_a_wait(world: &World, operation: Operation) -> Verdict {
    let operations = world.fixture.operations.clone();
    let waiting = tokio::spawn(async move { operations.apply(&operation).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
        AND datname = current_database()";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while world.fixture.count(waits).await == 0 {
        assert!(std::time::Instant::now() < deadline && !waiting.is_finished());
    }
    world.client.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_waits_while_an_item_becomes_newer_than_as_of_leaves_it_alone() {
    let world = World::new().await;
    let alice = UserId::random();
    let (newer, arriving, same) = (
        world.put(alice, &Given::new("newer", 1)).await,
        world.put(alice, &Given::new("arriving", 1)).await,
        world.put(alice, &Given::new("same", 1)).await,
    );
    let past = format!("UPDATE priority_items SET arrived_at = '{}'", time(2));
    world.fixture.execute(&past).await;
    let change = format!(
        "BEGIN;
        UPDATE stream_versions SET version = version + 1, changed_at = changed_at + interval '1 ms' WHERE user_id = '{alice}';
        UPDATE priority_items SET version = 4, item_timestamp = '{0}' WHERE id = '{newer}';
        UPDATE priority_items SET version = 4, arrived_at = '{0}' WHERE id = '{arriving}'",
        time(6),
    );
    world.client.batch_execute(&change).await.unwrap();
    let ids = [newer, arriving, same];
    let operation = act_as_of(alice, at(10), Action::Read, &ids, Some(time(5)));
    let receipt = receipt_of(applied_after_a_wait(&world, operation).await);
    let outcomes: Vec<ItemOutcome> = receipt.results.iter().map(|result| result.1).collect();
    assert_eq!(
        outcomes,
        [ItemOutcome::Skipped, ItemOutcome::Skipped, ItemOutcome::Applied]
    );
    assert!(world.item(alice, newer).await.unread.value);
    assert!(world.item(alice, arriving).await.unread.value);
    assert!(!world.item(alice, same).await.unread.value);
}

#[tokio::test]
async fn an_action_that_loses_on_all_its_items_is_superseded_and_recorded_so() {
    let world = World::new().await;
    let alice = UserId::random();
    let one = world.put(alice, &Given::new("one", 1)).await;
    let two = world.put(alice, &Given::new("two", 2)).await;
    apply(&world, &act(alice, at(9), Action::Read, &[one, two])).await;
    let lost = act(alice, at(8), Action::Unread, &[one, two, ItemId(Uuid::now_v7())]);
    let aimless = act(alice, at(8), Action::Unread, &[ItemId(Uuid::now_v7())]);
    let operations = &world.fixture.operations;
    let verdicts = operations.replay(&[lost.clone(), aimless]).await.unwrap();
    let superseded: Vec<bool> = verdicts.into_iter().map(|verdict| judged(verdict).1).collect();
    assert_eq!(superseded, [true, false]);
    let record = operations.find(alice, lost.id).await.unwrap().unwrap();
    assert!(record.superseded);
    assert!(!world.item(alice, one).await.unread.value);
}

#[tokio::test]
async fn an_action_leaves_alone_what_its_user_was_told_it_does_not_touch() {
    let world = World::new().await;
    let alice = UserId::random();
    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        ids.push(world.put(alice, &Given::new(name, 1)).await);
    }
    let told = vec![ItemOutcome::Skipped, ItemOutcome::Applied, ItemOutcome::NotFound];
    let mut operation = act(alice, at(5), Action::Read, &ids);
    if let Change::StreamAction(action) = &mut operation.change {
        action.judged.clone_from(&told);
    }
    let verdicts = world.fixture.operations.replay(&[operation]).await.unwrap();
    let receipt = receipt_of(verdicts.into_iter().next().unwrap());
    let outcomes: Vec<ItemOutcome> = receipt.results.iter().map(|result| result.1).collect();
    assert_eq!(outcomes, told);
    let mut unread = Vec::new();
    for id in ids {
        unread.push(world.item(alice, id).await.unread.value);
    }
    assert_eq!(unread, [true, false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_waits_for_another_change_is_decided_on_what_that_one_left() {
    let world = World::new().await;
    let alice = UserId::random();
    let older = world.put(alice, &Given::new("older", 1).read()).await;
    let newer = world.put(alice, &Given::new("newer", 1).read()).await;
    let gone = world.put(alice, &Given::new("gone", 1).read()).await;
    let change = format!(
        "BEGIN;
        UPDATE stream_versions SET version = version + 1, changed_at = changed_at + interval '1 ms' WHERE user_id = '{alice}';
        UPDATE priority_items SET version = 4, is_unread = true, unread_stamp = '\\x{:032x}' WHERE id = '{older}';
        UPDATE priority_items SET version = 4, is_unread = true, unread_stamp = '\\x{:032x}' WHERE id = '{newer}';
        UPDATE priority_items SET version = 4, removed_at = now() WHERE id = '{gone}'",
        u128::from_be_bytes(at(5).to_bytes()),
        u128::from_be_bytes(at(50).to_bytes()),
    );
    world.client.batch_execute(&change).await.unwrap();
    let operation = act(alice, at(10), Action::Read, &[older, newer, gone]);
    let verdict = applied_after_a_wait(&world, operation).await;
    let receipt = receipt_of(verdict);
    let outcomes: Vec<ItemOutcome> = receipt.results.iter().map(|result| result.1).collect();
    assert_eq!(
        outcomes,
        [ItemOutcome::Applied, ItemOutcome::Applied, ItemOutcome::NotFound]
    );
    assert_eq!(receipt.version, Some(5));
    let item = world.item(alice, older).await;
    assert_eq!(
        (item.unread.value, item.unread.stamp, item.version),
        (false, at(10), 5)
    );
    let item = world.item(alice, newer).await;
    assert_eq!(
        (item.unread.value, item.unread.stamp, item.version),
        (true, at(50), 4)
    );
    assert_eq!(world.stream.items(alice, &[gone]).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_locks_its_streams_in_the_order_of_their_users_whatever_its_own_is() {
    let world = World::new().await;
    let mut users = [UserId::random(), UserId::random()];
    users.sort();
    let mut batch = Vec::new();
    for user in users.iter().rev() {
        let id = world.put(*user, &Given::new("one", 1)).await;
        batch.push(act(*user, at(5), Action::Read, &[id]));
    }
    // Whoever holds the first can have the second: the batch has not locked it.
    let hold = |n: usize| {
        format!(
            "SELECT FROM stream_versions WHERE user_id = '{}' FOR UPDATE",
            users[n]
        )
    };
    let first = format!("BEGIN; {}", hold(0));
    world.client.batch_execute(&first).await.unwrap();
    let operations = world.fixture.operations.clone();
    let waiting = tokio::spawn(async move { operations.replay(&batch).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
        AND datname = current_database()";
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while world.fixture.count(waits).await == 0 {
        assert!(std::time::Instant::now() < deadline && !waiting.is_finished());
    }
    let second = format!("SET LOCAL lock_timeout = '500ms'; {}; COMMIT", hold(1));
    world.client.batch_execute(&second).await.unwrap();
    let verdicts = waiting.await.unwrap().unwrap();
    assert_eq!(verdicts.len(), 2);
    for verdict in verdicts {
        receipt_of(verdict);
    }
}

#[test]
fn replaying_any_actions_leaves_the_flags_that_folding_them_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    let config = ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let action = || {
        let ids = proptest::collection::btree_set(0usize..4, 1..4);
        (0usize..4, ids, 1u64..8, proptest::option::of(0i64..4))
    };
    proptest!(config, |(actions in proptest::collection::vec(action(), 1..10), batch in 1usize..5)| {
        runtime.block_on(async {
            let alice = UserId::random();
            let mut ids = Vec::new();
            for n in 0..4 {
                ids.push(world.put(alice, &Given::new(n, n)).await);
            }
            let past = format!("UPDATE priority_items SET arrived_at = '2020-01-01' WHERE user_id = '{alice}'");
            world.fixture.execute(&past).await;
            let mut expected = Vec::new();
            for id in &ids {
                expected.push(world.item(alice, *id).await);
            }
            let operations: Vec<Operation> = actions
                .iter()
                .map(|(action, chosen, stamp, as_of)| {
                    let chosen: Vec<ItemId> = chosen.iter().map(|n| ids[*n]).collect();
                    act_as_of(alice, at(*stamp), Action::ALL[*action], &chosen, as_of.map(time))
                })
                .collect();
            for batch in operations.chunks(batch) {
                let verdicts = world.fixture.operations.replay(batch).await.unwrap();
                for (operation, verdict) in batch.iter().zip(verdicts) {
                    let Change::StreamAction(action) = &operation.change else {
                        panic!("{operation:?}");
                    };
                    let (receipt, superseded) = judged(verdict);
                    let (mut applied, mut won) = (false, false);
                    for (id, outcome) in receipt.results {
                        let item = expected.iter_mut().find(|item| item.id == id).unwrap();
                        let skipped = action.skips(item);
                        assert_eq!(outcome == ItemOutcome::Skipped, skipped);
                        let before = (item.unread.value, item.archived.value);
                        applied |= !skipped;
                        won |= action.fold(operation.accepted_at, item);
                        if before != (item.unread.value, item.archived.value) {
                            item.version = receipt.version.unwrap();
                        }
                    }
                    assert_eq!(superseded, applied && !won);
                }
            }
            for item in &expected {
                assert_eq!(&world.item(alice, item.id).await, item);
            }
        });
    });
    drop(world);
}
