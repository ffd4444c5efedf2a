//! Access and refresh tokens from a client: none that we did not make is ever accepted.
#![no_main]

use gravity_domain::auth::{RefreshTokens, Secret, TokenVerifier};
use gravity_domain::clock::SystemClock;
use gravity_infra::auth::{Verifier, VerifierSettings};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));
static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let settings = VerifierSettings {
        secret: Some(secret()),
        ..VerifierSettings::default()
    };
    Verifier::new(settings, Arc::new(SystemClock), RUNTIME.handle().clone()).expect("a verifier")
});

fn secret() -> Secret {
    Secret::new("a secret that no fuzzer will guess, 32 bytes")
}

fuzz_target!(|text: &str| {
    assert!(RUNTIME.block_on(VERIFIER.verify(text)).is_err());
    assert!(RefreshTokens::new(&secret()).open(text).is_none());
});
