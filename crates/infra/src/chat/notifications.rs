//! What users want to be told, and where, in Postgres.

use crate::postgres::Pool;
use crate::postgres::values::At;
use async_trait::async_trait;
use gravity_domain::chat::{NotificationPreferences, NotificationStore, PushSubscription};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use tokio_postgres::types::ToSql;

const PREFERENCES: &str =
    "SELECT chat_messages, web_push, webhook FROM notification_preferences WHERE user_id = $1";

const SET_PREFERENCES: &str =
    "INSERT INTO notification_preferences (user_id, chat_messages, web_push, webhook) VALUES ($1, $2, $3, $4)
    ON CONFLICT (user_id) DO UPDATE SET chat_messages = $2, web_push = $3, webhook = $4";

/// The oldest but `$7` of the user's other subscriptions make room.
const SUBSCRIBE: &str = "WITH room AS (
        DELETE FROM push_subscriptions WHERE id IN (
            SELECT id FROM push_subscriptions WHERE user_id = $2 AND endpoint <> $3
            ORDER BY created_at DESC, id DESC OFFSET $7::bigint
        )
    )
    INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth, created_at) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (endpoint) DO UPDATE SET user_id = $2, p256dh = $4, auth = $5, created_at = $6
    RETURNING xmax = 0";

const UNSUBSCRIBE: &str = "DELETE FROM push_subscriptions WHERE user_id = $1 AND endpoint = $2";

/// Preferences and subscriptions.
#[derive(Debug, Clone)]
pub struct PostgresNotifications {
    pool: Pool,
}

impl PostgresNotifications {
    /// How many subscriptions a user may have.
    pub const SUBSCRIPTIONS: i64 = 20;

    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }
}

#[async_trait]
impl NotificationStore for PostgresNotifications {
    async fn preferences(&self, user: UserId) -> Result<NotificationPreferences, StoreError> {
        let row = self
            .pool
            .query_opt("notification_preferences", PREFERENCES, &[&user.0])
            .await?;
        Ok(
            row.map_or_else(NotificationPreferences::default, |row| NotificationPreferences {
                chat_messages: row.get(0),
                web_push: row.get(1),
                webhook: row.get(2),
            }),
        )
    }

    async fn set_preferences(
        &self,
        user: UserId,
        preferences: NotificationPreferences,
    ) -> Result<(), StoreError> {
        let NotificationPreferences {
            chat_messages,
            web_push,
            webhook,
        } = preferences;
        let parameters: [&(dyn ToSql + Sync); 4] = [&user.0, &chat_messages, &web_push, &webhook];
        self.pool
            .execute("notification_preferences_set", SET_PREFERENCES, &parameters)
            .await?;
        Ok(())
    }

    async fn subscribe(&self, subscription: &PushSubscription) -> Result<bool, StoreError> {
        let others = Self::SUBSCRIPTIONS - 1;
        let created_at = At(subscription.created_at);
        let parameters: [&(dyn ToSql + Sync); 7] = [
            &subscription.id,
            &subscription.user_id.0,
            &subscription.endpoint,
            &subscription.keys.p256dh,
            &subscription.keys.auth,
            &created_at,
            &others,
        ];
        let row = self
            .pool
            .query_opt("push_subscribe", SUBSCRIBE, &parameters)
            .await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    async fn unsubscribe(&self, user: UserId, endpoint: &str) -> Result<bool, StoreError> {
        let removed = self
            .pool
            .execute("push_unsubscribe", UNSUBSCRIBE, &[&user.0, &endpoint])
            .await?;
        Ok(removed > 0)
    }
}
