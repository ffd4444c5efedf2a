//! Tokens of an outside identity provider: a key set on a local server, rotated and taken away.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use gravity_test_support::actors::{ALICE, SECRET};
use gravity_test_support::builders::Claims;
use gravity_test_support::calls::Answer;
use gravity_test_support::test_app::{Setup, TestApp, eventually};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use uuid::Uuid;

use crate::setup;

const PROFILE: &str = "/api/v1/profile";
const ISSUER: &str = "https://id.example";

/// A private key, and its public half as a JWK.
struct Key {
    algorithm: Algorithm,
    kid: String,
    private: EncodingKey,
    jwk: Value,
}

impl Key {
    fn es256(kid: &str) -> Self {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.as_ref()).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
        Self {
            algorithm: Algorithm::ES256,
            kid: kid.to_owned(),
            private: EncodingKey::from_ec_der(der.as_ref()),
            jwk: json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y}),
        }
    }

    fn ed25519(kid: &str) -> Self {
        let der = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap();
        Self {
            algorithm: Algorithm::EdDSA,
            kid: kid.to_owned(),
            private: EncodingKey::from_ed_der(der.as_ref()),
            jwk: json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": encoded(pair.public_key().as_ref())}),
        }
    }

    fn rs256(kid: &str) -> Self {
        let pair = RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).unwrap();
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        let public = pair.public_key();
        let n = encoded(public.modulus().big_endian_without_leading_zero());
        let e = encoded(public.exponent().big_endian_without_leading_zero());
        Self {
            algorithm: Algorithm::RS256,
            kid: kid.to_owned(),
            private: EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(),
            jwk: json!({"kty": "RSA", "alg": "RS256", "use": "sig", "kid": kid, "n": n, "e": e}),
        }
    }

    fn sign(&self, claims: &Claims) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.kid.clone());
        claims.encoded(&header, &self.private)
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Serves a key set on loopback.
struct Provider {
    port: u16,
    answer: Arc<Mutex<(u16, String)>>,
    fetches: Arc<AtomicUsize>,
}

impl Provider {
    async fn with(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = Self {
            port: listener.local_addr().unwrap().port(),
            answer: Arc::default(),
            fetches: Arc::default(),
        };
        provider.publish(keys);
        let (answer, fetches) = (Arc::clone(&provider.answer), Arc::clone(&provider.fetches));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                fetches.fetch_add(1, Ordering::SeqCst);
                let (status, body) = answer.lock().unwrap().clone();
                let mut request = [0; 4_096];
                let _ = stream.read(&mut request).await;
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        provider
    }

    fn publish(&self, keys: &[&Key]) {
        let keys: Vec<&Value> = keys.iter().map(|key| &key.jwk).collect();
        *self.answer.lock().unwrap() = (200, json!({ "keys": keys }).to_string());
    }

