//! The logs of users in Postgres. Every answer is one statement, hence one snapshot.

use super::statement::{place, read_message};
use crate::postgres::{Gather, Pool, QueryError};
use crate::sync::statement::read_version;
use async_trait::async_trait;
use gravity_domain::chat::{
    EventCursor, EventKind, EventLog, LogReplay, LoggedMessage, UserEvent, message_new,
};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use std::sync::Arc;
use tokio_postgres::Row;
use uuid::Uuid;

/// Of all these users, in their order.
const LOG_HEADS: &str = "SELECT epoch, COALESCE(head.last_offset, 0), COALESCE(stream.version, 0)
    FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (user_id, place)
        JOIN event_epoch ON only_row
        LEFT JOIN user_event_heads AS head ON head.user_id = wanted.user_id
        LEFT JOIN stream_versions AS stream ON stream.user_id = wanted.user_id
    ORDER BY wanted.place";

/// `$1` users, `$2` the offsets of their cursors, `$3` the most entries of each. No entries when they would not be all.
const LOG_SINCE: &str = "WITH head AS MATERIALIZED (
        SELECT wanted.place, wanted.user_id, wanted.\"from\", epoch, COALESCE(head.last_offset, 0) AS last_offset,
            COALESCE(head.first_offset, 1) AS first_offset, COALESCE(stream.version, 0) AS stream
        FROM unnest($1::uuid[], $2::bigint[]) WITH ORDINALITY AS wanted (user_id, \"from\", place)
            JOIN event_epoch ON only_row
            LEFT JOIN user_event_heads AS head ON head.user_id = wanted.user_id
            LEFT JOIN stream_versions AS stream ON stream.user_id = wanted.user_id
    )
    SELECT head.epoch, head.last_offset, head.stream, head.place, event.*
    FROM head LEFT JOIN LATERAL (
        SELECT \"offset\", type, payload::text AS payload, unread, event.read_seq, message.id, conversation_id, seq, sender_id,
            client_message_id, content, message.created_at
        FROM user_events AS event LEFT JOIN messages AS message ON message.id = event.message_id
        WHERE user_id = head.user_id AND \"offset\" > head.\"from\"
            AND head.\"from\" BETWEEN head.first_offset - 1 AND head.last_offset AND head.last_offset - head.\"from\" <= $3::bigint
        ORDER BY \"offset\"
    ) AS event ON true
    ORDER BY head.place, event.\"offset\"";

/// Users whose heads are read together, and logs that are read together: of each there may be [`EventLog::since`]'s limit.
const HEADS_TOGETHER: usize = 256;
const LOGS_TOGETHER: usize = 16;

/// Where a log is read from, and the most entries.
type From = (UserId, EventCursor, usize);

/// Reads the logs.
#[derive(Debug, Clone)]
pub struct PostgresEventLog {
    pool: Pool,
    heads: Gather<UserId, Result<EventCursor, StoreError>>,
    logs: Gather<From, Result<LogReplay, StoreError>>,
}

impl PostgresEventLog {
    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        let (for_heads, for_logs) = (pool.clone(), pool.clone());
        let heads = Gather::new(pool.handle(), HEADS_TOGETHER, move |users| {
            let pool = for_heads.clone();
            async move { shared(users.len(), read_heads(&pool, &users).await) }
        });
        let logs = Gather::new(pool.handle(), LOGS_TOGETHER, move |wanted| {
            let pool = for_logs.clone();
            async move { shared(wanted.len(), read_logs(&pool, &wanted).await) }
        });
        Self { pool, heads, logs }
    }
}

/// Each asker's part of an answer, or the failure of the whole. A row that cannot be read concerns its user only.
fn shared<T>(
    askers: usize,
    answers: Result<Vec<Result<T, QueryError>>, QueryError>,
) -> Vec<Result<T, StoreError>> {
    match answers {
        Ok(answers) => answers.into_iter().map(|answer| Ok(answer?)).collect(),
        Err(error) => {
            let error = StoreError::from(error);
            (0..askers).map(|_| Err(error.shared())).collect()
        }
    }
}

async fn read_heads(
    pool: &Pool,
    users: &[UserId],
) -> Result<Vec<Result<EventCursor, QueryError>>, QueryError> {
    let users: Vec<Uuid> = users.iter().map(|user| user.0).collect();
    let rows = pool.query("log_heads", LOG_HEADS, &[&users]).await?;
    if rows.len() < users.len() {
        return Err(no_epoch());
    }
    Ok(rows.iter().map(read_head).collect())
}

