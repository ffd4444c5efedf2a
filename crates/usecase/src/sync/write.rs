//! The write path: Postgres, or the durable buffer.
//!
//! 1. The user's turn: one write at a time per user on this node (see `lanes.rs`).
//! 2. A retry with a known `Idempotency-Key` gets its first answer.
//! 3. If the breaker is closed and the user's lane is empty, the operation is applied to Postgres, its id in the same
//!    transaction. A row whose stamps are ahead moves this node's clock, and the operation is stamped again.
//! 4. If Postgres is away or the answer was lost, or an older write of the user waits in the lane, the very same
//!    operation is appended to the buffer; only when that is on disk is the write acknowledged. Existence, ownership and
//!    version are then judged on what is known, and what is not known is refused, never accepted blindly.
//!
//! A write runs in a task of its own: a client that goes away half-way leaves no statement without a reader and no
//! lane half-entered. All of it shares the request's deadline: the wait for the turn and every call to Postgres end with
//! four fifths of it, and the rest is for the append. When that has not come back in time the answer is 503; the task goes
//! on and keeps the turn until it knows, so that no later write of the user overtakes.

use super::lanes::Lanes;
use super::overlay::{EntityReader, Source};
use super::recent::{Answer, Recent};
use gravity_domain::clock::{Hlc, HybridClock};
use gravity_domain::deadline::{self, Deadline};
use gravity_domain::error::StoreError;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::ports::WritePorts;
use gravity_domain::sync::{
    AppliedRecord, Change, Effect, Entity, EntityState, Fingerprint, Found, Operation, OperationKind,
    ReadError, Replay, Verdict, WriteError, WriteOutcome,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How often a direct write is stamped again because the row's stamps were ahead.
const MAX_RESTAMPS: usize = 3;

/// What a client's `Idempotency-Key` binds together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The header: 1..=255 visible characters.
    pub key: String,
    /// Of method, path and body.
    pub fingerprint: Fingerprint,
}

/// Who writes, and on which conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteRequest {
    /// The owner of the entity.
    pub user: UserId,
    /// Set when the client may retry.
    pub key: Option<IdempotencyKey>,
    /// `If-Match`: the version the entity must have.
    pub expected_version: Option<u64>,
    /// `Gravity-Durability: committed`: no buffering.
    pub must_commit: bool,
}

/// An acknowledged write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<E> {
    /// The entity as it is (committed) or will be (buffered); a tombstone after a delete.
    pub outcome: WriteOutcome<E>,
    /// The operation.
    pub operation_id: OperationId,
    /// True when this is the first answer to an earlier request with the same key.
    pub replayed: bool,
}

/// Settings of the write path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteSettings {
    /// How long a write may take that is not made for a request with a deadline of its own.
    pub deadline: Duration,
}

/// Writes operations. Shared by every write use case.
pub struct Writer {
    ports: WritePorts,
    clock: Arc<HybridClock>,
    settings: WriteSettings,
    lanes: Lanes,
    recent: Recent,
}

/// What became of the direct attempt.
enum Direct<E> {
    Answered(Result<Written<E>, WriteError>),
    /// Not applied, or nobody knows: the same operation goes to the buffer.
    Undecided,
}

/// What Postgres says of an operation that is to be buffered.
enum Recorded {
    Here(Box<AppliedRecord>),
    No,
    /// It cannot be asked.
    Unknown,
}

impl Writer {
    /// A writer over these ports.
    pub fn new(ports: WritePorts, clock: Arc<HybridClock>, settings: WriteSettings) -> Self {
        Self {
            ports,
            clock,
            settings,
            lanes: Lanes::new(),
            recent: Recent::new(),
        }
    }

