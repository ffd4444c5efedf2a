//! Replaying a batch, finding the operations at fault, and what becomes of each.

use super::batch::Item;
use super::drain::{Drain, Trouble};
use futures_util::FutureExt as _;
use gravity_domain::chat::UserEvent;
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::sync::{AppliedRecord, BatchError, EntityKind, Operation, Verdict};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice::from_ref;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// More culprits than this in one batch, and the rest of it is applied one by one.
const CULPRITS: usize = 4;
/// After so many single operations in a row that the store was too busy for, it is the store and not they.
const TOO_BUSY: u32 = 3;
/// The most parked operations tried again in one cycle, each in a transaction of its own: the other lanes wait for these.
const RETRIES: usize = 16;

/// What came of a transaction.
enum Replayed {
    /// Committed.
    Verdicts(Vec<Verdict>),
    /// Rolled back. `index` is that of the operation to blame, if it is known.
    Refused { index: Option<usize>, reason: String },
}

enum Judged {
    /// It is in Postgres.
    In(&'static str),
    /// It never will be, however often it is tried. What was put into users' logs so that they learn of it.
    Dead(&'static str, Vec<UserEvent>),
    /// It failed.
    Failed(&'static str),
}

/// Whose, and which, entity.
type Target = (UserId, EntityKind, Uuid);

fn target(operation: &Operation) -> Target {
    (operation.user_id, operation.entity(), operation.entity_id())
}

impl Drain {
    /// Applies a batch. What fails is parked or buried; what must not overtake it stays in the buffer.
    pub(super) async fn apply(&mut self, mut items: Vec<Item>) -> Result<(), Trouble> {
        let mut culprits = Vec::new();
        while !items.is_empty() {
            if culprits.len() > CULPRITS || self.is_careful() {
                self.one_by_one(std::mem::take(&mut items)).await?;
                break;
            }
            match self.replay(&items).await? {
                Replayed::Verdicts(verdicts) => {
                    self.settle(std::mem::take(&mut items), verdicts).await?;
                }
                Replayed::Refused {
                    index: Some(index),
                    reason,
                } => {
                    culprits.push((isolate(&mut items, index), reason));
                }
                Replayed::Refused { index: None, .. } => self.one_by_one(std::mem::take(&mut items)).await?,
            }
        }
        // Only now: what is before them in their lanes has been settled.
        for (culprit, reason) in culprits {
            if !self.parked.holds(culprit.operation.user_id) {
                self.fail(culprit, reason).await?;
            }
        }
        Ok(())
    }

    async fn one_by_one(&mut self, items: Vec<Item>) -> Result<(), Trouble> {
        let mut busy = 0;
        for item in items {
            if !self.parked.holds(item.operation.user_id) {
                self.single(item, &mut busy).await?;
            }
        }
        Ok(())
    }

    /// Tries parked operations whose time has come. True when there was one.
    pub(super) async fn retry_parked(&mut self) -> Result<bool, Trouble> {
        let due = self.parked.due(Instant::now(), RETRIES);
        let any = !due.is_empty();
        for item in due {
            // Each by itself: some that stay busy must not keep the others, and the batch after them, from their turn.
            self.single(item, &mut 0).await?;
        }
        Ok(any)
    }

    /// Tries one operation alone. When the store is there and yet cannot take this one now, only its lane waits, and nothing
    /// is counted; unless that happens [`TOO_BUSY`] times in a row.
    async fn single(&mut self, item: Item, busy: &mut u32) -> Result<(), Trouble> {
        let error = match self.attempt(&item).await {
            Ok(None) => {
                *busy = 0;
                return Ok(());
            }
            Ok(Some(reason)) => {
                *busy = 0;
                return self.fail(item, reason).await;
            }
            Err(Trouble::Store(error)) if !error.is_outage() => error,
            Err(trouble) => return Err(trouble),
        };
        *busy += 1;
        let wait = self.settings.backoff.wait_ms(u32::MAX, rand::random());
        let retry_at = Instant::now() + Duration::from_millis(wait);
        let operation = item.operation.id;
        if self.parked.park(item, retry_at).is_err() || *busy >= TOO_BUSY {
            return Err(error.into());
        }
        tracing::warn!(%operation, %error, "an operation is held back");
        Ok(())
    }

    /// One operation in a transaction of its own. `Some` reason when it failed.
    async fn attempt(&mut self, item: &Item) -> Result<Option<String>, Trouble> {
        let verdict = match self.replay(from_ref(item)).await? {
            Replayed::Verdicts(mut verdicts) => verdicts.remove(0),
            Replayed::Refused { reason, .. } => return Ok(Some(reason)),
        };
        match self.judge(&item.operation, verdict) {
            Judged::In(outcome) => {
                self.depart(item.parcel, outcome);
                if self.parked.holds(item.operation.user_id) {
                    self.free(item.operation.user_id);
                }
            }
            Judged::Dead(reason, events) => self.give_up(item.clone(), reason, &events).await?,
            Judged::Failed(reason) => return Ok(Some(reason.to_owned())),
        }
        Ok(None)
    }

    /// Counts a failure of the operation: its lane is parked until the next try, or goes on without it.
    async fn fail(&mut self, mut item: Item, mut reason: String) -> Result<(), Trouble> {
        loop {
            let tried = item.operation.attempts;
            item.operation.attempts = tried.saturating_add(1);
            if self.policy.is_exhausted(item.operation.attempts) {
                return self.bury(&item, reason, &[]).await;
            }
            let wait = self.settings.retry.wait_ms(tried, rand::random());
            let retry_at = Instant::now() + Duration::from_millis(wait);
            match self.parked.park(item, retry_at) {
                Ok(()) => return Ok(()),
                Err(no_room) => item = *no_room,
            }
            let Some(again) = self.attempt(&item).await? else {
                self.free(item.operation.user_id);
                return Ok(());
            };
            reason = again;
        }
    }

    /// A failure after which no try could succeed, or may.
    async fn give_up(&mut self, mut item: Item, reason: &str, events: &[UserEvent]) -> Result<(), Trouble> {
        item.operation.attempts = item.operation.attempts.saturating_add(1);
        self.bury(&item, reason.to_owned(), events).await
    }

    /// What becomes of each operation of a committed batch.
    async fn settle(&mut self, items: Vec<Item>, verdicts: Vec<Verdict>) -> Result<(), Trouble> {
        let mut effects: Vec<(usize, Target)> = Vec::new();
        let mut failed = Vec::new();
        let mut dead = Vec::new();
        for (index, (item, verdict)) in items.into_iter().zip(verdicts).enumerate() {
            if matches!(&verdict, Verdict::Applied(applied) if !applied.superseded) {
                effects.push((index, target(&item.operation)));
            }
            match self.judge(&item.operation, verdict) {
                Judged::In(outcome) => self.depart(item.parcel, outcome),
                Judged::Dead(reason, events) => dead.push((item, reason, events)),
                Judged::Failed(reason) => failed.push((index, item, reason)),
            }
        }
        for (item, reason, events) in dead {
            self.give_up(item, reason, &events).await?;
        }
        for (index, item, reason) in failed {
            let aim = target(&item.operation);
            let overtaken = effects
                .iter()
                .any(|(later, other)| *later > index && *other == aim);
            if overtaken {
                self.give_up(item, reason, &[]).await?;
            } else if !self.parked.holds(item.operation.user_id) {
                self.fail(item, reason.to_owned()).await?;
            }
        }
        Ok(())
    }

    /// Tells the listener, and says what the verdict means.
    fn judge(&self, operation: &Operation, verdict: Verdict) -> Judged {
        let listener = &self.ports.listener;
        match verdict {
            Verdict::Applied(applied) => {
                let outcome = if applied.superseded {
                    "superseded"
                } else {
                    "applied"
                };
                heard(|| listener.applied(applied.state));
                Judged::In(outcome)
            }
            Verdict::Duplicate(record) if is_another(&record, operation) => {
                Judged::Dead("idempotency_key_reused", Vec::new())
            }
            Verdict::Duplicate(_) => {
                heard(|| listener.already_applied(operation));
                Judged::In("duplicate")
            }
            Verdict::Missing => Judged::Failed("not_found"),
            Verdict::PreconditionFailed { .. } => Judged::Failed("version_mismatch"),
            Verdict::Refused(refused) => Judged::Dead(refused.refusal.as_str(), refused.events),
            // Never given by a replay.
            Verdict::Late { .. } => Judged::Failed("rejected: late"),
        }
    }

    /// One transaction. The breaker is told of a transient failure.
    async fn replay(&self, items: &[Item]) -> Result<Replayed, Trouble> {
        let operations: Vec<Operation> = items.iter().map(|item| item.operation.clone()).collect();
        let began = Instant::now();
        let outcome = AssertUnwindSafe(self.ports.store.replay(&operations))
            .catch_unwind()
            .await;
        metrics::histogram!("gravity_drain_batch_seconds").record(began.elapsed().as_secs_f64());
        let (result, replayed) = match outcome {
            Ok(Ok(verdicts)) if verdicts.len() == items.len() => {
                ("committed", Ok(Replayed::Verdicts(verdicts)))
            }
            Ok(Ok(_)) => {
                let reason = "the store gave another number of verdicts".to_owned();
                ("transient", Err(StoreError::Rejected { reason, source: None }))
            }
            Ok(Err(BatchError::Operation { index, reason })) => {
                let index = (index < items.len()).then_some(index);
                ("refused", Ok(Replayed::Refused { index, reason }))
            }
            Ok(Err(BatchError::Transient(error))) => ("transient", Err(error)),
            Err(_) => {
                let reason = "rejected: panic".to_owned();
                ("panicked", Ok(Replayed::Refused { index: None, reason }))
            }
        };
        metrics::counter!("gravity_drain_batches_total", "result" => result).increment(1);
        replayed.map_err(|error| {
            self.ports.breaker.failed(&error);
            Trouble::Store(error)
        })
    }
}

/// Takes the culprit out, and what follows it in its lane.
fn isolate(items: &mut Vec<Item>, index: usize) -> Item {
    let culprit = items.remove(index);
    let lane = culprit.operation.user_id;
    let mut place = 0;
    items.retain(|item| {
        place += 1;
        place <= index || item.operation.user_id != lane
    });
    culprit
}

/// True when the id was committed for another request: its `Idempotency-Key` was used twice.
fn is_another(record: &AppliedRecord, operation: &Operation) -> bool {
    let ours = operation.replay.as_ref().map(|replay| replay.fingerprint);
    record.fingerprint.is_some() && record.fingerprint != ours
}

/// A listener's panic must not keep a committed operation in the buffer.
pub(super) fn heard(tell: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(tell)).is_err() {
        metrics::counter!("gravity_drain_panics_total").increment(1);
        tracing::error!("the listener of the drain panicked");
    }
}
