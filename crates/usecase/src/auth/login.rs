//! Logging in with username and password.
//!
//! Whether the user exists shows neither in the answer nor in its time: a password is always hashed, against a dummy when there is
//! nothing to compare with. Attempts are limited per address and per username, successful ones included.

use super::issue::{TokenIssuer, TokenPair, issuer};
use gravity_domain::auth::{
    AccountStore, AuthError, Credentials, NewSession, Password, PasswordHasher, Quota, RateDecision,
    RateLimiter, RefreshClaims, SessionStore, UserStatus, Username, client_network,
};
use gravity_domain::clock::WallClock;
use gravity_domain::id::SessionId;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const CLIENT_LENGTH: usize = 255;

/// How often somebody may try.
#[derive(Debug, Clone, Copy)]
pub struct LoginQuotas {
    /// Per client network.
    pub address: Quota,
    /// Per username, existing or not.
    pub username: Quota,
}

impl LoginQuotas {
    /// The same number of attempts per minute for both.
    pub fn per_minute(attempts: u32) -> Self {
        let quota = |name| Quota {
            name,
            limit: attempts,
            window: Duration::from_secs(60),
        };
        Self {
            address: quota("login_address"),
            username: quota("login_username"),
        }
    }
}

/// An attempt, as it was typed.
#[derive(Clone, Copy)]
pub struct LoginRequest<'a> {
    /// Any text; one that is no username fails like a wrong password.
    pub username: &'a str,
    /// Any text.
    pub password: &'a str,
    /// Where it comes from.
    pub address: IpAddr,
    /// `User-Agent`.
    pub client: Option<&'a str>,
}

/// A successful login.
#[derive(Debug, Clone)]
pub struct LoggedIn {
    /// The tokens.
    pub tokens: TokenPair,
    /// The new session.
    pub session_id: SessionId,
    /// The tighter of the two limits, for the headers.
    pub rate: RateDecision,
}

/// The use case.
pub struct Login {
    /// Where accounts are.
    pub accounts: Arc<dyn AccountStore>,
    /// Where sessions are.
    pub sessions: Arc<dyn SessionStore>,
    /// Compares passwords.
    pub hasher: Arc<dyn PasswordHasher>,
    /// Counts attempts.
    pub limiter: Arc<dyn RateLimiter>,
    /// Makes tokens; `None` when own tokens are off.
    pub tokens: Option<Arc<TokenIssuer>>,
    /// The time.
    pub clock: Arc<dyn WallClock>,
    /// How often somebody may try.
    pub quotas: LoginQuotas,
}

impl Login {
    /// Checks the attempt and opens a session.
    ///
    /// # Errors
    /// [`AuthError::RateLimited`], [`AuthError::InvalidCredentials`], [`AuthError::Unavailable`] when accounts or sessions
    /// are down, [`AuthError::Forbidden`] when own tokens are off.
    pub async fn run(&self, request: LoginRequest<'_>) -> Result<LoggedIn, AuthError> {
        let tokens = issuer(self.tokens.as_ref())?;
        let username = Username::parse(request.username).ok();
        let rate = self.admit(request.address, username.as_ref()).await?;
        let account = self.verified(username.as_ref(), request.password).await?;
        let claims = self.open_session(tokens, &account, request.client).await?;
        Ok(LoggedIn {
            tokens: tokens.pair(claims, account.role)?,
            session_id: claims.session_id,
            rate,
        })
    }

    async fn admit(&self, address: IpAddr, username: Option<&Username>) -> Result<RateDecision, AuthError> {
        let network = client_network(address).to_string();
        let by_address = allowed(self.limiter.check(&self.quotas.address, &network).await)?;
        let Some(username) = username else {
            return Ok(by_address);
        };
        let by_username = self.limiter.check(&self.quotas.username, username.as_str()).await;
        let by_username = allowed(by_username)?;
        Ok(if by_username.remaining < by_address.remaining {
            by_username
        } else {
            by_address
        })
    }

