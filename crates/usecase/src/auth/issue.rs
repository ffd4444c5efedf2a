//! The pair of tokens that login and refresh give.

use gravity_domain::auth::{
    AccessClaims, AccessToken, AuthError, RefreshClaims, RefreshTokens, Role, Secret, TokenSigner,
};
use std::sync::Arc;
use std::time::Duration;

/// An access token and the refresh token of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPair {
    /// For requests.
    pub access: AccessToken,
    /// For the next pair.
    pub refresh: Secret,
}

/// Makes the pairs.
pub struct TokenIssuer {
    /// Signs access tokens.
    pub signer: Arc<dyn TokenSigner>,
    /// Makes refresh tokens.
    pub refresh: RefreshTokens,
    /// How long a session lives without a refresh.
    pub session_ttl: Duration,
    /// How long a spent refresh token still gets its successor's pair.
    pub reuse_grace: Duration,
}

impl TokenIssuer {
    pub(super) fn pair(&self, claims: RefreshClaims, role: Role) -> Result<TokenPair, AuthError> {
        let access = self.signer.sign(&AccessClaims {
            user_id: claims.user_id,
            role,
            session_id: claims.session_id,
        })?;
        Ok(TokenPair {
            access,
            refresh: self.refresh.issue(claims),
        })
    }

    pub(super) fn session_millis(&self) -> i64 {
        i64::try_from(self.session_ttl.as_millis()).unwrap_or(i64::MAX)
    }
}

/// The issuer, or the answer of a service that takes a provider's tokens only.
pub(super) fn issuer(tokens: Option<&Arc<TokenIssuer>>) -> Result<&TokenIssuer, AuthError> {
    tokens.map(|tokens| &**tokens).ok_or(AuthError::Forbidden {
        why: "own_tokens_off",
    })
}
