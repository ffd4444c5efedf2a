//! A buffer and a store in memory, with faults at random or by plan.

use super::super::*;
use async_trait::async_trait;
use gravity_domain::chat::UserEvent;
use gravity_domain::clock::{Hlc, NodeId, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{OperationId, TaskId, UserId};
use gravity_domain::sync::{
    Applied, AppliedRecord, BatchError, BufferError, Change, Effect, Entity, EntityState, Entry, Fingerprint,
    Operation, Parcel, Priority, Replay, Verdict,
};
use gravity_domain::task::{NewTask, Task, TaskChange, TaskPatch, Title};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often things go wrong, 0..1.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Odds {
    pub(super) store_away: f64,
    pub(super) answer_lost: f64,
    pub(super) peek: f64,
    pub(super) remove: f64,
    pub(super) bury: f64,
}

pub(super) struct Dice {
    odds: Mutex<Odds>,
    random: Mutex<StdRng>,
}

impl Dice {
    pub(super) fn new(seed: u64, odds: Odds) -> Arc<Self> {
        Arc::new(Self {
            odds: Mutex::new(odds),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        })
    }

    fn falls(&self, which: impl Fn(&Odds) -> f64) -> bool {
        let odds = which(&lock(&self.odds));
        odds > 0.0 && lock(&self.random).random_bool(odds)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) id: Option<OperationId>,
    pub(super) sequence: u64,
    pub(super) attempts: u32,
    pub(super) reason: String,
}

#[derive(Default)]
struct Records {
    waiting: BTreeMap<Parcel, Result<Operation, String>>,
    next: u64,
    letters: Vec<Letter>,
}

pub(super) struct FakeBuffer {
    records: Mutex<Records>,
    appended: Notify,
    dice: Arc<Dice>,
    pub(super) peeked: AtomicU64,
    /// Panics to come.
    pub(super) panics: AtomicU64,
    pub(super) trace: Trace,
}

/// What happened, in order, over all fakes.
pub(super) type Trace = Arc<Mutex<Vec<String>>>;

impl FakeBuffer {
    /// Appends to the operation's lane, behind what is in it whatever the priorities.
    pub(super) fn append(&self, operation: Operation) {
        let mut records = lock(&self.records);
        let lane = records
            .waiting
            .iter()
            .filter(|(_, record)| {
                record
                    .as_ref()
                    .is_ok_and(|waiting| waiting.user_id == operation.user_id)
            })
            .map(|(parcel, _)| parcel.rank)
            .max();
        let rank = (5 - operation.priority.get()).max(lane.unwrap_or(0));
        records.push(rank, Ok(operation));
        drop(records);
        self.appended.notify_one();
    }

    pub(super) fn append_broken(&self, reason: &str) {
        lock(&self.records).push(2, Err(reason.to_owned()));
        self.appended.notify_one();
    }

    pub(super) fn len(&self) -> usize {
        lock(&self.records).waiting.len()
    }

    pub(super) fn letters(&self) -> Vec<Letter> {
        lock(&self.records).letters.clone()
    }
}

impl Records {
    fn push(&mut self, rank: u8, record: Result<Operation, String>) {
        self.next += 1;
        let sequence = self.next;
        self.waiting.insert(Parcel { rank, sequence }, record);
    }
}

fn broken() -> BufferError {
    BufferError::Unavailable("by chance".into())
}

#[async_trait]
impl DrainBuffer for FakeBuffer {
    async fn peek(&self, after: Option<Parcel>, limit: usize) -> Result<Vec<Entry>, BufferError> {
        if self.panics.load(Ordering::SeqCst) > 0 {
            self.panics.fetch_sub(1, Ordering::SeqCst);
            panic!("the buffer's panic of this test");
        }
        if self.dice.falls(|odds| odds.peek) {
            return Err(broken());
        }
        let records = lock(&self.records);
        let entries: Vec<Entry> = records
            .waiting
            .iter()
            .filter(|(parcel, _)| after.is_none_or(|after| **parcel > after))
            .take(limit)
            .map(|(parcel, record)| Entry {
                parcel: *parcel,
                operation: record.clone(),
            })
            .collect();
        self.peeked.fetch_add(entries.len() as u64, Ordering::Relaxed);
        Ok(entries)
    }

    async fn remove(&self, parcels: Vec<Parcel>) -> Result<(), BufferError> {
        tokio::time::sleep(Duration::from_millis(2)).await;
        if self.dice.falls(|odds| odds.remove) {
            return Err(broken());
        }
        let mut records = lock(&self.records);
        for parcel in parcels {
            if let Some(Ok(operation)) = records.waiting.remove(&parcel) {
                lock(&self.trace).push(format!("removed {}", operation.id));
            }
        }
        Ok(())
    }

    async fn bury(&self, parcel: Parcel, attempts: u32, reason: String) -> Result<(), BufferError> {
        if self.dice.falls(|odds| odds.bury) {
            return Err(broken());
        }
        let mut records = lock(&self.records);
        let record = records.waiting.remove(&parcel).expect("buried once");
        records.letters.push(Letter {
            id: record.ok().map(|operation| operation.id),
            sequence: parcel.sequence,
            attempts,
            reason,
        });
        Ok(())
    }

    async fn appended(&self) {
        self.appended.notified().await;
    }
}

#[derive(Default)]
struct Rows {
    tasks: HashMap<Uuid, Task>,
    applied: HashMap<OperationId, AppliedRecord>,
    log: Vec<Operation>,
    transactions: Vec<usize>,
}

#[derive(Default)]
pub(super) struct Plan {
    /// Refused whenever tried.
    pub(super) poison: HashSet<OperationId>,
    /// Refused this many times.
    pub(super) refusals: HashMap<OperationId, u32>,
    /// The store is never ready for it.
    pub(super) unwelcome: HashSet<OperationId>,
    /// Makes the store panic.
    pub(super) panics: HashSet<OperationId>,
    /// Transient failures to come, whatever the odds.
    pub(super) away: u32,
}

pub(super) struct FakeStore {
    rows: Mutex<Rows>,
    pub(super) plan: Mutex<Plan>,
    dice: Arc<Dice>,
}

impl FakeStore {
    /// What took effect, in order.
    pub(super) fn log(&self) -> Vec<OperationId> {
        lock(&self.rows)
            .log
            .iter()
            .map(|operation| operation.id)
            .collect()
    }

    /// The sizes of the transactions tried.
    pub(super) fn transactions(&self) -> Vec<usize> {
        lock(&self.rows).transactions.clone()
    }

    /// As if another node had, or this one without hearing of it.
    pub(super) fn apply_before(&self, operation: &Operation) {
        let mut rows = lock(&self.rows);
        let verdict = rows.apply(operation);
        assert!(matches!(verdict, Verdict::Applied(_)), "{verdict:?}");
    }
}

impl Rows {
    fn apply(&mut self, operation: &Operation) -> Verdict {
        if let Some(record) = self.applied.get(&operation.id) {
            return Verdict::Duplicate(record.clone());
        }
        let mut row = self.tasks.get(&operation.entity_id()).cloned();
        let effect = Task::apply(&mut row, operation);
        match (effect, row) {
            (Effect::Applied | Effect::Superseded, Some(task)) => {
                self.tasks.insert(operation.entity_id(), task.clone());
                self.log.push(operation.clone());
                let superseded = effect == Effect::Superseded;
                self.applied
                    .insert(operation.id, remembered(operation, superseded));
                Verdict::Applied(Applied {
                    superseded,
                    state: task.into_state(),
                })
            }
            (Effect::PreconditionFailed, Some(task)) => Verdict::PreconditionFailed {
                current: task.version,
            },
            _ => Verdict::Missing,
        }
    }
}

fn remembered(operation: &Operation, superseded: bool) -> AppliedRecord {
    AppliedRecord {
        id: operation.id,
        user_id: operation.user_id,
        entity: operation.entity(),
        entity_id: operation.entity_id(),
        kind: operation.kind(),
        accepted_at: operation.accepted_at,
        applied_at: operation.accepted_at.timestamp(),
        attempts: 1,
        superseded,
        fingerprint: operation.replay.as_ref().map(|replay| replay.fingerprint),
        buffered: true,
        answer: None,
    }
}

#[async_trait]
impl ReplayStore for FakeStore {
    async fn replay(&self, operations: &[Operation]) -> Result<Vec<Verdict>, BatchError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut rows = lock(&self.rows);
        rows.transactions.push(operations.len());
        let mut plan = lock(&self.plan);
        let planned = plan.away > 0;
        plan.away = plan.away.saturating_sub(1);
        if planned || self.dice.falls(|odds| odds.store_away) {
            return Err(BatchError::Transient(StoreError::unavailable("closed")));
        }
        for (index, operation) in operations.iter().enumerate() {
            assert!(
                !plan.panics.contains(&operation.id),
                "the store's panic of this test"
            );
            if rows.applied.contains_key(&operation.id) {
                continue;
            }
            if plan.unwelcome.contains(&operation.id) {
                return Err(BatchError::Transient(busy()));
            }
            let again = plan.refusals.get_mut(&operation.id).filter(|left| **left > 0);
            let refused = again.map(|left| *left -= 1).is_some();
            if refused || plan.poison.contains(&operation.id) {
                let reason = "rejected: check_violation".to_owned();
                return Err(BatchError::Operation { index, reason });
            }
        }
        let verdicts = operations.iter().map(|operation| rows.apply(operation)).collect();
        if self.dice.falls(|odds| odds.answer_lost) {
            return Err(BatchError::Transient(StoreError::unavailable("closed")));
        }
        Ok(verdicts)
    }
}

