//! Own tokens that were found right: the same one comes with each request of its user, and checking it is much of what a request
//! that is answered from memory costs.
//!
//! A token is known by its SHA-256; it is not kept itself. What is remembered is what its signature covers, so only time can
//! change the verdict: from its end on a token is checked as if it were new. Outside tokens are not remembered, since
//! their provider may take a key back at any time.

use aws_lc_rs::digest::{SHA256, digest};
use gravity_domain::auth::VerifiedToken;
use gravity_domain::clock::Timestamp;
use moka::sync::Cache;

/// Some 20 MiB when full.
const MOST: u64 = 100_000;

/// The SHA-256 of a token.
pub(super) type TokenHash = [u8; 32];

pub(super) struct Memory(Cache<TokenHash, VerifiedToken>);

impl Memory {
    pub(super) fn new() -> Self {
        Self(Cache::new(MOST))
    }

    pub(super) fn hash(token: &str) -> TokenHash {
        let mut hash = TokenHash::default();
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        hash
    }

    /// What is known of the token, unless it has ended.
    pub(super) fn recall(&self, hash: &TokenHash, now: Timestamp) -> Option<VerifiedToken> {
        self.0.get(hash).filter(|token| now < token.expires_at)
    }

    pub(super) fn remember(&self, hash: TokenHash, token: &VerifiedToken) {
        self.0.insert(hash, token.clone());
    }
}
