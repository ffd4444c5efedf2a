//! Lets go of what nobody can need any more: tombstones, and the memory of operations. In small transactions, so that no
//! lock is held for long, and on one node at a time: a node that finds another at it does nothing.

use crate::postgres::{Pool, QueryError, Session};
use gravity_domain::error::StoreError;
use std::time::Duration;

const BATCH: u64 = 2_000;

const TOMBSTONES_LOCK: i64 = 0x6772_6176_6974_7910;
const APPLIED_LOCK: i64 = 0x6772_6176_6974_7911;
const ITEMS_LOCK: i64 = 0x6772_6176_6974_7912;
const EVENTS_LOCK: i64 = 0x6772_6176_6974_7913;
const PEOPLE_LOCK: i64 = 0x6772_6176_6974_7914;

const TASK_PURGE: &str = "DELETE FROM tasks WHERE id IN (
    SELECT id FROM tasks WHERE deleted_at < now() - make_interval(secs => $1) ORDER BY deleted_at LIMIT $2 FOR UPDATE SKIP LOCKED
)";
/// Versions are locked before items, as by every change of a stream; users who are being changed wait for the next time. What
/// is gone can no longer be told as a change: `purged_version` says so.
const ITEM_PURGE: &str = "WITH old AS MATERIALIZED (
    SELECT id, user_id FROM priority_items WHERE removed_at < now() - make_interval(secs => $1) ORDER BY removed_at LIMIT $2
), locked AS MATERIALIZED (
    SELECT user_id FROM stream_versions WHERE user_id IN (SELECT user_id FROM old)
    ORDER BY user_id FOR NO KEY UPDATE SKIP LOCKED
), purged AS (
    DELETE FROM priority_items AS item USING old, locked
    WHERE item.id = old.id AND locked.user_id = old.user_id AND item.removed_at < now() - make_interval(secs => $1)
    RETURNING item.user_id, item.version
), told AS (
    UPDATE stream_versions AS versions SET purged_version = GREATEST(versions.purged_version, newest.version)
    FROM (SELECT user_id, max(version) AS version FROM purged GROUP BY user_id) AS newest
    WHERE versions.user_id = newest.user_id
) SELECT FROM purged";
/// People without a seat, whom nobody sees. A batch that seats one of them at that moment fails, and is sent again.
const PEOPLE_PURGE: &str = "DELETE FROM people WHERE id IN (
    SELECT id FROM people WHERE NOT EXISTS (SELECT FROM priority_item_participants AS seat WHERE seat.person_id = people.id)
    AND $1::float8 >= 0 LIMIT $2 FOR UPDATE SKIP LOCKED
)";
const OPERATION_PURGE: &str = "DELETE FROM applied_operations WHERE id IN (
    SELECT id FROM applied_operations WHERE applied_at < now() - make_interval(secs => $1) ORDER BY applied_at LIMIT $2 FOR UPDATE SKIP LOCKED
)";
/// The beginning of each log, in order: offsets below `first_offset` are gone. Logs that are being written wait for the next time.
const EVENT_PURGE: &str = "WITH old AS MATERIALIZED (
    SELECT user_id, \"offset\" FROM user_events WHERE created_at < now() - make_interval(secs => $1)
    ORDER BY created_at LIMIT $2
), locked AS MATERIALIZED (
    SELECT user_id FROM user_event_heads WHERE user_id IN (SELECT user_id FROM old)
    ORDER BY user_id FOR NO KEY UPDATE SKIP LOCKED
), purged AS (
    DELETE FROM user_events AS event USING (
        SELECT old.user_id, max(old.\"offset\") AS up_to FROM old JOIN locked ON locked.user_id = old.user_id GROUP BY old.user_id
    ) AS part
    WHERE event.user_id = part.user_id AND event.\"offset\" <= part.up_to
    RETURNING event.user_id, event.\"offset\"
), told AS (
    UPDATE user_event_heads AS head SET first_offset = GREATEST(head.first_offset, newest.\"offset\" + 1)
    FROM (SELECT user_id, max(\"offset\") AS \"offset\" FROM purged GROUP BY user_id) AS newest
    WHERE head.user_id = newest.user_id
) SELECT FROM purged";
const TRY_LOCK: &str = "SELECT pg_try_advisory_xact_lock($1)";

/// Purges rows that are past their retention time.
#[derive(Debug, Clone)]
pub struct RowsPurge {
    pool: Pool,
}

impl RowsPurge {
    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Removes tombstones of tasks and items deleted longer ago than `retention`, by the clock of Postgres, which wrote their
    /// times, and people whom no item shows. Returns how many.
    ///
    /// # Errors
    /// The store's; what was removed before stays removed.
    pub async fn purge_tombstones(&self, retention: Duration) -> Result<u64, StoreError> {
        let tasks = self
            .purge("task_purge", TASK_PURGE, TOMBSTONES_LOCK, retention)
            .await?;
        let items = self
            .purge("item_purge", ITEM_PURGE, ITEMS_LOCK, retention)
            .await?;
        let people = self
            .purge("people_purge", PEOPLE_PURGE, PEOPLE_LOCK, retention)
            .await?;
        Ok(tasks + items + people)
    }

    /// Forgets operations committed longer ago than `retention`, by the clock of Postgres. Returns how many.
    ///
    /// # Errors
    /// The store's; what was forgotten before stays forgotten.
    pub async fn purge_applied(&self, retention: Duration) -> Result<u64, StoreError> {
        self.purge("operation_purge", OPERATION_PURGE, APPLIED_LOCK, retention)
            .await
    }

    /// Removes what was appended to users' logs longer ago than `retention`, by the clock of Postgres. Returns how many rows.
    ///
    /// # Errors
    /// The store's; what was removed before stays removed.
    pub async fn purge_events(&self, retention: Duration) -> Result<u64, StoreError> {
        self.purge("event_purge", EVENT_PURGE, EVENTS_LOCK, retention)
            .await
    }

    async fn purge(
        &self,
        name: &'static str,
        sql: &'static str,
        lock: i64,
        retention: Duration,
    ) -> Result<u64, StoreError> {
        let mut total = 0;
        loop {
            let session = self.pool.batch_session(name).await?;
            let removed = match purge_batch(&session, sql, lock, retention).await {
                Ok(removed) => session.finish(Ok(removed))?,
                // Dropped with its transaction open, the session leaves the pool and the server rolls back.
                Err(error) => return Err(error.into()),
            };
            total += removed;
            if removed < BATCH {
                return Ok(total);
            }
        }
    }
}

async fn purge_batch(
    session: &Session,
    sql: &str,
    lock: i64,
    retention: Duration,
) -> Result<u64, QueryError> {
    let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
    session
        .within(async {
            let client = session.client();
            client.batch_execute("BEGIN").await?;
            let locked: bool = client.query_one(TRY_LOCK, &[&lock]).await?.try_get(0)?;
            let removed = if locked {
                client.execute(sql, &[&retention.as_secs_f64(), &limit]).await?
            } else {
                0
            };
            client.batch_execute("COMMIT").await?;
            Ok(removed)
        })
        .await
}
