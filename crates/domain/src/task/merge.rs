//! What an operation does to a task: the definition that SQL, overlay and drain share.

use super::model::{NewTask, Task, TaskChange, TaskPatch};
use crate::clock::{Hlc, Timestamp};
use crate::id::UserId;
use crate::sync::entity::{Entity, EntityKind, EntityState};
use crate::sync::merge::{Effect, Lww};
use crate::sync::operation::{Change, Operation};
use uuid::Uuid;

impl Entity for Task {
    const KIND: EntityKind = EntityKind::Task;

    fn id(&self) -> Uuid {
        self.id.0
    }

    fn owner(&self) -> UserId {
        self.user_id
    }

    fn version(&self) -> u64 {
        self.version
    }

    fn is_deleted(&self) -> bool {
        self.deleted.is_some()
    }

    fn newest_stamp(&self) -> Hlc {
        let fields = self
            .title
            .stamp
            .max(self.description.stamp)
            .max(self.status.stamp);
        fields.max(self.created).max(self.deleted.unwrap_or(Hlc::ZERO))
    }

    fn updated_at(&self) -> Timestamp {
        self.updated_at
    }

    fn apply(current: &mut Option<Self>, operation: &Operation) -> Effect {
        let Change::Task { id, change } = &operation.change else {
            return Effect::Missing;
        };
        let stamp = operation.accepted_at;
        match (change, current) {
            (TaskChange::Create(_), Some(_)) => Effect::Superseded,
            (TaskChange::Create(new), empty @ None) => {
                *empty = Some(create(operation, id.0.into(), new));
                Effect::Applied
            }
            (_, None) => Effect::Missing,
            (_, Some(task)) if task.user_id != operation.user_id || task.id != *id => Effect::Missing,
            (_, Some(task)) if task.deleted.is_some() => Effect::Superseded,
            (_, Some(task))
                if operation
                    .precondition
                    .is_some_and(|version| version != task.version) =>
            {
                Effect::PreconditionFailed
            }
            (TaskChange::Update(patch), Some(task)) => {
                let changed = set(task, patch, stamp);
                task.touched(changed, stamp)
            }
            (TaskChange::Delete, Some(task)) => {
                task.deleted = Some(stamp);
                task.touched(true, stamp)
            }
        }
    }

    fn into_state(self) -> EntityState {
        EntityState::Task(self)
    }

    fn from_state(state: EntityState) -> Option<Self> {
        match state {
            EntityState::Task(task) => Some(task),
            _ => None,
        }
    }
}

impl Task {
    fn touched(&mut self, changed: bool, stamp: Hlc) -> Effect {
        if !changed {
            return Effect::Superseded;
        }
        self.version += 1;
        self.updated_at = self.updated_at.max(stamp.timestamp());
        Effect::Applied
    }
}

/// The fields of a new task are older than any write: two nodes may both have accepted the same create, with different
/// stamps, and an update acknowledged by the one must win over the create of the other, whichever drains first.
fn create(operation: &Operation, id: crate::id::TaskId, new: &NewTask) -> Task {
    let stamp = operation.accepted_at;
    Task {
        id,
        user_id: operation.user_id,
        title: Lww::new(new.title.clone(), Hlc::ZERO),
        description: Lww::new(new.description.clone(), Hlc::ZERO),
        status: Lww::new(new.status, Hlc::ZERO),
        created: stamp,
        deleted: None,
        version: 1,
        updated_at: stamp.timestamp(),
    }
}

