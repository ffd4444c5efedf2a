//! A user's pending actions, folded over the items they touch. What is stale may also lack actions that are committed: those that
//! this node knows are folded over it too, and items that it has known newer are put in.
//!
//! Pending actions are read *before* any base: one that drains in between is then seen twice, which folding makes
//! harmless, and never not at all. An item that an action was known not to find, or to skip, is not touched by it.

use gravity_domain::clock::Hlc;
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{Item, ItemOutcome, StreamAction, StreamCache};
use gravity_domain::sync::ports::{Breaker, WriteBuffer};
use gravity_domain::sync::{BufferError, Change, EntityKind, ReadError, WriteError};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The actions of one user that wait in the buffer.
pub(super) struct PendingActions {
    /// In order of acceptance.
    actions: Vec<(Hlc, StreamAction)>,
    /// Which of them touch an item.
    by_item: BTreeMap<ItemId, Vec<usize>>,
}

impl PendingActions {
    /// Those of `user`.
    pub(super) async fn of(buffer: &dyn WriteBuffer, user: UserId) -> Result<Self, BufferError> {
        let pending = buffer.pending_of(user, EntityKind::StreamAction).await?;
        let mut actions = Vec::with_capacity(pending.len());
        let mut by_item = BTreeMap::<_, Vec<usize>>::new();
        for operation in pending.into_iter().map(|pending| pending.operation) {
            let Change::StreamAction(action) = operation.change else {
                continue;
            };
            let judged = action.judged.iter().copied();
            let outcomes = judged.chain(std::iter::repeat(ItemOutcome::Applied));
            for (id, outcome) in action.ids.iter().zip(outcomes) {
                if outcome == ItemOutcome::Applied {
                    by_item.entry(*id).or_default().push(actions.len());
                }
            }
            actions.push((operation.accepted_at, action));
        }
        Ok(Self { actions, by_item })
    }

    /// With actions that are committed, for what may lack them.
    pub(super) fn with(mut self, committed: Vec<(Hlc, StreamAction)>) -> Self {
        for (stamp, action) in committed {
            for id in &action.ids {
                self.by_item.entry(*id).or_default().push(self.actions.len());
            }
            self.actions.push((stamp, action));
        }
        self
    }

    /// True when they touch nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.by_item.is_empty()
    }

    /// How many items they touch.
    pub(super) fn len(&self) -> usize {
        self.by_item.len()
    }

    /// The items they touch, each once.
    pub(super) fn ids(&self) -> impl Iterator<Item = ItemId> {
        self.by_item.keys().copied()
    }

    /// Whether they touch this item.
    pub(super) fn touch(&self, id: ItemId) -> bool {
        self.by_item.contains_key(&id)
    }

    /// `item` as it will be; the same one when nothing of it changes.
    pub(super) fn fold(&self, item: &Arc<Item>) -> Arc<Item> {
        let mut folded = Arc::clone(item);
        for index in self.by_item.get(&item.id).into_iter().flatten() {
            let (stamp, action) = &self.actions[*index];
            let mut next = folded.as_ref().clone();
            if action.fold(*stamp, &mut next) {
                folded = Arc::new(next);
            }
        }
        folded
    }
}

/// Puts the items that are known newer in the place of those that there are.
pub(super) fn renew(cache: &dyn StreamCache, user: UserId, items: &mut [Arc<Item>]) {
    let newer = cache.newer(user, items);
    if newer.is_empty() {
        return;
    }
    let newer: HashMap<ItemId, Arc<Item>> = newer.into_iter().map(|item| (item.id, item)).collect();
    for item in items {
        if let Some(found) = newer.get(&item.id) {
            item.clone_from(found);
        }
    }
}

/// What is known of these items; those that are not there are left out.
///
/// # Errors
/// [`StoreError`] when nothing is known of one of them.
pub(super) async fn bases(
    cache: &dyn StreamCache,
    breaker: &dyn Breaker,
    user: UserId,
    ids: &[ItemId],
) -> Result<Vec<Arc<Item>>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let found = cache.items(user, ids, breaker.allows_reads()).await?;
    Ok(found.into_iter().flatten().collect())
}

/// What a read answers when a store fails: an outage is nothing known.
pub(super) fn unread(error: StoreError) -> ReadError {
    if error.is_transient() {
        tracing::debug!(reason = %error, "nothing known can stand in");
        ReadError::Unknown
    } else {
        ReadError::Store(error)
    }
}

/// What a write answers when a store fails it before it is made.
pub(super) fn unwritten(error: StoreError) -> WriteError {
    if error.is_transient() {
        tracing::debug!(reason = %error, "nothing known can stand in");
        WriteError::Unknown
    } else {
        WriteError::Refused(error)
    }
}
