//! Act on items: mark, or put away.

use super::select::Finder;
use crate::sync::{EntityReader, WriteRequest, Writer, Written};
use gravity_domain::clock::{Hlc, Timestamp};
use gravity_domain::id::{ItemId, OperationId};
use gravity_domain::stream::{
    Action, ActionReceipt, Selection, StreamAction, StreamCache, StreamFilter, StreamStore,
};
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{Change, WriteError, WriteOutcome};
use std::collections::HashSet;
use std::sync::Arc;

/// `POST /v2/stream/actions`.
pub struct ActOnItems {
    writer: Arc<Writer>,
    reader: Arc<EntityReader<ActionReceipt>>,
    finder: Finder,
}

/// Which items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// These; of a doubled id the first counts.
    Ids(Vec<ItemId>),
    /// What this finds, the newest [`StreamAction::MAX_ITEMS`].
    Filter(StreamFilter),
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acted {
    /// The receipt. A retry with the same key gets the first one, whatever its filter would find now.
    pub written: Written<ActionReceipt>,
    /// Whether the filter finds more than was acted on. In the answer to a retry: whether it may.
    pub has_more: bool,
    /// Whether there is an operation: none is made when a filter finds nothing.
    pub is_written: bool,
}

impl ActOnItems {
    /// Over these ports.
    pub fn new(
        writer: Arc<Writer>,
        reader: Arc<EntityReader<ActionReceipt>>,
        store: Arc<dyn StreamStore>,
        cache: Arc<dyn StreamCache>,
        breaker: Arc<dyn Breaker>,
        buffer: Arc<dyn WriteBuffer>,
    ) -> Self {
        Self {
            writer,
            reader,
            finder: Finder {
                store,
                cache,
                breaker,
                buffer,
            },
        }
    }

    /// Does `action` to the items, those newer than `as_of` left alone. What there is nothing to do for is not written,
    /// unless a key may name an earlier request, or is to name this one.
    ///
    /// # Errors
    /// See [`WriteError`]; [`WriteError::Unknown`] when it cannot be told now what a filter finds.
    pub async fn run(
        &self,
        request: WriteRequest,
        selector: Selector,
        action: Action,
        as_of: Option<Timestamp>,
    ) -> Result<Acted, WriteError> {
        let is_filter = matches!(selector, Selector::Filter(_));
        let found = self.resolve(&request, selector, as_of).await?;
        if found.ids.is_empty() && request.key.is_none() {
            return Ok(self.nothing(&request).await);
        }
        let change = StreamAction {
            action,
            ids: found.ids,
            as_of,
            judged: Vec::new(),
        };
        let written = self
            .writer
            .write(request, &self.reader, |_| Change::StreamAction(change))
            .await?;
        let has_more = if written.replayed {
            let (WriteOutcome::Committed(receipt) | WriteOutcome::Buffered(receipt)) = &written.outcome;
            is_filter && receipt.results.len() >= StreamAction::MAX_ITEMS
        } else {
            found.has_more
        };
        Ok(Acted {
            written,
            has_more,
            is_written: true,
        })
    }

    async fn resolve(
        &self,
        request: &WriteRequest,
        selector: Selector,
        as_of: Option<Timestamp>,
    ) -> Result<Selection, WriteError> {
        match selector {
            Selector::Ids(ids) => {
                let mut seen = HashSet::with_capacity(ids.len());
                Ok(Selection {
                    ids: ids.into_iter().filter(|id| seen.insert(*id)).collect(),
                    has_more: false,
                })
            }
            Selector::Filter(filter) => {
                if let Some(ids) = self.waiting(request).await {
                    return Ok(Selection { ids, has_more: false });
                }
                let as_of = as_of.unwrap_or(Timestamp::MAX);
                self.finder.find(request.user, &filter, as_of).await
            }
        }
    }

    /// The items of an earlier request with this key that waits in the buffer: nothing needs to be found for a retry, which
    /// the dark may make impossible.
    async fn waiting(&self, request: &WriteRequest) -> Option<Vec<ItemId>> {
        let id = OperationId::for_key(request.user, &request.key.as_ref()?.key);
        let pending = self.finder.buffer.find(id).await.ok().flatten()?;
        match pending.operation.change {
            Change::StreamAction(action) => Some(action.ids),
            _ => None,
        }
    }

    async fn nothing(&self, request: &WriteRequest) -> Acted {
        let operation_id = OperationId::random();
        let receipt = ActionReceipt {
            id: operation_id.0,
            user_id: request.user,
            stamp: Hlc::ZERO,
            action: None,
            results: Vec::new(),
            version: self.finder.cache.version(request.user, 0).await,
        };
        Acted {
            written: Written {
                outcome: WriteOutcome::Committed(receipt),
                operation_id,
                replayed: false,
            },
            has_more: false,
            is_written: false,
        }
    }
}