fn busy() -> StoreError {
    StoreError::Busy {
        reason: "serialization",
        source: None,
    }
}

pub(super) struct FakeBreaker {
    pub(super) open: AtomicBool,
    pub(super) failures: AtomicU64,
}

impl Breaker for FakeBreaker {
    fn allows_writes(&self) -> bool {
        !self.open.load(Ordering::SeqCst)
    }
    fn allows_reads(&self) -> bool {
        self.allows_writes()
    }
    fn failed(&self, _: &StoreError) {
        self.failures.fetch_add(1, Ordering::SeqCst);
    }
}

pub(super) struct FakeListener {
    trace: Trace,
    pub(super) set_aside: Mutex<Vec<(OperationId, String)>>,
    pub(super) panics: AtomicBool,
}

impl AppliedListener for FakeListener {
    fn applied(&self, state: EntityState) {
        let EntityState::Task(task) = state else {
            panic!("only tasks here")
        };
        lock(&self.trace).push(format!("applied {}", task.id.0));
        assert!(
            !self.panics.load(Ordering::SeqCst),
            "the listener's panic of this test"
        );
    }
    fn already_applied(&self, operation: &Operation) {
        lock(&self.trace).push(format!("already {}", operation.id));
    }
    fn set_aside(&self, operation: &Operation, reason: &str, _: &[UserEvent]) {
        self.set_aside
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((operation.id, reason.to_owned()));
    }
}

