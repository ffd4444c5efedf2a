//! The key by which push services know this server (RFC 8292): each request carries a short-lived ES256 token for the
//! service's origin.

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gravity_domain::clock::Timestamp;
use serde_json::json;
use std::fmt;
use thiserror::Error;
use url::Url;

/// A token is good for half of what the RFC allows, so that clocks may differ.
const LIFETIME_SECONDS: i64 = 12 * 3_600;

/// Why a key cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VapidError {
    /// Not a P-256 scalar of 32 bytes in base64url.
    #[error("the VAPID key is not a P-256 scalar of 32 bytes in base64url")]
    Key,
    /// Neither `mailto:` nor `https:`.
    #[error("the VAPID subject must begin with mailto: or https:")]
    Subject,
}

/// The key, and whom push services may write to about it.
pub struct VapidKey {
    pair: EcdsaKeyPair,
    public_key: String,
    subject: String,
}

impl fmt::Debug for VapidKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VapidKey")
            .field("public_key", &self.public_key)
            .finish_non_exhaustive()
    }
}

impl VapidKey {
    /// From the private scalar in base64url (32 bytes).
    ///
    /// # Errors
    /// [`VapidError`].
    pub fn parse(private_key: &str, subject: &str) -> Result<Self, VapidError> {
        if !subject.starts_with("mailto:") && !subject.starts_with("https:") {
            return Err(VapidError::Subject);
        }
        let scalar = URL_SAFE_NO_PAD
            .decode(private_key.trim().trim_end_matches('='))
            .map_err(|_| VapidError::Key)?;
        let public = PrivateKey::from_private_key(&ECDH_P256, &scalar)
            .map_err(|_| VapidError::Key)?
            .compute_public_key()
            .map_err(|_| VapidError::Key)?;
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &scalar, public.as_ref())
            .map_err(|_| VapidError::Key)?;
        Ok(Self {
            pair,
            public_key: URL_SAFE_NO_PAD.encode(public.as_ref()),
            subject: subject.to_owned(),
        })
    }

    /// The public key: base64url of the uncompressed point.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// The `Authorization` header of a request to `endpoint`; `None` when it cannot be signed.
    pub(super) fn authorization(&self, endpoint: &Url, now: Timestamp) -> Option<String> {
        let claims = json!({
            "aud": endpoint.origin().ascii_serialization(),
            "exp": now.millis() / 1_000 + LIFETIME_SECONDS,
            "sub": self.subject,
        });
        let encode = |part: String| URL_SAFE_NO_PAD.encode(part);
        let header = json!({"typ": "JWT", "alg": "ES256"}).to_string();
        let signed = format!("{}.{}", encode(header), encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        Some(format!("vapid t={signed}.{signature}, k={}", self.public_key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    use serde_json::Value;

    /// The example of RFC 8291, appendix A: the application server's keys.
    const PRIVATE: &str = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw";
    const PUBLIC: &str =
        "BP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A8";

    #[test]
    fn the_public_key_follows_from_the_private_one() {
        let key = VapidKey::parse(PRIVATE, "mailto:ops@example.com").unwrap();
        assert_eq!(key.public_key(), PUBLIC);
    }

    #[test]
    fn a_token_is_verified_by_the_public_key_and_names_the_service() {
        let key = VapidKey::parse(PRIVATE, "mailto:ops@example.com").unwrap();
        let endpoint = Url::parse("https://push.example.com:8443/send/abc?d=e").unwrap();
        let now = Timestamp::parse("2999-01-01T00:00:00Z").unwrap();
        let header = key.authorization(&endpoint, now).unwrap();
        let (token, public) = header
            .strip_prefix("vapid t=")
            .and_then(|rest| rest.split_once(", k="))
            .unwrap();
        assert_eq!(public, PUBLIC);
        let point = URL_SAFE_NO_PAD.decode(public).unwrap();
        let verifier =
            DecodingKey::from_ec_components(&encoded(&point[1..33]), &encoded(&point[33..])).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&["https://push.example.com:8443"]);
        let claims = decode::<Value>(token, &verifier, &rules).unwrap().claims;
        assert_eq!(claims["sub"], "mailto:ops@example.com");
        assert_eq!(claims["exp"], now.millis() / 1_000 + LIFETIME_SECONDS);
    }

    fn encoded(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    #[test]
    fn what_is_no_key_or_no_subject_is_refused() {
        let zero = URL_SAFE_NO_PAD.encode([0_u8; 32]);
        for bad in ["", "AAAA", "not base64 !", zero.as_str()] {
            assert_eq!(
                VapidKey::parse(bad, "mailto:a@example.com").err(),
                Some(VapidError::Key)
            );
        }
        assert_eq!(
            VapidKey::parse(PRIVATE, "ops@example.com").err(),
            Some(VapidError::Subject)
        );
    }
}
