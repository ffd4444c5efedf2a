//! Actions: what they name, what a filter finds for them, and how retries are answered.

use super::super::{ActOnItems, Acted, Selector, StreamJudge};
use super::*;
use crate::sync::{EntityReader, IdempotencyKey, WriteRequest, WriteSettings, Writer};
use gravity_domain::clock::{HybridClock, MockClock};
use gravity_domain::stream::ports::MockStreamStore;
use gravity_domain::stream::{ActionReceipt, ItemOutcome, Selection};
use gravity_domain::sync::ports::{
    MockAppliedListener, MockEntityCache, MockEntityStore, MockOperationStore, WritePorts,
};
use gravity_domain::sync::{Applied, Entity, Fingerprint, Found, Verdict, WriteError, WriteOutcome};
use std::sync::Mutex;
use std::time::Duration;

/// What was applied to Postgres, or appended to the buffer.
type Log = Arc<Mutex<Vec<Operation>>>;

struct World {
    is_up: bool,
    pending: Vec<StreamAction>,
    cache: MockStreamCache,
    store: MockStreamStore,
}

impl World {
    fn new(is_up: bool, rows: Vec<Item>) -> Self {
        let dark = (!is_up).then_some((PageLimit::default(), 100));
        Self {
            is_up,
            pending: Vec::new(),
            cache: cache(rows, dark),
            store: MockStreamStore::new(),
        }
    }

    fn build(self) -> (ActOnItems, Log) {
        let log = Log::default();
        let mut buffer = buffer(self.pending);
        let kept = Arc::clone(&log);
        buffer.expect_lane_length().returning(|_| Ok(0));
        buffer.expect_pending_on().returning(|_, _, _| Ok(vec![]));
        buffer.expect_find_dead().returning(|_| Ok(None));
        let is_up = self.is_up;
        buffer.expect_find().returning(move |id| {
            let kept = kept.lock().unwrap();
            let found = kept.iter().find(|operation| operation.id == id && !is_up);
            Ok(found.map(|operation| Pending {
                sequence: 1,
                operation: operation.clone(),
            }))
        });
        let sink = Arc::clone(&log);
        buffer.expect_append().returning(move |operation| {
            sink.lock().unwrap().push(operation);
            Ok(())
        });
        let mut operations = MockOperationStore::new();
        let sink = Arc::clone(&log);
        operations.expect_apply().returning(move |operation| {
            let mut receipt = None;
            ActionReceipt::apply(&mut receipt, operation);
            sink.lock().unwrap().push(operation.clone());
            let mut receipt = receipt.unwrap();
            receipt.version = Some(8);
            Ok(Verdict::Applied(Applied {
                superseded: false,
                state: receipt.into_state(),
            }))
        });
        let mut receipts = MockEntityCache::<ActionReceipt>::new();
        receipts.expect_find().returning(|_, _| Found::Absent);
        receipts.expect_learn().return_const(());
        let breaker = Arc::new(breaker(self.is_up));
        let (buffer, cache) = (Arc::new(buffer), Arc::new(self.cache));
        let wall = Arc::new(MockClock::at(1_000_000));
        let clock = Arc::new(HybridClock::new(NodeId(7), 0, 60_000, wall, Arc::new(())));
        let ports = WritePorts {
            store: Arc::new(operations),
            breaker: breaker.clone(),
            buffer: buffer.clone(),
            known: Arc::new(MockAppliedListener::new()),
        };
        let settings = WriteSettings {
            deadline: Duration::from_secs(10),
        };
        let writer = Arc::new(Writer::new(ports, clock.clone(), settings));
        let rows = Arc::new(MockEntityStore::<ActionReceipt>::new());
        let reader = EntityReader::new(rows, Arc::new(receipts), breaker.clone(), buffer.clone());
        let judge = StreamJudge::new(cache.clone(), breaker.clone(), clock);
        let reader = Arc::new(reader.judged_by(Arc::new(judge)));
        let act = ActOnItems::new(writer, reader, Arc::new(self.store), cache, breaker, buffer);
        (act, log)
    }
}

fn request(key: Option<&str>) -> WriteRequest {
    WriteRequest {
        user: USER,
        key: key.map(|key| IdempotencyKey {
            key: key.to_owned(),
            fingerprint: Fingerprint([1; 32]),
        }),
        expected_version: None,
        must_commit: false,
    }
}

