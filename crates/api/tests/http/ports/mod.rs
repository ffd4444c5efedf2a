//! Ports in memory. One `Memory` stands for Postgres, the cache, the buffer, Redis and the token verifier; switches turn
//! parts of it off.

mod auth;
mod chat;
mod stream;

use async_trait::async_trait;
use gravity_domain::chat::UserEvent;
use gravity_domain::clock::Timestamp;
use gravity_domain::error::StoreError;
use gravity_domain::id::{OperationId, SessionId, TaskId, UserId};
use gravity_domain::page::PageKey;
use gravity_domain::profile::Profile;
use gravity_domain::sync::ports::{
    AppliedListener, Breaker, DeadLetters, EntityCache, EntityStore, OperationStore, WriteBuffer,
};
use gravity_domain::sync::{
    Applied, AppliedRecord, BufferError, BufferState, BufferStatus, Change, DeadLetter, Effect, Entity,
    EntityKind, EntityState, Found, Operation, Pending, Verdict,
};
use gravity_domain::task::{KnownPage, Task, TaskCache, TaskFilter, TaskStore};
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use uuid::Uuid;

pub(crate) const ALICE: UserId = UserId(Uuid::from_u128(0xa));
pub(crate) const BOB: UserId = UserId(Uuid::from_u128(0xb));
pub(crate) const ROOT: UserId = UserId(Uuid::from_u128(0xc));
pub(crate) const SESSION: SessionId = SessionId(Uuid::from_u128(0x5e));

#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) postgres_down: AtomicBool,
    pub(crate) sessions_down: AtomicBool,
    pub(crate) buffer_full: AtomicBool,
    pub(crate) buffer_broken: AtomicBool,
    pub(crate) rejects: AtomicBool,
    pub(crate) calls_left: AtomicU32,
    pub(crate) blocked: AtomicBool,
    pub(crate) refusals: AtomicU32,
    pub(crate) tasks: Mutex<BTreeMap<Uuid, Task>>,
    pub(crate) profiles: Mutex<HashMap<Uuid, Profile>>,
    pub(crate) records: Mutex<HashMap<OperationId, AppliedRecord>>,
    pub(crate) known: Mutex<HashMap<Uuid, Task>>,
    pub(crate) known_profiles: Mutex<HashMap<Uuid, Profile>>,
    pub(crate) pending: Mutex<Vec<Operation>>,
    pub(crate) dead: Mutex<BTreeMap<OperationId, DeadLetter>>,
    pub(crate) streams: Mutex<stream::Streams>,
    pub(crate) chats: Mutex<chat::Chats>,
    pub(crate) pages_loaded: AtomicU32,
    pub(crate) purged: AtomicBool,
}

fn on(switch: &AtomicBool) -> bool {
    switch.load(Ordering::SeqCst)
}

impl Memory {
    fn postgres(&self) -> Result<(), StoreError> {
        if on(&self.postgres_down) {
            return Err(StoreError::unavailable("connect"));
        }
        if on(&self.rejects) {
            return Err(StoreError::Rejected {
                reason: "check_violation (secret)".into(),
                source: None,
            });
        }
        Ok(())
    }

    fn sessions(&self) -> Result<(), StoreError> {
        if on(&self.sessions_down) {
            Err(StoreError::unavailable("connect"))
        } else {
            Ok(())
        }
    }

    fn buffer(&self) -> Result<(), BufferError> {
        if on(&self.buffer_broken) {
            Err(BufferError::Unavailable("locked by /secret".into()))
        } else {
            Ok(())
        }
    }

    fn effect(&self, operation: &Operation) -> Verdict {
        match &operation.change {
            Change::Profile(_) => {
                let mut rows = self.profiles.lock().unwrap();
                verdict(rows.get(&operation.entity_id()).cloned(), operation, |row| {
                    rows.insert(row.id.0, row);
                })
            }
            Change::Task { .. } => {
                let mut rows = self.tasks.lock().unwrap();
                let row = rows
                    .get(&operation.entity_id())
                    .filter(|task| task.deleted.is_none())
                    .cloned();
                verdict(row, operation, |row| {
                    rows.insert(row.id.0, row);
                })
            }
            Change::StreamAction(action) => self.streams.lock().unwrap().act(operation, action),
            Change::Message { .. } | Change::ReadMark(_) | Change::Block(_) => {
                self.chats.lock().unwrap().apply(operation)
            }
        }
    }
}

