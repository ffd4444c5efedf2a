//! Own tokens: every kind of broken one, and the sound ones.

use super::*;
use crate::auth::token::{OwnTokenSettings, OwnTokens};
use gravity_domain::auth::{AccessClaims, Issuer, Role, TokenSigner as _};
use gravity_domain::id::{SessionId, UserId};
use proptest::prelude::*;
use std::time::Duration;

const USER: &str = "0190f8a2-0000-7000-8000-000000000001";

fn sound() -> Value {
    json!({"sub": USER, "exp": NOW + 900})
}

/// The sound claims with some of them changed; `null` removes.
fn changed(changes: &Value) -> Value {
    let mut claims = sound();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    claims
}

async fn plain(token: &str) -> Result<VerifiedToken, &'static str> {
    outcome(&verifier(None, ClaimRules::default()), token).await
}

#[tokio::test]
async fn a_token_that_was_right_is_so_until_its_time_is_over_and_no_other_is_for_it() {
    let clock = Arc::new(SetClock::default());
    let verifier = verifier_at(clock.clone(), None, ClaimRules::default());
    let good = hs256(&sound());
    let first = outcome(&verifier, &good).await.unwrap();
    for seconds in [0, 899, 929] {
        clock.0.store(seconds, Ordering::SeqCst);
        assert_eq!(outcome(&verifier, &good).await, Ok(first.clone()), "{seconds}");
    }
    let body = good.rsplit_once('.').unwrap().0;
    let anothers = hs256(&changed(&json!({"role": "admin"})));
    let swapped = format!("{body}.{}", anothers.rsplit_once('.').unwrap().1);
    assert_eq!(outcome(&verifier, &swapped).await, Err("signature"));
    clock.0.store(930, Ordering::SeqCst);
    assert_eq!(outcome(&verifier, &good).await, Err("expired"));
}

#[tokio::test]
async fn tokens_that_are_no_tokens_are_malformed() {
    let good = hs256(&sound());
    let [header, claims, signature] = <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).unwrap();
    let broken = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "Bearer".into(),
        "ü.ü.ü".into(),
        "a.b.c".into(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}.{signature}.x"),
        format!("{header}.{claims}.!!!"),
        format!("{}.{claims}.{signature}", encode_part("not json")),
        format!("{}.{claims}.{signature}", encode_part("{}")),
        format!("{}.{claims}.{signature}", encode_part("[1]")),
        "x".repeat(1_000_000),
        format!(" {good}"),
    ];
    for token in &broken {
        assert!(plain(token).await.is_err(), "{}", &token[..token.len().min(60)]);
    }
}

#[tokio::test]
async fn any_algorithm_but_the_configured_ones_is_refused() {
    let claims = encode_part(&sound().to_string());
    for algorithm in [
        "none", "None", "HS384", "HS512", "PS256", "ES384", "RS512", "XX", "",
    ] {
        let header = encode_part(&format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#));
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{claims}.{signature}");
            assert!(plain(&token).await.is_err(), "{algorithm:?}");
        }
    }
    for other in [Algorithm::HS384, Algorithm::HS512] {
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(other), &sound(), &key).unwrap();
        assert_eq!(plain(&token).await, Err("algorithm"));
    }
    let provider = ProviderKey::p256().sign(None, &sound());
    assert_eq!(plain(&provider).await, Err("algorithm"));
}

#[tokio::test]
async fn a_signature_that_is_not_ours_is_refused() {
    let good = hs256(&sound());
    let (message, _) = good.rsplit_once('.').unwrap();
    assert_eq!(plain(&format!("{message}.")).await, Err("signature"));
    assert_eq!(plain(&format!("{message}.AAAA")).await, Err("signature"));
    let key = EncodingKey::from_secret(b"another secret of thirty-two bytes");
    let stranger = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &sound(), &key).unwrap();
    assert_eq!(plain(&stranger).await, Err("signature"));
    let admin = encode_part(&changed(&json!({"role": "admin"})).to_string());
    let mut parts: Vec<&str> = good.split('.').collect();
    parts[1] = &admin;
    assert_eq!(plain(&parts.join(".")).await, Err("signature"));
}

#[tokio::test]
async fn critical_extensions_are_not_understood() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["b64".into()]);
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&header, &sound(), &key).unwrap();
    assert!(plain(&token).await.is_err());
}

