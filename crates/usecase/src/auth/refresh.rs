//! A new pair of tokens for a refresh token, which is spent by it.

use super::identities::{Identities, Known};
use super::issue::{TokenIssuer, TokenPair, issuer};
use gravity_domain::auth::{
    AuthError, RefreshClaims, Role, Rotation, Session, SessionStore, Spend, UserStatus,
};
use gravity_domain::clock::WallClock;
use std::sync::Arc;

/// The use case.
pub struct Refresh {
    /// Where sessions are.
    pub sessions: Arc<dyn SessionStore>,
    /// Knows the user's present role and status.
    pub identities: Arc<Identities>,
    /// Makes tokens; `None` when own tokens are off.
    pub tokens: Option<Arc<TokenIssuer>>,
    /// The time.
    pub clock: Arc<dyn WallClock>,
}

impl Refresh {
    /// Exchanges the token.
    ///
    /// # Errors
    /// [`AuthError::Unauthenticated`] for a token that is not good, or spent too long ago (which ends its session);
    /// [`AuthError::Unavailable`] when sessions are down; [`AuthError::Forbidden`] when own tokens are off.
    pub async fn run(&self, refresh_token: &str) -> Result<TokenPair, AuthError> {
        let tokens = issuer(self.tokens.as_ref())?;
        let claims = tokens
            .refresh
            .open(refresh_token)
            .ok_or(AuthError::unauthenticated("refresh_token"))?;
        let session = self.spend(tokens, claims).await?;
        let role = self.present_role(&session).await?;
        let present = RefreshClaims {
            generation: session.generation,
            ..claims
        };
        tokens.pair(present, role)
    }

    async fn spend(&self, tokens: &TokenIssuer, claims: RefreshClaims) -> Result<Session, AuthError> {
        let now = self.clock.now();
        let spend = Spend {
            session_id: claims.session_id,
            user_id: claims.user_id,
            generation: claims.generation,
            presented: tokens.refresh.hash(claims),
            successor: tokens.refresh.hash(claims.next()),
            now,
            grace: tokens.reuse_grace,
            expires_at: now.plus_millis(tokens.session_millis()),
        };
        let rotation = self
            .sessions
            .rotate(&spend)
            .await
            .map_err(|error| AuthError::unavailable("sessions", error))?;
        match rotation {
            Rotation::Rotated(session) | Rotation::Replayed(session) => Ok(session),
            Rotation::Revoked => {
                tracing::warn!(user_id = %claims.user_id, session_id = %claims.session_id,
                    "a spent refresh token was used again; its session is revoked");
                Err(AuthError::unauthenticated("refresh_reuse"))
            }
            Rotation::Unknown => Err(AuthError::unauthenticated("session_ended")),
        }
    }

    async fn present_role(&self, session: &Session) -> Result<Role, AuthError> {
        let why = match self.identities.find(session.user_id).await {
            Known::Present(identity) if identity.status == UserStatus::Active => return Ok(identity.role),
            Known::Unknown => return Ok(session.role),
            Known::Present(_) => "suspended",
            Known::Absent => "unknown_user",
        };
        if let Err(error) = self.sessions.revoke(session.user_id, session.id).await {
            tracing::warn!(%error, "a session of a refused user could not be ended");
        }
        Err(AuthError::unauthenticated(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::IdentitySettings;
    use crate::auth::fixtures::{Accounts, FixedClock, identity, session, token_issuer};
    use gravity_domain::auth::MockSessionStore;
    use gravity_domain::error::StoreError;
    use gravity_domain::id::{SessionId, UserId};

    fn claims(user_id: UserId) -> RefreshClaims {
        RefreshClaims {
            session_id: SessionId::random(),
            user_id,
            generation: 3,
        }
    }

    fn refresh(sessions: MockSessionStore, accounts: Accounts) -> Refresh {
        Refresh {
            sessions: Arc::new(sessions),
            identities: Arc::new(Identities::new(Arc::new(accounts), IdentitySettings::default())),
            tokens: Some(token_issuer()),
            clock: Arc::new(FixedClock),
        }
    }

    fn why(outcome: Result<TokenPair, AuthError>) -> &'static str {
        match outcome {
            Err(AuthError::Unauthenticated { why }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_pair_given_is_the_one_of_the_generation_the_session_is_at() {
        let user = UserId::random();
        let given = claims(user);
        for rotation in [Rotation::Rotated as fn(_) -> _, Rotation::Replayed] {
            let mut sessions = MockSessionStore::new();
            sessions
                .expect_rotate()
                .withf(move |spend| spend.generation == 3 && spend.user_id == user)
                .returning(move |spend| Ok(rotation(session(spend.session_id, user, 4))));
            let refresh = refresh(sessions, Accounts::with(user, identity(Role::Admin, true)));
            let token = token_issuer().refresh.issue(given);
            let pair = refresh.run(token.expose()).await.unwrap();
            assert_eq!(pair.refresh, token_issuer().refresh.issue(given.next()));
        }
    }

    #[tokio::test]
    async fn anything_that_is_no_token_of_a_living_session_is_unauthenticated() {
        let user = UserId::random();
        let token = token_issuer().refresh.issue(claims(user));
        for (rotation, reason) in [
            (Rotation::Unknown, "session_ended"),
            (Rotation::Revoked, "refresh_reuse"),
        ] {
            let mut sessions = MockSessionStore::new();
            sessions.expect_rotate().return_once(move |_| Ok(rotation));
            let outcome = refresh(sessions, Accounts::default()).run(token.expose()).await;
            assert_eq!(why(outcome), reason);
        }
        for garbage in ["", "x", "é", &"A".repeat(100_000)] {
            let outcome = refresh(MockSessionStore::new(), Accounts::default())
                .run(garbage)
                .await;
            assert_eq!(why(outcome), "refresh_token");
        }
    }

    #[tokio::test]
    async fn the_session_of_a_suspended_user_is_ended() {
        let user = UserId::random();
        let given = claims(user);
        let mut sessions = MockSessionStore::new();
        sessions
            .expect_rotate()
            .returning(move |spend| Ok(Rotation::Rotated(session(spend.session_id, user, 4))));
        sessions
            .expect_revoke()
            .withf(move |who, which| *who == user && *which == given.session_id)
            .times(1)
            .returning(|_, _| Ok(true));
        let refresh = refresh(sessions, Accounts::with(user, identity(Role::User, false)));
        let token = token_issuer().refresh.issue(given);
        assert_eq!(why(refresh.run(token.expose()).await), "suspended");
    }

    #[tokio::test]
    async fn it_works_while_accounts_are_down_and_not_while_sessions_are() {
        let user = UserId::random();
        let token = token_issuer().refresh.issue(claims(user));
        let mut sessions = MockSessionStore::new();
        sessions
            .expect_rotate()
            .returning(move |spend| Ok(Rotation::Rotated(session(spend.session_id, user, 4))));
        let accounts = Accounts::default();
        accounts.break_down();
        assert!(refresh(sessions, accounts).run(token.expose()).await.is_ok());

        let mut sessions = MockSessionStore::new();
        sessions
            .expect_rotate()
            .returning(|_| Err(StoreError::unavailable("connect")));
        let outcome = refresh(sessions, Accounts::default()).run(token.expose()).await;
        assert!(matches!(
            outcome,
            Err(AuthError::Unavailable { what: "sessions", .. })
        ));
    }
}