fn ids(numbers: &[u128]) -> Selector {
    Selector::Ids(numbers.iter().map(|n| id(*n)).collect())
}

fn receipt(acted: &Acted) -> &ActionReceipt {
    let (WriteOutcome::Committed(receipt) | WriteOutcome::Buffered(receipt)) = &acted.written.outcome;
    receipt
}

fn named(acted: &Acted) -> Vec<u128> {
    let results = receipt(acted).results.iter();
    results.map(|(id, _)| id.0.as_u128()).collect()
}

fn finds(store: &mut MockStreamStore, answers: Vec<Vec<u128>>) {
    let answers = Mutex::new(answers.into_iter());
    store.expect_select().returning(move |_, _, _, _| {
        let found = answers.lock().unwrap().next().unwrap_or_default();
        Ok(Selection {
            ids: found.into_iter().map(id).collect(),
            has_more: false,
        })
    });
}

#[tokio::test]
async fn doubled_ids_are_acted_on_once_in_the_order_given() {
    let (act, log) = World::new(true, items(3)).build();
    let acted = act
        .run(request(None), ids(&[3, 1, 3, 2, 1]), Action::Read, Some(at(9)))
        .await
        .unwrap();
    assert_eq!(named(&acted), [3, 1, 2]);
    assert!(matches!(acted.written.outcome, WriteOutcome::Committed(_)));
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_action_in_the_dark_is_buffered_with_what_is_known_of_each_item() {
    let (act, log) = World::new(false, items(3)).build();
    let acted = act
        .run(request(None), ids(&[3, 9, 1]), Action::Read, Some(at(2)))
        .await
        .unwrap();
    assert!(matches!(acted.written.outcome, WriteOutcome::Buffered(_)));
    let outcomes: Vec<_> = receipt(&acted)
        .results
        .iter()
        .map(|(_, outcome)| *outcome)
        .collect();
    assert_eq!(
        outcomes,
        [ItemOutcome::Skipped, ItemOutcome::NotFound, ItemOutcome::Applied]
    );
    assert_eq!(receipt(&acted).version, None);
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_filter_is_resolved_by_postgres_with_pending_actions_in_mind() {
    let mut rows = items(5);
    rows[0].archived.value = true;
    rows[4].archived.value = true;
    let mut world = World::new(true, rows);
    world.pending = vec![action(Action::Archive, &[3]), action(Action::Unarchive, &[1, 5])];
    world
        .store
        .expect_select()
        .withf(|_, filter, as_of, limit| {
            *filter == view(View::All) && *as_of == at(4) && *limit == StreamAction::MAX_ITEMS + 3
        })
        .times(1)
        .returning(|_, _, _, _| {
            Ok(Selection {
                ids: vec![id(4), id(3), id(2)],
                has_more: false,
            })
        });
    let (act, _) = world.build();
    let acted = act
        .run(
            request(None),
            Selector::Filter(view(View::All)),
            Action::Read,
            Some(at(4)),
        )
        .await
        .unwrap();
    assert_eq!(named(&acted), [4, 2, 1]);
    assert!(!acted.has_more);
}

#[tokio::test]
async fn a_filter_that_finds_more_than_one_action_takes_says_so() {
    let most = StreamAction::MAX_ITEMS as u128;
    let mut world = World::new(true, vec![]);
    finds(
        &mut world.store,
        vec![(1..=most + 1).collect(), (1..=most).collect()],
    );
    let (act, _) = world.build();
    for has_more in [true, false] {
        let filter = Selector::Filter(view(View::All));
        let acted = act
            .run(request(None), filter, Action::Read, Some(at(9)))
            .await
            .unwrap();
        assert_eq!(named(&acted).len(), StreamAction::MAX_ITEMS);
        assert_eq!(acted.has_more, has_more);
    }
}

#[tokio::test]
async fn a_filter_is_resolved_in_the_dark_by_a_list_that_is_known_to_its_end() {
    let mut world = World::new(false, items(50));
    world.pending = vec![action(Action::Read, &[40, 50])];
    let (act, log) = world.build();
    let acted = act
        .run(
            request(None),
            Selector::Filter(view(View::Unread)),
            Action::Archive,
            Some(at(45)),
        )
        .await
        .unwrap();
    let expected: Vec<u128> = (1..=45).rev().filter(|n| *n != 40).collect();
    assert_eq!(named(&acted), expected);
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_filter_is_refused_in_the_dark_when_a_part_of_the_list_is_not_known() {
    let mut world = World::new(false, vec![]);
    world.cache = cache(items(50), Some((PageLimit::default(), 2)));
    let (act, log) = world.build();
    let refused = act
        .run(
            request(None),
            Selector::Filter(view(View::All)),
            Action::Read,
            Some(at(99)),
        )
        .await;
    assert!(matches!(refused, Err(WriteError::Unknown)));
    assert!(log.lock().unwrap().is_empty());
}

#[tokio::test]
async fn pages_of_two_versions_are_not_a_list_that_is_known() {
    let mut world = World::new(false, vec![]);
    world.cache = MockStreamCache::new();
    world.cache.expect_page().returning(|_, query, _| {
        let mut page = page_of(&items(30), query);
        page.version = if query.after.is_none() { 1 } else { 2 };
        if query.limit != PageLimit::default() {
            return Err(away());
        }
        Ok(cached(Arc::new(page), Freshness::Stale))
    });
    let (act, _) = world.build();
    let filter = Selector::Filter(view(View::All));
    let refused = act.run(request(None), filter, Action::Read, Some(at(99))).await;
    assert!(matches!(refused, Err(WriteError::Unknown)));
}

#[tokio::test]
async fn a_postgres_that_fails_while_it_looks_is_stood_in_for() {
    let mut world = World::new(true, items(2));
    world.store.expect_select().returning(|_, _, _, _| Err(away()));
    let (act, _) = world.build();
    let acted = act
        .run(
            request(None),
            Selector::Filter(view(View::All)),
            Action::Read,
            Some(at(9)),
        )
        .await
        .unwrap();
    assert_eq!(named(&acted), [2, 1]);
}

#[tokio::test]
async fn a_retry_with_the_same_key_gets_the_first_answer_whatever_its_filter_finds_now() {
    for found_later in [vec![7u128, 8], vec![]] {
        let mut world = World::new(true, items(8));
        finds(&mut world.store, vec![vec![2, 1], found_later]);
        let (act, log) = world.build();
        let filter = || Selector::Filter(view(View::All));
        let first = act
            .run(request(Some("k")), filter(), Action::Archive, Some(at(9)))
            .await
            .unwrap();
        let second = act
            .run(request(Some("k")), filter(), Action::Archive, Some(at(9)))
            .await
            .unwrap();
        assert!(second.written.replayed && !first.written.replayed);
        assert_eq!(
            (receipt(&second), second.has_more),
            (receipt(&first), first.has_more)
        );
        assert_eq!(log.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_retry_in_the_dark_gets_the_first_answer_without_a_list_to_look_in() {
    let mut world = World::new(false, vec![]);
    let mut calls = 0;
    world.cache = MockStreamCache::new();
    world.cache.expect_page().returning(move |_, query, _| {
        calls += 1;
        if calls == 1 {
            Ok(cached(Arc::new(page_of(&items(2), query)), Freshness::Stale))
        } else {
            Err(away())
        }
    });
    known_items(&mut world.cache, items(2));
    nothing_done(&mut world.cache);
    let (act, log) = world.build();
    let filter = || Selector::Filter(view(View::All));
    let first = act
        .run(request(Some("k")), filter(), Action::Archive, Some(at(9)))
        .await
        .unwrap();
    let second = act
        .run(request(Some("k")), filter(), Action::Archive, Some(at(9)))
        .await
        .unwrap();
    assert!(second.written.replayed);
    assert_eq!(receipt(&second), receipt(&first));
    assert_eq!(log.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn nothing_to_act_on_is_answered_without_a_write_unless_a_key_is_to_be_kept() {
    for (key, writes) in [(None, 0), (Some("k"), 1)] {
        let mut world = World::new(true, vec![]);
        finds(&mut world.store, vec![]);
        world.cache.expect_version().return_const(Some(8));
        let (act, log) = world.build();
        let filter = Selector::Filter(view(View::All));
        let acted = act
            .run(request(key), filter, Action::Read, Some(at(9)))
            .await
            .unwrap();
        assert!(receipt(&acted).results.is_empty() && !acted.has_more);
        assert_eq!(receipt(&acted).version, Some(8));
        assert_eq!(acted.is_written, writes == 1);
        assert_eq!(log.lock().unwrap().len(), writes);
    }
}
