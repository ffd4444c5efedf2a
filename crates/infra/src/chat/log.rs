//! The logs of users in Postgres. Every answer is one statement, hence one snapshot.

use super::statement::place;
use crate::postgres::{Pool, QueryError};
use crate::sync::statement::read_version;
use async_trait::async_trait;
use gravity_domain::chat::{EventCursor, EventKind, EventLog, LogHead, LogReplay, UserEvent};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use std::sync::Arc;
use tokio_postgres::Row;
use uuid::Uuid;

const LOG_HEAD: &str =
    "SELECT epoch, COALESCE((SELECT last_offset FROM user_event_heads WHERE user_id = $1), 0)
    FROM event_epoch WHERE only_row";

const LOG_HEADS: &str =
    "SELECT user_id, last_offset FROM user_event_heads WHERE user_id = ANY ($1) AND last_offset > 0";

/// `$2` the offset of the cursor, `$3` the most entries. No entries when they would not be all.
const LOG_SINCE: &str = "WITH head AS MATERIALIZED (
        SELECT epoch, COALESCE(last_offset, 0) AS last_offset, COALESCE(first_offset, 1) AS first_offset
        FROM event_epoch LEFT JOIN user_event_heads ON user_id = $1
        WHERE only_row
    )
    SELECT head.epoch, head.last_offset, event.\"offset\", event.type, event.payload
    FROM head LEFT JOIN LATERAL (
        SELECT \"offset\", type, payload::text AS payload FROM user_events
        WHERE user_id = $1 AND \"offset\" > $2::bigint
            AND $2 BETWEEN head.first_offset - 1 AND head.last_offset AND head.last_offset - $2 <= $3::bigint
        ORDER BY \"offset\"
    ) AS event ON true
    ORDER BY event.\"offset\"";

/// Reads the logs.
#[derive(Debug, Clone)]
pub struct PostgresEventLog {
    pool: Pool,
}

impl PostgresEventLog {
    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }
}

fn read_head(row: &Row) -> Result<LogHead, QueryError> {
    Ok(LogHead {
        epoch: read_version(row, 0)?,
        offset: read_version(row, 1)?,
    })
}

fn no_epoch() -> QueryError {
    QueryError::Row("event_epoch")
}

fn read_replay(user: UserId, cursor: EventCursor, rows: &[Row]) -> Result<LogReplay, QueryError> {
    let head = read_head(rows.first().ok_or_else(no_epoch)?)?;
    let reset = Ok(LogReplay::Reset { head });
    if head.epoch != cursor.epoch || cursor.offset > head.offset {
        return reset;
    }
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(offset) = row.try_get::<_, Option<i64>>(2)? else {
            continue;
        };
        events.push(UserEvent {
            user_id: user,
            offset: u64::try_from(offset).map_err(|_| QueryError::Row("user_events.offset"))?,
            kind: EventKind::parse(row.try_get(3)?).ok_or(QueryError::Row("user_events.type"))?,
            payload: Arc::from(row.try_get::<_, &str>(4)?),
        });
    }
    let is_whole = (cursor.offset + 1..=head.offset).eq(events.iter().map(|event| event.offset));
    if is_whole {
        Ok(LogReplay::Events { events, head })
    } else {
        reset
    }
}

#[async_trait]
impl EventLog for PostgresEventLog {
    async fn head(&self, user: UserId) -> Result<LogHead, StoreError> {
        let row = self.pool.query_opt("log_head", LOG_HEAD, &[&user.0]).await?;
        Ok(read_head(&row.ok_or_else(no_epoch)?)?)
    }

    async fn heads(&self, users: &[UserId]) -> Result<Vec<(UserId, u64)>, StoreError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let users: Vec<Uuid> = users.iter().map(|user| user.0).collect();
        let rows = self.pool.query("log_heads", LOG_HEADS, &[&users]).await?;
        let read = |row: &Row| Ok((UserId(row.try_get(0)?), read_version(row, 1)?));
        Ok(rows.iter().map(read).collect::<Result<_, QueryError>>()?)
    }

    async fn since(&self, user: UserId, cursor: EventCursor, limit: usize) -> Result<LogReplay, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self
            .pool
            .query("log_since", LOG_SINCE, &[&user.0, &place(cursor.offset), &limit])
            .await?;
        Ok(read_replay(user, cursor, &rows)?)
    }
}
