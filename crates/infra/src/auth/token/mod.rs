//! Access tokens: signing own ones, verifying those of every trusted issuer.
//!
//! The algorithm decides who must have signed: HS256 is this service, RS256, ES256 and EdDSA are the outside provider.
//! Signature first ([`Verifier`]), then the claims by one set of rules ([`ClaimRules`]).

mod claims;
mod jwks;
mod keys;
mod memory;
mod own;
#[cfg(test)]
mod tests;
mod verifier;

pub use claims::ClaimRules;
pub use jwks::JwksSettings;
pub use keys::KeyError;
pub use own::{OwnTokenSettings, OwnTokens};
pub use verifier::{OutsideKeySource, Verifier, VerifierSettings};
