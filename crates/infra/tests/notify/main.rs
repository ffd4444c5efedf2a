//! Web Push and the webhook against a receiver of the test's own, over HTTP on loopback.

mod receiver;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use gravity_domain::auth::Secret;
use gravity_domain::chat::{
    Delivery, Notice, PushEndpoints as _, PushKeys, PushNotifier as _, PushSubscription, WebhookNotifier as _,
};
use gravity_domain::clock::{SystemClock, Timestamp, WallClock as _};
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use gravity_infra::chat::{EndpointGuard, LookUp, SystemLookUp, VapidKey, WebPush, Webhook};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use receiver::{Receiver, Request};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

const VAPID: &str = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw";

/// A browser: its keys, and how it reads what it gets.
struct Browser {
    private: PrivateKey,
    keys: PushKeys,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand(salt: &[u8], secret: &[u8], info: &[u8], length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let key = Salt::new(HKDF_SHA256, salt).extract(secret);
    let info = [info];
    key.expand(&info, Length(length)).unwrap().fill(&mut out).unwrap();
    out
}

impl Browser {
    fn new() -> Self {
        let private = PrivateKey::generate(&ECDH_P256).unwrap();
        let p256dh = private.compute_public_key().unwrap().as_ref().to_vec();
        let auth = Uuid::new_v4().as_bytes().to_vec();
        Self {
            private,
            keys: PushKeys { p256dh, auth },
        }
    }

    fn subscription(&self, endpoint: String) -> PushSubscription {
        PushSubscription {
            id: Uuid::new_v4(),
            user_id: UserId::random(),
            endpoint,
            keys: self.keys.clone(),
            created_at: Timestamp::EPOCH,
        }
    }

    /// The other half of RFC 8291, written against the RFC and not against the sender.
    fn read(&self, message: &[u8]) -> Value {
        let (salt, rest) = message.split_at(16);
        assert_eq!(rest[..5], [0, 0, 16, 0, 65], "one record of up to 4,096 bytes");
        let (sender, record) = rest[5..].split_at(65);
        let theirs = UnparsedPublicKey::new(&ECDH_P256, sender);
        let shared = agree(&self.private, theirs, (), |shared| Ok(shared.to_vec())).unwrap();
        let info = [b"WebPush: info\0".as_slice(), &self.keys.p256dh, sender].concat();
        let input = expand(&self.keys.auth, &shared, &info, 32);
        let key = expand(salt, &input, b"Content-Encoding: aes128gcm\0", 16);
        let nonce = expand(salt, &input, b"Content-Encoding: nonce\0", 12);
        let opening = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap());
        let mut record = record.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(&nonce).unwrap();
        let plain = opening.open_in_place(nonce, Aad::empty(), &mut record).unwrap();
        let (end, plain) = plain.split_last().unwrap();
        assert_eq!(*end, 2);
        serde_json::from_slice(plain).unwrap()
    }
}

fn notice() -> Notice {
    Notice {
        event_id: Uuid::from_u128(1),
        user_id: UserId(Uuid::from_u128(2)),
        message_id: ChatMessageId(Uuid::from_u128(3)),
        conversation_id: ConversationId(Uuid::from_u128(4)),
        sender_id: UserId(Uuid::from_u128(5)),
        sender_name: "Ada".to_owned(),
        snippet: "hello — \u{1f680}".to_owned(),
        created_at: Timestamp::EPOCH,
    }
}

fn push_with(guard: EndpointGuard) -> WebPush {
    let key = VapidKey::parse(VAPID, "mailto:ops@example.com").unwrap();
    WebPush::new(key, guard, Arc::new(SystemClock)).unwrap()
}

fn push() -> WebPush {
    push_with(EndpointGuard::new(true, Arc::new(SystemLookUp)))
}

fn webhook(url: &str) -> Webhook {
    let secret = Secret::new("whsec_of_the_test".to_owned());
    Webhook::new(url, &secret, true, Arc::new(SystemClock)).unwrap()
}

/// Verifies the token as a push service does; its claims.
fn verified(request: &Request, audience: &str) -> Value {
    let header = request.header("authorization");
    let (token, public) = header
        .strip_prefix("vapid t=")
        .and_then(|rest| rest.split_once(", k="))
        .unwrap();
    let point = URL_SAFE_NO_PAD.decode(public).unwrap();
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = DecodingKey::from_ec_components(&part(&point[1..33]), &part(&point[33..])).unwrap();
    let mut rules = Validation::new(Algorithm::ES256);
    rules.set_audience(&[audience]);
    decode::<Value>(token, &key, &rules).unwrap().claims
}

#[tokio::test]
async fn a_browser_reads_what_the_push_service_cannot() {
    let receiver = Receiver::start(&["201 Created"]).await;
    let browser = Browser::new();
    let told = push()
        .push(&browser.subscription(receiver.url("/send/1")), &notice())
        .await;
    assert_eq!(told, Delivery::Told);
    let request = receiver.only_request();
    assert_eq!(request.line, "POST /send/1 HTTP/1.1");
    assert_eq!(request.header("content-encoding"), "aes128gcm");
    assert_eq!(request.header("ttl"), "86400");
    assert_eq!(request.header("topic"), Uuid::from_u128(3).simple().to_string());
    let claims = verified(&request, &receiver.url(""));
    assert_eq!(claims["sub"], "mailto:ops@example.com");
    let left = claims["exp"].as_i64().unwrap() - SystemClock.now().millis() / 1_000;
    assert!((3_600..=24 * 3_600).contains(&left), "{left}");
    let expected = json!({
        "type": "message.new",
        "messageId": Uuid::from_u128(3),
        "conversationId": Uuid::from_u128(4),
        "senderId": Uuid::from_u128(5),
        "senderName": "Ada",
        "snippet": "hello — \u{1f680}",
    });
    assert_eq!(browser.read(&request.body), expected);
}