fn set(task: &mut Task, patch: &TaskPatch, stamp: Hlc) -> bool {
    let mut changed = false;
    if let Some(title) = &patch.title {
        changed |= task.title.set(title.clone(), stamp);
    }
    if let Some(description) = &patch.description {
        changed |= task.description.set(description.clone(), stamp);
    }
    if let Some(status) = patch.status {
        changed |= task.status.set(status, stamp);
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::NodeId;
    use crate::id::{OperationId, TaskId};
    use crate::task::{Description, TaskStatus, Title};
    use proptest::prelude::*;

    fn operation(at: (u64, u16), change: TaskChange) -> Operation {
        Operation::new(
            OperationId(Uuid::from_u128(u128::from(at.0) << 16 | u128::from(at.1))),
            UserId(Uuid::from_u128(1)),
            Change::Task {
                id: TaskId(Uuid::from_u128(2)),
                change,
            },
            Hlc {
                wall_ms: at.0,
                counter: at.1,
                node: NodeId(u64::from(at.1) % 3),
            },
        )
    }

    fn base() -> Option<Task> {
        let mut task = None;
        let new = NewTask {
            title: Title::parse("t").unwrap(),
            description: None,
            status: TaskStatus::Pending,
        };
        assert_eq!(
            Task::apply(&mut task, &operation((0, 1), TaskChange::Create(new))),
            Effect::Applied
        );
        task
    }

    fn change() -> impl Strategy<Value = TaskChange> {
        let patch = (
            proptest::option::of("[a-z]{1,4}"),
            proptest::option::of(proptest::option::of("[a-z]{0,4}")),
            proptest::option::of(0usize..4),
        );
        prop_oneof![
            9 => patch.prop_map(|(title, description, status)| TaskChange::Update(TaskPatch {
                title: title.map(|t| Title::parse(&t).unwrap()),
                description: description.map(|d| d.map(|d| Description::parse(&d).unwrap())),
                status: status.map(|s| TaskStatus::ALL[s]),
            })),
            1 => Just(TaskChange::Delete),
        ]
    }

    fn operations() -> impl Strategy<Value = Vec<Operation>> {
        proptest::collection::btree_map((1u64..50, any::<u16>()), change(), 1..12).prop_map(|all| {
            all.into_iter()
                .map(|(at, change)| operation(at, change))
                .collect()
        })
    }

    /// The fields and stamps, without what depends on how many operations won: version and update time.
    fn fields(task: &Option<Task>) -> impl PartialEq + std::fmt::Debug {
        let task = task.as_ref().unwrap();
        (
            task.title.clone(),
            task.description.clone(),
            task.status.clone(),
            task.deleted.is_some(),
        )
    }

    proptest! {
        #[test]
        fn without_deletes_every_order_of_arrival_ends_in_the_same_fields(
            (ordered, shuffled) in operations()
                .prop_map(|all| all.into_iter().filter(|o| o.kind() != crate::sync::OperationKind::Delete).collect::<Vec<_>>())
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
        ) {
            let (mut a, mut b) = (base(), base());
            for operation in &ordered { Task::apply(&mut a, operation); }
            for operation in &shuffled { Task::apply(&mut b, operation); }
            prop_assert_eq!(fields(&a), fields(&b));
        }

        #[test]
        fn a_delete_anywhere_in_any_order_wins_over_every_write(
            all in operations().prop_shuffle(), at in (1u64..50, any::<u16>()), place in any::<prop::sample::Index>()
        ) {
            let mut all = all;
            all.insert(place.index(all.len() + 1), operation(at, TaskChange::Delete));
            let mut task = base();
            for operation in &all { Task::apply(&mut task, operation); }
            prop_assert!(task.unwrap().deleted.is_some());
        }

        #[test]
        fn applying_twice_is_applying_once(all in operations(), again in any::<prop::sample::Index>()) {
            let mut task = base();
            for operation in &all { Task::apply(&mut task, operation); }
            let before = task.clone();
            let effect = Task::apply(&mut task, &all[again.index(all.len())]);
            prop_assert_eq!(effect, Effect::Superseded);
            prop_assert_eq!(task, before);
        }

        #[test]
        fn an_operation_survives_its_record(all in operations()) {
            for operation in all {
                let bytes = serde_json::to_vec(&operation).unwrap();
                prop_assert_eq!(serde_json::from_slice::<Operation>(&bytes).unwrap(), operation);
            }
        }
    }

    #[test]
    fn an_update_wins_over_the_create_that_another_node_accepted_later() {
        let new = NewTask {
            title: Title::parse("t").unwrap(),
            description: None,
            status: TaskStatus::Pending,
        };
        let mut task = None;
        Task::apply(&mut task, &operation((20, 0), TaskChange::Create(new)));
        let patch = TaskPatch {
            status: Some(TaskStatus::Completed),
            ..TaskPatch::default()
        };
        let effect = Task::apply(&mut task, &operation((10, 0), TaskChange::Update(patch)));
        assert_eq!(effect, Effect::Applied);
        assert_eq!(task.unwrap().status.value, TaskStatus::Completed);
    }

    #[test]
    fn a_precondition_on_another_version_changes_nothing() {
        let mut task = base();
        let mut delete = operation((9, 0), TaskChange::Delete);
        delete.precondition = Some(7);
        assert_eq!(Task::apply(&mut task, &delete), Effect::PreconditionFailed);
        assert_eq!(task, base());
    }

    #[test]
    fn another_users_task_is_missing() {
        let mut task = base();
        let mut delete = operation((9, 0), TaskChange::Delete);
        delete.user_id = UserId(Uuid::from_u128(99));
        assert_eq!(Task::apply(&mut task, &delete), Effect::Missing);
    }
}
