//! The ports of authentication in memory.

use super::{ALICE, BOB, Memory, ROOT, SESSION, on};
use async_trait::async_trait;
use gravity_domain::auth::{
    AccountStore, AddressBlocker, AuthError, Credentials, ExternalUser, Identity, Issuer, NewAccount,
    NewSession, Password, PasswordHasher, Quota, RateDecision, RateLimiter, RegisterError, Role, Rotation,
    Session, SessionStore, Spend, TokenVerifier, UserStatus, Username, VerifiedToken,
};
use gravity_domain::clock::Timestamp;
use gravity_domain::error::StoreError;
use gravity_domain::id::{SessionId, UserId};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;
use uuid::Uuid;

/// The token is the name of who it is for.
#[async_trait]
impl TokenVerifier for Memory {
    async fn verify(&self, token: &str) -> Result<VerifiedToken, AuthError> {
        let (user_id, role) = match token {
            "alice" => (ALICE, Role::User),
            "bob" => (BOB, Role::User),
            "root" => (ROOT, Role::Admin),
            "machine" => (UserId(Uuid::from_u128(0xd)), Role::Service),
            _ => return Err(AuthError::unauthenticated("signature")),
        };
        Ok(VerifiedToken {
            issuer: Issuer::Own,
            user_id,
            role,
            // A machine account has no login session.
            session_id: (role != Role::Service).then_some(SESSION),
            expires_at: Timestamp::MAX,
        })
    }
}

#[async_trait]
impl AccountStore for Memory {
    async fn register(&self, account: &NewAccount) -> Result<(), RegisterError> {
        self.postgres()?;
        if account.username.as_str() == "alice" {
            Err(RegisterError::UsernameTaken)
        } else {
            Ok(())
        }
    }

    async fn credentials(&self, username: &Username) -> Result<Option<Credentials>, StoreError> {
        self.postgres()?;
        Ok((username.as_str() == "alice").then(|| Credentials {
            user_id: ALICE,
            password_hash: "hash of correct horse".into(),
            role: Role::User,
            status: UserStatus::Active,
        }))
    }

    async fn identity(&self, user: UserId) -> Result<Option<Identity>, StoreError> {
        self.postgres()?;
        let role = if user == ROOT { Role::Admin } else { Role::User };
        let known = [ALICE, BOB, ROOT].contains(&user);
        Ok(known.then_some(Identity {
            role,
            status: UserStatus::Active,
        }))
    }

    async fn provision(&self, _: &ExternalUser) -> Result<Identity, StoreError> {
        Err(StoreError::unavailable("connect"))
    }
}

#[async_trait]
impl PasswordHasher for Memory {
    async fn hash(&self, password: &Password) -> Result<String, AuthError> {
        Ok(format!("hash of {}", password.expose()))
    }

    async fn verify(&self, password: &Password, hash: Option<String>) -> Result<bool, AuthError> {
        Ok(hash.is_some_and(|hash| hash == format!("hash of {}", password.expose())))
    }
}

#[async_trait]
impl SessionStore for Memory {
    async fn create(&self, _: NewSession) -> Result<(), StoreError> {
        self.sessions()
    }

    async fn rotate(&self, _: &Spend) -> Result<Rotation, StoreError> {
        self.sessions().map(|()| Rotation::Revoked)
    }

    async fn list(&self, user_id: UserId) -> Result<Vec<Session>, StoreError> {
        self.sessions()?;
        let at = Timestamp::from_millis(1_700_000_000_000);
        Ok(vec![Session {
            id: SESSION,
            user_id,
            role: Role::User,
            client: Some("curl/8".into()),
            generation: 0,
            created_at: at,
            last_used_at: at,
            expires_at: at.plus_millis(60_000),
        }])
    }

    async fn revoke(&self, user: UserId, session: SessionId) -> Result<bool, StoreError> {
        self.sessions().map(|()| user == ALICE && session == SESSION)
    }
}

#[async_trait]
impl RateLimiter for Memory {
    async fn check(&self, quota: &Quota, _: &str) -> RateDecision {
        let left = self.calls_left.load(Ordering::SeqCst);
        self.calls_left.store(left.saturating_sub(1), Ordering::SeqCst);
        RateDecision {
            allowed: left > 0,
            quota: *quota,
            remaining: left.saturating_sub(1),
            reset: Duration::from_millis(6_500),
        }
    }

    async fn give_back(&self, _: &Quota, _: &str) {
        self.calls_left.fetch_add(1, Ordering::SeqCst);
    }
}

impl AddressBlocker for Memory {
    fn blocked(&self, _: IpAddr) -> Option<Duration> {
        on(&self.blocked).then_some(Duration::from_millis(299_500))
    }

    fn refused(&self, _: IpAddr) {
        self.refusals.fetch_add(1, Ordering::SeqCst);
    }
}
