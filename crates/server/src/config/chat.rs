//! Section `chat`.

use super::http::Origin;
use super::reader::Reader;
use gravity_domain::auth::Secret;
use std::time::Duration;

/// | key | effect; what a wrong value does |
/// |---|---|
/// | `messages_per_minute` | of one user, by REST and by socket; too few, and people who type fast are held up with 429 |
/// | `conversations_per_minute` | new ones of one user; too many, and a script opens one with everybody |
/// | `max_sockets_per_user` | above, the oldest is closed 4409; too few, and tabs of one user push each other out |
/// | `allowed_origins` | whose pages may open a socket; empty: `http.cors_allowed_origins` |
/// | `cache_bytes` | what this process keeps of chat; too little, and reads go to Postgres and are unknown in its absence |
/// | `event_retention_hours` | a client away for longer reloads its lists |
/// | `vapid_private_key`, `vapid_subject` | the key of Web Push; another key ends all subscriptions |
/// | `webhook_url`, `webhook_secret` | the operator's own channel for notifications |
/// | `notification_max_attempts` | a job that failed so often is dropped; too few, and a long outage of a push service loses notifications |
/// | `push_allow_loopback` | for tests only: lets push endpoints name this machine |
#[derive(Debug, Clone)]
pub struct ChatConfig {
    /// Messages of one user.
    pub messages_per_minute: u32,
    /// New conversations of one user.
    pub conversations_per_minute: u32,
    /// Open sockets of one user on this node.
    pub max_sockets_per_user: usize,
    /// Origins whose pages may open a socket, beside none at all.
    pub allowed_origins: Vec<String>,
    /// Of the cache in the process.
    pub cache_bytes: u64,
    /// How long the logs of events are kept.
    pub event_retention: Duration,
    /// The application server's key of Web Push: a P-256 scalar of 32 bytes in base64url.
    pub vapid_private_key: Option<Secret>,
    /// Whom push services may write to: `mailto:` or `https:`.
    pub vapid_subject: Option<String>,
    /// Where notifications are posted.
    pub webhook: Option<Webhook>,
    /// How often telling somebody is tried.
    pub notification_max_attempts: u32,
    /// Whether push endpoints may be on this machine, and they and the webhook without TLS.
    pub push_allow_loopback: bool,
}

/// The operator's channel for notifications.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Where to.
    pub url: String,
    /// Signs what is posted.
    pub secret: Secret,
}

impl ChatConfig {
    pub(super) fn read(reader: &mut Reader, cors_origins: &[String]) -> Self {
        let origins: Vec<Origin> = reader.list(
            "chat.allowed_origins",
            "an origin such as https://app.example.com, without a path",
        );
        let mut allowed_origins: Vec<String> = origins.into_iter().map(|origin| origin.0).collect();
        if allowed_origins.is_empty() {
            allowed_origins = cors_origins.to_vec();
        }
        let push_allow_loopback = reader.flag("chat.push_allow_loopback");
        let (vapid_private_key, vapid_subject) = vapid(reader);
        Self {
            messages_per_minute: reader.small("chat.messages_per_minute", 1..=1_000_000),
            conversations_per_minute: reader.small("chat.conversations_per_minute", 1..=1_000_000),
            max_sockets_per_user: reader.count("chat.max_sockets_per_user", 1..=10_000),
            allowed_origins,
            cache_bytes: reader.number("chat.cache_bytes", 1 << 20..=1 << 40),
            event_retention: reader.hours("chat.event_retention_hours", 1..=87_600),
            vapid_private_key,
            vapid_subject,
            webhook: webhook(reader, push_allow_loopback),
            notification_max_attempts: reader.small("chat.notification_max_attempts", 1..=20),
            push_allow_loopback,
        }
    }
}

fn vapid(reader: &mut Reader) -> (Option<Secret>, Option<String>) {
    let key = reader.secret("chat.vapid_private_key");
    let subject = reader.optional("chat.vapid_subject");
    match (&key, &subject) {
        (Some(_), None) => {
            reader.refuse(
                "chat.vapid_subject",
                "is required with vapid_private_key: mailto: or https:",
            );
        }
        (_, Some(subject)) if !subject.starts_with("mailto:") && !subject.starts_with("https://") => {
            reader.refuse("chat.vapid_subject", "must begin with mailto: or https://");
        }
        _ => {}
    }
    if key.as_ref().is_some_and(|key| !is_scalar(key.expose())) {
        reader.refuse("chat.vapid_private_key", "must be 32 bytes in base64url");
    }
    (key, subject)
}

fn is_scalar(text: &str) -> bool {
    use base64::Engine as _;
    let text = text.trim_end_matches('=');
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text);
    bytes.is_ok_and(|bytes| bytes.len() == 32)
}

fn webhook(reader: &mut Reader, may_be_plain: bool) -> Option<Webhook> {
    let url = reader.optional("chat.webhook_url");
    let secret = reader.secret("chat.webhook_secret");
    let (url, secret) = match (url, secret) {
        (None, _) => return None,
        (Some(_), None) => {
            reader.refuse("chat.webhook_secret", "is required with webhook_url");
            return None;
        }
        (Some(url), Some(secret)) => (url, secret),
    };
    match url::Url::parse(&url) {
        Ok(parsed) if parsed.scheme() == "https" || (may_be_plain && parsed.scheme() == "http") => {}
        Ok(_) => reader.refuse("chat.webhook_url", "must be https"),
        Err(_) => reader.refuse("chat.webhook_url", "is not a URL"),
    }
    Some(Webhook { url, secret })
}