fn verdict<E: Entity>(row: Option<E>, operation: &Operation, save: impl FnOnce(E)) -> Verdict {
    let mut current = row;
    match E::apply(&mut current, operation) {
        Effect::Applied => {
            let entity = current.expect("applied");
            save(entity.clone());
            Verdict::Applied(Applied {
                superseded: false,
                state: entity.into_state(),
            })
        }
        Effect::Missing => Verdict::Missing,
        Effect::PreconditionFailed => Verdict::PreconditionFailed {
            current: current.expect("there").version(),
        },
        Effect::Superseded => Verdict::Late {
            newest: current.expect("there").newest_stamp(),
        },
    }
}

#[async_trait]
impl OperationStore for Memory {
    async fn apply(&self, operation: &Operation) -> Result<Verdict, StoreError> {
        self.postgres()?;
        if let Some(record) = self.records.lock().unwrap().get(&operation.id) {
            return Ok(Verdict::Duplicate(record.clone()));
        }
        let verdict = self.effect(operation);
        if let Verdict::Applied(applied) = &verdict {
            let answer = operation
                .replay
                .as_ref()
                .map(|_| serde_json::to_value(&applied.state).unwrap());
            let record = AppliedRecord {
                id: operation.id,
                user_id: operation.user_id,
                entity: operation.entity(),
                entity_id: operation.entity_id(),
                kind: operation.kind(),
                accepted_at: operation.accepted_at,
                applied_at: operation.accepted_at.timestamp(),
                attempts: 1,
                superseded: false,
                fingerprint: operation.replay.as_ref().map(|replay| replay.fingerprint),
                buffered: false,
                answer,
            };
            self.records.lock().unwrap().insert(operation.id, record);
        }
        Ok(verdict)
    }

    async fn find(&self, user: UserId, id: OperationId) -> Result<Option<AppliedRecord>, StoreError> {
        self.postgres()?;
        Ok(self
            .records
            .lock()
            .unwrap()
            .get(&id)
            .filter(|record| record.user_id == user)
            .cloned())
    }
}

/// Its rows are all that is known.
impl AppliedListener for Memory {
    fn applied(&self, _: EntityState) {}
    fn already_applied(&self, _: &Operation) {}
    fn set_aside(&self, _: &Operation, _: &str, _: &[UserEvent]) {}
}

#[async_trait]
impl EntityStore<Task> for Memory {
    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<Task>, StoreError> {
        self.postgres()?;
        Ok(self
            .tasks
            .lock()
            .unwrap()
            .get(&id)
            .filter(|task| task.user_id == user)
            .cloned())
    }
}

#[async_trait]
impl EntityStore<Profile> for Memory {
    async fn find(&self, _: UserId, id: Uuid) -> Result<Option<Profile>, StoreError> {
        self.postgres()?;
        Ok(self.profiles.lock().unwrap().get(&id).cloned())
    }
}

fn listed<'a>(
    tasks: impl Iterator<Item = &'a Task>,
    user: UserId,
    filter: TaskFilter,
    after: Option<PageKey>,
    limit: usize,
) -> Vec<Task> {
    let shown = |task: &&Task| {
        task.user_id == user && filter.shows(task) && after.is_none_or(|after| task.page_key() < after)
    };
    let mut found: Vec<Task> = tasks.filter(shown).cloned().collect();
    found.sort_by_key(|task| std::cmp::Reverse(task.page_key()));
    found.truncate(limit);
    found
}

#[async_trait]
impl TaskStore for Memory {
    async fn find_many(&self, user: UserId, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        self.postgres()?;
        let tasks = self.tasks.lock().unwrap();
        let found = ids.iter().filter_map(|id| tasks.get(&id.0));
        Ok(found.filter(|task| task.user_id == user).cloned().collect())
    }

    async fn list(
        &self,
        user: UserId,
        filter: TaskFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Result<Vec<Task>, StoreError> {
        self.postgres()?;
        Ok(listed(
            self.tasks.lock().unwrap().values(),
            user,
            filter,
            after,
            limit,
        ))
    }
}

impl EntityCache<Task> for Memory {
    fn find(&self, user: UserId, id: Uuid) -> Found<Task> {
        let known = self.known.lock().unwrap();
        known
            .get(&id)
            .filter(|task| task.user_id == user)
            .map_or(Found::Unknown, |task| Found::Known(task.clone()))
    }

    fn learn(&self, entity: Task) {
        self.known.lock().unwrap().insert(entity.id.0, entity);
    }

    fn mark(&self, _: UserId) -> u64 {
        0
    }

    fn learn_read(&self, entity: Task, _: u64) {
        self.learn(entity);
    }
}

impl TaskCache for Memory {
    fn learn_page(&self, _: UserId, _: u64, page: KnownPage) {
        page.tasks.into_iter().for_each(|task| self.learn(task));
    }

