//! Notifications to those who are not there: what they want, where to, and the jobs that see to it.

use crate::clock::Timestamp;
use crate::error::StoreError;
use crate::id::{ChatMessageId, ConversationId, UserId};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::time::Duration;
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

/// That somebody who is not there may have to be told of a message: made in the transaction that stores it, and kept until
/// they were, or need not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationJob {
    /// The message.
    pub message_id: ChatMessageId,
    /// Its receiver.
    pub user_id: UserId,
    /// How often it was taken up, this time included. Each claim has another number, and is void once there is a higher one.
    pub attempts: u32,
    /// What was done in earlier attempts.
    pub done: Progress,
}

impl NotificationJob {
    /// The event's id: the same in every attempt, so that whoever is told twice can tell.
    pub fn event_id(&self) -> Uuid {
        Uuid::new_v5(&self.message_id.0, self.user_id.0.as_bytes())
    }
}

/// What was done for a job already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The targets that need not be tried again.
    pub settled: Vec<Target>,
    /// How often it was put off because nobody knew whether the receiver is there.
    pub waits: u32,
}

/// One place to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// A browser, by its subscription.
    Push(Uuid),
    /// The operator's webhook.
    Webhook,
}

impl Target {
    /// For metrics: `push`, `webhook`.
    pub fn channel(self) -> &'static str {
        match self {
            Self::Push(_) => "push",
            Self::Webhook => "webhook",
        }
    }
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// [`NotificationJob::event_id`].
    pub event_id: Uuid,
    /// Whom it is for.
    pub user_id: UserId,
    /// The message.
    pub message_id: ChatMessageId,
    /// Of which conversation.
    pub conversation_id: ConversationId,
    /// By whom.
    pub sender_id: UserId,
    /// How the sender is called.
    pub sender_name: String,
    /// How the message begins: at most [`Self::SNIPPET`] code points, on one line.
    pub snippet: String,
    /// When the message was accepted.
    pub created_at: Timestamp,
}

impl Notice {
    /// The most code points of a snippet.
    pub const SNIPPET: usize = 120;

    /// How `content` begins, on one line; an ellipsis says that there is more.
    pub fn snippet_of(content: &str) -> String {
        let mut words = content.split_whitespace();
        let mut line: Vec<char> = Vec::new();
        while let Some(word) = words.next().filter(|_| line.len() <= Self::SNIPPET) {
            if !line.is_empty() {
                line.push(' ');
            }
            line.extend(word.chars().take(Self::SNIPPET + 1));
        }
        if line.len() > Self::SNIPPET {
            line.truncate(Self::SNIPPET - 1);
            line.push('…');
        }
        line.into_iter().collect()
    }
}

/// Whether, and where, the receiver of a job is to be told, as it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Summons {
    /// Not at all: for metrics why, one of `gone` (the message or the conversation), `read`, `unwanted` (preferences, muted or
    /// blocked).
    No(&'static str),
    /// This, by these ways.
    Tell {
        /// What.
        notice: Box<Notice>,
        /// Browsers.
        subscriptions: Vec<PushSubscription>,
        /// Whether the operator's webhook too.
        webhook: bool,
    },
}

/// What became of telling one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Told.
    Told,
    /// The subscription has ended.
    Gone,
    /// Not now. The reason is a stable word: `status`, `timeout`, `connect`, `throttled`.
    Later {
        /// Not before so long, if the other side says so.
        after: Option<Duration>,
        /// Why.
        reason: &'static str,
    },
    /// Never: another try would end the same. The reason is a stable word: `status`, `keys`, `endpoint`, `too_large`.
    Refused {
        /// Why.
        reason: &'static str,
    },
}

/// The jobs, in Postgres, shared by all nodes.
///
/// # Errors
/// Every call: the store could not answer.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait NotificationJobs: Send + Sync {
    /// Takes up to `limit` jobs that are due: nobody else gets them for the time of `lease`. No transaction stays open.
    async fn claim(&self, limit: u32, lease: Duration) -> Result<Vec<NotificationJob>, StoreError>;

    /// What is to be told of a job, judged by what is stored now.
    async fn summons(&self, job: &NotificationJob) -> Result<Summons, StoreError>;

    /// Writes down what is done. False when somebody else has taken the job up meanwhile.
    async fn record(&self, job: &NotificationJob) -> Result<bool, StoreError>;

    /// Lets the job rest for `after`, with what is done and the reason.
    async fn put_off(&self, job: &NotificationJob, after: Duration, reason: &str) -> Result<(), StoreError>;

    /// Removes jobs that need nothing more, unless somebody else has taken them up meanwhile.
    async fn finish(&self, jobs: &[NotificationJob]) -> Result<(), StoreError>;

    /// Removes a subscription that has ended.
    async fn forget(&self, subscription: Uuid) -> Result<(), StoreError>;

    /// How many jobs there are, counted up to 100,000.
    async fn waiting(&self) -> Result<u64, StoreError>;
}

/// Tells browsers by Web Push.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait PushNotifier: Send + Sync {
    /// The public key that browsers subscribe with: base64url of an uncompressed P-256 point.
    fn public_key(&self) -> String;

    /// Tells one browser. Bounded in time.
    async fn push(&self, subscription: &PushSubscription, notice: &Notice) -> Delivery;
}

/// Tells the operator.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait WebhookNotifier: Send + Sync {
    /// Posts the notice. Bounded in time.
    async fn post(&self, notice: &Notice) -> Delivery;
}

/// An address that push messages must not be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EndpointRefused(
    /// Why, for people.
    pub &'static str,
);

/// Judges the addresses of push services that clients name.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait PushEndpoints: Send + Sync {
    /// Whether `endpoint` may be sent to: https, and public, also in what its name resolves to now. A name that cannot be
    /// resolved now passes: it is looked at again before each connection.
    ///
    /// # Errors
    /// [`EndpointRefused`].
    async fn check(&self, endpoint: &str) -> Result<(), EndpointRefused>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_snippet_is_one_line_and_says_when_there_is_more() {
        assert_eq!(Notice::snippet_of("  hello\n\tworld  "), "hello world");
        assert_eq!(Notice::snippet_of(&"a".repeat(120)), "a".repeat(120));
        assert_eq!(
            Notice::snippet_of(&"é".repeat(121)),
            format!("{}…", "é".repeat(119))
        );
        assert_eq!(Notice::snippet_of(&"word ".repeat(900)).chars().count(), 120);
    }

    proptest! {
        #[test]
        fn a_snippet_is_never_longer_than_it_may_be(content in "\\PC{0,300}") {
            prop_assert!(Notice::snippet_of(&content).chars().count() <= Notice::SNIPPET);
        }
    }

    #[test]
    fn an_event_has_the_same_id_in_every_attempt_and_for_nobody_else() {
        let job = |user: u128, attempts| NotificationJob {
            message_id: ChatMessageId(Uuid::from_u128(7)),
            user_id: UserId(Uuid::from_u128(user)),
            attempts,
            done: Progress::default(),
        };
        assert_eq!(job(1, 1).event_id(), job(1, 2).event_id());
        assert_ne!(job(1, 1).event_id(), job(2, 1).event_id());
    }
}