    fn fail(&self) {
        *self.answer.lock().unwrap() = (500, "{}".to_owned());
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn setup(&self) -> Setup {
        let url = format!("http://127.0.0.1:{}/keys", self.port);
        setup()
            .set("JWT_JWKS_URL", url)
            .set("JWT_ISSUER", ISSUER)
            .set("JWT_AUDIENCE", "gravity")
    }
}

fn claims(subject: &str) -> Claims {
    Claims::of_subject(subject)
        .without("role")
        .set("iss", json!(ISSUER))
        .set("aud", json!("gravity"))
}

async fn ask(app: &TestApp, token: &str) -> Answer {
    app.nobody().with_token(token).get(PROFILE).await
}

#[tokio::test]
async fn tokens_of_each_kind_of_key_are_taken_and_their_users_created() {
    let keys = [Key::es256("ec"), Key::ed25519("ed"), Key::rs256("rsa")];
    let provider = Provider::with(&[&keys[0], &keys[1], &keys[2]]).await;
    let app = provider.setup().start().await;
    for key in &keys {
        let subject = format!("auth0|{}", key.kid);
        let named = claims(&subject)
            .set("preferred_username", json!(format!("user.{}", key.kid)))
            .set("name", json!("N"));
        let answer = ask(&app, &key.sign(&named)).await.must_be(200).data();
        assert_eq!(answer["username"], format!("user.{}", key.kid));
        assert_eq!((&answer["name"], &answer["role"]), (&json!("N"), &json!("user")));
        let again = ask(&app, &key.sign(&claims(&subject))).await.must_be(200).data();
        assert_eq!(again["id"], answer["id"], "the same subject is the same user");
        let actor = app.nobody().with_token(key.sign(&named));
        crate::new_task(&actor, "theirs").await;
        assert_eq!(crate::titles(&actor).await, ["theirs"]);
    }
    let known = ask(&app, &keys[0].sign(&claims(&ALICE.to_string())))
        .await
        .must_be(200);
    assert_eq!(
        known.data()["username"],
        "alice",
        "a subject that is a UUID is that user"
    );
}

#[tokio::test]
async fn a_name_that_is_taken_or_unfit_does_not_keep_a_user_out() {
    let key = Key::es256("k");
    let provider = Provider::with(&[&key]).await;
    let app = provider.setup().start().await;
    for (subject, name) in [("s1", "alice"), ("s2", "No Name!"), ("s3", "")] {
        let token = key.sign(&claims(subject).set("preferred_username", json!(name)));
        let username = ask(&app, &token).await.must_be(200).text_of("username");
        assert!(username != "alice" && username.len() >= 3, "{username}");
    }
}

#[tokio::test]
async fn tokens_that_are_not_the_providers_are_refused() {
    let (key, stranger) = (Key::es256("k"), Key::es256("k"));
    let (unknown, rsa) = (Key::es256("unknown"), Key::rs256("k"));
    let provider = Provider::with(&[&key]).await;
    let app = provider.setup().start().await;
    ask(&app, &key.sign(&claims("s"))).await.must_be(200);
    let public = key.jwk["x"].as_str().unwrap();
    let wrong = [
        ("another key of that name", stranger.sign(&claims("s"))),
        ("unknown kid", unknown.sign(&claims("s"))),
        ("another algorithm of that name", rsa.sign(&claims("s"))),
        (
            "HS256 is off",
            Claims::of(ALICE)
                .set("iss", json!(ISSUER))
                .set("aud", json!("gravity"))
                .signed(SECRET),
        ),
        ("HS256 with the public key", claims("s").signed(public)),
        (
            "wrong issuer",
            key.sign(&claims("s").set("iss", json!("https://evil.example"))),
        ),
        (
            "wrong audience",
            key.sign(&claims("s").set("aud", json!("other"))),
        ),
        ("expired", key.sign(&claims("s").expires_in(-60))),
        ("no exp", key.sign(&claims("s").without("exp"))),
        ("no subject", key.sign(&claims("").without("sub"))),
    ];
    for (what, token) in wrong {
        let answer = ask(&app, &token).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
        answer.problem(401, "unauthenticated");
    }
}

#[tokio::test]
async fn the_provider_says_who_is_admin_only_where_it_is_told_so() {
    let key = Key::es256("k");
    let provider = Provider::with(&[&key]).await;
    let buffer = |app: &TestApp, claims: Claims| {
        let call = app
            .nobody()
            .with_token(key.sign(&claims))
            .get("/api/v1/admin/buffer");
        async move { call.await.status }
    };
    let app = provider.setup().start().await;
    assert_eq!(
        buffer(&app, claims("s").role("admin")).await,
        403,
        "by default nobody"
    );
    let app = provider
        .setup()
        .set("AUTH_ROLE_CLAIM", "groups")
        .set("AUTH_ADMIN_VALUES", "ops,root")
        .start()
        .await;
    assert_eq!(
        buffer(&app, claims("s").set("groups", json!(["dev", "ops"]))).await,
        200
    );
    assert_eq!(buffer(&app, claims("t").set("groups", json!(["dev"]))).await, 403);
    assert_eq!(buffer(&app, claims("u").role("admin")).await, 403);
}

#[tokio::test]
async fn own_tokens_are_taken_beside_the_providers_where_that_is_allowed() {
    let key = Key::es256("k");
    let provider = Provider::with(&[&key]).await;
    let app = provider.setup().set("AUTH_ALLOW_HS256", "true").start().await;
    let own = Claims::of(ALICE)
        .set("iss", json!(ISSUER))
        .set("aud", json!("gravity"))
        .signed(SECRET);
    ask(&app, &own).await.must_be(200);
    ask(&app, &key.sign(&claims("s"))).await.must_be(200);
}

#[tokio::test]
async fn without_provisioning_only_known_users_are_taken() {
    let key = Key::es256("k");
    let provider = Provider::with(&[&key]).await;
    let app = provider.setup().set("AUTH_AUTO_PROVISION", "false").start().await;
    ask(&app, &key.sign(&claims("s")))
        .await
        .problem(401, "unauthenticated");
    ask(&app, &key.sign(&claims(&Uuid::now_v7().to_string())))
        .await
        .problem(401, "unauthenticated");
    ask(&app, &key.sign(&claims(&ALICE.to_string())))
        .await
        .must_be(200);
}

#[tokio::test]
async fn a_rotated_key_is_found_and_the_old_one_ends() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let provider = Provider::with(&[&old]).await;
    let app = provider.setup().start().await;
    ask(&app, &old.sign(&claims("s"))).await.must_be(200);
    provider.publish(&[&new]);
    eventually("the new key is taken", || async {
        (ask(&app, &new.sign(&claims("s"))).await.status == 200).then_some(())
    })
    .await;
    ask(&app, &old.sign(&claims("s")))
        .await
        .problem(401, "unauthenticated");
    let fetches = provider.fetches();
    for _ in 0..50 {
        ask(&app, &Key::ed25519("nobody's").sign(&claims("s")))
            .await
            .problem(401, "unauthenticated");
    }
    assert!(
        provider.fetches() <= fetches + 1,
        "unknown keys do not hammer the provider"
    );
}

