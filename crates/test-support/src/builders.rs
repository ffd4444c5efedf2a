//! Bodies and tokens, right by default and wrong in one thing at a time.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The body of a new task.
#[must_use]
pub fn task(title: &str) -> Value {
    json!({ "title": title })
}

/// An item of a stream, for an ingest: of source `email`, priority `medium`, with one participant and one message.
#[must_use]
pub fn item(user: Uuid, external_id: &str, title: &str, timestamp: &str) -> Value {
    json!({
        "userId": user, "source": "email", "externalId": external_id, "title": title, "priority": "medium",
        "timestamp": timestamp, "snippet": format!("about {title}"),
        "participants": [{"externalId": "grace", "name": "Grace", "avatarUrl": "https://example.com/g.png"}],
        "messages": [{"externalId": "m1", "senderExternalId": "grace", "senderName": "Grace", "senderType": "other",
            "contentType": "text", "content": format!("{title} it is"), "timestamp": timestamp}],
    })
}

/// Seconds since 1970.
#[must_use]
pub fn now_seconds() -> i64 {
    i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap_or(i64::MAX)
}

/// The claims of a token: `sub`, `role` user and `exp` in an hour, until changed.
#[derive(Clone, Debug)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Of this user.
    #[must_use]
    pub fn of(id: Uuid) -> Self {
        Self::of_subject(&id.to_string())
    }

    /// Of a subject that may be no UUID.
    #[must_use]
    pub fn of_subject(subject: &str) -> Self {
        Self(Map::new())
            .set("sub", json!(subject))
            .set("role", json!("user"))
            .set("exp", json!(now_seconds() + 3_600))
    }

    /// With this claim.
    #[must_use]
    pub fn set(mut self, name: &str, value: Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }

    /// Without this claim.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    /// With this role.
    #[must_use]
    pub fn role(self, role: &str) -> Self {
        self.set("role", json!(role))
    }

    /// Expires that many seconds from now; negative: that long ago.
    #[must_use]
    pub fn expires_in(self, seconds: i64) -> Self {
        self.set("exp", json!(now_seconds() + seconds))
    }

    /// The token, HS256.
    ///
    /// # Panics
    /// Never: a map of JSON can be encoded.
    #[must_use]
    pub fn signed(&self, secret: &str) -> String {
        self.encoded(
            &Header::new(Algorithm::HS256),
            &EncodingKey::from_secret(secret.as_bytes()),
        )
    }

    /// The token with any header and key that belong together.
    ///
    /// # Panics
    /// When they do not.
    #[must_use]
    pub fn encoded(&self, header: &Header, key: &EncodingKey) -> String {
        match jsonwebtoken::encode(header, &self.0, key) {
            Ok(token) => token,
            Err(error) => panic!("a test token cannot be made: {error}"),
        }
    }
}
