//! Ending a session: the one of the refresh token given, else the one of the access token.

use super::issue::TokenIssuer;
use gravity_domain::auth::{AuthError, Principal, SessionStore};
use gravity_domain::id::SessionId;
use std::sync::Arc;

/// The use case.
pub struct Logout {
    /// Where sessions are.
    pub sessions: Arc<dyn SessionStore>,
    /// Opens refresh tokens; `None` when own tokens are off.
    pub tokens: Option<Arc<TokenIssuer>>,
}

impl Logout {
    /// Ends the session. One that has ended already, or an access token without a session, is fine.
    ///
    /// # Errors
    /// [`AuthError::Unauthenticated`] for a refresh token that is not one of this user; [`AuthError::Unavailable`] when
    /// sessions are down.
    pub async fn run(&self, principal: &Principal, refresh_token: Option<&str>) -> Result<(), AuthError> {
        let session = match refresh_token {
            Some(token) => Some(self.session_of(principal, token)?),
            None => principal.session_id,
        };
        let Some(session) = session else { return Ok(()) };
        self.sessions
            .revoke(principal.user_id, session)
            .await
            .map(|_| ())
            .map_err(|error| AuthError::unavailable("sessions", error))
    }

    fn session_of(&self, principal: &Principal, token: &str) -> Result<SessionId, AuthError> {
        self.tokens
            .as_ref()
            .and_then(|tokens| tokens.refresh.open(token))
            .filter(|claims| claims.user_id == principal.user_id)
            .map(|claims| claims.session_id)
            .ok_or(AuthError::unauthenticated("refresh_token"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::fixtures::token_issuer;
    use gravity_domain::auth::{MockSessionStore, RefreshClaims, Role};
    use gravity_domain::id::UserId;

    fn principal(session_id: Option<SessionId>) -> Principal {
        Principal {
            user_id: UserId::random(),
            role: Role::User,
            session_id,
        }
    }

    fn logout(ends: Option<SessionId>) -> Logout {
        let mut sessions = MockSessionStore::new();
        sessions
            .expect_revoke()
            .withf(move |_, id| Some(*id) == ends)
            .times(usize::from(ends.is_some()))
            .returning(|_, _| Ok(false));
        Logout {
            sessions: Arc::new(sessions),
            tokens: Some(token_issuer()),
        }
    }

    #[tokio::test]
    async fn the_refresh_tokens_session_goes_first_and_else_the_current_one() {
        let (current, other) = (SessionId::random(), SessionId::random());
        let me = principal(Some(current));
        let token = token_issuer().refresh.issue(RefreshClaims {
            session_id: other,
            user_id: me.user_id,
            generation: 9,
        });
        logout(Some(other)).run(&me, Some(token.expose())).await.unwrap();
        logout(Some(current)).run(&me, None).await.unwrap();
        logout(None).run(&principal(None), None).await.unwrap();
    }

    #[tokio::test]
    async fn anothers_refresh_token_ends_nothing() {
        let token = token_issuer().refresh.issue(RefreshClaims {
            session_id: SessionId::random(),
            user_id: UserId::random(),
            generation: 0,
        });
        let refused = logout(None).run(&principal(None), Some(token.expose())).await;
        assert!(matches!(refused, Err(AuthError::Unauthenticated { .. })));
    }
}
