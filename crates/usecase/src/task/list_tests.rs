//! The list with pending writes in it equals the list of a world where they had been applied.

use super::list::ListTasks;
use crate::sync::Warmer;
use async_trait::async_trait;
use gravity_domain::clock::{Hlc, NodeId};
use gravity_domain::error::StoreError;
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::page::{PageKey, PageLimit};
use gravity_domain::sync::ports::{EntityCache, EntityStore, MockBreaker, MockWriteBuffer};
use gravity_domain::sync::{BufferError, Change, Entity, Found, Freshness, Operation, Pending, ReadError};
use gravity_domain::task::{
    KnownPage, NewTask, Task, TaskCache, TaskChange, TaskFilter, TaskPatch, TaskStatus, TaskStore, Title,
};
use proptest::prelude::*;
use std::sync::Arc;
use uuid::Uuid;

const USER: UserId = UserId(Uuid::from_u128(1));

/// Rows that serve as Postgres, and as a cache that knows everything or nothing.
#[derive(Clone)]
struct Rows(Vec<Task>, bool);

impl Rows {
    fn page(&self, filter: TaskFilter, after: Option<PageKey>, limit: usize) -> Vec<Task> {
        let mut rows: Vec<_> = self.0.iter().filter(|task| filter.shows(task)).cloned().collect();
        rows.sort_by_key(|task| std::cmp::Reverse(task.page_key()));
        rows.retain(|task| after.is_none_or(|after| task.page_key() < after));
        rows.truncate(limit);
        rows
    }
}

#[async_trait]
impl EntityStore<Task> for Rows {
    async fn find(&self, _: UserId, id: Uuid) -> Result<Option<Task>, StoreError> {
        Ok(self.0.iter().find(|task| task.id.0 == id).cloned())
    }
}

#[async_trait]
impl TaskStore for Rows {
    async fn find_many(&self, _: UserId, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        assert!(ids.len() <= 500, "{} at once", ids.len());
        Ok(self
            .0
            .iter()
            .filter(|task| ids.contains(&task.id))
            .cloned()
            .collect())
    }

    async fn list(
        &self,
        _: UserId,
        filter: TaskFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        Ok(self.page(filter, after, limit))
    }
}

impl EntityCache<Task> for Rows {
    fn find(&self, _: UserId, id: Uuid) -> Found<Task> {
        self.0
            .iter()
            .find(|task| task.id.0 == id)
            .map_or(Found::Absent, |task| Found::Known(task.clone()))
    }

    fn learn(&self, _: Task) {}

    fn mark(&self, _: UserId) -> u64 {
        0
    }

    fn learn_read(&self, _: Task, _: u64) {}
}

impl TaskCache for Rows {
    fn learn_page(&self, _: UserId, _: u64, _: KnownPage) {}

    fn list(&self, _: UserId, filter: TaskFilter, after: Option<PageKey>, limit: usize) -> Option<Vec<Task>> {
        self.1.then(|| self.page(filter, after, limit))
    }

    fn knows_list(&self, _: UserId, _: usize) -> bool {
        true
    }
}

fn operation(task: u128, wall_ms: u64, change: TaskChange) -> Operation {
    Operation::new(
        OperationId(Uuid::from_u128(u128::from(wall_ms))),
        USER,
        Change::Task {
            id: TaskId(Uuid::from_u128(task)),
            change,
        },
        Hlc {
            wall_ms,
            counter: 0,
            node: NodeId(1),
        },
    )
}

fn created(status: usize) -> TaskChange {
    let status = TaskStatus::ALL[status];
    TaskChange::Create(NewTask {
        title: Title::parse("t").unwrap(),
        description: None,
        status,
    })
}

fn moved(status: usize) -> TaskChange {
    TaskChange::Update(TaskPatch {
        status: Some(TaskStatus::ALL[status]),
        ..TaskPatch::default()
    })
}

/// Base rows 0..n at wall times 10, 20, …, and pending operations on them and on new tasks.
fn world() -> impl Strategy<Value = (Vec<Task>, Vec<Operation>)> {
    let rows = proptest::collection::vec(0usize..4, 0..30);
    let pending = proptest::collection::vec((0u128..40, 0usize..4, 0u8..10), 0..25);
    (rows, pending).prop_map(|(rows, pending)| {
        let mut base = Vec::new();
        for (n, status) in rows.into_iter().enumerate() {
            let mut task = None;
            Task::apply(
                &mut task,
                &operation(n as u128, (n as u64 + 1) * 10, created(status)),
            );
            base.extend(task);
        }
        let mut known: std::collections::HashSet<_> = (0..base.len() as u128).collect();
        let mut operations = Vec::new();
        for (at, (task, status, kind)) in (1_000..).zip(pending) {
            let change = match kind {
                _ if known.insert(task) => created(status),
                0..=2 => TaskChange::Delete,
                _ => moved(status),
            };
            operations.push(operation(task, at, change));
        }
        (base, operations)
    })
}

