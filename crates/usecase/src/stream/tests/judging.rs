//! What is known of the items of an action that is to be buffered.

use super::super::StreamJudge;
use super::*;
use gravity_domain::clock::{HybridClock, MockClock};
use gravity_domain::stream::ItemOutcome;
use gravity_domain::sync::WriteError;
use gravity_domain::sync::ports::Judge;

fn judge(cache: MockStreamCache) -> StreamJudge {
    let wall = Arc::new(MockClock::at(1_000));
    let clock = HybridClock::new(NodeId(7), 0, 60_000, wall, Arc::new(()));
    StreamJudge::new(Arc::new(cache), Arc::new(breaker(true)), Arc::new(clock))
}

fn judged(operation: &Operation) -> Vec<ItemOutcome> {
    let Change::StreamAction(action) = &operation.change else {
        panic!("it changed its kind")
    };
    action.judged.clone()
}

#[tokio::test]
async fn each_item_is_judged_by_what_is_known_of_it_in_the_order_of_the_request() {
    let mut operation = operation(500, action(Action::Read, &[1, 9, 3]));
    if let Change::StreamAction(action) = &mut operation.change {
        action.as_of = Some(at(2));
    }
    judge(cache(items(3), None))
        .judge(&mut operation, true)
        .await
        .unwrap();
    assert_eq!(
        judged(&operation),
        [ItemOutcome::Applied, ItemOutcome::NotFound, ItemOutcome::Skipped]
    );
    assert_eq!(operation.accepted_at, stamp(500));
}

#[tokio::test]
async fn an_action_on_an_item_of_which_nothing_is_known_is_refused() {
    let mut cache = MockStreamCache::new();
    cache
        .expect_ever_known()
        .withf(|_, _, may_ask_store| !may_ask_store)
        .returning(|_, _, _| Err(away()));
    let mut operation = operation(500, action(Action::Read, &[1]));
    let refused = judge(cache).judge(&mut operation, false).await;
    assert!(matches!(refused, Err(WriteError::Unknown)));
}

#[tokio::test]
async fn an_action_after_a_clock_that_was_ahead_still_wins() {
    let mut ahead = item(1, 1);
    ahead.unread = Lww::new(true, stamp(5_000));
    let mut operation = operation(500, action(Action::Read, &[1]));
    judge(cache(vec![ahead.clone()], None))
        .judge(&mut operation, true)
        .await
        .unwrap();
    assert!(operation.accepted_at > ahead.unread.stamp);
}
