//! Tokens of an outside provider: algorithms, key files, key sets and what happens to them.

use super::*;
use crate::auth::token::{JwksSettings, KeyError};
use gravity_domain::auth::{Issuer, OutsideClaims, Role};
use gravity_domain::id::UserId;
use std::time::Duration;

fn claims() -> Value {
    json!({"iss": "https://id.example", "sub": "alice|1", "exp": NOW + 900})
}

fn jwks(provider: &Provider) -> JwksSettings {
    JwksSettings::new(provider.url.clone())
}

fn by_jwks(settings: JwksSettings) -> Verifier {
    verifier(Some(OutsideKeySource::Jwks(settings)), ClaimRules::default())
}

/// Waits until `done`; fails the test when that takes too long.
async fn until(mut done: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap();
}

#[tokio::test]
async fn each_algorithm_works_by_key_set_and_by_key_file() {
    for key in [ProviderKey::rsa(), &ProviderKey::p256(), &ProviderKey::ed25519()] {
        let provider = Provider::start(vec![key.jwk("one")]).await;
        let pem = verifier(
            Some(OutsideKeySource::Pem(key.public_pem())),
            ClaimRules::default(),
        );
        for verifier in [by_jwks(jwks(&provider)), pem] {
            for kid in [Some("one"), None] {
                let token = outcome(&verifier, &key.sign(kid, &claims())).await.unwrap();
                assert_eq!(token.user_id, UserId::of_subject("https://id.example", "alice|1"));
                assert_eq!(token.role, Role::User);
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_a_public_key_is_no_key_file() {
    let private = pem("PRIVATE KEY", b"x").into_bytes();
    for bad in [
        b"".to_vec(),
        b"hello".to_vec(),
        pem("PUBLIC KEY", b"x").into_bytes(),
        private,
    ] {
        let settings = VerifierSettings {
            outside: Some(OutsideKeySource::Pem(bad)),
            ..VerifierSettings::default()
        };
        let refused = Verifier::new(settings, Arc::<SetClock>::default(), Handle::current());
        assert_eq!(refused.err(), Some(KeyError::Pem));
    }
}

#[tokio::test]
async fn a_key_set_must_come_by_https_or_from_loopback() {
    let check = |url: &str| {
        let settings = VerifierSettings {
            outside: Some(OutsideKeySource::Jwks(JwksSettings::new(url))),
            ..VerifierSettings::default()
        };
        Verifier::new(settings, Arc::<SetClock>::default(), Handle::current()).map(|_| ())
    };
    for good in [
        "https://id.example/keys",
        "http://127.0.0.1:1/k",
        "http://[::1]/k",
        "http://localhost/k",
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for bad in [
        "http://id.example/keys",
        "ftp://127.0.0.1/k",
        "",
        "http://127.0.0.1.evil.example/k",
    ] {
        assert_eq!(check(bad), Err(KeyError::Address), "{bad}");
    }
}

#[tokio::test]
async fn a_public_key_cannot_be_used_as_a_shared_secret() {
    let key = ProviderKey::rsa();
    let settings = VerifierSettings {
        secret: None,
        outside: Some(OutsideKeySource::Pem(key.public_pem())),
        rules: ClaimRules::default(),
    };
    let verifier = Verifier::new(settings, Arc::<SetClock>::default(), Handle::current()).unwrap();
    for secret in [key.public_pem(), key.public_der.clone()] {
        let confused = EncodingKey::from_secret(&secret);
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &confused).unwrap();
        assert_eq!(outcome(&verifier, &token).await, Err("algorithm"));
    }
}

#[tokio::test]
async fn a_wrong_signature_or_algorithm_under_a_known_kid_is_refused_without_another_fetch() {
    let (known, stranger) = (ProviderKey::p256(), ProviderKey::p256());
    let provider = Provider::start(vec![known.jwk("one")]).await;
    let verifier = by_jwks(jwks(&provider));
    let sign = |key: &ProviderKey| key.sign(Some("one"), &claims());
    assert!(outcome(&verifier, &sign(&known)).await.is_ok());
    assert_eq!(outcome(&verifier, &sign(&stranger)).await, Err("signature"));
    assert_eq!(
        outcome(&verifier, &sign(&ProviderKey::ed25519())).await,
        Err("algorithm")
    );
    assert_eq!(
        outcome(
            &verifier,
            &known.sign(
                Some("one"),
                &json!({"iss": "https://id.example", "sub": "a", "exp": 1})
            )
        )
        .await,
        Err("expired")
    );
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn a_new_key_is_found_at_once_and_unknown_kids_do_not_flood_the_provider() {
    let (old, new) = (ProviderKey::p256(), ProviderKey::ed25519());
    let provider = Provider::start(vec![old.jwk("old")]).await;
    let verifier = by_jwks(JwksSettings {
        unknown_interval: Duration::ZERO,
        ..jwks(&provider)
    });
    assert!(
        outcome(&verifier, &old.sign(Some("old"), &claims()))
            .await
            .is_ok()
    );
    provider.set(vec![old.jwk("old"), new.jwk("new")]);
    assert!(
        outcome(&verifier, &new.sign(Some("new"), &claims()))
            .await
            .is_ok()
    );
    assert_eq!(provider.asked(), 2);

    let limited = by_jwks(jwks(&provider));
    for number in 0..20 {
        let token = old.sign(Some(&format!("k{number}")), &claims());
        assert_eq!(outcome(&limited, &token).await, Err("unknown_kid"));
    }
    assert_eq!(provider.asked(), 3);
}

#[tokio::test]
async fn concurrent_unknown_kids_share_one_fetch() {
    let key = ProviderKey::p256();
    let provider = Provider::start(vec![key.jwk("one")]).await;
    let verifier = by_jwks(jwks(&provider));
    let token = key.sign(Some("one"), &claims());
    let all = (0..30).map(|_| outcome(&verifier, &token));
    let outcomes = futures_util::future::join_all(all).await;
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn a_key_that_was_withdrawn_stops_working_after_a_routine_fetch() {
    let (old, new) = (ProviderKey::p256(), ProviderKey::p256());
    let provider = Provider::start(vec![old.jwk("old")]).await;
    let verifier = by_jwks(JwksSettings {
        refresh: Duration::ZERO,
        ..jwks(&provider)
    });
    let token = old.sign(Some("old"), &claims());
    assert!(outcome(&verifier, &token).await.is_ok());
    provider.set(vec![new.jwk("new")]);
    until(async || outcome(&verifier, &token).await == Err("unknown_kid")).await;
}

#[tokio::test]
async fn while_the_provider_is_down_the_last_good_keys_serve() {
    let key = ProviderKey::p256();
    let provider = Provider::start(vec![key.jwk("one")]).await;
    let verifier = by_jwks(JwksSettings {
        refresh: Duration::ZERO,
        unknown_interval: Duration::ZERO,
        ..jwks(&provider)
    });
    let token = key.sign(Some("one"), &claims());
    assert!(outcome(&verifier, &token).await.is_ok());
    provider.set_down(true);
    let asked = provider.asked();
    until(async || {
        assert!(outcome(&verifier, &token).await.is_ok());
        provider.asked() > asked + 3
    })
    .await;
    let unknown = key.sign(Some("two"), &claims());
    assert_eq!(outcome(&verifier, &unknown).await, Err("unknown_kid"));
}

#[tokio::test]
async fn keys_that_could_never_be_had_are_unavailable_and_come_when_the_provider_does() {
    let key = ProviderKey::p256();
    let provider = Provider::start(vec![key.jwk("one")]).await;
    provider.set_down(true);
    let verifier = by_jwks(JwksSettings {
        unknown_interval: Duration::ZERO,
        ..jwks(&provider)
    });
    let token = key.sign(Some("one"), &claims());
    assert_eq!(outcome(&verifier, &token).await, Err("keys"));
    provider.set_down(false);
    assert!(outcome(&verifier, &token).await.is_ok());
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_has_no_usable_key_is_not_taken() {
    let key = ProviderKey::p256();
    let encryption = {
        let mut jwk = key.jwk("one");
        jwk["use"] = json!("enc");
        jwk
    };
    let secret = json!({"kty": "oct", "kid": "one", "k": "AAAA", "alg": "HS256"});
    for keys in [
        vec![],
        vec![encryption, secret],
        vec![json!(1), json!({"kty": "RSA"})],
    ] {
        let provider = Provider::start(keys).await;
        let token = key.sign(Some("one"), &claims());
        assert_eq!(outcome(&by_jwks(jwks(&provider)), &token).await, Err("keys"));
    }
    let provider = Provider::start(vec![key.jwk("one"), json!("x".repeat(2_000))]).await;
    let small = JwksSettings {
        max_bytes: 1_000,
        ..jwks(&provider)
    };
    let token = key.sign(Some("one"), &claims());
    assert_eq!(outcome(&by_jwks(small), &token).await, Err("keys"));
    assert!(outcome(&by_jwks(jwks(&provider)), &token).await.is_ok());
}

#[tokio::test]
async fn a_provider_makes_admins_only_by_the_configured_claim_and_values() {
    let key = ProviderKey::ed25519();
    let roles = |role_claim: &str, admin_values: &[&str]| {
        let rules = ClaimRules {
            role_claim: role_claim.into(),
            admin_values: admin_values.iter().map(|value| (*value).to_owned()).collect(),
            ..ClaimRules::default()
        };
        verifier(Some(OutsideKeySource::Pem(key.public_pem())), rules)
    };
    let cases = [
        (roles("role", &[]), json!({"role": "admin"}), Role::User),
        (roles("role", &["boss"]), json!({"role": "boss"}), Role::Admin),
        (roles("role", &["boss"]), json!({"role": "admin"}), Role::User),
        (
            roles("role", &["boss"]),
            json!({"role": ["x", "boss"]}),
            Role::Admin,
        ),
        (
            roles("role", &["boss"]),
            json!({"role": {"boss": true}}),
            Role::User,
        ),
        (
            roles("realm.roles", &["boss"]),
            json!({"realm": {"roles": ["boss"]}}),
            Role::Admin,
        ),
        (
            roles("https://x.y/roles", &["boss"]),
            json!({"https://x.y/roles": ["boss"]}),
            Role::Admin,
        ),
        (roles("none", &["boss"]), json!({}), Role::User),
    ];
    for (verifier, extra, role) in cases {
        let mut claims = claims();
        for (name, value) in extra.as_object().unwrap() {
            claims[name] = value.clone();
        }
        let token = outcome(&verifier, &key.sign(None, &claims)).await.unwrap();
        assert_eq!(token.role, role, "{extra}");
    }
}

#[tokio::test]
async fn what_a_provider_tells_of_a_user_is_taken_as_far_as_it_is_valid() {
    let key = ProviderKey::ed25519();
    let verifier = verifier(
        Some(OutsideKeySource::Pem(key.public_pem())),
        ClaimRules::default(),
    );
    let mut claims = claims();
    claims["preferred_username"] = json!("Alice.1");
    claims["name"] = json!("Alice\u{7}");
    claims["sid"] = json!("a provider's own session");
    let token = outcome(&verifier, &key.sign(None, &claims)).await.unwrap();
    let Issuer::Outside(OutsideClaims { username, name }) = token.issuer else {
        panic!("{token:?}");
    };
    assert_eq!(username.unwrap().as_str(), "alice.1");
    assert_eq!((name, token.session_id), (None, None));
}
