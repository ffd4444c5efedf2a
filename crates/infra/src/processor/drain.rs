//! One cycle of the drain: due retries, a batch, and what is committed leaves the buffer.

use super::apply::heard;
use super::batch::{Cursors, Item, Lost};
use super::parked::Parked;
use super::rate::Rate;
use super::{ProcessorPorts, ProcessorSettings};
use futures_util::StreamExt as _;
use gravity_domain::chat::UserEvent;
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::sync::policy::RetryPolicy;
use gravity_domain::sync::{BufferError, Parcel};
use std::collections::HashSet;
use std::sync::Arc;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How many records are buried at a time: the buffer covers them with few syncs.
const BURIALS: usize = 64;
/// However often batches fail, they do not get smaller than this.
const SMALLEST: usize = 8;
/// After so many batches in a row that the store was too busy for, or failed in an unknown way, one is applied one by one.
const BUSY: u32 = 3;

/// Why a cycle could not go on. Nothing is lost: what was not let go comes again.
#[derive(Debug, Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Buffer(#[from] BufferError),
}

/// What a cycle did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Something; there may be more.
    Some,
    /// Nothing: all that is left, if anything, is parked.
    Nothing,
}

struct Removal {
    parcels: Vec<Parcel>,
    task: JoinHandle<Result<(), BufferError>>,
}

struct Backlog {
    began: Instant,
    drained_before: u64,
}

pub(super) struct Drain {
    pub(super) ports: ProcessorPorts,
    pub(super) policy: RetryPolicy,
    pub(super) settings: ProcessorSettings,
    pub(super) parked: Parked,
    pub(super) cursors: Cursors,
    /// Committed, and not yet known to be out of the buffer: `gone` and the removal in flight.
    pub(super) leaving: HashSet<Parcel>,
    /// A lane was freed since the batch was taken: what was skipped must be looked at again.
    freed: bool,
    gone: Vec<Parcel>,
    removal: Option<Removal>,
    /// The size of the next batch.
    pub(super) limit: usize,
    /// Troubles in a row that were no outage.
    busy: u32,
    rate: Arc<Rate>,
    drained: u64,
    /// Writes were held back since the last batch: what waits now is a backlog.
    pub(super) held_back: bool,
    backlog: Option<Backlog>,
}

impl Drain {
    pub(super) fn new(
        ports: ProcessorPorts,
        policy: RetryPolicy,
        settings: ProcessorSettings,
        rate: Arc<Rate>,
    ) -> Self {
        Self {
            ports,
            policy,
            settings,
            parked: Parked::new(settings.parked_lanes),
            cursors: Cursors::default(),
            leaving: HashSet::new(),
            freed: false,
            gone: Vec::new(),
            removal: None,
            limit: settings.batch_size.max(1),
            busy: 0,
            rate,
            drained: 0,
            held_back: true,
            backlog: None,
        }
    }

    /// Tries what is due and takes one batch through.
    pub(super) async fn cycle(&mut self) -> Result<Progress, Trouble> {
        let worked = self.work().await;
        let let_go = self.let_go().await;
        let outcome = let_go.and(worked);
        let most = self.settings.batch_size.max(1);
        match &outcome {
            Ok(_) => {
                self.busy = 0;
                self.limit = (self.limit * 2).min(most);
            }
            Err(trouble) => {
                self.cursors.rewind();
                self.limit = (self.limit / 4).max(SMALLEST).min(most);
                let outage = matches!(trouble, Trouble::Store(error) if error.is_outage());
                self.busy = if outage { 0 } else { self.busy.saturating_add(1) };
            }
        }
        outcome
    }

    /// True when it is time to find out whether a single operation keeps the store from taking the others.
    pub(super) fn is_careful(&self) -> bool {
        self.busy >= BUSY
    }

    async fn work(&mut self) -> Result<Progress, Trouble> {
        let retried = self.retry_parked().await?;
        self.freed = false;
        let batch = self.take().await?;
        self.note_backlog(batch.len());
        if batch.is_empty() {
            if retried {
                return Ok(Progress::Some);
            }
            self.finish_removal().await?;
            return Ok(Progress::Nothing);
        }
        let (items, lost, seen) = batch.into_parts();
        self.bury_lost(lost).await?;
        self.apply(items).await?;
        if !self.freed {
            self.cursors.pass(&seen);
        }
        Ok(Progress::Some)
    }

    /// True when nothing is left to be done, now or later.
    pub(super) fn is_done(&self) -> bool {
        self.parked.is_empty() && self.leaving.is_empty()
    }