#[tokio::test]
async fn each_answer_of_a_push_service_means_what_it_says() {
    let later = |after: Option<u64>, reason| Delivery::Later {
        after: after.map(Duration::from_secs),
        reason,
    };
    let refused = |reason| Delivery::Refused { reason };
    let cases = [
        ("200 OK", Delivery::Told),
        ("404 Not Found", Delivery::Gone),
        ("410 Gone", Delivery::Gone),
        (
            "429 Too Many Requests\r\nRetry-After: 120",
            later(Some(120), "throttled"),
        ),
        (
            "503 Service Unavailable\r\nRetry-After: 7",
            later(Some(7), "status"),
        ),
        ("500 Internal Server Error", later(None, "status")),
        ("413 Payload Too Large", refused("too_large")),
        ("403 Forbidden", refused("status")),
        (
            "307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/",
            refused("status"),
        ),
    ];
    let answers: Vec<&str> = cases.iter().map(|(answer, _)| *answer).collect();
    let receiver = Receiver::start(&answers).await;
    let (push, browser) = (push(), Browser::new());
    for (answer, meaning) in cases {
        let said = push
            .push(&browser.subscription(receiver.url("/x")), &notice())
            .await;
        assert_eq!(said, meaning, "{answer}");
    }
    assert_eq!(
        receiver.requests().len(),
        answers.len(),
        "no redirect is followed"
    );
}

#[tokio::test]
async fn nobody_there_is_a_reason_to_try_again() {
    let closed = Receiver::start(&[]).await.url("/x");
    let said = push()
        .push(&Browser::new().subscription(closed.clone()), &notice())
        .await;
    let connect = Delivery::Later {
        after: None,
        reason: "connect",
    };
    assert_eq!(said, connect);
    assert_eq!(webhook(&closed).post(&notice()).await, connect);
}

/// Public when it is asked first, loopback ever after.
struct Rebinding(std::sync::atomic::AtomicBool);

impl LookUp for Rebinding {
    fn look_up(&self, _: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        let was_asked = self.0.swap(true, std::sync::atomic::Ordering::SeqCst);
        let address = if was_asked { "127.0.0.1" } else { "8.8.8.8" };
        Box::pin(async move { Ok(vec![address.parse().unwrap()]) })
    }
}

#[tokio::test]
async fn a_name_that_turns_inwards_after_it_was_checked_is_not_connected_to() {
    let receiver = Receiver::start(&["201 Created"]).await;
    let port = receiver.url("").rsplit(':').next().unwrap().to_owned();
    let guard = EndpointGuard::new(false, Arc::new(Rebinding(false.into())));
    let endpoint = format!("https://push.example.com:{port}/x");
    guard.check(&endpoint).await.unwrap();
    let said = push_with(guard)
        .push(&Browser::new().subscription(endpoint), &notice())
        .await;
    assert_eq!(said, Delivery::Refused { reason: "endpoint" });
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn loopback_is_refused_without_the_setting_and_bad_keys_always() {
    let receiver = Receiver::start(&["201 Created"]).await;
    let closed = push_with(EndpointGuard::new(false, Arc::new(SystemLookUp)));
    let mut subscription = Browser::new().subscription(receiver.url("/x"));
    let said = closed.push(&subscription, &notice()).await;
    assert_eq!(said, Delivery::Refused { reason: "endpoint" });
    subscription.keys.p256dh[64] ^= 1;
    let said = push().push(&subscription, &notice()).await;
    assert_eq!(said, Delivery::Refused { reason: "keys" });
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn the_operator_gets_a_signed_event_with_a_lasting_id() {
    let receiver = Receiver::start(&["500 Internal Server Error", "200 OK"]).await;
    let webhook = webhook(&receiver.url("/hook"));
    let again = Delivery::Later {
        after: None,
        reason: "status",
    };
    assert_eq!(webhook.post(&notice()).await, again);
    assert_eq!(webhook.post(&notice()).await, Delivery::Told);
    let requests = receiver.requests();
    assert_eq!(requests[0].body, requests[1].body);
    for request in &requests {
        let (time, tag) = request
            .header("gravity-signature")
            .strip_prefix("t=")
            .and_then(|rest| rest.split_once(",v1="))
            .unwrap();
        let age = SystemClock.now().millis() / 1_000 - time.parse::<i64>().unwrap();
        assert!((0..60).contains(&age), "{age}");
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"whsec_of_the_test");
        let signed = [time.as_bytes(), b".", &request.body].concat();
        let tag: Vec<u8> = (0..64)
            .step_by(2)
            .map(|at| u8::from_str_radix(&tag[at..at + 2], 16).unwrap())
            .collect();
        hmac::verify(&key, &signed, &tag).unwrap();
        assert_eq!(request.header("idempotency-key"), Uuid::from_u128(1).to_string());
    }
    let event: Value = serde_json::from_slice(&requests[0].body).unwrap();
    let expected = json!({
        "id": Uuid::from_u128(1),
        "type": "message.new",
        "createdAt": "1970-01-01T00:00:00.000Z",
        "data": {
            "messageId": Uuid::from_u128(3),
            "conversationId": Uuid::from_u128(4),
            "recipientId": Uuid::from_u128(2),
            "senderId": Uuid::from_u128(5),
            "senderName": "Ada",
            "snippet": "hello — \u{1f680}",
        },
    });
    assert_eq!(event, expected);
}
