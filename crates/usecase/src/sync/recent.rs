//! First answers of recent writes that carried an `Idempotency-Key`, so that a retry is answered from memory: also while
//! Postgres, which has the durable record, is away. Bounded in bytes; forgetting costs a look-up, never correctness.

use gravity_domain::id::OperationId;
use gravity_domain::sync::{EntityState, Fingerprint};
use std::sync::Arc;
use std::time::Duration;

/// How long a key is bound to its first answer, at least: 24 h by the contract.
const KEY_LIFETIME: Duration = Duration::from_secs(24 * 3_600);
const MAX_BYTES: u64 = 32 << 20;

#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) fingerprint: Fingerprint,
    pub(super) state: EntityState,
    pub(super) buffered: bool,
}

#[derive(Debug)]
pub(super) struct Recent(moka::sync::Cache<OperationId, Arc<Answer>>);

impl Recent {
    pub(super) fn new() -> Self {
        let weigh =
            |_: &OperationId, answer: &Arc<Answer>| u32::try_from(answer.state.weight()).unwrap_or(u32::MAX);
        Self(
            moka::sync::Cache::builder()
                .max_capacity(MAX_BYTES)
                .weigher(weigh)
                .time_to_live(KEY_LIFETIME)
                .build(),
        )
    }

    pub(super) fn find(&self, id: OperationId) -> Option<Arc<Answer>> {
        self.0.get(&id)
    }

    pub(super) fn remember(&self, id: OperationId, answer: Answer) {
        self.0.insert(id, Arc::new(answer));
    }
}
