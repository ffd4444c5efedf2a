//! What the tests of tokens share: a set clock, keys, and a provider of key sets.

mod outside;
mod own;

use super::{ClaimRules, OutsideKeySource, Verifier, VerifierSettings};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gravity_domain::auth::{AuthError, Secret, TokenVerifier as _, VerifiedToken};
use gravity_domain::clock::{Timestamp, WallClock};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// The time of every test, in seconds.
const NOW: i64 = 1_800_000_000;

/// Seconds after [`NOW`].
#[derive(Default)]
struct SetClock(AtomicI64);

impl WallClock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis((NOW + self.0.load(Ordering::SeqCst)) * 1_000)
    }
}

fn verifier(outside: Option<OutsideKeySource>, rules: ClaimRules) -> Verifier {
    verifier_at(Arc::default(), outside, rules)
}

fn verifier_at(clock: Arc<SetClock>, outside: Option<OutsideKeySource>, rules: ClaimRules) -> Verifier {
    let settings = VerifierSettings {
        secret: Some(Secret::new(SECRET)),
        outside,
        rules,
    };
    Verifier::new(settings, clock, Handle::current()).unwrap()
}

async fn outcome(verifier: &Verifier, token: &str) -> Result<VerifiedToken, &'static str> {
    verifier.verify(token).await.map_err(|error| match error {
        AuthError::Unauthenticated { why } => why,
        AuthError::Unavailable { what, .. } => what,
        other => panic!("{other:?}"),
    })
}

fn hs256(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

/// A provider's key.
struct ProviderKey {
    algorithm: Algorithm,
    private: EncodingKey,
    public_der: Vec<u8>,
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

impl ProviderKey {
    fn rsa() -> &'static Self {
        static KEY: LazyLock<ProviderKey> = LazyLock::new(|| {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
            let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
            ProviderKey {
                algorithm: Algorithm::RS256,
                private: EncodingKey::from_rsa_pem(pem("PRIVATE KEY", der.as_ref()).as_bytes()).unwrap(),
                public_der: public.as_ref().to_vec(),
            }
        });
        &KEY
    }

    fn p256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let der = pair.to_pkcs8v1().unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        Self {
            algorithm: Algorithm::ES256,
            private: EncodingKey::from_ec_der(der.as_ref()),
            public_der: public.as_ref().to_vec(),
        }
    }

    fn ed25519() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
        Self {
            algorithm: Algorithm::EdDSA,
            private: EncodingKey::from_ed_der(der.as_ref()),
            public_der: public.as_ref().to_vec(),
        }
    }

    fn public_pem(&self) -> Vec<u8> {
        pem("PUBLIC KEY", &self.public_der).into_bytes()
    }

    fn jwk(&self, kid: &str) -> Value {
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&self.private, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = json!(kid);
        jwk["use"] = json!("sig");
        jwk
    }

    fn sign(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = kid.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.private).unwrap()
    }
}

/// A tiny HTTP server that gives a key set, or fails.
struct Provider {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    down: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Provider {
    async fn start(keys: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self {
            url: format!("http://{}/keys", listener.local_addr().unwrap()),
            keys: Arc::new(Mutex::new(keys)),
            down: Arc::default(),
            asked: Arc::default(),
        };
        let (keys, down) = (Arc::clone(&provider.keys), Arc::clone(&provider.down));
        let asked = Arc::clone(&provider.asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4_096];
                let _ = stream.read(&mut request).await;
                asked.fetch_add(1, Ordering::SeqCst);
                let body = json!({ "keys": *keys.lock().unwrap() }).to_string();
                let status = if down.load(Ordering::SeqCst) {
                    "503 No"
                } else {
                    "200 OK"
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        provider
    }

    fn set(&self, keys: Vec<Value>) {
        *self.keys.lock().unwrap() = keys;
    }

    fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn encode_part(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}
