//! Registration.

use super::login::allowed;
use gravity_domain::auth::{
    AccountStore, AuthError, Email, NewAccount, Password, PasswordHasher, Quota, RateDecision, RateLimiter,
    RegisterError, Role, UserStatus, Username, client_network,
};
use gravity_domain::clock::HybridClock;
use gravity_domain::id::UserId;
use gravity_domain::profile::{Name, Profile};
use gravity_domain::sync::Lww;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A registration, parsed.
#[derive(Debug, Clone)]
pub struct RegisterRequest {
    /// The username wanted.
    pub username: Username,
    /// The password.
    pub password: Password,
    /// The display name.
    pub name: Option<Name>,
    /// Kept with the credentials.
    pub email: Option<Email>,
    /// Where it comes from.
    pub address: IpAddr,
}

/// A new user.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The profile, at version 1.
    pub profile: Profile,
    /// The e-mail address, seen only by its owner.
    pub email: Option<Email>,
    /// For the headers.
    pub rate: RateDecision,
}

/// The use case.
pub struct Register {
    /// Where accounts are.
    pub accounts: Arc<dyn AccountStore>,
    /// Hashes the password.
    pub hasher: Arc<dyn PasswordHasher>,
    /// Counts registrations.
    pub limiter: Arc<dyn RateLimiter>,
    /// Stamps the fields.
    pub clock: Arc<HybridClock>,
    /// How many registrations a client network may make.
    pub quota: Quota,
    /// False when own tokens are off: nobody could log in.
    pub enabled: bool,
}

impl Register {
    /// The usual quota: so many per hour and client network.
    pub fn per_hour(registrations: u32) -> Quota {
        Quota {
            name: "register_address",
            limit: registrations,
            window: Duration::from_secs(3_600),
        }
    }

    /// Makes the account.
    ///
    /// # Errors
    /// [`AuthError::UsernameTaken`], [`AuthError::RateLimited`], [`AuthError::Unavailable`] when accounts are down,
    /// [`AuthError::Forbidden`] when registration is off.
    pub async fn run(&self, request: RegisterRequest) -> Result<Registered, AuthError> {
        if !self.enabled {
            return Err(AuthError::Forbidden {
                why: "own_tokens_off",
            });
        }
        let network = client_network(request.address).to_string();
        let rate = allowed(self.limiter.check(&self.quota, &network).await)?;
        let password_hash = self.hasher.hash(&request.password).await?;
        let account = NewAccount {
            id: UserId::random(),
            username: request.username,
            name: request.name,
            email: request.email,
            password_hash,
            stamp: self.clock.stamp(),
        };
        match self.accounts.register(&account).await {
            Ok(()) => Ok(registered(account, rate)),
            Err(RegisterError::UsernameTaken) => Err(AuthError::UsernameTaken),
            Err(RegisterError::Store(error)) if error.is_transient() => {
                Err(AuthError::unavailable("accounts", error))
            }
            Err(RegisterError::Store(error)) => Err(AuthError::Internal(error.to_string())),
        }
    }
}

fn registered(account: NewAccount, rate: RateDecision) -> Registered {
    let created_at = account.stamp.timestamp();
    Registered {
        profile: Profile {
            id: account.id,
            username: account.username,
            name: Lww::new(account.name, account.stamp),
            avatar_url: Lww::new(None, account.stamp),
            role: Role::User,
            status: UserStatus::Active,
            created_at,
            updated_at: created_at,
            version: 1,
        },
        email: account.email,
        rate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::fixtures::{clock, decision};
    use gravity_domain::auth::{MockAccountStore, MockPasswordHasher, MockRateLimiter};
    use gravity_domain::error::StoreError;

    fn register(accounts: MockAccountStore, allowed: bool) -> Register {
        let mut hasher = MockPasswordHasher::new();
        hasher.expect_hash().returning(|_| Ok("the hash".into()));
        let mut limiter = MockRateLimiter::new();
        limiter
            .expect_check()
            .returning(move |quota, _| decision(*quota, allowed));
        Register {
            accounts: Arc::new(accounts),
            hasher: Arc::new(hasher),
            limiter: Arc::new(limiter),
            clock: clock(),
            quota: Register::per_hour(10),
            enabled: true,
        }
    }

    fn request() -> RegisterRequest {
        RegisterRequest {
            username: Username::parse("Alice").unwrap(),
            password: Password::parse("correct horse").unwrap(),
            name: None,
            email: Some(Email::parse("a@b.co").unwrap()),
            address: "192.0.2.1".parse().unwrap(),
        }
    }

    #[tokio::test]
    async fn a_new_user_is_stored_with_the_hash_and_shown_at_version_1() {
        let mut accounts = MockAccountStore::new();
        accounts
            .expect_register()
            .withf(|account| account.password_hash == "the hash" && account.username.as_str() == "alice")
            .times(1)
            .returning(|_| Ok(()));
        let new = register(accounts, true).run(request()).await.unwrap();
        assert_eq!(new.profile.version, 1);
        assert_eq!(new.profile.role, Role::User);
        assert_eq!(new.email.unwrap().as_str(), "a@b.co");
    }

    #[tokio::test]
    async fn a_taken_name_an_outage_and_the_limit_are_told_apart() {
        let mut accounts = MockAccountStore::new();
        accounts
            .expect_register()
            .returning(|_| Err(RegisterError::UsernameTaken));
        let refused = register(accounts, true).run(request()).await;
        assert!(matches!(refused, Err(AuthError::UsernameTaken)));

        let mut accounts = MockAccountStore::new();
        accounts
            .expect_register()
            .returning(|_| Err(StoreError::unavailable("connect").into()));
        let failed = register(accounts, true).run(request()).await;
        assert!(matches!(
            failed,
            Err(AuthError::Unavailable { what: "accounts", .. })
        ));

        let limited = register(MockAccountStore::new(), false).run(request()).await;
        assert!(matches!(limited, Err(AuthError::RateLimited(_))));
    }
}