    async fn verified(&self, username: Option<&Username>, password: &str) -> Result<Credentials, AuthError> {
        let account = match username {
            Some(username) => self
                .accounts
                .credentials(username)
                .await
                .map_err(|error| AuthError::unavailable("accounts", error))?,
            None => None,
        };
        let hash = account.as_ref().map(|account| account.password_hash.clone());
        let matches = self.hasher.verify(&Password::attempt(password), hash).await?;
        match account {
            Some(account) if matches && account.status == UserStatus::Active => Ok(account),
            _ => Err(AuthError::InvalidCredentials),
        }
    }

    async fn open_session(
        &self,
        tokens: &TokenIssuer,
        account: &Credentials,
        client: Option<&str>,
    ) -> Result<RefreshClaims, AuthError> {
        let claims = RefreshClaims {
            session_id: SessionId::random(),
            user_id: account.user_id,
            generation: 0,
        };
        let now = self.clock.now();
        let session = NewSession {
            id: claims.session_id,
            user_id: account.user_id,
            role: account.role,
            client: client.map(client_name).filter(|name| !name.is_empty()),
            refresh_hash: tokens.refresh.hash(claims),
            created_at: now,
            expires_at: now.plus_millis(tokens.session_millis()),
        };
        self.sessions
            .create(session)
            .await
            .map_err(|error| AuthError::unavailable("sessions", error))?;
        Ok(claims)
    }
}

pub(super) fn allowed(decision: RateDecision) -> Result<RateDecision, AuthError> {
    if decision.allowed {
        Ok(decision)
    } else {
        Err(AuthError::RateLimited(decision))
    }
}

