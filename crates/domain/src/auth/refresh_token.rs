//! Refresh tokens: made from the session's id and generation, so that the successor of a spent one can be given again
//! without being stored anywhere.
//!
//! The token is base64url of session id (16 bytes), user id (16), generation (4, big-endian) and HMAC-SHA256 (32) over these
//! under a key derived from the signing secret by a label. Stores see SHA-256 hashes of tokens only.

use super::Secret;
use crate::id::{SessionId, UserId};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use uuid::Uuid;

const LABEL: &[u8] = b"gravity refresh token v1";
const BODY: usize = 36;
const LENGTH: usize = BODY + 32;

/// The SHA-256 of a refresh token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RefreshHash(pub [u8; 32]);

impl fmt::Debug for RefreshHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[refresh hash]")
    }
}

/// What an authentic refresh token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshClaims {
    /// The session.
    pub session_id: SessionId,
    /// Whose it is.
    pub user_id: UserId,
    /// The generation of the token.
    pub generation: u32,
}

impl RefreshClaims {
    /// The claims of the session's next token.
    pub fn next(self) -> Self {
        Self {
            generation: self.generation.wrapping_add(1),
            ..self
        }
    }

    fn body(self) -> [u8; BODY] {
        let mut body = [0; BODY];
        body[..16].copy_from_slice(self.session_id.0.as_bytes());
        body[16..32].copy_from_slice(self.user_id.0.as_bytes());
        body[32..].copy_from_slice(&self.generation.to_be_bytes());
        body
    }
}

/// Makes and checks refresh tokens.
pub struct RefreshTokens {
    key: hmac::Key,
}

impl fmt::Debug for RefreshTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshTokens")
    }
}

impl RefreshTokens {
    /// From the signing secret (`JWT_SECRET`).
    pub fn new(secret: &Secret) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let derived = hmac::sign(&root, LABEL);
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()),
        }
    }

    /// The token of these claims; always the same one.
    pub fn issue(&self, claims: RefreshClaims) -> Secret {
        let mut bytes = claims.body().to_vec();
        bytes.extend_from_slice(hmac::sign(&self.key, &claims.body()).as_ref());
        Secret::new(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The claims of a token that was issued here; `None` for anything else.
    pub fn open(&self, token: &str) -> Option<RefreshClaims> {
        if token.len() > 2 * LENGTH {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        if bytes.len() != LENGTH {
            return None;
        }
        let (body, tag) = bytes.split_at(BODY);
        hmac::verify(&self.key, body, tag).ok()?;
        Some(RefreshClaims {
            session_id: SessionId(Uuid::from_slice(&body[..16]).ok()?),
            user_id: UserId(Uuid::from_slice(&body[16..32]).ok()?),
            generation: u32::from_be_bytes(body[32..].try_into().ok()?),
        })
    }

    /// What a store keeps of the token of these claims.
    pub fn hash(&self, claims: RefreshClaims) -> RefreshHash {
        let hash = digest::digest(&digest::SHA256, self.issue(claims).expose().as_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.as_ref());
        RefreshHash(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens() -> RefreshTokens {
        RefreshTokens::new(&Secret::new("0123456789abcdef0123456789abcdef"))
    }

    #[test]
    fn a_token_opens_to_its_claims_and_only_under_its_own_secret() {
        let claims = RefreshClaims {
            session_id: SessionId::random(),
            user_id: UserId::random(),
            generation: 7,
        };
        let token = tokens().issue(claims);
        assert_eq!(tokens().open(token.expose()), Some(claims));
        assert_eq!(token, tokens().issue(claims));
        assert_ne!(token, tokens().issue(claims.next()));
        let other = RefreshTokens::new(&Secret::new("another secret of thirty-two bytes"));
        assert_eq!(other.open(token.expose()), None);
    }

    proptest! {
        #[test]
        fn a_changed_token_never_opens(at in 0usize..90, to in "[A-Za-z0-9_-]") {
            let claims = RefreshClaims {
                session_id: SessionId::random(), user_id: UserId::random(), generation: 1,
            };
            let token = tokens().issue(claims).expose().to_owned();
            let mut changed = token.clone();
            changed.replace_range(at..=at, &to);
            prop_assert!(changed == token || tokens().open(&changed).is_none());
        }

        #[test]
        fn garbage_never_opens(text in ".{0,200}") {
            prop_assert_eq!(tokens().open(&text), None);
        }
    }
}
