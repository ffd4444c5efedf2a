//! Verifies bearer tokens.

use super::claims::{ClaimRules, Claims};
use super::jwks::{Jwks, JwksSettings};
use super::keys::{Choice, KeyError, KeySet, unknown_key};
use super::memory::Memory;
use async_trait::async_trait;
use gravity_domain::auth::{AuthError, Secret, TokenVerifier, VerifiedToken};
use gravity_domain::clock::WallClock;
use jsonwebtoken::errors::{Error as JwtError, ErrorKind};
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use std::sync::{Arc, LazyLock};
use tokio::runtime::Handle;

/// The longest token looked at.
const MOST_BYTES: usize = 16 * 1_024;

/// Where an outside provider's keys come from.
#[derive(Debug, Clone)]
pub enum OutsideKeySource {
    /// `JWT_JWKS_URL`.
    Jwks(JwksSettings),
    /// The contents of `JWT_PUBLIC_KEY_FILE`.
    Pem(Vec<u8>),
}

/// Whose tokens are taken, and what they must say.
#[derive(Debug, Clone, Default)]
pub struct VerifierSettings {
    /// `JWT_SECRET`, when HS256 is on.
    pub secret: Option<Secret>,
    /// The outside provider, when there is one.
    pub outside: Option<OutsideKeySource>,
    /// What the claims must be.
    pub rules: ClaimRules,
}

enum OutsideKeys {
    Fixed(KeySet),
    Fetched(Jwks),
}

/// The verifier; one per process.
pub struct Verifier {
    own: Option<DecodingKey>,
    outside: Option<OutsideKeys>,
    rules: ClaimRules,
    clock: Arc<dyn WallClock>,
    /// Own tokens that were right.
    memory: Memory,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier; key sets are fetched on `handle`, when first needed.
    ///
    /// # Errors
    /// A key, or an address of keys, that cannot be used.
    pub fn new(
        settings: VerifierSettings,
        clock: Arc<dyn WallClock>,
        handle: Handle,
    ) -> Result<Self, KeyError> {
        let outside = match settings.outside {
            None => None,
            Some(OutsideKeySource::Pem(pem)) => Some(OutsideKeys::Fixed(KeySet::from_pem(&pem)?)),
            Some(OutsideKeySource::Jwks(jwks)) => Some(OutsideKeys::Fetched(Jwks::new(jwks, handle)?)),
        };
        let own = settings
            .secret
            .map(|secret| DecodingKey::from_secret(secret.expose().as_bytes()));
        Ok(Self {
            own,
            outside,
            rules: settings.rules,
            clock,
            memory: Memory::new(),
        })
    }

    async fn outside_key(&self, header: &Header) -> Result<DecodingKey, AuthError> {
        let kid = header.kid.as_deref();
        match &self.outside {
            None => Err(AuthError::unauthenticated("algorithm")),
            Some(OutsideKeys::Fetched(jwks)) => jwks.key(kid, header.alg).await,
            Some(OutsideKeys::Fixed(keys)) => match keys.choose(kid, header.alg) {
                Choice::Key(key) => Ok(*key),
                Choice::Unknown => Err(unknown_key()),
                Choice::OtherAlgorithm => Err(AuthError::unauthenticated("algorithm")),
            },
        }
    }
}

#[async_trait]
impl TokenVerifier for Verifier {
    async fn verify(&self, token: &str) -> Result<VerifiedToken, AuthError> {
        if token.is_empty() || token.len() > MOST_BYTES {
            return Err(AuthError::unauthenticated("malformed"));
        }
        let (hash, now) = (Memory::hash(token), self.clock.now());
        if let Some(known) = self.memory.recall(&hash, now) {
            return Ok(known);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|error| refusal(&error))?;
        if header.crit.is_some() {
            return Err(AuthError::unauthenticated("crit"));
        }
        match header.alg {
            Algorithm::HS256 => {
                let key = self.own.as_ref().ok_or(AuthError::unauthenticated("algorithm"))?;
                let claims = signed_claims(token, key, Algorithm::HS256)?;
                let verified = self.rules.own(&claims, now)?;
                self.memory.remember(hash, &verified);
                Ok(verified)
            }
            algorithm @ (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA) => {
                let key = self.outside_key(&header).await?;
                let claims = signed_claims(token, &key, algorithm)?;
                self.rules.outside(&claims, self.clock.now())
            }
            _ => Err(AuthError::unauthenticated("algorithm")),
        }
    }
}

/// The claims, if the signature is right. What they say is judged by [`ClaimRules`], against our clock.
fn signed_claims(token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Claims, AuthError> {
    static VALIDATIONS: LazyLock<[Validation; 4]> = LazyLock::new(|| {
        [
            Algorithm::HS256,
            Algorithm::RS256,
            Algorithm::ES256,
            Algorithm::EdDSA,
        ]
        .map(signature_only)
    });
    let validation = VALIDATIONS
        .iter()
        .find(|validation| validation.algorithms[0] == algorithm)
        .ok_or(AuthError::unauthenticated("algorithm"))?;
    jsonwebtoken::decode::<Claims>(token, key, validation)
        .map(|token| token.claims)
        .map_err(|error| refusal(&error))
}

fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn refusal(error: &JwtError) -> AuthError {
    AuthError::unauthenticated(match error.kind() {
        ErrorKind::InvalidSignature => "signature",
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName | ErrorKind::UnsupportedAlgorithm => {
            "algorithm"
        }
        _ => "malformed",
    })
}
