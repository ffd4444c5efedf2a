//! Public keys of an outside provider.

use gravity_domain::auth::AuthError;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use thiserror::Error;

/// The most keys taken from one set.
const MOST_KEYS: usize = 100;

/// A key, or where to get keys, that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not a PEM public key for RS256, ES256 or EdDSA.
    #[error("the public key is not a PEM of an RSA, P-256 or Ed25519 public key")]
    Pem,
    /// Neither https nor loopback.
    #[error("the address of the key set must be https, or http on loopback")]
    Address,
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built: {0}")]
    Client(String),
}

#[derive(Clone)]
pub(super) struct PublicKey {
    pub(super) kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// What a key set says about a token's header.
pub(super) enum Choice {
    Key(Box<DecodingKey>),
    /// There is no such key; a newer set may have it.
    Unknown,
    /// There is, for another algorithm.
    OtherAlgorithm,
}

#[derive(Default)]
pub(super) struct KeySet {
    keys: Vec<PublicKey>,
}

impl KeySet {
    /// The only key of a PEM file; it serves whatever `kid` a token names.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        if pem.windows(7).any(|word| word == b"PRIVATE") {
            return Err(KeyError::Pem);
        }
        let tries = [
            (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)),
            (Algorithm::ES256, DecodingKey::from_ec_pem(pem)),
            (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)),
        ];
        let (algorithm, key) = tries
            .into_iter()
            .find_map(|(algorithm, key)| Some((algorithm, key.ok()?)))
            .ok_or(KeyError::Pem)?;
        let keys = vec![PublicKey {
            kid: None,
            algorithm,
            key,
        }];
        Ok(Self { keys })
    }

    /// The usable keys of a JWK set; `None` when it is no such set. Keys that we cannot use are passed over.
    pub(super) fn from_json(body: &[u8]) -> Option<Self> {
        let set: Value = serde_json::from_slice(body).ok()?;
        let keys = set
            .get("keys")?
            .as_array()?
            .iter()
            .filter_map(|key| usable(&serde_json::from_value(key.clone()).ok()?))
            .take(MOST_KEYS)
            .collect();
        Some(Self { keys })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The key by `kid`; by algorithm alone when the token names none, or when the only key has none, and it is clear which.
    pub(super) fn choose(&self, kid: Option<&str>, algorithm: Algorithm) -> Choice {
        let named: Vec<&PublicKey> = match kid {
            Some(kid) if !self.is_nameless() => {
                let same = |key: &&PublicKey| key.kid.as_deref() == Some(kid);
                self.keys.iter().filter(same).collect()
            }
            _ => self.keys.iter().collect(),
        };
        let mut fitting = named.iter().filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Choice::Key(Box::new(key.key.clone())),
            (Some(_), Some(_)) => Choice::Unknown,
            (None, _) if named.is_empty() => Choice::Unknown,
            (None, _) => Choice::OtherAlgorithm,
        }
    }

    fn is_nameless(&self) -> bool {
        matches!(&self.keys[..], [PublicKey { kid: None, .. }])
    }
}

fn usable(jwk: &Jwk) -> Option<PublicKey> {
    if matches!(&jwk.common.public_key_use, Some(usage) if *usage != PublicKeyUse::Signature) {
        return None;
    }
    let (algorithm, declared) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    if matches!(jwk.common.key_algorithm, Some(other) if other != declared) {
        return None;
    }
    Some(PublicKey {
        kid: jwk.common.key_id.clone(),
        algorithm,
        key: DecodingKey::from_jwk(jwk).ok()?,
    })
}

pub(super) fn unknown_key() -> AuthError {
    AuthError::unauthenticated("unknown_kid")
}
