//! Notifications to those who are not there: what they want, and where to.

use crate::clock::Timestamp;
use crate::id::UserId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What a user wants to be told of, and how. Everything, until they say otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationPreferences {
    /// Of messages at all.
    pub chat_messages: bool,
    /// By Web Push, to the subscriptions.
    pub web_push: bool,
    /// By the operator's webhook.
    pub webhook: bool,
}

impl Default for NotificationPreferences {
    fn default() -> Self {
        Self {
            chat_messages: true,
            web_push: true,
            webhook: true,
        }
    }
}

/// The keys of a browser's subscription (RFC 8291).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushKeys {
    /// The public key: 65 bytes, an uncompressed P-256 point.
    pub p256dh: Vec<u8>,
    /// The secret: 16 bytes.
    pub auth: Vec<u8>,
}

/// Where a browser is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushSubscription {
    /// Its id.
    pub id: Uuid,
    /// Whose browser.
    pub user_id: UserId,
    /// The push service's address for it; unique.
    pub endpoint: String,
    /// What is sent is encrypted to these.
    pub keys: PushKeys,
    /// Since when.
    pub created_at: Timestamp,
}
