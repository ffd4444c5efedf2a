//! Chat as JSON: what is taken.

use crate::extract::object::{Object, UNKNOWN_FIELD};
use crate::extract::{Body, Fields};
use gravity_domain::auth::Username;
use gravity_domain::chat::{Content, NotificationPreferences};
use gravity_domain::error::FieldError;
use gravity_domain::id::ChatMessageId;
use gravity_domain::text::TextError;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// A UUID with hyphens.
fn uuid(text: &str) -> Result<Uuid, TextError> {
    let id = Some(text).filter(|text| text.len() == 36);
    id.and_then(|text| Uuid::try_parse(text).ok())
        .ok_or(TextError::Malformed("must be a UUID with hyphens"))
}

/// A message to send.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct SendMessageBody {
    /// What it says. Text, never markup; tabs and newlines are allowed.
    #[schema(value_type = String, min_length = 1, max_length = 4_000, example = "Hello")]
    pub content: Content,
    /// The message's own identity: the same id and content may be sent again and again, and there is one message.
    #[schema(nullable = false)]
    pub client_message_id: Option<Uuid>,
}

impl Body for SendMessageBody {
    const FIELDS: &'static [&'static str] = &["content", "clientMessageId"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let content = fields.required("content", Content::parse);
        let client_message_id = fields.optional("clientMessageId", uuid);
        Some(Self {
            content: content?,
            client_message_id: client_message_id?,
        })
    }
}

/// How far one has read.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct MarkReadBody {
    /// Up to and including this message; up to the newest when not given.
    #[schema(value_type = Option<Uuid>, nullable = false)]
    pub message_id: Option<ChatMessageId>,
}

impl Body for MarkReadBody {
    const FIELDS: &'static [&'static str] = &["messageId"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let message_id = fields.optional("messageId", uuid)?;
        Some(Self {
            message_id: message_id.map(ChatMessageId),
        })
    }
}

/// Somebody to block.
#[derive(Debug, ToSchema)]
pub struct BlockBody {
    /// Whom.
    #[schema(value_type = String, example = "grace")]
    pub username: Username,
}

impl Body for BlockBody {
    const FIELDS: &'static [&'static str] = &["username"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let username = fields.required("username", Username::parse)?;
        Some(Self { username })
    }
}

/// The preferences to set; those not given stay as they are.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct PreferencesBody {
    /// Of messages at all.
    #[schema(nullable = false)]
    pub chat_messages: Option<bool>,
    /// By Web Push.
    #[schema(nullable = false)]
    pub web_push: Option<bool>,
    /// By the operator's webhook.
    #[schema(nullable = false)]
    pub webhook: Option<bool>,
}

impl Body for PreferencesBody {
    const FIELDS: &'static [&'static str] = &["chatMessages", "webPush", "webhook"];
    const IS_UPDATE: bool = true;

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let chat_messages = fields.flag("chatMessages");
        let web_push = fields.flag("webPush");
        let webhook = fields.flag("webhook");
        Some(Self {
            chat_messages: chat_messages?,
            web_push: web_push?,
            webhook: webhook?,
        })
    }
}

impl PreferencesBody {
    /// `now` with what is given.
    pub fn over(&self, now: NotificationPreferences) -> NotificationPreferences {
        NotificationPreferences {
            chat_messages: self.chat_messages.unwrap_or(now.chat_messages),
            web_push: self.web_push.unwrap_or(now.web_push),
            webhook: self.webhook.unwrap_or(now.webhook),
        }
    }
}

/// The keys of a browser's subscription (RFC 8291), in base64url.
#[derive(Debug, ToSchema)]
#[schema(as = PushKeys)]
pub struct KeysBody {
    /// Its public key: an uncompressed P-256 point.
    pub p256dh: String,
    /// Its secret: 16 bytes.
    pub auth: String,
}

/// A browser that wants to be told: what `PushSubscription.toJSON()` gives.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct SubscribeBody {
    /// The push service's address for it: https, and public.
    #[schema(format = "uri", max_length = 2_048)]
    pub endpoint: String,
    /// What is sent is encrypted to these.
    pub keys: KeysBody,
    /// As the browser says. Push services tell when a subscription has ended, so nobody goes by it.
    pub expiration_time: Option<f64>,
}

const KEYS: &[&str] = &["p256dh", "auth"];

impl Body for SubscribeBody {
    const FIELDS: &'static [&'static str] = &["endpoint", "keys", "expirationTime"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let endpoint = fields.required("endpoint", any);
        let keys = match fields.value("keys").map(keys) {
            None => fields.refuse(FieldError::new("keys", "required", "is required")),
            Some(Ok(keys)) => Some(keys),
            Some(Err(error)) if error.code == UNKNOWN_FIELD => fields.refuse_unknown(&error.field, KEYS),
            Some(Err(error)) => fields.refuse(error),
        };
        let expiration_time = match fields.value("expirationTime") {
            None | Some(Value::Null) => Some(None),
            Some(Value::Number(time)) => Some(time.as_f64()),
            Some(_) => fields.refuse(FieldError::new(
                "expirationTime",
                "invalid_type",
                "must be a number or null",
            )),
        };
        Some(Self {
            endpoint: endpoint?,
            keys: keys?,
            expiration_time: expiration_time?,
        })
    }
}

fn keys(value: &Value) -> Result<KeysBody, FieldError> {
    let object = Object::of(value, "keys".into(), KEYS)?;
    Ok(KeysBody {
        p256dh: object.required("p256dh", any)?,
        auth: object.required("auth", any)?,
    })
}

/// What is checked where it is used.
fn any(text: &str) -> Result<String, TextError> {
    Ok(text.to_owned())
}

/// A browser that wants to be told no more.
#[derive(Debug, ToSchema)]
pub struct UnsubscribeBody {
    /// The push service's address for it.
    #[schema(format = "uri")]
    pub endpoint: String,
}

impl Body for UnsubscribeBody {
    const FIELDS: &'static [&'static str] = &["endpoint"];

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let endpoint = fields.required("endpoint", any)?;
        Some(Self { endpoint })
    }
}
