//! One's own sessions: seeing and ending them.

use gravity_domain::auth::{AuthError, Session, SessionStore};
use gravity_domain::id::{SessionId, UserId};
use std::sync::Arc;

/// Lists the user's sessions.
pub struct ListSessions {
    /// Where sessions are.
    pub sessions: Arc<dyn SessionStore>,
}

impl ListSessions {
    /// The user's sessions, latest first.
    ///
    /// # Errors
    /// [`AuthError::Unavailable`] when sessions are down.
    pub async fn run(&self, user: UserId) -> Result<Vec<Session>, AuthError> {
        self.sessions
            .list(user)
            .await
            .map_err(|error| AuthError::unavailable("sessions", error))
    }
}

/// Ends one of the user's sessions.
pub struct DeleteSession {
    /// Where sessions are.
    pub sessions: Arc<dyn SessionStore>,
}

impl DeleteSession {
    /// Ends it.
    ///
    /// # Errors
    /// [`AuthError::SessionNotFound`], for another's session too; [`AuthError::Unavailable`] when sessions are down.
    pub async fn run(&self, user: UserId, session: SessionId) -> Result<(), AuthError> {
        let ended = self
            .sessions
            .revoke(user, session)
            .await
            .map_err(|error| AuthError::unavailable("sessions", error))?;
        if ended {
            Ok(())
        } else {
            Err(AuthError::SessionNotFound)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_domain::auth::MockSessionStore;

    #[tokio::test]
    async fn ending_a_session_that_is_not_there_is_not_found() {
        let mut sessions = MockSessionStore::new();
        sessions.expect_revoke().returning(|_, _| Ok(false));
        let delete = DeleteSession {
            sessions: Arc::new(sessions),
        };
        let outcome = delete.run(UserId::random(), SessionId::random()).await;
        assert!(matches!(outcome, Err(AuthError::SessionNotFound)));
    }
}
