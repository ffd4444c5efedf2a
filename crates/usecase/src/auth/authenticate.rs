//! Who a request is from.
//!
//! Own tokens: the stored role counts, and the claimed one only for ids without a row (machine accounts,
//! which never log in: a token with a `sid` whose user is gone is refused). Outside tokens:
//! the role that the settings give their claims; their users are created on first sight. A suspended user is refused either way.
//!
//! With Postgres down and nothing known of the user, the token alone decides: an own token counts with role user, or with its
//! claim when no login made it (no `sid`: a machine's, signed by a holder of the secret); an outside one as ever.

use super::identities::{Identities, Known};
use gravity_domain::auth::{
    AuthError, ExternalUser, Identity, Issuer, OutsideClaims, Principal, Role, TokenVerifier, UserStatus,
    VerifiedToken,
};
use gravity_domain::clock::{HybridClock, Timestamp};
use std::sync::Arc;

/// The use case; on the path of every request.
pub struct Authenticate {
    /// Checks tokens.
    pub verifier: Arc<dyn TokenVerifier>,
    /// Knows users.
    pub identities: Arc<Identities>,
    /// Stamps the users that are created.
    pub clock: Arc<HybridClock>,
    /// Whether unknown users of outside providers are created (`AUTH_AUTO_PROVISION`); refused otherwise.
    pub auto_provision: bool,
}

/// Who a token speaks for, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Who.
    pub principal: Principal,
    /// When the token ends.
    pub expires_at: Timestamp,
}

impl Authenticate {
    /// The principal that a bearer token (without the word `Bearer`) speaks for.
    ///
    /// # Errors
    /// [`AuthError::Unauthenticated`] for anything wrong with the token or its user; [`AuthError::Unavailable`] when it cannot
    /// be checked for want of a provider's keys.
    pub async fn run(&self, bearer: &str) -> Result<Principal, AuthError> {
        self.admit(bearer).await.map(|admitted| admitted.principal)
    }

    /// The same, and when the token ends.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn admit(&self, bearer: &str) -> Result<Admitted, AuthError> {
        let outcome = self.principal(bearer).await;
        if let Err(AuthError::Unauthenticated { why }) = &outcome {
            metrics::counter!("gravity_auth_refused_total", "reason" => *why).increment(1);
        }
        outcome
    }

    async fn principal(&self, bearer: &str) -> Result<Admitted, AuthError> {
        let token = self.verifier.verify(bearer).await?;
        let known = self.identities.find(token.user_id).await;
        let role = match &token.issuer {
            Issuer::Own => own_role(&token, known)?,
            Issuer::Outside(claims) => self.outside_role(&token, claims, known).await?,
        };
        Ok(Admitted {
            principal: Principal {
                user_id: token.user_id,
                role,
                session_id: token.session_id,
            },
            expires_at: token.expires_at,
        })
    }

    async fn outside_role(
        &self,
        token: &VerifiedToken,
        claims: &OutsideClaims,
        known: Known,
    ) -> Result<Role, AuthError> {
        match known {
            Known::Present(identity) => active(identity)?,
            Known::Unknown => {}
            Known::Absent if self.auto_provision => match self.provision(token, claims).await {
                Some(identity) => active(identity)?,
                None => tracing::debug!("a user of an outside provider goes on without a row"),
            },
            Known::Absent => return Err(AuthError::unauthenticated("unknown_user")),
        }
        Ok(token.role)
    }

    async fn provision(&self, token: &VerifiedToken, claims: &OutsideClaims) -> Option<Identity> {
        let user = ExternalUser {
            id: token.user_id,
            username: claims.username.clone(),
            name: claims.name.clone(),
            stamp: self.clock.stamp(),
        };
        match self.identities.provision(&user).await {
            Ok(identity) => Some(identity),
            Err(error) => {
                if !error.is_transient() {
                    tracing::error!(%error, user_id = %user.id, "a user of an outside provider could not be created");
                }
                None
            }
        }
    }
}

fn active(identity: Identity) -> Result<(), AuthError> {
    match identity.status {
        UserStatus::Active => Ok(()),
        UserStatus::Suspended => Err(AuthError::unauthenticated("suspended")),
    }
}