fn list(base: Vec<Task>, pending: Vec<Operation>, is_up: bool, is_known: bool) -> ListTasks {
    let mut breaker = MockBreaker::new();
    breaker.expect_allows_reads().return_const(is_up);
    let mut buffer = MockWriteBuffer::new();
    buffer.expect_pending_of().returning(move |_, _| {
        Ok((1..)
            .zip(pending.clone())
            .map(|(sequence, operation)| Pending { sequence, operation })
            .collect())
    });
    let (rows, breaker) = (Arc::new(Rows(base, is_known)), Arc::new(breaker));
    let warmer = Arc::new(Warmer::new(vec![], breaker.clone()));
    ListTasks::new(rows.clone(), rows, breaker, Arc::new(buffer), warmer)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #[test]
    fn every_page_equals_that_of_a_world_where_the_pending_writes_were_applied(
        (base, pending) in world(), status in proptest::option::of(0usize..4), limit in 1usize..8, is_up in any::<bool>()
    ) {
        let mut model: std::collections::BTreeMap<Uuid, Option<Task>> =
            base.iter().map(|task| (task.id.0, Some(task.clone()))).collect();
        for operation in &pending {
            Task::apply(model.entry(operation.entity_id()).or_default(), operation);
        }
        let filter = TaskFilter { status: status.map(|status| TaskStatus::ALL[status]) };
        let expected = Rows(model.into_values().flatten().collect(), true).page(filter, None, usize::MAX);
        let list = list(base, pending.clone(), is_up, true);
        let (mut got, mut after) = (Vec::new(), None);
        loop {
            let read = run(list.run(USER, filter, after, PageLimit::new(limit).unwrap())).unwrap();
            prop_assert!(read.value.next.is_none() || read.value.items.len() == limit);
            prop_assert_eq!(read.freshness, match (pending.is_empty(), is_up) {
                (false, _) => Freshness::Pending,
                (true, true) => Freshness::Current,
                (true, false) => Freshness::Stale,
            });
            for listed in read.value.items {
                prop_assert_eq!(listed.is_pending, pending.iter().any(|operation| operation.entity_id() == listed.task.id.0));
                got.push(listed.task);
            }
            after = read.value.next;
            if after.is_none() { break; }
        }
        prop_assert_eq!(got, expected);
    }
}

#[test]
fn a_list_of_which_nothing_is_known_is_refused_and_never_empty() {
    let list = list(vec![], vec![operation(5, 1_000, created(0))], false, false);
    let refused = run(list.run(USER, TaskFilter::default(), None, PageLimit::default()));
    assert!(matches!(refused, Err(ReadError::Unknown)));
}

#[test]
fn a_long_lane_is_looked_up_in_pieces() {
    let mut base = None;
    Task::apply(&mut base, &operation(7, 10, created(0)));
    let pending = (1..=1_200).map(|n| operation(n, 1_000 + n as u64, created(1)));
    let list = list(base.into_iter().collect(), pending.collect(), true, true);
    let read = run(list.run(USER, TaskFilter::default(), None, PageLimit::default())).unwrap();
    assert!(read.value.next.is_some() && read.value.items.iter().all(|listed| listed.is_pending));
}

#[test]
fn a_list_with_more_changes_pending_than_postgres_may_be_asked_about_is_refused() {
    let pending: Vec<_> = (1..=5_001)
        .map(|n| operation(n, 1_000 + n as u64, moved(1)))
        .collect();
    let asked = |pending, is_up| {
        let list = list(vec![], pending, is_up, true);
        run(list.run(USER, TaskFilter::default(), None, PageLimit::default()))
    };
    let refused = asked(pending.clone(), true);
    assert!(
        matches!(refused, Err(ReadError::Buffer(BufferError::Unavailable(_)))),
        "{refused:?}"
    );
    assert!(asked(pending[1..].to_vec(), true).is_ok());
    assert!(asked(pending, false).is_ok(), "what is known costs no query");
}
