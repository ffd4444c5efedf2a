//! What is known of the items of an action that is to be buffered: whether they are there and how new they are, however long ago
//! that was read.

use super::overlay::unwritten;
use async_trait::async_trait;
use gravity_domain::clock::{Hlc, HybridClock};
use gravity_domain::stream::{Item, ItemOutcome, StreamAction, StreamCache};
use gravity_domain::sync::ports::{Breaker, Judge};
use gravity_domain::sync::{Change, Operation, WriteError};
use std::sync::Arc;

/// Judges each item by its last known value. Pending actions have no say in it: they change neither whether an item is
/// there nor how new it is. An item whose flag was set by a clock that is ahead moves this node's clock, and the action
/// is stamped again, so that the later write wins.
pub struct StreamJudge {
    cache: Arc<dyn StreamCache>,
    breaker: Arc<dyn Breaker>,
    clock: Arc<HybridClock>,
}

impl StreamJudge {
    /// Over these ports.
    pub fn new(cache: Arc<dyn StreamCache>, breaker: Arc<dyn Breaker>, clock: Arc<HybridClock>) -> Self {
        Self {
            cache,
            breaker,
            clock,
        }
    }

    fn observe(&self, stamp: Hlc) {
        if let Some(ahead_ms) = self.clock.observe(stamp) {
            metrics::counter!("gravity_clock_skew_total").increment(1);
            tracing::warn!(ahead_ms, node = %stamp.node, "a stamp is far ahead of this node's wall clock");
        }
    }
}

#[async_trait]
impl Judge for StreamJudge {
    async fn judge(&self, operation: &mut Operation, may_ask_store: bool) -> Result<(), WriteError> {
        let Change::StreamAction(action) = &mut operation.change else {
            return Ok(());
        };
        if action.ids.is_empty() {
            return Ok(());
        }
        let may_ask_store = may_ask_store && self.breaker.allows_reads();
        let items = self
            .cache
            .ever_known(operation.user_id, &action.ids, may_ask_store)
            .await
            .map_err(unwritten)?;
        if items.len() != action.ids.len() {
            return Err(WriteError::Unknown);
        }
        let outcomes = items.iter().map(|item| outcome(action, item.as_deref()));
        let outcomes: Vec<_> = outcomes.collect();
        let newest = items.iter().flatten().map(|item| stamp(action, item)).max();
        action.judged = outcomes;
        if let Some(newest) = newest.filter(|newest| *newest >= operation.accepted_at) {
            self.observe(newest);
            operation.accepted_at = self.clock.stamp();
        }
        Ok(())
    }
}

fn outcome(action: &StreamAction, item: Option<&Item>) -> ItemOutcome {
    match item {
        None => ItemOutcome::NotFound,
        Some(item) if action.skips(item) => ItemOutcome::Skipped,
        Some(_) => ItemOutcome::Applied,
    }
}

/// When the flag that the action sets was set last.
fn stamp(action: &StreamAction, item: &Item) -> Hlc {
    if action.action.is_about_reading() {
        item.unread.stamp
    } else {
        item.archived.stamp
    }
}
