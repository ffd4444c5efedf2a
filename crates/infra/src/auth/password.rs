//! Password hashing with argon2id, 19 MiB, two passes, one lane.
//!
//! A hash takes a core and 19 MiB for some 60 ms, so only so many run at a time, on blocking threads; who waits for too
//! long is told to come back. Comparison is in constant time, and without a hash to compare with the same work is done on a dummy.

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version};
use async_trait::async_trait;
use gravity_domain::auth::{AuthError, Password, PasswordHasher};
use gravity_domain::deadline;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A hash of nobody's password with the same cost.
const DUMMY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$Z3Jhdml0eS1kdW1teS1zYQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// How much may be hashed.
#[derive(Debug, Clone, Copy)]
pub struct HashSettings {
    /// Hashes at once, at least 1.
    pub parallelism: usize,
    /// The longest wait for a turn.
    pub patience: Duration,
}

impl HashSettings {
    /// So many at once; a wait of at most 5 s.
    pub fn new(parallelism: usize) -> Self {
        Self {
            parallelism: parallelism.max(1),
            patience: Duration::from_secs(5),
        }
    }
}

/// The hasher; one per process.
#[derive(Debug)]
pub struct Argon2Hasher {
    settings: HashSettings,
    turns: Arc<Semaphore>,
    handle: Handle,
}

impl Argon2Hasher {
    /// A hasher that uses the blocking threads of `handle`.
    pub fn new(settings: HashSettings, handle: Handle) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(settings.parallelism.max(1))),
            settings,
            handle,
        }
    }

    async fn take_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AuthError> {
        let busy = || AuthError::Unavailable {
            what: "hashing",
            retry_after: self.settings.patience,
            source: None,
        };
        let turn = tokio::time::timeout(self.settings.patience, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| busy())?
            .map_err(|_| busy())?;
        // The turn goes with the work: it is not free before the thread is, even when the caller has gone.
        let work = move || {
            let answer = work();
            drop(turn);
            answer
        };
        self.handle
            .spawn_blocking(work)
            .await
            .map_err(|_| AuthError::Internal("the hashing thread ended".into()))
    }
}

#[async_trait]
impl PasswordHasher for Argon2Hasher {
    async fn hash(&self, password: &Password) -> Result<String, AuthError> {
        let password = password.clone();
        let hashed = self.take_turn(move || {
            let hash = argon2()?
                .hash_password(password.expose().as_bytes())
                .map_err(internal)?;
            Ok(hash.to_string())
        });
        deadline::uncounted(hashed).await?
    }

    async fn verify(&self, password: &Password, hash: Option<String>) -> Result<bool, AuthError> {
        let password = password.clone();
        let verified = self.take_turn(move || {
            let hash = hash.as_deref();
            let parsed = hash.and_then(|hash| PasswordHash::new(hash).ok());
            if hash.is_some() && parsed.is_none() {
                tracing::error!("a stored password hash cannot be read");
            }
            let known = parsed.is_some();
            let compared = match parsed {
                Some(hash) => hash,
                None => PasswordHash::new(DUMMY).map_err(internal)?,
            };
            let matches = argon2()?
                .verify_password(password.expose().as_bytes(), &compared)
                .is_ok();
            Ok(matches && known)
        });
        deadline::uncounted(verified).await?
    }
}

fn argon2() -> Result<Argon2<'static>, AuthError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(internal)?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn internal(error: impl std::fmt::Display) -> AuthError {
    AuthError::Internal(format!("argon2: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher(parallelism: usize) -> Argon2Hasher {
        Argon2Hasher::new(HashSettings::new(parallelism), Handle::current())
    }

    #[tokio::test]
    async fn the_right_password_matches_its_hash_and_no_other_does() {
        let hasher = hasher(2);
        let right = Password::parse("correct horse e\u{301}").unwrap();
        let hash = hasher.hash(&right).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(
            hasher
                .verify(&Password::attempt("correct horse é"), Some(hash.clone()))
                .await
                .unwrap()
        );
        for wrong in ["", "wrong horse", &"x".repeat(10_000)] {
            assert!(
                !hasher
                    .verify(&Password::attempt(wrong), Some(hash.clone()))
                    .await
                    .unwrap()
            );
        }
    }

    #[tokio::test]
    async fn without_a_hash_the_dummy_is_compared_at_the_same_cost_and_never_matches() {
        let real = PasswordHash::new(DUMMY).unwrap();
        assert_eq!(real.params.to_string(), "m=19456,t=2,p=1");
        let hasher = hasher(1);
        let attempt = Password::attempt("anything");
        assert!(!hasher.verify(&attempt, None).await.unwrap());
        assert!(!hasher.verify(&attempt, Some("not a hash".into())).await.unwrap());
    }

    #[tokio::test]
    async fn who_waits_too_long_for_a_turn_is_told_to_come_back() {
        let mut hasher = hasher(1);
        hasher.settings.patience = Duration::from_millis(20);
        let _turn = Arc::clone(&hasher.turns).acquire_owned().await.unwrap();
        let refused = hasher.verify(&Password::attempt("anything"), None).await;
        assert!(matches!(
            refused,
            Err(AuthError::Unavailable { what: "hashing", .. })
        ));
    }
}
