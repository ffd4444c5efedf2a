//! Whatever goes wrong, and however often: every operation ends exactly once, and in order.

use super::fakes::{Dice, Odds, Stage, lock};
use crate::processor::*;
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::sync::Operation;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

/// One operation of a run.
#[derive(Debug, Clone)]
struct Step {
    lane: usize,
    priority: u8,
    /// Renames an earlier task of its lane, where there is one.
    renames: bool,
    fate: Fate,
    /// How long after the one before it is appended, in milliseconds.
    after: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Good,
    Poison,
    Shaky(u32),
    /// Renames a task that there never was.
    Lost,
    Broken,
}

fn step(lanes: usize) -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        12 => Just(Fate::Good),
        1 => Just(Fate::Poison),
        1 => (1u32..3).prop_map(Fate::Shaky),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Broken),
    ];
    (
        0..lanes,
        1u8..=5,
        any::<bool>(),
        fate,
        prop_oneof![4 => Just(0u64), 1 => 0u64..20],
    )
        .prop_map(|(lane, priority, renames, fate, after)| Step {
            lane,
            priority,
            renames,
            fate,
            after,
        })
}

fn odds() -> impl Strategy<Value = Odds> {
    let chance = || prop_oneof![Just(0.0), Just(0.1), Just(0.3)];
    (chance(), chance(), chance(), chance(), chance()).prop_map(
        |(store_away, answer_lost, peek, remove, bury)| Odds {
            store_away,
            answer_lost,
            peek,
            remove,
            bury,
        },
    )
}

/// What a run appended.
#[derive(Default)]
struct Sent {
    operations: Vec<Operation>,
    broken: usize,
    doomed: HashSet<OperationId>,
}

async fn append_all(stage: &Stage, steps: Vec<Step>, lanes: &[UserId]) -> Sent {
    let mut sent = Sent::default();
    let mut tasks: HashMap<usize, TaskId> = HashMap::new();
    for step in steps {
        if step.after > 0 {
            tokio::time::sleep(Duration::from_millis(step.after)).await;
        }
        if step.fate == Fate::Broken {
            stage.buffer.append_broken("undecodable: test");
            sent.broken += 1;
            continue;
        }
        let target = match step.fate {
            Fate::Lost => Some(TaskId(uuid::Uuid::now_v7())),
            _ if step.renames => tasks.get(&step.lane).copied(),
            _ => None,
        };
        let operation = stage.operation(lanes[step.lane], target, step.priority);
        let mut plan = lock(&stage.store.plan);
        match step.fate {
            Fate::Poison => drop(plan.poison.insert(operation.id)),
            Fate::Shaky(times) => drop(plan.refusals.insert(operation.id, times)),
            _ => {}
        }
        drop(plan);
        let doomed = matches!(step.fate, Fate::Poison | Fate::Lost);
        if doomed {
            sent.doomed.insert(operation.id);
        } else if target.is_none() {
            tasks.insert(step.lane, TaskId(operation.entity_id()));
        }
        stage.buffer.append(operation.clone());
        sent.operations.push(operation);
    }
    sent
}

fn check(stage: &Stage, sent: &Sent) -> Result<(), TestCaseError> {
    let log = stage.store.log();
    let letters = stage.buffer.letters();
    let applied: HashSet<_> = log.iter().copied().collect();
    prop_assert_eq!(applied.len(), log.len(), "applied twice");
    let dead: Vec<_> = letters.iter().filter_map(|letter| letter.id).collect();
    prop_assert_eq!(letters.len() - dead.len(), sent.broken);
    let dead: HashSet<_> = dead.into_iter().collect();
    prop_assert_eq!(&dead, &sent.doomed, "{:#?}", &letters);
    for operation in &sent.operations {
        prop_assert!(applied.contains(&operation.id) != dead.contains(&operation.id));
    }
    for letter in letters.iter().filter(|letter| letter.id.is_some()) {
        prop_assert_eq!(letter.attempts, 3, "{}", &letter.reason);
    }
    let place: HashMap<_, _> = log.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let mut last: HashMap<UserId, usize> = HashMap::new();
    for operation in &sent.operations {
        if let Some(place) = place.get(&operation.id) {
            let before = last.insert(operation.user_id, *place);
            prop_assert!(before.is_none_or(|before| before < *place), "out of order");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_operation_ends_once_and_in_order_whatever_fails(
        steps in proptest::collection::vec(step(6), 1..120),
        odds in odds(),
        seed in any::<u64>(),
        batch_size in prop_oneof![Just(1usize), 2usize..12, Just(500)],
        parked_lanes in prop_oneof![Just(1usize), Just(1_024)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let stage = Stage::with(Dice::new(seed, odds));
            let lanes: Vec<UserId> = (0..6).map(|_| UserId::random()).collect();
            let handle = stage.start(ProcessorSettings { batch_size, parked_lanes, ..ProcessorSettings::default() });
            let sent = append_all(&stage, steps, &lanes).await;
            stage.emptied(&handle).await;
            handle.stop(Duration::from_secs(60)).await;
            check(&stage, &sent)
        })?;
    }
}
