//! Who somebody is and what they may do.
//!
//! A *token* is verified first ([`TokenVerifier`]), then the *identity* behind it is looked up ([`AccountStore`]); both make
//! the [`Principal`]. A *session* is a family of refresh tokens ([`SessionStore`]); access tokens live without it.

mod account;
mod error;
mod limit;
mod ports;
mod refresh_token;
mod secret;
mod session;
mod token;
mod user;

pub use account::{Credentials, Email, ExternalUser, Identity, NewAccount};
pub use error::AuthError;
pub use limit::{Quota, RateDecision, client_network, seconds_up};
pub use ports::{
    AccountStore, AddressBlocker, PasswordHasher, RateLimiter, RegisterError, SessionStore, TokenSigner,
    TokenVerifier,
};
#[cfg(feature = "mock")]
pub use ports::{
    MockAccountStore, MockAddressBlocker, MockPasswordHasher, MockRateLimiter, MockSessionStore,
    MockTokenSigner, MockTokenVerifier,
};
pub use refresh_token::{RefreshClaims, RefreshHash, RefreshTokens};
pub use secret::{Password, Secret};
pub use session::{NewSession, Rotation, Session, Spend};
pub use token::{AccessClaims, AccessToken, Issuer, OutsideClaims, VerifiedToken};
pub use user::{Principal, Role, UserStatus, Username};