#[tokio::test]
async fn each_broken_claim_is_refused_for_its_reason() {
    let cases = [
        (json!({"exp": null}), "exp"),
        (json!({"exp": "2099-01-01"}), "exp"),
        (json!({"exp": (NOW + 900).to_string()}), "exp"),
        (json!({"exp": true}), "exp"),
        (json!({"exp": [NOW + 900]}), "malformed"),
        (json!({"exp": NOW - 30}), "expired"),
        (json!({"exp": 0}), "expired"),
        (json!({"exp": -1e300}), "expired"),
        (json!({"nbf": NOW + 31}), "not_yet_valid"),
        (json!({"nbf": "soon"}), "nbf"),
        (json!({"nbf": 1e300}), "not_yet_valid"),
        (json!({"sub": null}), "subject"),
        (json!({"sub": ""}), "subject"),
        (json!({"sub": "  "}), "subject"),
        (json!({"sub": 7}), "subject"),
        (json!({"sub": "alice"}), "subject"),
        (json!({"sub": 7, "user_id": USER}), "subject"),
        (json!({"sub": null, "user_id": "alice"}), "subject"),
        (json!({"role": "root"}), "role"),
        (json!({"role": "Admin"}), "role"),
        (json!({"role": ["admin"]}), "role"),
        (json!({"role": 1}), "role"),
        (json!({"sid": "yesterday"}), "session"),
        (json!({"sid": 1}), "session"),
    ];
    for (changes, why) in cases {
        let refused = plain(&hs256(&changed(&changes))).await;
        assert_eq!(refused, Err(why), "{changes}");
    }
    for claims in [json!([]), json!("x"), json!(null), json!(1)] {
        assert!(plain(&hs256(&claims)).await.is_err(), "{claims}");
    }
}

#[tokio::test]
async fn sound_tokens_are_accepted_up_to_the_leeway() {
    for changes in [
        json!({}),
        json!({"exp": NOW - 29}),
        json!({"exp": NOW as f64 + 0.5}),
        json!({"exp": 1e300}),
        json!({"nbf": NOW + 30}),
        json!({"nbf": NOW - 1_000, "iat": NOW + 1_000}),
        json!({"sub": null, "user_id": USER}),
        json!({"user_id": "ignored"}),
        json!({"aud": "whoever", "iss": "whoever"}),
    ] {
        let token = plain(&hs256(&changed(&changes))).await.unwrap();
        assert_eq!(token.user_id.to_string(), USER, "{changes}");
        assert_eq!(
            (token.role, token.issuer, token.session_id),
            (Role::User, Issuer::Own, None)
        );
    }
}

#[tokio::test]
async fn issuer_and_audience_must_be_the_configured_ones() {
    let rules = ClaimRules {
        issuer: Some("https://id.example".into()),
        audience: Some("gravity".into()),
        ..ClaimRules::default()
    };
    let verifier = verifier(None, rules);
    let (iss, aud) = ("https://id.example", "gravity");
    let cases = [
        (json!({}), Err("issuer")),
        (json!({"iss": "https://id.example/", "aud": aud}), Err("issuer")),
        (json!({"iss": [iss], "aud": aud}), Err("issuer")),
        (json!({"iss": iss}), Err("audience")),
        (json!({"iss": iss, "aud": "other"}), Err("audience")),
        (json!({"iss": iss, "aud": ["other"]}), Err("audience")),
        (json!({"iss": iss, "aud": {}}), Err("audience")),
        (json!({"iss": iss, "aud": aud}), Ok(())),
        (json!({"iss": iss, "aud": ["other", aud]}), Ok(())),
    ];
    for (changes, expected) in cases {
        let checked = outcome(&verifier, &hs256(&changed(&changes))).await.map(|_| ());
        assert_eq!(checked, expected, "{changes}");
    }
}

#[tokio::test]
async fn with_hs256_off_an_own_token_is_refused() {
    let settings = VerifierSettings::default();
    let verifier = Verifier::new(settings, Arc::<SetClock>::default(), Handle::current()).unwrap();
    assert_eq!(outcome(&verifier, &hs256(&sound())).await, Err("algorithm"));
}

#[tokio::test]
async fn what_we_sign_we_accept() {
    let settings = OwnTokenSettings {
        secret: Secret::new(SECRET),
        issuer: Some("https://id.example".into()),
        audience: Some("gravity".into()),
        access_ttl: Duration::from_secs(900),
    };
    let rules = ClaimRules {
        issuer: settings.issuer.clone(),
        audience: settings.audience.clone(),
        ..ClaimRules::default()
    };
    let claims = AccessClaims {
        user_id: UserId::random(),
        role: Role::Admin,
        session_id: SessionId::random(),
    };
    let signed = OwnTokens::new(settings, Arc::<SetClock>::default())
        .sign(&claims)
        .unwrap();
    assert_eq!(signed.expires_in, Duration::from_secs(900));
    let token = outcome(&verifier(None, rules), signed.token.expose())
        .await
        .unwrap();
    assert_eq!((token.user_id, token.role), (claims.user_id, Role::Admin));
    assert_eq!(token.session_id, Some(claims.session_id));
}

fn blocking(token: &str) -> Result<VerifiedToken, &'static str> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { plain(token).await })
}

proptest! {
    #[test]
    fn no_text_whatever_passes_or_panics(token in r"\PC{0,60}|[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}") {
        prop_assert!(blocking(&token).is_err());
    }

    #[test]
    fn a_signed_token_with_one_byte_changed_never_passes(at in 0usize..150, to in "[A-Za-z0-9_.-]") {
        let good = hs256(&sound());
        let mut bad = good.clone();
        let at = at % good.len();
        bad.replace_range(at..=at, &to);
        prop_assert!(blocking(&bad).is_err() || bad == good);
    }
}
