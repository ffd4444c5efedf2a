//! A random walk: whatever is done to the buffer, it holds what a plain list would hold, in the same order.

use crate::home::{Home, all, task, urgent, user};
use gravity_domain::id::OperationId;
use gravity_domain::sync::ports::{DeadLetters, DrainBuffer, WriteBuffer};
use gravity_domain::sync::{BufferError, EntityKind, Operation};
use gravity_infra::write_buffer::{BufferEngine, DurableBuffer};
use proptest::prelude::*;
use std::collections::BTreeMap;

const LIMIT: usize = 12;

#[derive(Debug, Clone)]
enum Step {
    Append {
        user: u128,
        task: u128,
        priority: u8,
        id: u64,
    },
    Remove(Vec<prop::sample::Index>),
    Bury(prop::sample::Index),
    Retry(u64),
    Discard(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let append = (0u128..3, 0u128..3, 1u8..=5, 0u64..40);
    prop_oneof![
        8 => append.prop_map(|(user, task, priority, id)| Step::Append { user, task, priority, id }),
        3 => prop::collection::vec(any::<prop::sample::Index>(), 0..4).prop_map(Step::Remove),
        2 => any::<prop::sample::Index>().prop_map(Step::Bury),
        2 => (0u64..40).prop_map(Step::Retry),
        1 => (0u64..40).prop_map(Step::Discard),
        1 => Just(Step::Reopen),
    ]
}

/// What should be in the buffer: (rank, operation) in order of acceptance, and the dead.
#[derive(Default)]
struct Model {
    waiting: Vec<(u8, Operation)>,
    dead: BTreeMap<OperationId, Operation>,
}

impl Model {
    fn append(&mut self, operation: Operation) -> Result<(), BufferError> {
        if let Some((_, waiting)) = self.waiting.iter().find(|(_, it)| it.id == operation.id) {
            return if operation.is_retry_of(waiting) {
                Ok(())
            } else {
                Err(BufferError::Unavailable(
                    "another operation waits under this id".to_owned(),
                ))
            };
        }
        if self.waiting.len() >= LIMIT {
            return Err(BufferError::Full);
        }
        let own = 5 - operation.priority.get();
        let lane = self
            .waiting
            .iter()
            .filter(|(_, it)| it.user_id == operation.user_id);
        let tail = lane.map(|(rank, _)| *rank).max().unwrap_or(0);
        self.waiting.push((own.max(tail), operation));
        Ok(())
    }

    fn drain_order(&self) -> Vec<Operation> {
        let mut order = self.waiting.clone();
        order.sort_by_key(|(rank, _)| *rank);
        order.into_iter().map(|(_, operation)| operation).collect()
    }

    fn take(&mut self, id: OperationId) -> Operation {
        let at = self.waiting.iter().position(|(_, it)| it.id == id).unwrap();
        self.waiting.remove(at).1
    }

    fn retry(&mut self, id: OperationId) -> Result<(), BufferError> {
        let letter = self.dead.get(&id).cloned().ok_or(BufferError::NotFound)?;
        self.append(Operation {
            attempts: 0,
            last_error: None,
            retried: true,
            ..letter
        })?;
        self.dead.remove(&id);
        Ok(())
    }
}

/// The tail's rank counts as long as the lane is not empty, also after the tail itself is gone; the model has no memory
/// of it, so only the order within lanes and the set are compared when ranks differ.
async fn compare(buffer: &DurableBuffer, model: &Model) {
    let entries = all(buffer).await;
    let found: Vec<Operation> = entries.iter().map(|it| it.operation.clone().unwrap()).collect();
    let expected = model.drain_order();
    for lane in 0..3 {
        let of = |list: &[Operation]| -> Vec<Operation> {
            list.iter()
                .filter(|it| it.user_id == user(lane))
                .cloned()
                .collect()
        };
        assert_eq!(of(&found), of(&expected));
        assert_eq!(
            buffer.lane_length(user(lane)).await.unwrap(),
            of(&found).len() as u64
        );
        let pending = buffer.pending_of(user(lane), EntityKind::Task).await.unwrap();
        let pending: Vec<_> = pending.into_iter().map(|it| it.operation).collect();
        let accepted: Vec<_> = model
            .waiting
            .iter()
            .map(|(_, it)| it)
            .filter(|it| it.user_id == user(lane))
            .cloned()
            .collect();
        assert_eq!(pending, accepted);
    }
    assert!(entries.windows(2).all(|pair| pair[0].parcel < pair[1].parcel));
    let status = buffer.status();
    assert_eq!(status.size, model.waiting.len() as u64);
    assert_eq!(status.dead_letters, model.dead.len() as u64);
    assert_eq!(status.bytes == 0, model.waiting.is_empty());
    let oldest = model.waiting.first().map(|(_, it)| it.accepted_at.timestamp());
    assert_eq!(status.oldest, oldest);
    let letters = buffer.list(None, 100).await.unwrap();
    assert!(letters.iter().map(|letter| &letter.id).eq(model.dead.keys()));
}

async fn walk(engine: BufferEngine, steps: Vec<Step>) {
    let mut home = Home::new(engine);
    home.settings.max_operations = LIMIT as u64;
    let (mut buffer, mut model) = (home.open().await, Model::default());
    for step in steps {
        match step {
            Step::Append {
                user: lane,
                task: id,
                priority,
                id: n,
            } => {
                let operation = urgent(user(lane), task(id), n, priority);
                assert_eq!(buffer.append(operation.clone()).await, model.append(operation));
            }
            Step::Remove(picks) => {
                let entries = all(&buffer).await;
                let mut chosen: Vec<_> = picks
                    .iter()
                    .filter(|_| !entries.is_empty())
                    .map(|it| it.get(&entries))
                    .collect();
                chosen.sort_by_key(|entry| entry.parcel);
                chosen.dedup_by_key(|entry| entry.parcel);
                buffer
                    .remove(chosen.iter().map(|entry| entry.parcel).collect())
                    .await
                    .unwrap();
                for entry in chosen {
                    model.take(entry.operation.as_ref().unwrap().id);
                }
            }
            Step::Bury(pick) => {
                let entries = all(&buffer).await;
                if !entries.is_empty() {
                    let entry = pick.get(&entries);
                    buffer
                        .bury(entry.parcel, 2, "rejected: model".into())
                        .await
                        .unwrap();
                    let operation = model.take(entry.operation.as_ref().unwrap().id);
                    model.dead.insert(operation.id, operation);
                }
            }
            Step::Retry(n) => {
                let id = urgent(user(0), task(0), n, 3).id;
                assert_eq!(buffer.retry(id).await.map(|_| ()), model.retry(id));
            }
            Step::Discard(n) => {
                let id = urgent(user(0), task(0), n, 3).id;
                let expected = model.dead.remove(&id).map(|_| ()).ok_or(BufferError::NotFound);
                assert_eq!(buffer.discard(id).await.map(|_| ()), expected);
            }
            Step::Reopen => {
                buffer.close().await;
                buffer = home.open().await;
            }
        }
        compare(&buffer, &model).await;
    }
}

fn run(engine: BufferEngine, steps: Vec<Step>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(walk(engine, steps));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sled_holds_what_a_list_would_hold(steps in prop::collection::vec(step(), 1..40)) {
        run(BufferEngine::Sled, steps);
    }

    #[test]
    fn redb_holds_what_a_list_would_hold(steps in prop::collection::vec(step(), 1..40)) {
        run(BufferEngine::Redb, steps);
    }
}
