//! The SQL is the domain's merge: whatever the operations, both leave the same rows and say the same.

use crate::fixture::{Author, Fixture, at, task};
use gravity_domain::clock::{Hlc, NodeId};
use gravity_domain::error::StoreError;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::profile::{AvatarUrl, Name, Profile, ProfilePatch};
use gravity_domain::sync::ports::{EntityStore, OperationStore, ReplayStore};
use gravity_domain::sync::{Applied, Change, Effect, Entity, Operation, Verdict};
use gravity_domain::task::{Description, NewTask, Task, TaskChange, TaskPatch, TaskStatus, Title};
use proptest::prelude::*;
use std::collections::HashMap;
use std::fmt::Debug;
use uuid::Uuid;

/// One of a few tasks or the profile, by a few users, with stamps and ids that collide.
#[derive(Debug, Clone)]
struct Draft {
    id: u8,
    entity: usize,
    stranger: bool,
    stamp: (u64, u16, u64),
    precondition: Option<u64>,
    change: DraftChange,
}

#[derive(Debug, Clone)]
enum DraftChange {
    Create(String),
    Update(Option<String>, Option<Option<String>>, Option<usize>),
    Delete,
    Profile(Option<Option<String>>, Option<Option<String>>),
}

fn change() -> impl Strategy<Value = DraftChange> {
    let text = || proptest::option::of(proptest::option::of("[a-z]{1,3}"));
    prop_oneof![
        3 => "[a-z]{1,3}".prop_map(DraftChange::Create),
        6 => (proptest::option::of("[a-z]{1,3}"), text(), proptest::option::of(0usize..4))
            .prop_map(|(title, description, status)| DraftChange::Update(title, description, status)),
        1 => Just(DraftChange::Delete),
        2 => (text(), text()).prop_map(|(name, url)| DraftChange::Profile(name, url)),
    ]
}

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let draft = (
        0u8..40,
        0usize..3,
        proptest::bool::weighted(0.1),
        (0u64..12, 0u16..2, 0u64..2),
        proptest::option::weighted(0.2, 1u64..5),
        change(),
    );
    let draft = draft.prop_map(|(id, entity, stranger, stamp, precondition, change)| Draft {
        id,
        entity,
        stranger,
        stamp,
        precondition,
        change,
    });
    proptest::collection::vec(draft, 1..30)
}

/// A world of its own for one case: fresh users and tasks.
struct World {
    owner: Author,
    stranger: Author,
    tasks: [Uuid; 3],
    ids: Vec<OperationId>,
    model_tasks: HashMap<Uuid, Option<Task>>,
    model_profile: HashMap<UserId, Option<Profile>>,
    recorded: HashMap<OperationId, bool>,
}

impl World {
    async fn new(fixture: &Fixture) -> Self {
        let (owner, stranger) = (Author::new(), Author::new());
        fixture.insert_user(owner.0).await;
        let profile = fixture.profiles.find(owner.0, owner.0.0).await.unwrap();
        assert!(profile.is_some());
        Self {
            owner,
            stranger,
            tasks: [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()],
            ids: (0..40).map(|_| OperationId::random()).collect(),
            model_tasks: HashMap::new(),
            model_profile: HashMap::from([(owner.0, profile)]),
            recorded: HashMap::new(),
        }
    }

    fn operation(&self, draft: &Draft) -> Operation {
        let id = self.tasks[draft.entity];
        let change = match &draft.change {
            DraftChange::Create(title) => task(
                id,
                TaskChange::Create(NewTask {
                    title: Title::parse(title).unwrap(),
                    description: None,
                    status: TaskStatus::InProgress,
                }),
            ),
            DraftChange::Update(title, description, status) => task(
                id,
                TaskChange::Update(TaskPatch {
                    title: title.as_ref().map(|text| Title::parse(text).unwrap()),
                    description: description
                        .as_ref()
                        .map(|text| text.as_ref().map(|text| Description::parse(text).unwrap())),
                    status: status.map(|index| TaskStatus::ALL[index]),
                }),
            ),
            DraftChange::Delete => task(id, TaskChange::Delete),
            DraftChange::Profile(name, url) => Change::Profile(ProfilePatch {
                name: name
                    .as_ref()
                    .map(|text| text.as_ref().map(|text| Name::parse(text).unwrap())),
                avatar_url: url.as_ref().map(|text| {
                    let url = |text| AvatarUrl::parse(&format!("https://x/{text}")).unwrap();
                    text.as_ref().map(url)
                }),
            }),
        };
        let author = if draft.stranger { self.stranger } else { self.owner };
        let mut operation = author.operation(at(0), change);
        operation.id = self.ids[usize::from(draft.id)];
        operation.accepted_at = Hlc {
            wall_ms: at(draft.stamp.0).wall_ms,
            counter: draft.stamp.1,
            node: NodeId(draft.stamp.2),
        };
        operation.precondition = draft.precondition;
        operation
    }

    /// What the domain says: the verdict's shape, without the content of records.
    fn expect(&mut self, operation: &Operation, direct: bool) -> Expected {
        if self.recorded.contains_key(&operation.id) {
            return Expected::Duplicate;
        }
        let expected = match &operation.change {
            Change::Profile(_) => fold(
                self.model_profile.entry(operation.user_id).or_default(),
                operation,
                direct,
            ),
            Change::Task { id, .. } => fold(self.model_tasks.entry(id.0).or_default(), operation, direct),
            Change::StreamAction(_) | Change::Message { .. } | Change::ReadMark(_) | Change::Block(_) => {
                unreachable!("drafts change profiles and tasks only")
            }
        };
        if let Expected::Applied(applied) = &expected {
            self.recorded.insert(operation.id, applied.superseded);
        }
        expected
    }
}

