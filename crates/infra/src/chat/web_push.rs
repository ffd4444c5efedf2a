//! Web Push (RFC 8030): one encrypted message to one browser, by way of its push service.
//!
//! `Topic` is the message's id: a push service that still holds an earlier copy of the same notification replaces it, and the
//! id in the payload lets a page that already shows it do the same.

use super::encrypt::{LONGEST, encrypt};
use super::endpoint::EndpointGuard;
use super::outside::{self, NoClient, Said};
use super::vapid::VapidKey;
use async_trait::async_trait;
use gravity_domain::chat::{Delivery, Notice, PushNotifier, PushSubscription};
use gravity_domain::clock::WallClock;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::json;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// For how long a push service keeps a message for a browser that is away.
const KEPT_SECONDS: &str = "86400";
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends to push services.
pub struct WebPush {
    client: reqwest::Client,
    guard: EndpointGuard,
    key: VapidKey,
    clock: Arc<dyn WallClock>,
}

impl fmt::Debug for WebPush {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebPush")
            .field("key", &self.key)
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

impl WebPush {
    /// Signs with `key`, and connects only where `guard` lets it.
    ///
    /// # Errors
    /// [`NoClient`].
    pub fn new(key: VapidKey, guard: EndpointGuard, clock: Arc<dyn WallClock>) -> Result<Self, NoClient> {
        // A proxy would resolve names itself, past the guard.
        let client = outside::client(TIMEOUT)
            .no_proxy()
            .dns_resolver(Arc::new(guard.clone()))
            .build()?;
        Ok(Self {
            client,
            guard,
            key,
            clock,
        })
    }
}

#[async_trait]
impl PushNotifier for WebPush {
    fn public_key(&self) -> String {
        self.key.public_key().to_owned()
    }

    async fn push(&self, subscription: &PushSubscription, notice: &Notice) -> Delivery {
        let Ok(url) = self.guard.judge(&subscription.endpoint) else {
            return Delivery::Refused { reason: "endpoint" };
        };
        let body = payload(notice);
        if body.len() > LONGEST {
            return Delivery::Refused { reason: "too_large" };
        }
        let Ok(body) = encrypt(&body, &subscription.keys) else {
            return Delivery::Refused { reason: "keys" };
        };
        let Some(authorization) = self.key.authorization(&url, self.clock.now()) else {
            return Delivery::Refused { reason: "keys" };
        };
        let request = self
            .client
            .post(url)
            .header(AUTHORIZATION, authorization)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_ENCODING, "aes128gcm")
            .header("TTL", KEPT_SECONDS)
            .header("Urgency", "high")
            .header("Topic", notice.message_id.0.simple().to_string())
            .body(body);
        match outside::send(request).await {
            Ok(said) => meaning(&said),
            Err(delivery) => delivery,
        }
    }
}

fn meaning(said: &Said) -> Delivery {
    match said.status {
        200..=299 => Delivery::Told,
        404 | 410 => Delivery::Gone,
        413 => Delivery::Refused { reason: "too_large" },
        429 => said.later("throttled"),
        408 | 425 | 500..=599 => said.later("status"),
        _ => Delivery::Refused { reason: "status" },
    }
}

/// What the service worker gets. The sender's name is cut so that the whole always fits.
fn payload(notice: &Notice) -> Vec<u8> {
    let name: String = notice.sender_name.chars().take(100).collect();
    let event = json!({
        "type": "message.new",
        "messageId": notice.message_id,
        "conversationId": notice.conversation_id,
        "senderId": notice.sender_id,
        "senderName": name,
        "snippet": notice.snippet,
    });
    event.to_string().into_bytes()
}