    /// Writes `change`, which may depend on the operation's id (a created entity's id derives from it).
    ///
    /// # Errors
    /// See [`WriteError`]; nothing was acknowledged.
    pub async fn write<E: Entity>(
        self: &Arc<Self>,
        request: WriteRequest,
        reader: &Arc<EntityReader<E>>,
        change: impl FnOnce(OperationId) -> Change,
    ) -> Result<Written<E>, WriteError> {
        let id = match &request.key {
            Some(key) => OperationId::for_key(request.user, &key.key),
            None => OperationId::random(),
        };
        let operation = Operation {
            precondition: request.expected_version,
            replay: request.key.as_ref().map(|key| Replay {
                fingerprint: key.fingerprint,
                accepted: None,
            }),
            ..Operation::new(id, request.user, change(id), Hlc::ZERO)
        };
        let (writer, reader) = (Arc::clone(self), Arc::clone(reader));
        let deadline = deadline::current()
            .unwrap_or_else(|| Deadline::of(Instant::now().into_std(), self.settings.deadline));
        let task = tokio::spawn(deadline::within(deadline, async move {
            let result = writer
                .take_turn(operation, &reader, request.must_commit, deadline)
                .await;
            count(&result);
            result
        }));
        match timeout_at(Instant::from_std(deadline.for_answer()), task).await {
            Ok(Ok(result)) => result,
            Ok(Err(failure)) if failure.is_panic() => std::panic::resume_unwind(failure.into_panic()),
            Ok(Err(_)) => Err(WriteError::Unknown),
            Err(_) => {
                metrics::counter!("gravity_writes_late_total").increment(1);
                Err(WriteError::Unknown)
            }
        }
    }

    async fn take_turn<E: Entity>(
        &self,
        mut operation: Operation,
        reader: &EntityReader<E>,
        must_commit: bool,
        deadline: Deadline,
    ) -> Result<Written<E>, WriteError> {
        let patience = Instant::from_std(deadline.for_stores());
        let turn = self.lanes.enter(operation.user_id, patience).await;
        let Some(_turn) = turn else {
            return Err(WriteError::Unknown);
        };
        if let Some(fingerprint) = operation.replay.as_ref().map(|replay| replay.fingerprint)
            && let Some(answer) = self.first_answer(operation.id, fingerprint).await?
        {
            return Ok(answer);
        }
        let mut source = Source::StoreFirst;
        // A lane that cannot be looked into may hold what this write must not overtake, what it changes, or its own first
        // attempt: nothing can be said then.
        let is_lane_empty = self.ports.buffer.lane_length(operation.user_id).await? == 0;
        if is_lane_empty && self.ports.breaker.allows_writes() {
            match self.commit(&mut operation, reader).await {
                Direct::Answered(result) => return result,
                Direct::Undecided => source = Source::CacheOnly,
            }
        }
        if must_commit {
            return Err(WriteError::NotCommittable);
        }
        let is_new = match self.recorded(&operation, source).await {
            Recorded::Here(record) => return self.duplicate(&operation, *record, reader).await,
            Recorded::No => true,
            Recorded::Unknown => false,
        };
        match self.buffer(operation, reader, source).await {
            // It may have been committed after all, so what is known here is no answer.
            Err(
                WriteError::NotFound
                | WriteError::VersionMismatch { .. }
                | WriteError::KeyReused
                | WriteError::NotAllowed(_),
            ) if !is_new => Err(WriteError::Unknown),
            answered => answered,
        }
    }

    /// Whether an operation that is to be buffered has been committed before: a retry, whose first answer was lost with the
    /// process that would have given it. One without a key is new unless it was just tried.
    async fn recorded(&self, operation: &Operation, source: Source) -> Recorded {
        if source == Source::CacheOnly {
            return Recorded::Unknown;
        }
        if operation.replay.is_none() {
            return Recorded::No;
        }
        if !self.ports.breaker.allows_reads() {
            return Recorded::Unknown;
        }
        match self.ports.store.find(operation.user_id, operation.id).await {
            Ok(Some(record)) => Recorded::Here(Box::new(record)),
            Ok(None) => Recorded::No,
            Err(error) => {
                self.ports.breaker.failed(&error);
                Recorded::Unknown
            }
        }
    }

    /// The answer that an earlier request with the same key got, from memory or from the buffer. Postgres gives the
    /// older ones, as [`Verdict::Duplicate`].
    async fn first_answer<E: Entity>(
        &self,
        id: OperationId,
        fingerprint: Fingerprint,
    ) -> Result<Option<Written<E>>, WriteError> {
        if let Some(answer) = self.recent.find(id) {
            return replayed(
                id,
                fingerprint,
                Some(answer.fingerprint),
                answer.state.clone(),
                answer.buffered,
            )
            .map(Some);
        }
        let Some(Replay {
            fingerprint: first,
            accepted: Some(accepted),
        }) = self.kept(id).await?.and_then(|operation| operation.replay)
        else {
            return Ok(None);
        };
        let state = serde_json::from_value(accepted).map_err(|_| WriteError::KeyReused)?;
        replayed(id, fingerprint, Some(first), state, true).map(Some)
    }

