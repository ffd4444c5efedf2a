//! The ports of authentication.

use super::{
    AccessClaims, AccessToken, AuthError, Credentials, ExternalUser, Identity, NewAccount, NewSession,
    Password, Quota, RateDecision, Rotation, Session, Spend, Username, VerifiedToken,
};
use crate::error::StoreError;
use crate::id::{SessionId, UserId};
use async_trait::async_trait;
use std::net::IpAddr;
use std::time::Duration;
use thiserror::Error;

/// Why an account was not stored.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// Somebody has the username. Nothing was stored.
    #[error("the username is taken")]
    UsernameTaken,
    /// The store could not answer; for an outage it is unknown whether the account was stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Accounts, in Postgres.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait AccountStore: Send + Sync {
    /// Stores user and credentials in one transaction.
    ///
    /// # Errors
    /// [`RegisterError`].
    async fn register(&self, account: &NewAccount) -> Result<(), RegisterError>;

    /// What a login with this username is checked against; `None` when there is no such user or the user has no password.
    ///
    /// # Errors
    /// The store could not answer.
    async fn credentials(&self, username: &Username) -> Result<Option<Credentials>, StoreError>;

    /// Role and status of a user; `None` when there is no row.
    ///
    /// # Errors
    /// The store could not answer.
    async fn identity(&self, user: UserId) -> Result<Option<Identity>, StoreError>;

    /// Creates the user of an outside provider unless the row is there, and tells what the row says. A username that is
    /// missing or taken is replaced by `u_` and 12 hexadecimal digits.
    ///
    /// # Errors
    /// The store could not answer.
    async fn provision(&self, user: &ExternalUser) -> Result<Identity, StoreError>;
}

/// Login sessions, in Redis; without Redis in this process. Every transition is atomic. A session past its `expires_at`
/// is as good as gone.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Stores a session. A user has a bounded number of them; the one that would end first makes room.
    ///
    /// # Errors
    /// The store could not answer.
    async fn create(&self, session: NewSession) -> Result<(), StoreError>;

    /// Exchanges a refresh token, in one step: see [`Rotation`].
    ///
    /// # Errors
    /// The store could not answer; whether the token is spent is unknown, and it may be presented again.
    async fn rotate(&self, spend: &Spend) -> Result<Rotation, StoreError>;

    /// The user's sessions, latest first.
    ///
    /// # Errors
    /// The store could not answer.
    async fn list(&self, user: UserId) -> Result<Vec<Session>, StoreError>;

    /// Ends one of the user's sessions. False when there was none.
    ///
    /// # Errors
    /// The store could not answer.
    async fn revoke(&self, user: UserId, session: SessionId) -> Result<bool, StoreError>;
}

/// Password hashing, off the request's thread, with bounded parallelism.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait PasswordHasher: Send + Sync {
    /// A PHC string with a fresh salt.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when too many wait.
    async fn hash(&self, password: &Password) -> Result<String, AuthError>;

    /// Whether the password is the one of the hash, compared in constant time. Without a hash it does the same work on a
    /// dummy and answers false.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when too many wait.
    async fn verify(&self, password: &Password, hash: Option<String>) -> Result<bool, AuthError>;
}

/// Signs access tokens.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait TokenSigner: Send + Sync {
    /// A token that is valid from now on.
    ///
    /// # Errors
    /// [`AuthError::Internal`].
    fn sign(&self, claims: &AccessClaims) -> Result<AccessToken, AuthError>;
}

/// Verifies bearer tokens of every trusted issuer.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait TokenVerifier: Send + Sync {
    /// Checks form, algorithm, signature, times, issuer and audience. Waits for the network only when the signing key is
    /// not known yet.
    ///
    /// # Errors
    /// [`AuthError::Unauthenticated`] for anything wrong with the token; [`AuthError::Unavailable`] when a provider's keys
    /// could never be had.
    async fn verify(&self, token: &str) -> Result<VerifiedToken, AuthError>;
}

/// Counts calls in sliding windows, shared between nodes while that is possible. Never fails and never lets everything
/// through: what cannot be counted together is counted in this process.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait RateLimiter: Send + Sync {
    /// Counts one call of `key` against the quota.
    async fn check(&self, quota: &Quota, key: &str) -> RateDecision;

    /// Takes back the latest counted call of `key`, which turned out not to count. As good as it goes: never fails.
    async fn give_back(&self, quota: &Quota, key: &str);
}

/// Keeps addresses out that were refused too often. Cheap enough for every request.
#[cfg_attr(feature = "mock", mockall::automock)]
pub trait AddressBlocker: Send + Sync {
    /// For how much longer the address is blocked; `None` when it is not.
    fn blocked(&self, address: IpAddr) -> Option<Duration>;

    /// Counts a refused request (401, 403, 429, or 400 from a login call) of the address.
    fn refused(&self, address: IpAddr);
}