    /// It is in Postgres: it may leave the buffer.
    pub(super) fn depart(&mut self, parcel: Parcel, outcome: &'static str) {
        count(outcome);
        self.drained += 1;
        self.leaving.insert(parcel);
        self.gone.push(parcel);
    }

    /// The lane goes on, if it was held back; its operations are looked at again.
    pub(super) fn free(&mut self, lane: UserId) {
        self.parked.free(lane);
        self.freed = true;
        self.cursors.rewind();
    }

    /// Sets an operation aside with its reason; its lane goes on.
    pub(super) async fn bury(
        &mut self,
        item: &Item,
        reason: String,
        events: &[UserEvent],
    ) -> Result<(), Trouble> {
        let operation = &item.operation;
        tracing::warn!(
            operation = %operation.id,
            entity = operation.entity().as_str(),
            entity_id = %operation.entity_id(),
            attempts = operation.attempts,
            reason,
            "an operation became a dead letter"
        );
        let attempts = operation.attempts;
        let why = reason.clone();
        self.ports.buffer.bury(item.parcel, attempts, reason).await?;
        heard(|| self.ports.listener.set_aside(operation, &why, events));
        count("dead");
        self.free(operation.user_id);
        Ok(())
    }

    async fn bury_lost(&self, lost: Vec<Lost>) -> Result<(), Trouble> {
        let burials = lost.into_iter().map(|lost| {
            tracing::warn!(
                operation = lost
                    .operation
                    .as_ref()
                    .map(|operation| tracing::field::display(operation.id)),
                entity = lost
                    .operation
                    .as_ref()
                    .map(|operation| operation.entity().as_str()),
                sequence = lost.parcel.sequence,
                reason = lost.reason,
                "an operation became a dead letter"
            );
            let attempts = lost.operation.as_ref().map_or(0, |operation| operation.attempts);
            let (buffer, listener) = (Arc::clone(&self.ports.buffer), Arc::clone(&self.ports.listener));
            async move {
                buffer.bury(lost.parcel, attempts, lost.reason.clone()).await?;
                if let Some(operation) = &lost.operation {
                    heard(|| listener.set_aside(operation, &lost.reason, &[]));
                }
                Ok::<(), BufferError>(())
            }
        });
        let mut burials = futures_util::stream::iter(burials).buffer_unordered(BURIALS);
        let mut outcome = Ok(());
        while let Some(buried) = burials.next().await {
            match buried {
                Ok(()) => count("dead"),
                Err(error) => outcome = Err(error.into()),
            }
        }
        outcome
    }

    /// Begins to remove what is committed; the sync runs beside the next replay.
    pub(super) async fn let_go(&mut self) -> Result<(), Trouble> {
        if self.gone.is_empty() {
            return Ok(());
        }
        self.finish_removal().await?;
        let parcels = std::mem::take(&mut self.gone);
        self.rate.add(parcels.len() as u64);
        let (buffer, leaving) = (Arc::clone(&self.ports.buffer), parcels.clone());
        self.removal = Some(Removal {
            parcels,
            task: tokio::spawn(async move { buffer.remove(leaving).await }),
        });
        Ok(())
    }

    /// Waits for the removal in flight. When it failed, its records come again, as duplicates.
    pub(super) async fn finish_removal(&mut self) -> Result<(), Trouble> {
        let Some(removal) = &mut self.removal else {
            return Ok(());
        };
        let outcome = (&mut removal.task).await;
        for parcel in &removal.parcels {
            self.leaving.remove(parcel);
        }
        self.removal = None;
        let outcome = outcome
            .unwrap_or_else(|_| Err(BufferError::Unavailable("the removal was interrupted".to_owned())));
        if outcome.is_err() {
            self.cursors.rewind();
        }
        Ok(outcome?)
    }

    fn note_backlog(&mut self, taken: usize) {
        let full = taken >= self.limit;
        if self.backlog.is_none() && taken > 0 && (full || self.held_back) {
            tracing::info!("draining a backlog");
            self.backlog = Some(Backlog {
                began: Instant::now(),
                drained_before: self.drained,
            });
        }
        self.held_back = false;
    }

    /// Tells of the end of a backlog, once nothing is left of it.
    #[allow(clippy::cast_precision_loss, reason = "a count for people")]
    pub(super) fn note_end(&mut self) {
        if self.is_done()
            && let Some(backlog) = self.backlog.take()
        {
            let operations = self.drained - backlog.drained_before;
            let seconds = backlog.began.elapsed().as_secs_f64();
            let rate = operations as f64 / seconds.max(0.001);
            tracing::info!(operations, seconds, rate, "the backlog is drained");
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("gravity_drain_operations_total", "outcome" => outcome).increment(1);
}