    /// The operation as the buffer has it. One that an admin puts back meanwhile is seen by the second look.
    async fn kept(&self, id: OperationId) -> Result<Option<Operation>, WriteError> {
        let buffer = &self.ports.buffer;
        if let Some(pending) = buffer.find(id).await? {
            return Ok(Some(pending.operation));
        }
        if let Some(letter) = buffer.find_dead(id).await? {
            return Ok(letter.operation);
        }
        Ok(buffer.find(id).await?.map(|pending| pending.operation))
    }

    async fn commit<E: Entity>(&self, operation: &mut Operation, reader: &EntityReader<E>) -> Direct<E> {
        if let Found::Known(entity) = reader.cached(operation.user_id, operation.entity_id()) {
            self.observe(entity.newest_stamp());
        }
        for _ in 0..=MAX_RESTAMPS {
            operation.accepted_at = self.clock.stamp();
            match self.ports.store.apply(operation).await {
                Ok(Verdict::Late { newest }) => self.observe(newest),
                Ok(verdict) => return Direct::Answered(self.answered(operation, verdict, reader).await),
                Err(StoreError::Rejected { reason, .. }) if reason == "idempotency_key_reused" => {
                    return Direct::Answered(Err(WriteError::KeyReused));
                }
                // Another try of it is committed, and what that answered cannot be read now.
                Err(StoreError::Busy {
                    reason: "recorded", ..
                }) => {
                    return Direct::Answered(Err(WriteError::Unknown));
                }
                Err(error) if error.is_transient() => {
                    self.ports.breaker.failed(&error);
                    tracing::debug!(operation = %operation.id, reason = %error, "a direct write goes to the buffer");
                    return Direct::Undecided;
                }
                Err(error) => return Direct::Answered(Err(WriteError::Refused(error))),
            }
        }
        Direct::Undecided
    }

    async fn answered<E: Entity>(
        &self,
        operation: &Operation,
        verdict: Verdict,
        reader: &EntityReader<E>,
    ) -> Result<Written<E>, WriteError> {
        match verdict {
            Verdict::Applied(applied) => {
                self.remember(operation, &applied.state, false);
                let entity = E::from_state(applied.state).ok_or(WriteError::Unknown)?;
                reader.learn(entity.clone());
                Ok(Written {
                    outcome: WriteOutcome::Committed(entity),
                    operation_id: operation.id,
                    replayed: false,
                })
            }
            Verdict::Duplicate(record) => self.duplicate(operation, record, reader).await,
            Verdict::Missing => Err(WriteError::NotFound),
            Verdict::PreconditionFailed { current } => Err(WriteError::VersionMismatch { current }),
            Verdict::Refused(refused) => Err(WriteError::NotAllowed(refused.refusal)),
            Verdict::Late { .. } => Err(WriteError::Unknown),
        }
    }

    async fn duplicate<E: Entity>(
        &self,
        operation: &Operation,
        record: AppliedRecord,
        reader: &EntityReader<E>,
    ) -> Result<Written<E>, WriteError> {
        // Another node may have committed it, so that what is known here is older; after this answer it must not be seen.
        self.ports.known.already_applied(operation);
        if let (Some(replay), Some(answer)) = (&operation.replay, record.answer) {
            let state: EntityState = serde_json::from_value(answer).map_err(|_| WriteError::KeyReused)?;
            let written = replayed(
                operation.id,
                replay.fingerprint,
                record.fingerprint,
                state,
                record.buffered,
            )?;
            self.remember(
                operation,
                &E::into_state(written.outcome.clone().into_inner()),
                record.buffered,
            );
            return Ok(written);
        }
        match reader
            .find(operation.user_id, operation.entity_id(), Source::StoreFirst)
            .await
            .map_err(read_failed)?
        {
            (Found::Known(entity), _) => Ok(Written {
                outcome: WriteOutcome::Committed(entity),
                operation_id: operation.id,
                replayed: true,
            }),
            (Found::Absent, _) => Err(WriteError::NotFound),
            (Found::Unknown, _) => Err(WriteError::Unknown),
        }
    }

