//! Read your writes: the pending operations of a user folded over the last known base.
//!
//! Postgres first; if it is away, the last known value from the cache. Over either, the user's pending operations are
//! folded in with the merge that the drain uses. Pending operations are read *before* the base: an operation that
//! drains in between is then seen twice, which folding makes harmless, and never not at all.

use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::sync::ports::{Breaker, EntityCache, EntityStore, Judge, WriteBuffer};
use gravity_domain::sync::{
    Entity, Found, Freshness, Operation, OperationKind, Pending, ReadError, WriteError,
};
use std::sync::Arc;
use uuid::Uuid;

/// An answer and how fresh it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read<T> {
    /// The answer.
    pub value: T,
    /// How fresh.
    pub freshness: Freshness,
}

/// Where a base value may be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Postgres, and the cache when it is away.
    StoreFirst,
    /// The cache only: Postgres has just failed this request.
    CacheOnly,
}

/// Reads one kind of entity with the user's own writes in it.
pub struct EntityReader<E: Entity> {
    store: Arc<dyn EntityStore<E>>,
    cache: Arc<dyn EntityCache<E>>,
    breaker: Arc<dyn Breaker>,
    buffer: Arc<dyn WriteBuffer>,
    judge: Option<Arc<dyn Judge>>,
}

impl<E: Entity> EntityReader<E> {
    /// A reader over these ports.
    pub fn new(
        store: Arc<dyn EntityStore<E>>,
        cache: Arc<dyn EntityCache<E>>,
        breaker: Arc<dyn Breaker>,
        buffer: Arc<dyn WriteBuffer>,
    ) -> Self {
        Self {
            store,
            cache,
            breaker,
            buffer,
            judge: None,
        }
    }

    /// With a judge of what is to be buffered.
    #[must_use]
    pub fn judged_by(mut self, judge: Arc<dyn Judge>) -> Self {
        self.judge = Some(judge);
        self
    }

    /// Judges an operation that is to be buffered.
    pub(crate) async fn judge(&self, operation: &mut Operation, source: Source) -> Result<(), WriteError> {
        match &self.judge {
            Some(judge) => judge.judge(operation, source == Source::StoreFirst).await,
            None => Ok(()),
        }
    }

    /// The entity as its owner must see it.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] for none, another's, or a tombstone; [`ReadError::Unknown`] when nothing is known.
    pub async fn get(&self, user: UserId, id: Uuid) -> Result<Read<E>, ReadError> {
        let (found, freshness) = self.find(user, id, Source::StoreFirst).await?;
        match found {
            Found::Known(entity) if !entity.is_deleted() => Ok(Read {
                value: entity,
                freshness,
            }),
            Found::Known(_) | Found::Absent => Err(ReadError::NotFound),
            Found::Unknown => Err(ReadError::Unknown),
        }
    }

    /// What is known of the entity, pending operations included; tombstones are found.
    pub(crate) async fn find(
        &self,
        user: UserId,
        id: Uuid,
        source: Source,
    ) -> Result<(Found<E>, Freshness), ReadError> {
        let pending = self.buffer.pending_on(user, E::KIND, id).await?;
        let (base, freshness) = self.base(user, id, source).await?;
        if pending.is_empty() {
            return Ok((base, freshness));
        }
        Ok((
            fold(base, pending.iter().map(|pending| &pending.operation)),
            Freshness::Pending,
        ))
    }

    /// Remembers a committed row.
    pub(crate) fn learn(&self, entity: E) {
        self.cache.learn(entity);
    }

    /// What the cache knows, pending operations aside.
    pub(crate) fn cached(&self, user: UserId, id: Uuid) -> Found<E> {
        self.cache.find(user, id)
    }

    async fn base(&self, user: UserId, id: Uuid, source: Source) -> Result<(Found<E>, Freshness), ReadError> {
        if source == Source::StoreFirst && self.breaker.allows_reads() {
            let mark = self.cache.mark(user);
            match self.store.find(user, id).await {
                Ok(Some(entity)) => {
                    self.cache.learn_read(entity.clone(), mark);
                    return Ok((Found::Known(entity), Freshness::Current));
                }
                Ok(None) => return Ok((Found::Absent, Freshness::Current)),
                Err(error) => fall_back(self.breaker.as_ref(), error)?,
            }
        }
        Ok((self.cache.find(user, id), Freshness::Stale))
    }
}

/// Tells the breaker of a failed read; an error that no cache can make good is returned.
pub(crate) fn fall_back(breaker: &dyn Breaker, error: StoreError) -> Result<(), ReadError> {
    breaker.failed(&error);
    if error.is_transient() {
        tracing::debug!(reason = %error, "reading from what is known");
        Ok(())
    } else {
        Err(ReadError::Store(error))
    }
}

/// Folds operations over a base. Without a known base, only a create makes one.
pub(crate) fn fold<'a, E: Entity>(
    base: Found<E>,
    operations: impl Iterator<Item = &'a Operation>,
) -> Found<E> {
    let unknown = matches!(base, Found::Unknown);
    let mut current = match base {
        Found::Known(entity) => Some(entity),
        Found::Absent | Found::Unknown => None,
    };
    for operation in operations {
        E::apply(&mut current, operation);
    }
    match current {
        Some(entity) => Found::Known(entity),
        None if unknown => Found::Unknown,
        None => Found::Absent,
    }
}

/// Pending operations by the entity they change, each in order of acceptance.
pub(crate) fn by_entity(pending: Vec<Pending>) -> std::collections::BTreeMap<Uuid, Vec<Operation>> {
    let mut grouped = std::collections::BTreeMap::<Uuid, Vec<Operation>>::new();
    for Pending { operation, .. } in pending {
        grouped.entry(operation.entity_id()).or_default().push(operation);
    }
    grouped
}

/// True when the operations begin with the entity's creation, so that no base is needed.
pub(crate) fn is_created_here(operations: &[Operation]) -> bool {
    operations
        .first()
        .is_some_and(|first| first.kind() == OperationKind::Create)
}