fn own_role(token: &VerifiedToken, known: Known) -> Result<Role, AuthError> {
    match known {
        Known::Present(identity) => active(identity).map(|()| identity.role),
        Known::Absent if token.role == Role::User || token.session_id.is_some() => {
            Err(AuthError::unauthenticated("unknown_user"))
        }
        Known::Absent => Ok(token.role),
        Known::Unknown if token.session_id.is_none() => Ok(token.role),
        Known::Unknown => Ok(Role::User),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::IdentitySettings;
    use crate::auth::fixtures::{Accounts, clock, identity};
    use gravity_domain::auth::MockTokenVerifier;
    use gravity_domain::id::{SessionId, UserId};

    fn authenticate(store: &Arc<Accounts>, token: VerifiedToken, auto_provision: bool) -> Authenticate {
        let mut verifier = MockTokenVerifier::new();
        verifier.expect_verify().returning(move |_| Ok(token.clone()));
        Authenticate {
            verifier: Arc::new(verifier),
            identities: Arc::new(Identities::new(
                Arc::clone(store) as _,
                IdentitySettings::default(),
            )),
            clock: clock(),
            auto_provision,
        }
    }

    fn own(user_id: UserId, role: Role, session_id: Option<SessionId>) -> VerifiedToken {
        VerifiedToken {
            issuer: Issuer::Own,
            user_id,
            role,
            session_id,
            expires_at: Timestamp::MAX,
        }
    }

    fn outside(user_id: UserId, role: Role) -> VerifiedToken {
        VerifiedToken {
            issuer: Issuer::Outside(OutsideClaims::default()),
            ..own(user_id, role, None)
        }
    }

    async fn role_of(store: &Arc<Accounts>, token: VerifiedToken, auto: bool) -> Result<Role, &'static str> {
        match authenticate(store, token, auto).run("t").await {
            Ok(principal) => Ok(principal.role),
            Err(AuthError::Unauthenticated { why }) => Err(why),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_stored_role_counts_for_own_tokens_of_users_with_a_row() {
        let user = UserId::random();
        let store = Arc::new(Accounts::with(user, identity(Role::User, true)));
        assert_eq!(
            role_of(&store, own(user, Role::Admin, None), false).await,
            Ok(Role::User)
        );
    }

    #[tokio::test]
    async fn machine_tokens_without_a_row_count_as_given_and_user_tokens_do_not() {
        let store = Arc::new(Accounts::default());
        let id = UserId::random();
        assert_eq!(
            role_of(&store, own(id, Role::Service, None), false).await,
            Ok(Role::Service)
        );
        assert_eq!(
            role_of(&store, own(id, Role::Admin, None), false).await,
            Ok(Role::Admin)
        );
        assert_eq!(
            role_of(&store, own(id, Role::User, None), false).await,
            Err("unknown_user")
        );
    }

    #[tokio::test]
    async fn a_login_token_of_a_user_who_is_gone_is_refused_whatever_its_role() {
        let store = Arc::new(Accounts::default());
        for role in [Role::User, Role::Admin, Role::Service] {
            let token = own(UserId::random(), role, Some(SessionId::random()));
            assert_eq!(role_of(&store, token, false).await, Err("unknown_user"));
        }
    }

    #[tokio::test]
    async fn a_suspended_user_is_refused_whoever_signed() {
        let user = UserId::random();
        let store = Arc::new(Accounts::with(user, identity(Role::User, false)));
        assert_eq!(
            role_of(&store, own(user, Role::Admin, None), false).await,
            Err("suspended")
        );
        assert_eq!(
            role_of(&store, outside(user, Role::User), true).await,
            Err("suspended")
        );
    }

    #[tokio::test]
    async fn with_the_store_down_a_checked_token_is_enough_but_a_login_token_is_only_a_user() {
        let store = Arc::new(Accounts::default());
        store.break_down();
        let id = UserId::random();
        let sid = Some(SessionId::random());
        assert_eq!(
            role_of(&store, own(id, Role::User, sid), false).await,
            Ok(Role::User)
        );
        assert_eq!(
            role_of(&store, own(id, Role::Admin, sid), false).await,
            Ok(Role::User)
        );
        assert_eq!(
            role_of(&store, own(id, Role::Service, None), false).await,
            Ok(Role::Service)
        );
        assert_eq!(
            role_of(&store, outside(id, Role::Admin), true).await,
            Ok(Role::Admin)
        );
    }

    #[tokio::test]
    async fn an_unknown_outside_user_is_created_once_or_refused() {
        let store = Arc::new(Accounts::default());
        let id = UserId::random();
        assert_eq!(
            role_of(&store, outside(id, Role::User), false).await,
            Err("unknown_user")
        );
        let authenticate = authenticate(&store, outside(id, Role::Admin), true);
        for _ in 0..3 {
            assert_eq!(authenticate.run("t").await.unwrap().role, Role::Admin);
        }
        assert_eq!(store.provisioned(), vec![id]);
    }
}
