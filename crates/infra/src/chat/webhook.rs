//! The operator's webhook: each notification as a signed POST of JSON.
//!
//! `Gravity-Signature: t=<unix seconds>,v1=<hex HMAC-SHA256 of "t.body">`. The event's id is the same in every attempt, in the
//! body and as `Idempotency-Key`: a receiver that has seen it answers 2xx and does nothing. Anything but 2xx is tried again.

use super::outside::{self, NoClient};
use async_trait::async_trait;
use aws_lc_rs::hmac;
use gravity_domain::auth::Secret;
use gravity_domain::chat::{Delivery, Notice, WebhookNotifier};
use gravity_domain::clock::WallClock;
use reqwest::header::CONTENT_TYPE;
use serde_json::json;
use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use url::Url;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a webhook cannot be used.
#[derive(Debug, Error)]
pub enum WebhookError {
    /// Not a URL, or not https.
    #[error("the webhook's address must be an https URL")]
    Address,
    /// The HTTP client's.
    #[error(transparent)]
    Client(#[from] NoClient),
}

/// Posts to the operator.
pub struct Webhook {
    client: reqwest::Client,
    url: Url,
    key: hmac::Key,
    clock: Arc<dyn WallClock>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").finish_non_exhaustive()
    }
}

impl Webhook {
    /// Posts to `url`, which is the operator's own and may be anywhere, and signs with `secret`. `may_be_plain` lets http through.
    ///
    /// # Errors
    /// [`WebhookError`].
    pub fn new(
        url: &str,
        secret: &Secret,
        may_be_plain: bool,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, WebhookError> {
        let url = Url::parse(url).map_err(|_| WebhookError::Address)?;
        if url.scheme() != "https" && !(may_be_plain && url.scheme() == "http") {
            return Err(WebhookError::Address);
        }
        let mut client = outside::client(TIMEOUT);
        if may_be_plain {
            client = client.no_proxy();
        }
        Ok(Self {
            client: client.build().map_err(NoClient::from)?,
            url,
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes()),
            clock,
        })
    }

    fn signature(&self, body: &str) -> String {
        let seconds = self.clock.now().millis() / 1_000;
        let tag = hmac::sign(&self.key, format!("{seconds}.{body}").as_bytes());
        let mut signature = format!("t={seconds},v1=");
        for byte in tag.as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(signature, "{byte:02x}");
        }
        signature
    }
}

#[async_trait]
impl WebhookNotifier for Webhook {
    async fn post(&self, notice: &Notice) -> Delivery {
        let body = event(notice);
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("Gravity-Signature", self.signature(&body))
            .header("Idempotency-Key", notice.event_id.to_string())
            .body(body);
        match outside::send(request).await {
            Ok(said) => match said.status {
                200..=299 => Delivery::Told,
                429 => said.later("throttled"),
                _ => said.later("status"),
            },
            Err(delivery) => delivery,
        }
    }
}

fn event(notice: &Notice) -> String {
    let event = json!({
        "id": notice.event_id,
        "type": "message.new",
        "createdAt": notice.created_at,
        "data": {
            "messageId": notice.message_id,
            "conversationId": notice.conversation_id,
            "recipientId": notice.user_id,
            "senderId": notice.sender_id,
            "senderName": notice.sender_name,
            "snippet": notice.snippet,
        },
    });
    event.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gravity_domain::clock::Timestamp;

    struct Fixed;

    impl WallClock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1_700_000_000_999)
        }
    }

    #[test]
    fn the_signature_is_over_the_time_and_the_body() {
        let secret = Secret::new("whsec_example".to_owned());
        let webhook = Webhook::new("https://hooks.example.com/x", &secret, false, Arc::new(Fixed)).unwrap();
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac whsec_example
        let expected = "t=1700000000,v1=3500e4cbdbe983dfd06e403872463b7fdd63367811622e0b0ff04bf7aa1f839f";
        assert_eq!(webhook.signature("{\"a\":1}"), expected);
    }

    #[test]
    fn a_plain_address_is_refused() {
        let secret = Secret::new("whsec_example".to_owned());
        for url in ["http://hooks.example.com/x", "hooks", "ftp://hooks.example.com"] {
            assert!(
                Webhook::new(url, &secret, false, Arc::new(Fixed)).is_err(),
                "{url}"
            );
        }
    }
}