    fn list(
        &self,
        user: UserId,
        filter: TaskFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Option<Vec<Task>> {
        let known = self.known.lock().unwrap();
        known
            .values()
            .any(|task| task.user_id == user)
            .then(|| listed(known.values(), user, filter, after, limit))
    }

    fn knows_list(&self, _: UserId, _: usize) -> bool {
        true
    }
}

impl EntityCache<Profile> for Memory {
    fn find(&self, _: UserId, id: Uuid) -> Found<Profile> {
        let known = self.known_profiles.lock().unwrap();
        known
            .get(&id)
            .map_or(Found::Unknown, |profile| Found::Known(profile.clone()))
    }

    fn learn(&self, entity: Profile) {
        self.known_profiles.lock().unwrap().insert(entity.id.0, entity);
    }

    fn mark(&self, _: UserId) -> u64 {
        0
    }

    fn learn_read(&self, entity: Profile, _: u64) {
        self.learn(entity);
    }
}

impl Breaker for Memory {
    fn allows_writes(&self) -> bool {
        !on(&self.postgres_down)
    }

    fn allows_reads(&self) -> bool {
        !on(&self.postgres_down)
    }

    fn failed(&self, _: &StoreError) {}
}

#[async_trait]
impl WriteBuffer for Memory {
    async fn append(&self, operation: Operation) -> Result<(), BufferError> {
        self.buffer()?;
        if on(&self.buffer_full) {
            return Err(BufferError::Full);
        }
        self.pending.lock().unwrap().push(operation);
        Ok(())
    }

    async fn lane_length(&self, user: UserId) -> Result<u64, BufferError> {
        self.buffer()?;
        Ok(self
            .pending
            .lock()
            .unwrap()
            .iter()
            .filter(|operation| operation.user_id == user)
            .count() as u64)
    }

    async fn pending_on(
        &self,
        user: UserId,
        entity: EntityKind,
        id: Uuid,
    ) -> Result<Vec<Pending>, BufferError> {
        let of_kind = self.pending_of(user, entity).await?;
        Ok(of_kind
            .into_iter()
            .filter(|pending| pending.operation.entity_id() == id)
            .collect())
    }

    async fn pending_of(&self, user: UserId, entity: EntityKind) -> Result<Vec<Pending>, BufferError> {
        self.buffer()?;
        let pending = self.pending.lock().unwrap();
        let numbered = (1..).zip(pending.iter().cloned());
        let all = numbered.map(|(sequence, operation)| Pending { sequence, operation });
        Ok(all
            .filter(|p| p.operation.user_id == user && p.operation.entity() == entity)
            .collect())
    }

    async fn find(&self, id: OperationId) -> Result<Option<Pending>, BufferError> {
        self.buffer()?;
        let pending = self.pending.lock().unwrap();
        let found = pending.iter().find(|operation| operation.id == id).cloned();
        Ok(found.map(|operation| Pending {
            sequence: 1,
            operation,
        }))
    }

    async fn find_dead(&self, id: OperationId) -> Result<Option<DeadLetter>, BufferError> {
        self.buffer()?;
        Ok(self.dead.lock().unwrap().get(&id).cloned())
    }

    fn status(&self) -> BufferStatus {
        let size = self.pending.lock().unwrap().len() as u64;
        BufferStatus {
            state: if size == 0 {
                BufferState::Empty
            } else {
                BufferState::Processing
            },
            size,
            max_size: 1_000_000,
            bytes: 200 * size,
            oldest: (size > 0).then_some(Timestamp::from_millis(1_700_000_000_000)),
            dead_letters: self.dead.lock().unwrap().len() as u64,
            appended: size,
            drained: 0,
            blocks_writes: false,
        }
    }
}

#[async_trait]
impl DeadLetters for Memory {
    async fn list(&self, after: Option<OperationId>, limit: usize) -> Result<Vec<DeadLetter>, BufferError> {
        let dead = self.dead.lock().unwrap();
        let rest = dead
            .values()
            .filter(|letter| after.is_none_or(|after| letter.id > after));
        Ok(rest.take(limit).cloned().collect())
    }

    async fn retry(&self, id: OperationId) -> Result<DeadLetter, BufferError> {
        let mut dead = self.dead.lock().unwrap();
        let letter = dead.get(&id).ok_or(BufferError::NotFound)?;
        let operation = letter.operation.clone().ok_or(BufferError::Undecodable)?;
        self.pending.lock().unwrap().push(operation);
        dead.remove(&id).ok_or(BufferError::NotFound)
    }

    async fn discard(&self, id: OperationId) -> Result<DeadLetter, BufferError> {
        self.dead.lock().unwrap().remove(&id).ok_or(BufferError::NotFound)
    }
}