/// One statement for those with the same limit; there is only one limit.
async fn read_logs(pool: &Pool, wanted: &[From]) -> Result<Vec<Result<LogReplay, QueryError>>, QueryError> {
    let users: Vec<Uuid> = wanted.iter().map(|(user, ..)| user.0).collect();
    let offsets: Vec<i64> = wanted.iter().map(|(_, cursor, _)| place(cursor.offset)).collect();
    let limit = wanted.iter().map(|(.., limit)| *limit).min().unwrap_or_default();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = pool
        .query("log_since", LOG_SINCE, &[&users, &offsets, &limit])
        .await?;
    let mut of_each: Vec<Vec<&Row>> = wanted.iter().map(|_| Vec::new()).collect();
    for row in &rows {
        let at = usize::try_from(read_version(row, 3)?)
            .ok()
            .and_then(|place| place.checked_sub(1));
        let of_one = at.and_then(|at| of_each.get_mut(at));
        of_one.ok_or(QueryError::Row("user_events.place"))?.push(row);
    }
    let each = wanted.iter().zip(&of_each);
    let read = each.map(|((user, cursor, _), rows)| read_replay(*user, *cursor, rows));
    Ok(read.collect())
}

fn read_head(row: &Row) -> Result<EventCursor, QueryError> {
    Ok(EventCursor {
        epoch: read_version(row, 0)?,
        offset: read_version(row, 1)?,
        stream: read_version(row, 2)?,
    })
}

fn no_epoch() -> QueryError {
    QueryError::Row("event_epoch")
}

fn read_replay(user: UserId, cursor: EventCursor, rows: &[&Row]) -> Result<LogReplay, QueryError> {
    let head = read_head(rows.first().ok_or_else(no_epoch)?)?;
    let reset = Ok(LogReplay::Reset { head });
    if head.epoch != cursor.epoch || cursor.offset > head.offset {
        return reset;
    }
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(offset) = row.try_get::<_, Option<i64>>(4)? else {
            continue;
        };
        let offset = u64::try_from(offset).map_err(|_| QueryError::Row("user_events.offset"))?;
        read_entries(row, user, offset, &mut events)?;
    }
    // A cursor may be between the two entries of a message.
    events.retain(|event| event.offset > cursor.offset);
    let is_whole = (cursor.offset + 1..=head.offset).eq(events.iter().map(|event| event.offset));
    if is_whole {
        Ok(LogReplay::Events { events, head })
    } else {
        reset
    }
}

/// Adds the entries of a row. That of a message that somebody has deleted has none, so that the replay is not whole.
fn read_entries(row: &Row, user: UserId, offset: u64, events: &mut Vec<UserEvent>) -> Result<(), QueryError> {
    if let Some(payload) = row.try_get::<_, Option<&str>>(6)? {
        events.push(UserEvent {
            user_id: user,
            offset,
            kind: EventKind::parse(row.try_get(5)?).ok_or(QueryError::Row("user_events.type"))?,
            payload: Arc::from(payload),
        });
    } else if row.try_get::<_, Option<Uuid>>(9)?.is_some() {
        let logged = LoggedMessage {
            user_id: user,
            offset,
            unread: read_version(row, 7)?,
            read_seq: read_version(row, 8)?,
        };
        let message = read_message(row, 9)?;
        events.extend(logged.events(&message, &message_new(&message)));
    }
    Ok(())
}

#[async_trait]
impl EventLog for PostgresEventLog {
    async fn head(&self, user: UserId) -> Result<EventCursor, StoreError> {
        self.pool.gathered(&self.heads, user).await
    }

    async fn heads(&self, users: &[UserId]) -> Result<Vec<(UserId, EventCursor)>, StoreError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let heads = read_heads(&self.pool, users).await?;
        let each = users.iter().zip(heads);
        Ok(each
            .map(|(user, head)| Ok((*user, head?)))
            .collect::<Result<_, QueryError>>()?)
    }

    async fn since(&self, user: UserId, cursor: EventCursor, limit: usize) -> Result<LogReplay, StoreError> {
        self.pool.gathered(&self.logs, (user, cursor, limit)).await
    }
}