#[tokio::test]
async fn the_last_good_keys_serve_while_the_provider_is_down() {
    let key = Key::es256("k");
    let provider = Provider::with(&[&key]).await;
    let app = provider.setup().start().await;
    ask(&app, &key.sign(&claims("s"))).await.must_be(200);
    provider.fail();
    ask(&app, &Key::es256("other").sign(&claims("s")))
        .await
        .problem(401, "unauthenticated");
    ask(&app, &key.sign(&claims("s"))).await.must_be(200);
}

#[tokio::test]
async fn a_provider_that_was_never_reached_makes_it_503_and_not_401() {
    let key = Key::es256("k");
    let provider = Provider::with(&[&key]).await;
    provider.fail();
    let app = provider.setup().start().await;
    let answer = ask(&app, &key.sign(&claims("s"))).await;
    answer.problem(503, "keys_unavailable");
    assert!(answer.must_header("retry-after").parse::<u64>().unwrap() > 0);
}

#[tokio::test]
async fn the_key_may_be_a_file() {
    let key = Key::es256("k");
    let spki = {
        let (x, y) = (key.jwk["x"].as_str().unwrap(), key.jwk["y"].as_str().unwrap());
        let head = [
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
        ];
        let mut der = head.to_vec();
        der.extend(URL_SAFE_NO_PAD.decode(x).unwrap());
        der.extend(URL_SAFE_NO_PAD.decode(y).unwrap());
        der
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(spki)
    );
    std::fs::write(file.path(), pem).unwrap();
    let app = setup()
        .set("JWT_PUBLIC_KEY_FILE", file.path().display().to_string())
        .start()
        .await;
    let claims = Claims::of(ALICE);
    ask(&app, &key.sign(&claims)).await.must_be(200);
    ask(&app, &Key::es256("k").sign(&claims))
        .await
        .problem(401, "unauthenticated");
    // Own tokens stay beside a key file; only a key set's address switches them off.
    ask(&app, &claims.signed(SECRET)).await.must_be(200);
    ask(&app, &key.sign(&Claims::of_subject("stranger")))
        .await
        .problem(401, "unauthenticated");
}