#[derive(Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "a test's")]
enum Expected {
    Applied(Applied),
    Duplicate,
    Missing,
    PreconditionFailed(u64),
    Late(Hlc),
    KeyReused,
}

fn fold<E: Entity>(current: &mut Option<E>, operation: &Operation, direct: bool) -> Expected {
    if direct && let Some(refused) = direct_rules(current.as_ref(), operation) {
        return refused;
    }
    let effect = E::apply(current, operation);
    match (effect, current) {
        (Effect::Applied | Effect::Superseded, Some(entity)) => Expected::Applied(Applied {
            superseded: effect == Effect::Superseded,
            state: entity.clone().into_state(),
        }),
        (Effect::PreconditionFailed, Some(entity)) => Expected::PreconditionFailed(entity.version()),
        _ => Expected::Missing,
    }
}

/// What only direct writes are refused for.
fn direct_rules<E: Entity>(current: Option<&E>, operation: &Operation) -> Option<Expected> {
    let entity = current?;
    if let Change::Task {
        change: TaskChange::Create(_),
        ..
    } = operation.change
    {
        return Some(Expected::KeyReused);
    }
    if entity.owner() != operation.user_id || entity.is_deleted() {
        return Some(Expected::Missing);
    }
    if let Some(version) = operation.precondition
        && version != entity.version()
    {
        return Some(Expected::PreconditionFailed(entity.version()));
    }
    let newest = entity.newest_stamp();
    (newest >= operation.accepted_at).then_some(Expected::Late(newest))
}

fn seen(verdict: Verdict) -> Expected {
    match verdict {
        Verdict::Applied(applied) => Expected::Applied(applied),
        Verdict::Duplicate(_) => Expected::Duplicate,
        Verdict::Missing => Expected::Missing,
        Verdict::PreconditionFailed { current } => Expected::PreconditionFailed(current),
        Verdict::Late { newest } => Expected::Late(newest),
        Verdict::Refused(refused) => unreachable!("{refused:?}"),
    }
}

fn same<T: PartialEq + Debug>(seen: &T, expected: &T, why: &dyn Debug) -> Result<(), TestCaseError> {
    prop_assert_eq!(seen, expected, "{:?}", why);
    Ok(())
}

async fn rows_are_the_models(fixture: &Fixture, world: &World) -> Result<(), TestCaseError> {
    for (id, task) in &world.model_tasks {
        let owner = task.as_ref().map_or(world.owner.0, |task| task.user_id);
        let row = fixture.tasks.find(owner, *id).await.unwrap();
        same(&row, task, &"the row of a task")?;
    }
    let profile = fixture
        .profiles
        .find(world.owner.0, world.owner.0.0)
        .await
        .unwrap();
    same(
        &profile,
        &world.model_profile[&world.owner.0],
        &"the row of the profile",
    )?;
    for (id, superseded) in &world.recorded {
        let client = &fixture.operations;
        let record = match client.find(world.owner.0, *id).await.unwrap() {
            Some(record) => Some(record),
            None => client.find(world.stranger.0, *id).await.unwrap(),
        };
        same(
            &record.map(|record| record.superseded),
            &Some(*superseded),
            &"the record",
        )?;
    }
    Ok(())
}

fn run<F>(case: impl Fn(Vec<Draft>, usize) -> F)
where
    F: AsyncFnOnce(&Fixture) -> Result<(), TestCaseError>,
{
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let fixture = runtime.block_on(Fixture::new());
    let config = ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(drafts in drafts(), batch in 1usize..12)| {
        runtime.block_on(case(drafts, batch)(&fixture))?;
    });
}

/// No id twice in a batch, as the write buffer has it.
fn batches(operations: &[Operation], size: usize) -> Vec<Vec<Operation>> {
    let mut batches: Vec<Vec<Operation>> = vec![Vec::new()];
    for operation in operations {
        let last = batches.last().unwrap();
        if last.len() == size || last.iter().any(|other| other.id == operation.id) {
            batches.push(Vec::new());
        }
        batches.last_mut().unwrap().push(operation.clone());
    }
    batches
}

#[test]
fn replaying_any_operations_leaves_the_rows_that_folding_them_does() {
    run(|drafts, batch| {
        async move |fixture: &Fixture| {
            let mut world = World::new(fixture).await;
            let operations: Vec<_> = drafts.iter().map(|draft| world.operation(draft)).collect();
            for batch in &batches(&operations, batch) {
                let verdicts = fixture.operations.replay(batch).await.unwrap();
                for (operation, verdict) in batch.iter().zip(verdicts) {
                    let expected = world.expect(operation, false);
                    same(&seen(verdict), &expected, operation)?;
                }
            }
            rows_are_the_models(fixture, &world).await
        }
    });
}

#[test]
fn writing_any_operations_directly_leaves_the_rows_that_the_rules_say() {
    run(|drafts, _| {
        async move |fixture: &Fixture| {
            let mut world = World::new(fixture).await;
            for draft in &drafts {
                let operation = world.operation(draft);
                let answer = match fixture.operations.apply(&operation).await {
                    Ok(verdict) => seen(verdict),
                    Err(StoreError::Rejected { reason, .. }) if reason == "idempotency_key_reused" => {
                        Expected::KeyReused
                    }
                    Err(error) => panic!("{error:?}"),
                };
                let expected = world.expect(&operation, true);
                same(&answer, &expected, &operation)?;
            }
            rows_are_the_models(fixture, &world).await
        }
    });
}
