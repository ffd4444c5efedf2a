//! What is known of users' roles and status, in this process.
//!
//! An answer of the store counts for [`IdentitySettings::ttl`] (so a suspension is noticed within that), "no row" for
//! less. When the store does not answer, the last answer counts for as long as it is kept. Misses of one user at one time
//! make one query. Memory is bounded by [`IdentitySettings::capacity`].

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use gravity_domain::auth::{AccountStore, ExternalUser, Identity};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use moka::sync::Cache;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long answers count.
#[derive(Debug, Clone, Copy)]
pub struct IdentitySettings {
    /// For a row; at most 30 s, since suspension counts within that.
    pub ttl: Duration,
    /// For "no row"; at most 5 s.
    pub absent_ttl: Duration,
    /// How long the last answer is kept for when the store is down.
    pub last_known: Duration,
    /// Users remembered.
    pub capacity: u64,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(20),
            absent_ttl: Duration::from_secs(3),
            last_known: Duration::from_secs(86_400),
            capacity: 100_000,
        }
    }
}

/// What is known of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// There is a row, and it says this.
    Present(Identity),
    /// There is no row.
    Absent,
    /// The store does not answer and never told.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    identity: Option<Identity>,
    asked_at: Instant,
}

impl Answer {
    fn known(self) -> Known {
        self.identity.map_or(Known::Absent, Known::Present)
    }
}

type Loading = Shared<BoxFuture<'static, Result<Answer, Arc<StoreError>>>>;

/// The cache; one per process.
pub struct Identities {
    store: Arc<dyn AccountStore>,
    settings: IdentitySettings,
    answers: Cache<UserId, Answer>,
    loading: Mutex<HashMap<UserId, Loading>>,
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identities")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Identities {
    /// An empty cache over `store`.
    pub fn new(store: Arc<dyn AccountStore>, settings: IdentitySettings) -> Self {
        let answers = Cache::builder()
            .max_capacity(settings.capacity)
            .time_to_live(settings.last_known)
            .build();
        Self {
            store,
            settings,
            answers,
            loading: Mutex::default(),
        }
    }

    /// What is known of the user. Asks the store only when the last answer is too old.
    pub async fn find(&self, user: UserId) -> Known {
        let last = self.answers.get(&user);
        if let Some(answer) = last
            && self.is_fresh(answer)
        {
            return answer.known();
        }
        match self.load(user).await {
            Ok(answer) => {
                self.answers.insert(user, answer);
                answer.known()
            }
            Err(error) => {
                if !error.is_transient() {
                    tracing::error!(%error, "the identity of a user could not be read");
                }
                last.map_or(Known::Unknown, Answer::known)
            }
        }
    }

    /// Creates the user of an outside provider and remembers what the row says.
    ///
    /// # Errors
    /// The store could not answer.
    pub async fn provision(&self, user: &ExternalUser) -> Result<Identity, StoreError> {
        let asked_at = Instant::now();
        let identity = self.store.provision(user).await?;
        self.answers.insert(
            user.id,
            Answer {
                identity: Some(identity),
                asked_at,
            },
        );
        Ok(identity)
    }

    fn is_fresh(&self, answer: Answer) -> bool {
        let limit = match answer.identity {
            Some(_) => self.settings.ttl,
            None => self.settings.absent_ttl,
        };
        answer.asked_at.elapsed() < limit
    }

    async fn load(&self, user: UserId) -> Result<Answer, Arc<StoreError>> {
        let loading = self
            .lock()
            .entry(user)
            .or_insert_with(|| ask(Arc::clone(&self.store), user))
            .clone();
        // Also when this caller is cancelled, so that nobody finds a query that stopped half-way.
        let _forget = Forget {
            identities: self,
            user,
            loading: loading.clone(),
        };
        loading.await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UserId, Loading>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ask(store: Arc<dyn AccountStore>, user: UserId) -> Loading {
    async move {
        let asked_at = Instant::now();
        let identity = store.identity(user).await.map_err(Arc::new)?;
        Ok(Answer { identity, asked_at })
    }
    .boxed()
    .shared()
}

struct Forget<'a> {
    identities: &'a Identities,
    user: UserId,
    loading: Loading,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut all = self.identities.lock();
        if all
            .get(&self.user)
            .is_some_and(|there| there.ptr_eq(&self.loading))
        {
            all.remove(&self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::fixtures::{Accounts, identity};
    use gravity_domain::auth::Role;

    fn identities(store: &Arc<Accounts>) -> Arc<Identities> {
        Arc::new(Identities::new(
            Arc::clone(store) as _,
            IdentitySettings::default(),
        ))
    }

    #[tokio::test(start_paused = true)]
    async fn a_warm_answer_does_not_touch_the_store_and_a_suspension_counts_within_30_seconds() {
        let user = UserId::random();
        let store = Arc::new(Accounts::with(user, identity(Role::User, true)));
        let identities = identities(&store);
        for _ in 0..5 {
            assert_eq!(
                identities.find(user).await,
                Known::Present(identity(Role::User, true))
            );
        }
        assert_eq!(store.asked(), 1);
        store.set(user, Some(identity(Role::User, false)));
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(
            identities.find(user).await,
            Known::Present(identity(Role::User, false))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_row_is_asked_for_again_within_5_seconds() {
        let user = UserId::random();
        let store = Arc::new(Accounts::default());
        let identities = identities(&store);
        assert_eq!(identities.find(user).await, Known::Absent);
        store.set(user, Some(identity(Role::User, true)));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(
            identities.find(user).await,
            Known::Present(identity(Role::User, true))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_store_is_down_the_last_answer_counts() {
        let user = UserId::random();
        let store = Arc::new(Accounts::with(user, identity(Role::Admin, true)));
        let identities = identities(&store);
        identities.find(user).await;
        store.break_down();
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(
            identities.find(user).await,
            Known::Present(identity(Role::Admin, true))
        );
        assert_eq!(identities.find(UserId::random()).await, Known::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_misses_of_one_user_make_one_query() {
        let user = UserId::random();
        let store = Arc::new(Accounts::with(user, identity(Role::User, true)));
        store.slow_down(Duration::from_millis(50));
        let identities = identities(&store);
        let all = (0..20).map(|_| identities.find(user));
        let found = futures_util::future::join_all(all).await;
        assert!(
            found
                .iter()
                .all(|known| *known == Known::Present(identity(Role::User, true)))
        );
        assert_eq!(store.asked(), 1);
        assert!(identities.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_look_up_leaves_nothing_behind() {
        let user = UserId::random();
        let store = Arc::new(Accounts::with(user, identity(Role::User, true)));
        store.slow_down(Duration::from_secs(1));
        let identities = identities(&store);
        let given_up = tokio::time::timeout(Duration::from_millis(1), identities.find(user)).await;
        assert!(given_up.is_err());
        assert!(identities.lock().is_empty());
        assert_eq!(
            identities.find(user).await,
            Known::Present(identity(Role::User, true))
        );
    }
}