    async fn buffer<E: Entity>(
        &self,
        mut operation: Operation,
        reader: &EntityReader<E>,
        source: Source,
    ) -> Result<Written<E>, WriteError> {
        let known = reader
            .find(operation.user_id, operation.entity_id(), source)
            .await
            .map_err(read_failed)?
            .0;
        let mut current = match known {
            Found::Known(entity) => Some(entity),
            Found::Absent => None,
            Found::Unknown if operation.kind() == OperationKind::Create => None,
            Found::Unknown => return Err(WriteError::Unknown),
        };
        if let Some(entity) = &current {
            // Its id derives from the operation's: another node has committed this one since it was looked for, or an older
            // request with this key made it.
            if operation.kind() == OperationKind::Create {
                return match self.recorded(&operation, source).await {
                    Recorded::Here(record) => self.duplicate(&operation, *record, reader).await,
                    Recorded::No => Err(WriteError::KeyReused),
                    Recorded::Unknown => Err(WriteError::Unknown),
                };
            }
            if entity.is_deleted() {
                return Err(WriteError::NotFound);
            }
            self.observe(entity.newest_stamp());
        }
        if current
            .as_ref()
            .is_some_and(|entity| entity.newest_stamp() >= operation.accepted_at)
            || operation.accepted_at == Hlc::ZERO
        {
            operation.accepted_at = self.clock.stamp();
        }
        reader.judge(&mut operation, source).await?;
        match E::apply(&mut current, &operation) {
            Effect::Applied | Effect::Superseded => {}
            Effect::Missing => return Err(WriteError::NotFound),
            Effect::PreconditionFailed => {
                let current = current.map_or(0, |entity| entity.version());
                return Err(WriteError::VersionMismatch { current });
            }
        }
        let entity = current.ok_or(WriteError::NotFound)?;
        self.append(operation, entity).await
    }

    async fn append<E: Entity>(&self, mut operation: Operation, entity: E) -> Result<Written<E>, WriteError> {
        let state = operation.replay.is_some().then(|| entity.clone().into_state());
        if let (Some(replay), Some(state)) = (operation.replay.as_mut(), &state) {
            replay.accepted = serde_json::to_value(state).ok();
        }
        let operation_id = operation.id;
        let fingerprint = operation.replay.as_ref().map(|replay| replay.fingerprint);
        self.ports.buffer.append(operation).await?;
        if let (Some(fingerprint), Some(state)) = (fingerprint, state) {
            self.recent.remember(
                operation_id,
                Answer {
                    fingerprint,
                    state,
                    buffered: true,
                },
            );
        }
        Ok(Written {
            outcome: WriteOutcome::Buffered(entity),
            operation_id,
            replayed: false,
        })
    }

    fn remember(&self, operation: &Operation, state: &EntityState, buffered: bool) {
        if let Some(replay) = &operation.replay {
            let answer = Answer {
                fingerprint: replay.fingerprint,
                state: state.clone(),
                buffered,
            };
            self.recent.remember(operation.id, answer);
        }
    }

    fn observe(&self, stamp: Hlc) {
        if let Some(ahead_ms) = self.clock.observe(stamp) {
            metrics::counter!("gravity_clock_skew_total").increment(1);
            tracing::warn!(ahead_ms, node = %stamp.node, "a stamp is far ahead of this node's wall clock");
        }
    }
}

fn replayed<E: Entity>(
    id: OperationId,
    fingerprint: Fingerprint,
    first: Option<Fingerprint>,
    state: EntityState,
    buffered: bool,
) -> Result<Written<E>, WriteError> {
    if first.is_some_and(|first| first != fingerprint) {
        return Err(WriteError::KeyReused);
    }
    let entity = E::from_state(state).ok_or(WriteError::KeyReused)?;
    let outcome = if buffered {
        WriteOutcome::Buffered(entity)
    } else {
        WriteOutcome::Committed(entity)
    };
    Ok(Written {
        outcome,
        operation_id: id,
        replayed: true,
    })
}

fn read_failed(error: ReadError) -> WriteError {
    match error {
        ReadError::NotFound => WriteError::NotFound,
        ReadError::Unknown => WriteError::Unknown,
        ReadError::Store(error) => WriteError::Refused(error),
        ReadError::Buffer(error) => WriteError::Buffer(error),
    }
}

fn count<E>(result: &Result<Written<E>, WriteError>) {
    let outcome = match result {
        Ok(written) if written.replayed => "replayed",
        Ok(Written {
            outcome: WriteOutcome::Committed(_),
            ..
        }) => "committed",
        Ok(Written {
            outcome: WriteOutcome::Buffered(_),
            ..
        }) => "buffered",
        Err(
            WriteError::NotFound
            | WriteError::VersionMismatch { .. }
            | WriteError::KeyReused
            | WriteError::NotAllowed(_),
        ) => "refused",
        Err(_) => "unavailable",
    };
    metrics::counter!("gravity_writes_total", "outcome" => outcome).increment(1);
}
