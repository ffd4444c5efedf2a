//! What the tests of these use cases share.

use super::TokenIssuer;
use async_trait::async_trait;
use gravity_domain::auth::{
    AccessToken, AccountStore, Credentials, ExternalUser, Identity, MockTokenSigner, NewAccount, Quota,
    RateDecision, RefreshTokens, RegisterError, Role, Secret, Session, UserStatus, Username,
};
use gravity_domain::clock::{HybridClock, NodeId, StampStore, Timestamp, WallClock};
use gravity_domain::error::StoreError;
use gravity_domain::id::{SessionId, UserId};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) fn identity(role: Role, active: bool) -> Identity {
    let status = if active {
        UserStatus::Active
    } else {
        UserStatus::Suspended
    };
    Identity { role, status }
}

#[derive(Default)]
pub(super) struct Accounts {
    rows: Mutex<HashMap<UserId, Identity>>,
    provisioned: Mutex<Vec<UserId>>,
    asked: AtomicUsize,
    down: AtomicBool,
    delay: Mutex<Duration>,
}

impl Accounts {
    pub(super) fn with(user: UserId, identity: Identity) -> Self {
        let accounts = Self::default();
        accounts.set(user, Some(identity));
        accounts
    }

    pub(super) fn set(&self, user: UserId, identity: Option<Identity>) {
        let mut rows = self.rows.lock().unwrap();
        match identity {
            Some(identity) => rows.insert(user, identity),
            None => rows.remove(&user),
        };
    }

    pub(super) fn break_down(&self) {
        self.down.store(true, Ordering::Relaxed);
    }

    pub(super) fn slow_down(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn provisioned(&self) -> Vec<UserId> {
        self.provisioned.lock().unwrap().clone()
    }

    fn up(&self) -> Result<(), StoreError> {
        if self.down.load(Ordering::Relaxed) {
            return Err(StoreError::unavailable("connect"));
        }
        Ok(())
    }
}

#[async_trait]
impl AccountStore for Accounts {
    async fn register(&self, _: &NewAccount) -> Result<(), RegisterError> {
        Err(RegisterError::UsernameTaken)
    }

    async fn credentials(&self, _: &Username) -> Result<Option<Credentials>, StoreError> {
        Ok(None)
    }

    async fn identity(&self, user: UserId) -> Result<Option<Identity>, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        self.up()?;
        Ok(self.rows.lock().unwrap().get(&user).copied())
    }

    async fn provision(&self, user: &ExternalUser) -> Result<Identity, StoreError> {
        self.up()?;
        self.provisioned.lock().unwrap().push(user.id);
        let identity = identity(Role::User, true);
        self.set(user.id, Some(identity));
        Ok(identity)
    }
}

pub(super) struct FixedClock;

impl WallClock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000)
    }
}

struct Nowhere;

impl StampStore for Nowhere {
    fn reserve(&self, _: u64) {}
}

pub(super) fn clock() -> Arc<HybridClock> {
    Arc::new(HybridClock::new(
        NodeId(1),
        0,
        60_000,
        Arc::new(FixedClock),
        Arc::new(Nowhere),
    ))
}

pub(super) fn decision(quota: Quota, allowed: bool) -> RateDecision {
    RateDecision {
        allowed,
        quota,
        remaining: u32::from(allowed),
        reset: Duration::from_secs(7),
    }
}

pub(super) fn token_issuer() -> Arc<TokenIssuer> {
    let mut signer = MockTokenSigner::new();
    signer.expect_sign().returning(|_| {
        Ok(AccessToken {
            token: Secret::new("signed"),
            expires_in: Duration::from_secs(900),
        })
    });
    Arc::new(TokenIssuer {
        signer: Arc::new(signer),
        refresh: RefreshTokens::new(&Secret::new("0123456789abcdef0123456789abcdef")),
        session_ttl: Duration::from_secs(86_400),
        reuse_grace: Duration::from_secs(10),
    })
}

pub(super) fn session(id: SessionId, user_id: UserId, generation: u32) -> Session {
    Session {
        id,
        user_id,
        role: Role::User,
        client: None,
        generation,
        created_at: FixedClock.now(),
        last_used_at: FixedClock.now(),
        expires_at: FixedClock.now(),
    }
}