pub(super) struct SetClock(pub(super) AtomicI64);

impl WallClock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// The moment at which the tests begin, in milliseconds.
pub(super) const BEGINNING: i64 = 1_700_000_000_000;
pub(super) const POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 3,
    retention_ms: 86_400_000,
};

/// All ports of a processor, faked.
pub(super) struct Stage {
    pub(super) buffer: Arc<FakeBuffer>,
    pub(super) store: Arc<FakeStore>,
    pub(super) breaker: Arc<FakeBreaker>,
    pub(super) listener: Arc<FakeListener>,
    pub(super) clock: Arc<SetClock>,
    pub(super) monitor: watch::Sender<StoreState>,
    pub(super) trace: Trace,
    stamps: AtomicU64,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::with(Dice::new(0, Odds::default()))
    }

    pub(super) fn with(dice: Arc<Dice>) -> Self {
        let trace = Trace::default();
        Self {
            buffer: Arc::new(FakeBuffer {
                records: Mutex::default(),
                appended: Notify::new(),
                dice: Arc::clone(&dice),
                peeked: AtomicU64::new(0),
                panics: AtomicU64::new(0),
                trace: Arc::clone(&trace),
            }),
            store: Arc::new(FakeStore {
                rows: Mutex::default(),
                plan: Mutex::default(),
                dice,
            }),
            breaker: Arc::new(FakeBreaker {
                open: AtomicBool::new(false),
                failures: AtomicU64::new(0),
            }),
            listener: Arc::new(FakeListener {
                trace: Arc::clone(&trace),
                set_aside: Mutex::default(),
                panics: AtomicBool::new(false),
            }),
            clock: Arc::new(SetClock(AtomicI64::new(BEGINNING))),
            monitor: watch::Sender::new(down()),
            trace,
            stamps: AtomicU64::new(BEGINNING.unsigned_abs()),
        }
    }

    pub(super) fn start(&self, settings: ProcessorSettings) -> ProcessorHandle {
        let ports = ProcessorPorts {
            buffer: Arc::clone(&self.buffer) as Arc<dyn DrainBuffer>,
            store: Arc::clone(&self.store) as Arc<dyn ReplayStore>,
            breaker: Arc::clone(&self.breaker) as Arc<dyn Breaker>,
            listener: Arc::clone(&self.listener) as Arc<dyn AppliedListener>,
            clock: Arc::clone(&self.clock) as Arc<dyn WallClock>,
            monitor: self.monitor.subscribe(),
        };
        Processor::spawn(ports, POLICY, settings)
    }

    /// A task of its own for `user`, appended.
    pub(super) fn create(&self, user: UserId) -> Operation {
        let operation = self.operation(user, None, 3);
        self.buffer.append(operation.clone());
        operation
    }

    /// Creates a task, or renames the given one; not appended.
    pub(super) fn operation(&self, user: UserId, task: Option<TaskId>, priority: u8) -> Operation {
        let title = Title::parse("a title").unwrap();
        let id = OperationId::random();
        let change = match task {
            None => TaskChange::Create(NewTask {
                title,
                description: None,
                status: Default::default(),
            }),
            Some(_) => TaskChange::Update(TaskPatch {
                title: Some(title),
                ..TaskPatch::default()
            }),
        };
        Operation {
            priority: Priority::new(priority).unwrap(),
            ..Operation::new(
                id,
                user,
                Change::Task {
                    id: task.unwrap_or_else(|| TaskId(id.created_entity())),
                    change,
                },
                Hlc {
                    wall_ms: self.stamps.fetch_add(1, Ordering::SeqCst),
                    counter: 0,
                    node: NodeId(1),
                },
            )
        }
    }

    pub(super) async fn emptied(&self, handle: &ProcessorHandle) {
        let deadline = Instant::now() + Duration::from_secs(86_400);
        assert!(handle.drain_now(deadline).await, "{} left", self.buffer.len());
        assert_eq!(self.buffer.len(), 0);
    }

    pub(super) fn turns(&self, condition: crate::monitor::Condition) {
        self.breaker.open.store(!condition.is_up(), Ordering::SeqCst);
        self.monitor.send_modify(|state| state.condition = condition);
    }
}

fn down() -> StoreState {
    StoreState {
        condition: crate::monitor::Condition::Down { reason: "starting" },
        last_check: None,
        since: Timestamp::EPOCH,
    }
}

pub(super) fn keyed(operation: &mut Operation, body: &str) {
    let body = serde_json::Value::String(body.to_owned());
    operation.replay = Some(Replay {
        fingerprint: Fingerprint::of("POST", "/api/v1/tasks", Some(&body)),
        accepted: None,
    });
}
