//! What users want to be told of, and where to. Not operations: they need Postgres.

use super::error::ChatError;
use super::known::ask;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use gravity_domain::chat::{
    NotificationPreferences, NotificationStore, PushEndpoints, PushKeys, PushSubscription,
};
use gravity_domain::clock::WallClock;
use gravity_domain::error::{FieldError, StoreError};
use gravity_domain::id::UserId;
use gravity_domain::sync::ReadError;
use gravity_domain::sync::ports::Breaker;
use std::sync::Arc;
use uuid::Uuid;

/// The longest address of a push service, in bytes.
const LONGEST_ENDPOINT: usize = 2_048;

/// Browsers leave the padding away; some libraries do not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `GET /api/chat/notifications/preferences`.
pub struct GetPreferences {
    store: Arc<dyn NotificationStore>,
    breaker: Arc<dyn Breaker>,
}

impl GetPreferences {
    /// Over these ports.
    pub fn new(store: Arc<dyn NotificationStore>, breaker: Arc<dyn Breaker>) -> Self {
        Self { store, breaker }
    }

    /// What the user wants.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn run(&self, user: UserId) -> Result<NotificationPreferences, ReadError> {
        ask(self.breaker.as_ref(), self.store.preferences(user)).await
    }
}

/// `PUT /api/chat/notifications/preferences`.
pub struct SetPreferences {
    store: Arc<dyn NotificationStore>,
    breaker: Arc<dyn Breaker>,
}

impl SetPreferences {
    /// Over these ports.
    pub fn new(store: Arc<dyn NotificationStore>, breaker: Arc<dyn Breaker>) -> Self {
        Self { store, breaker }
    }

    /// Sets all of them.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn run(&self, user: UserId, preferences: NotificationPreferences) -> Result<(), ReadError> {
        ask_to_write(
            self.breaker.as_ref(),
            self.store.set_preferences(user, preferences),
        )
        .await
    }
}

/// `POST /api/chat/notifications/subscriptions`.
pub struct AddSubscription {
    store: Arc<dyn NotificationStore>,
    breaker: Arc<dyn Breaker>,
    endpoints: Arc<dyn PushEndpoints>,
    clock: Arc<dyn WallClock>,
}

/// A subscription as a browser gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSubscription<'a> {
    /// The push service's address.
    pub endpoint: &'a str,
    /// The public key, base64url of 65 bytes.
    pub p256dh: &'a str,
    /// The secret, base64url of 16 bytes.
    pub auth: &'a str,
}

/// A browser will be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// The subscription.
    pub subscription: PushSubscription,
    /// Its endpoint had none before.
    pub is_new: bool,
}

impl AddSubscription {
    /// Over these ports.
    pub fn new(
        store: Arc<dyn NotificationStore>,
        breaker: Arc<dyn Breaker>,
        endpoints: Arc<dyn PushEndpoints>,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        Self {
            store,
            breaker,
            endpoints,
            clock,
        }
    }

    /// Adds a subscription, or takes over its endpoint's earlier one.
    ///
    /// # Errors
    /// [`ChatError::Invalid`] for an endpoint that may not be sent to, or keys that are none; else [`ChatError::Read`].
    pub async fn run(&self, user: UserId, new: NewSubscription<'_>) -> Result<Subscribed, ChatError> {
        let keys = keys(&new).map_err(ChatError::Invalid)?;
        if new.endpoint.len() > LONGEST_ENDPOINT {
            let message = format!("must have at most {LONGEST_ENDPOINT} characters");
            return Err(ChatError::Invalid(FieldError::new(
                "endpoint", "too_long", message,
            )));
        }
        self.endpoints
            .check(new.endpoint)
            .await
            .map_err(|refused| ChatError::Invalid(FieldError::new("endpoint", "invalid_value", refused.0)))?;
        let subscription = PushSubscription {
            id: Uuid::now_v7(),
            user_id: user,
            endpoint: new.endpoint.to_owned(),
            keys,
            created_at: self.clock.now(),
        };
        let subscribe = self.store.subscribe(&subscription);
        let is_new = ask_to_write(self.breaker.as_ref(), subscribe).await?;
        Ok(Subscribed { subscription, is_new })
    }
}

/// `DELETE /api/chat/notifications/subscriptions`.
pub struct RemoveSubscription {
    store: Arc<dyn NotificationStore>,
    breaker: Arc<dyn Breaker>,
}

impl RemoveSubscription {
    /// Over these ports.
    pub fn new(store: Arc<dyn NotificationStore>, breaker: Arc<dyn Breaker>) -> Self {
        Self { store, breaker }
    }

    /// Removes the user's subscription of this endpoint.
    ///
    /// # Errors
    /// [`ReadError::NotFound`] when there is none; else see [`ReadError`].
    pub async fn run(&self, user: UserId, endpoint: &str) -> Result<(), ReadError> {
        let unsubscribe = self.store.unsubscribe(user, endpoint);
        let was_there = ask_to_write(self.breaker.as_ref(), unsubscribe).await?;
        was_there.then_some(()).ok_or(ReadError::NotFound)
    }
}

async fn ask_to_write<T>(
    breaker: &dyn Breaker,
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, ReadError> {
    if !breaker.allows_writes() {
        return Err(ReadError::Unknown);
    }
    ask(breaker, question).await
}

fn keys(new: &NewSubscription<'_>) -> Result<PushKeys, FieldError> {
    let decoded = |field: &'static str, text: &str, length: usize| {
        let bytes = BASE64.decode(text).ok().filter(|bytes| bytes.len() == length);
        bytes.ok_or_else(|| {
            let message = format!("must be base64url of {length} bytes");
            FieldError::new(field, "invalid_format", message)
        })
    };
    let p256dh = decoded("keys.p256dh", new.p256dh, 65)?;
    if p256dh.first() != Some(&4) {
        let message = "must be an uncompressed point";
        return Err(FieldError::new("keys.p256dh", "invalid_format", message));
    }
    Ok(PushKeys {
        p256dh,
        auth: decoded("keys.auth", new.auth, 16)?,
    })
}
