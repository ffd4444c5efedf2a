//! What a user will need if Postgres goes away, loaded when the user first shows up on this node.
//!
//! Without this, a user who has only written would have to be refused a list in the dark. One load per user and node at
//! a time; a load that fails is tried again when the user shows up again.

use async_trait::async_trait;
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::sync::ports::Breaker;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The most loads that run at once; users beyond it are warmed when they next show up.
const MAX_LOADS: usize = 8;
/// How long a user who was loaded is left alone, also when there was nothing to find (a machine account), and how many
/// such users are remembered.
const REST: Duration = Duration::from_secs(60);
const MAX_RESTING: u64 = 100_000;

/// Loads what one feature needs.
#[async_trait]
pub trait Loader: Send + Sync {
    /// True when nothing needs to be loaded. Cheap: asked on every request.
    fn is_warm(&self, user: UserId) -> bool;
    /// Loads it.
    async fn load(&self, user: UserId) -> Result<(), StoreError>;
}

/// Warms users who show up.
pub struct Warmer {
    loaders: Vec<Arc<dyn Loader>>,
    breaker: Arc<dyn Breaker>,
    loading: Mutex<HashSet<UserId>>,
    resting: moka::sync::Cache<UserId, ()>,
}

impl Warmer {
    /// A warmer with these loaders.
    pub fn new(loaders: Vec<Arc<dyn Loader>>, breaker: Arc<dyn Breaker>) -> Self {
        let resting = moka::sync::Cache::builder()
            .max_capacity(MAX_RESTING)
            .time_to_live(REST)
            .build();
        Self {
            loaders,
            breaker,
            loading: Mutex::default(),
            resting,
        }
    }

    /// `user` shows up. Returns at once.
    pub fn touch(self: &Arc<Self>, user: UserId) {
        let is_served =
            self.resting.contains_key(&user) || self.loaders.iter().all(|loader| loader.is_warm(user));
        if is_served || !self.breaker.allows_reads() || !self.begin(user) {
            return;
        }
        let warmer = Arc::clone(self);
        tokio::spawn(async move {
            let _loading = Loading {
                warmer: &warmer,
                user,
            };
            for loader in warmer.loaders.iter().filter(|loader| !loader.is_warm(user)) {
                if let Err(error) = loader.load(user).await {
                    warmer.breaker.failed(&error);
                    tracing::debug!(reason = %error, "a user was not warmed");
                    return;
                }
            }
            warmer.resting.insert(user, ());
        });
    }

    fn begin(&self, user: UserId) -> bool {
        let mut loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        loading.len() < MAX_LOADS && loading.insert(user)
    }
}

/// Ends the load also when it panics.
struct Loading<'a> {
    warmer: &'a Warmer,
    user: UserId,
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        self.warmer
            .loading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.user);
    }
}
