//! Receipts of actions, as the write path meets them: nobody reads one back, and each tells what was done.

use async_trait::async_trait;
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::stream::{ActionReceipt, StreamCache};
use gravity_domain::sync::Found;
use gravity_domain::sync::ports::{EntityCache, EntityStore};
use std::sync::Arc;
use uuid::Uuid;

/// No receipt is there before its operation, and none is kept after it but in the record of the operation.
pub struct Receipts {
    stream: Arc<dyn StreamCache>,
}

impl Receipts {
    /// Tells `stream` of each receipt.
    pub fn new(stream: Arc<dyn StreamCache>) -> Self {
        Self { stream }
    }
}

#[async_trait]
impl EntityStore<ActionReceipt> for Receipts {
    async fn find(&self, _: UserId, _: Uuid) -> Result<Option<ActionReceipt>, StoreError> {
        Ok(None)
    }
}

impl EntityCache<ActionReceipt> for Receipts {
    fn find(&self, _: UserId, _: Uuid) -> Found<ActionReceipt> {
        Found::Absent
    }

    fn learn(&self, receipt: ActionReceipt) {
        self.stream.acted(&receipt);
    }

    fn mark(&self, _: UserId) -> u64 {
        0
    }

    fn learn_read(&self, _: ActionReceipt, _: u64) {}
}