fn client_name(user_agent: &str) -> String {
    user_agent
        .chars()
        .filter(|c| !c.is_control())
        .take(CLIENT_LENGTH)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::fixtures::{FixedClock, decision, token_issuer};
    use gravity_domain::auth::{
        MockAccountStore, MockPasswordHasher, MockRateLimiter, MockSessionStore, Role,
    };
    use gravity_domain::error::StoreError;
    use gravity_domain::id::UserId;

    struct Ports {
        accounts: MockAccountStore,
        sessions: MockSessionStore,
        hasher: MockPasswordHasher,
        limiter: MockRateLimiter,
    }

    impl Ports {
        fn new() -> Self {
            let mut limiter = MockRateLimiter::new();
            limiter
                .expect_check()
                .returning(|quota, _| decision(*quota, true));
            Self {
                accounts: MockAccountStore::new(),
                sessions: MockSessionStore::new(),
                hasher: MockPasswordHasher::new(),
                limiter,
            }
        }

        fn with_user(mut self, status: UserStatus) -> Self {
            self.accounts.expect_credentials().returning(move |_| {
                Ok(Some(Credentials {
                    user_id: UserId::random(),
                    password_hash: "the hash".into(),
                    role: Role::User,
                    status,
                }))
            });
            self
        }

        fn login(self) -> Login {
            Login {
                accounts: Arc::new(self.accounts),
                sessions: Arc::new(self.sessions),
                hasher: Arc::new(self.hasher),
                limiter: Arc::new(self.limiter),
                tokens: Some(token_issuer()),
                clock: Arc::new(FixedClock),
                quotas: LoginQuotas::per_minute(10),
            }
        }
    }

    fn attempt(username: &str) -> LoginRequest<'_> {
        LoginRequest {
            username,
            password: "correct horse",
            address: "192.0.2.1".parse().unwrap(),
            client: Some("test\u{7} agent"),
        }
    }

    #[tokio::test]
    async fn a_password_is_hashed_once_whether_or_not_the_user_exists_or_the_name_is_one() {
        for username in ["nobody", "no username!", ""] {
            let mut ports = Ports::new();
            ports.accounts.expect_credentials().returning(|_| Ok(None));
            ports
                .hasher
                .expect_verify()
                .withf(|_, hash| hash.is_none())
                .times(1)
                .returning(|_, _| Ok(false));
            let refused = ports.login().run(attempt(username)).await;
            assert!(
                matches!(refused, Err(AuthError::InvalidCredentials)),
                "{username:?}"
            );
        }
        let mut ports = Ports::new().with_user(UserStatus::Active);
        ports
            .hasher
            .expect_verify()
            .withf(|_, hash| hash.as_deref() == Some("the hash"))
            .times(1)
            .returning(|_, _| Ok(false));
        let refused = ports.login().run(attempt("alice")).await;
        assert!(matches!(refused, Err(AuthError::InvalidCredentials)));
    }

    #[tokio::test]
    async fn a_dummy_that_happens_to_match_logs_nobody_in() {
        let mut ports = Ports::new();
        ports.accounts.expect_credentials().returning(|_| Ok(None));
        ports.hasher.expect_verify().returning(|_, _| Ok(true));
        let refused = ports.login().run(attempt("nobody")).await;
        assert!(matches!(refused, Err(AuthError::InvalidCredentials)));
    }

    #[tokio::test]
    async fn the_right_password_opens_a_session() {
        let mut ports = Ports::new().with_user(UserStatus::Active);
        ports.hasher.expect_verify().returning(|_, _| Ok(true));
        ports
            .sessions
            .expect_create()
            .withf(|session| session.client.as_deref() == Some("test agent"))
            .times(1)
            .returning(|_| Ok(()));
        let login = ports.login();
        let in_ = login.run(attempt("alice")).await.unwrap();
        let claims = token_issuer().refresh.open(in_.tokens.refresh.expose()).unwrap();
        assert_eq!(claims.session_id, in_.session_id);
        assert_eq!(claims.generation, 0);
    }

    #[tokio::test]
    async fn a_suspended_user_cannot_log_in() {
        let mut ports = Ports::new().with_user(UserStatus::Suspended);
        ports.hasher.expect_verify().returning(|_, _| Ok(true));
        let refused = ports.login().run(attempt("alice")).await;
        assert!(matches!(refused, Err(AuthError::InvalidCredentials)));
    }

    #[tokio::test]
    async fn sessions_or_accounts_that_are_down_make_it_unavailable() {
        let mut ports = Ports::new().with_user(UserStatus::Active);
        ports.hasher.expect_verify().returning(|_, _| Ok(true));
        ports
            .sessions
            .expect_create()
            .returning(|_| Err(StoreError::unavailable("connect")));
        let failed = ports.login().run(attempt("alice")).await;
        assert!(matches!(
            failed,
            Err(AuthError::Unavailable { what: "sessions", .. })
        ));

        let mut ports = Ports::new();
        ports
            .accounts
            .expect_credentials()
            .returning(|_| Err(StoreError::unavailable("connect")));
        let failed = ports.login().run(attempt("alice")).await;
        assert!(matches!(
            failed,
            Err(AuthError::Unavailable { what: "accounts", .. })
        ));
    }

    #[tokio::test]
    async fn either_limit_refuses_before_any_password_is_hashed() {
        for refusing in ["login_address", "login_username"] {
            let mut ports = Ports::new();
            ports.limiter = MockRateLimiter::new();
            ports
                .limiter
                .expect_check()
                .returning(move |quota, _| decision(*quota, quota.name != refusing));
            let refused = ports.login().run(attempt("alice")).await;
            assert!(matches!(refused, Err(AuthError::RateLimited(d)) if d.quota.name == refusing));
        }
    }

    #[tokio::test]
    async fn without_own_tokens_login_is_forbidden() {
        let mut login = Ports::new().login();
        login.tokens = None;
        assert!(matches!(
            login.run(attempt("alice")).await,
            Err(AuthError::Forbidden { .. })
        ));
    }
}
