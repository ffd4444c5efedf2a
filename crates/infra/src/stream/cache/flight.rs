//! One load per key, however many wait for it.
//!
//! The load runs in a task of its own: whoever asked first may go away, and the others still get the answer. Nothing is kept
//! after it, so an error goes to those who waited, and the next caller tries again.

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use gravity_domain::deadline;
use gravity_domain::error::StoreError;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Outcome<V> = Result<V, Arc<StoreError>>;
type Flight<V> = Shared<BoxFuture<'static, Outcome<V>>>;
type Flying<K, V> = Arc<Mutex<HashMap<K, Flight<V>>>>;

/// The loads under way.
pub(super) struct Flights<K, V: Clone> {
    flying: Flying<K, V>,
    handle: Handle,
    kind: &'static str,
}

/// What came of a load.
pub(super) struct Landed<V> {
    pub(super) value: V,
    /// Whether it began with this call: it then saw everything that was committed before.
    pub(super) led: bool,
}

impl<K, V> Flights<K, V>
where
    K: Eq + Hash + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// None yet. Loads run on `handle`; `kind` is for metrics.
    pub(super) fn new(kind: &'static str, handle: Handle) -> Self {
        Self {
            flying: Arc::default(),
            handle,
            kind,
        }
    }

    /// Joins the load of `key`, or begins it. Waits no longer than the request's stores may take.
    pub(super) async fn join<F>(
        &self,
        key: K,
        load: impl FnOnce() -> F + Send,
    ) -> Result<Landed<V>, StoreError>
    where
        F: Future<Output = Result<V, StoreError>> + Send + 'static,
    {
        let (flight, led) = self.board(key, load);
        if !led {
            metrics::counter!("gravity_stream_cache_coalesced_total", "kind" => self.kind).increment(1);
        }
        let outcome = match deadline::current() {
            None => flight.await,
            Some(request) => tokio::time::timeout_at(request.for_stores().into(), flight)
                .await
                .map_err(|_| busy())?,
        };
        match outcome {
            Ok(value) => Ok(Landed { value, led }),
            Err(error) => Err(again(&error)),
        }
    }

    fn board<F>(&self, key: K, load: impl FnOnce() -> F) -> (Flight<V>, bool)
    where
        F: Future<Output = Result<V, StoreError>> + Send + 'static,
    {
        let mut flying = locked(&self.flying);
        if let Some(flight) = flying.get(&key) {
            return (flight.clone(), false);
        }
        let (tell, told) = oneshot::channel();
        let landing = Landing {
            flying: self.flying.clone(),
            key: key.clone(),
        };
        let load = load();
        self.handle.spawn(async move {
            let outcome = load.await.map_err(Arc::new);
            drop(landing);
            let _ = tell.send(outcome);
        });
        let flight = told
            .map(|told| told.unwrap_or_else(|_| Err(Arc::new(StoreError::unavailable("closed")))))
            .boxed()
            .shared();
        flying.insert(key, flight.clone());
        (flight, true)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn busy() -> StoreError {
    StoreError::Busy {
        reason: "deadline",
        source: None,
    }
}

/// Takes the load off the list when it ends, even by a panic.
struct Landing<K: Eq + Hash, V: Clone> {
    flying: Flying<K, V>,
    key: K,
}

impl<K: Eq + Hash, V: Clone> Drop for Landing<K, V> {
    fn drop(&mut self) {
        locked(&self.flying).remove(&self.key);
    }
}

/// One error that several callers get.
#[derive(Debug)]
struct Common(Arc<StoreError>);

impl fmt::Display for Common {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Common {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// The error once more, for another caller.
fn again(error: &Arc<StoreError>) -> StoreError {
    let source = Some(Box::new(Common(error.clone())) as _);
    match &**error {
        StoreError::Unavailable { reason, .. } => StoreError::Unavailable { reason, source },
        StoreError::Busy { reason, .. } => StoreError::Busy { reason, source },
        StoreError::Rejected { reason, .. } => StoreError::Rejected {
            reason: reason.clone(),
            source,
        },
    }
}
