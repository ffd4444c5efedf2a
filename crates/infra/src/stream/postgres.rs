//! The stream in Postgres. Every finder is one statement: one round trip, one snapshot. So a page, the version in its
//! `ETag`, its unread count and its `asOf` agree.

use super::ingest;
use super::list::{List, header};
use super::rows::{
    ITEM_COLUMNS, cut, item_columns, messages_json, read_item, read_item_if_any, read_messages,
};
use crate::postgres::values::At;
use crate::postgres::{Pool, QueryError};
use crate::sync::statement::read_version;
use async_trait::async_trait;
use gravity_domain::clock::{Hlc, Timestamp};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::page::{Page, PageKey, PageLimit};
use gravity_domain::stream::{
    Changes, Ingested, Item, ItemDetail, ItemKey, Message, NewItem, Removed, Selection, StreamFilter,
    StreamPage, StreamQuery, StreamStore, Versioned,
};
use std::sync::{Arc, OnceLock};
use tokio_postgres::Row;
use uuid::Uuid;

/// The messages that come with an item.
const DETAIL_MESSAGES: usize = 50;

const STREAM_VERSION: &str = "SELECT version FROM stream_versions WHERE user_id = $1";

const STREAM_DETAIL: &str = concat!(
    "SELECT header.version, header.as_of, item.* FROM (",
    header!(),
    ") AS header LEFT JOIN LATERAL (SELECT ",
    item_columns!(),
    ", ",
    messages_json!("", "51"),
    " FROM priority_items AS item WHERE item.id = $2 AND item.user_id = $1 AND item.removed_at IS NULL
    ) AS item ON true"
);

const STREAM_ITEMS: &str = concat!(
    "SELECT ",
    item_columns!(),
    " FROM priority_items AS item WHERE item.id = ANY ($2::uuid[]) AND item.user_id = $1 AND item.removed_at IS NULL"
);

const STREAM_MESSAGES: &str = concat!(
    "SELECT ",
    messages_json!(
        " AND (message.message_timestamp, message.id) < (
            COALESCE($3::timestamptz, 'infinity'), COALESCE($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))",
        "$5"
    ),
    " FROM priority_items AS item WHERE item.id = $2 AND item.user_id = $1 AND item.removed_at IS NULL"
);

/// `$2` since, `$3` the most that may have changed at all, `$4` how many ids are enough. The answer ends with the version of
/// the last of these: whole versions only. What was purged can no longer be told, so whoever starts from nothing is first
/// led past it, with all that there is from before.
const STREAM_CHANGES: &str =
    "WITH header AS (
        SELECT COALESCE(max(version), 0) AS version, COALESCE(max(purged_version), 0) AS purged
        FROM stream_versions WHERE user_id = $1
    ), changed AS MATERIALIZED (
        SELECT id, version, removed_at IS NOT NULL AS is_removed FROM priority_items
        WHERE user_id = $1 AND version > $2::bigint AND ($2::bigint > 0 OR removed_at IS NULL)
        ORDER BY version LIMIT $3::bigint + 1
    ), bound AS (
        SELECT GREATEST(purged, (SELECT version FROM changed ORDER BY version OFFSET $4::bigint - 1 LIMIT 1)) AS last FROM header
        WHERE $4::bigint <= (SELECT count(*) FROM changed)
    ), told AS (
        SELECT id, version, is_removed FROM changed
        WHERE version <= COALESCE((SELECT last FROM bound), version)
    )
    SELECT version, purged, (SELECT count(*) FROM changed) AS found, (SELECT last FROM bound) AS last,
        (SELECT array_agg(id ORDER BY version, id) FROM told WHERE NOT is_removed) AS changed,
        (SELECT array_agg(id ORDER BY version, id) FROM told WHERE is_removed) AS removed
    FROM header";

/// So many ids lead to a next page, and ten such pages are the most there may be.
const CHANGES_PAGE: i64 = 500;
const CHANGES_MAX: i64 = 5_000;

/// The stream in Postgres.
#[derive(Debug, Clone)]
pub struct PostgresStream {
    pool: Pool,
}

impl PostgresStream {
    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }
}

#[async_trait]
impl StreamStore for PostgresStream {
    async fn version(&self, user: UserId) -> Result<u64, StoreError> {
        let row = self
            .pool
            .query_opt("stream_version", STREAM_VERSION, &[&user.0])
            .await?;
        Ok(row.map_or(Ok(0), |row| read_version(&row, 0))?)
    }

    async fn page(&self, user: UserId, query: &StreamQuery) -> Result<StreamPage, StoreError> {
        let limit = query.limit.get();
        let list = List::page(user, &query.filter, query.after, limit + 1);
        let rows = self.pool.query(list.name, list.sql, &list.parameters()).await?;
        Ok(read_page(&rows, limit)?)
    }

    async fn page_since(
        &self,
        user: UserId,
        query: &StreamQuery,
        known: &StreamPage,
    ) -> Result<StreamPage, StoreError> {
        let limit = query.limit.get();
        let ids = known.items.iter().map(|item| item.id.0).collect();
        let since = (ids, known.version);
        match List::page_since(user, &query.filter, query.after, limit + 1, since) {
            Some(list) => {
                let rows = self.pool.query(list.name, list.sql, &list.parameters()).await?;
                Ok(read_page_since(&rows, limit, known)?)
            }
            None => self.page(user, query).await,
        }
    }

    async fn detail(&self, user: UserId, id: ItemId) -> Result<Versioned<Option<ItemDetail>>, StoreError> {
        let row = self
            .pool
            .query_opt("stream_detail", STREAM_DETAIL, &[&user.0, &id.0])
            .await?;
        Ok(row
            .ok_or(QueryError::Row("header"))
            .and_then(|row| read_detail(&row))?)
    }

    async fn items(&self, user: UserId, ids: &[ItemId]) -> Result<Vec<Item>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let rows = self
            .pool
            .query("stream_items", STREAM_ITEMS, &[&user.0, &ids])
            .await?;
        let items: Result<_, QueryError> = rows.iter().map(|row| read_item(row, 0)).collect();
        Ok(items?)
    }

    async fn messages(
        &self,
        user: UserId,
        id: ItemId,
        after: Option<PageKey>,
        limit: PageLimit,
    ) -> Result<Option<Page<Message>>, StoreError> {
        let after_at = after.map(|key| At(key.at));
        let after_id = after.map(|key| key.id);
        let rows = i64::try_from(limit.get() + 1).unwrap_or(i64::MAX);
        let row = self
            .pool
            .query_opt(
                "stream_messages",
                STREAM_MESSAGES,
                &[&user.0, &id.0, &after_at, &after_id, &rows],
            )
            .await?;
        Ok(row.map(|row| read_messages(&row, 0, limit.get())).transpose()?)
    }

    async fn changes(&self, user: UserId, since: u64) -> Result<Versioned<Option<Changes>>, StoreError> {
        let after = i64::try_from(since).unwrap_or(i64::MAX);
        let row = self
            .pool
            .query_opt(
                "stream_changes",
                STREAM_CHANGES,
                &[&user.0, &after, &CHANGES_MAX, &CHANGES_PAGE],
            )
            .await?;
        Ok(row
            .ok_or(QueryError::Row("header"))
            .and_then(|row| read_changes(&row, since))?)
    }

    async fn select(
        &self,
        user: UserId,
        filter: &StreamFilter,
        as_of: Timestamp,
        limit: usize,
    ) -> Result<Selection, StoreError> {
        let list = List::select(user, filter, as_of, limit.saturating_add(1));
        let rows = self.pool.query(list.name, list.sql, &list.parameters()).await?;
        let ids: Result<Vec<ItemId>, QueryError> =
            rows.iter().map(|row| Ok(ItemId(row.try_get(1)?))).collect();
        let mut ids = ids?;
        let has_more = ids.len() > limit;
        ids.truncate(limit);
        Ok(Selection { ids, has_more })
    }

    async fn ingest(&self, items: &[NewItem], stamp: Hlc) -> Result<Ingested, StoreError> {
        Box::pin(ingest::ingest(&self.pool, items, stamp)).await
    }

    async fn remove(&self, keys: &[ItemKey]) -> Result<Removed, StoreError> {
        ingest::remove(&self.pool, keys).await
    }
}

fn read_page(rows: &[Row], limit: usize) -> Result<StreamPage, QueryError> {
    let read = |row: &Row| Ok(read_item_if_any(row, 3)?.map(Arc::new));
    page_of(rows, limit, read)
}

fn read_page_since(rows: &[Row], limit: usize, known: &StreamPage) -> Result<StreamPage, QueryError> {
    let read = |row: &Row| {
        let Some(id) = row.try_get::<_, Option<Uuid>>(3)? else {
            return Ok(None);
        };
        if let Some(item) = read_item_if_any(row, 4)? {
            return Ok(Some(Arc::new(item)));
        }
        let held = known.items.iter().find(|item| item.id.0 == id);
        held.cloned().map(Some).ok_or(QueryError::Row("item"))
    };
    page_of(rows, limit, read)
}

fn page_of(
    rows: &[Row],
    limit: usize,
    read: impl Fn(&Row) -> Result<Option<Arc<Item>>, QueryError>,
) -> Result<StreamPage, QueryError> {
    let first = rows.first().ok_or(QueryError::Row("header"))?;
    let items: Result<Vec<Option<Arc<Item>>>, QueryError> = rows.iter().map(read).collect();
    let items = items?.into_iter().flatten().collect();
    let page = cut(items, limit, |item: &Arc<Item>| item.page_key());
    Ok(StreamPage {
        version: read_version(first, 0)?,
        unread_count: read_version(first, 2)?,
        as_of: first.try_get::<_, At>(1)?.0,
        items: page.items,
        next: page.next,
        rendered: OnceLock::new(),
    })
}

fn read_detail(row: &Row) -> Result<Versioned<Option<ItemDetail>>, QueryError> {
    let version = read_version(row, 0)?;
    let Some(item) = read_item_if_any(row, 2)? else {
        return Ok(Versioned { value: None, version });
    };
    let messages = read_messages(row, 2 + ITEM_COLUMNS, DETAIL_MESSAGES)?;
    let detail = ItemDetail {
        item,
        messages: messages.items,
        next: messages.next,
        as_of: row.try_get::<_, At>(1)?.0,
        rendered: OnceLock::new(),
    };
    Ok(Versioned {
        value: Some(detail),
        version,
    })
}

/// `None` also for a version that is still to come: nobody can have seen it.
fn read_changes(row: &Row, since: u64) -> Result<Versioned<Option<Changes>>, QueryError> {
    let version = read_version(row, 0)?;
    let purged = read_version(row, 1)?;
    let found: i64 = row.try_get(2)?;
    let is_lost = since > 0 && since < purged;
    if is_lost || since > version || found > CHANGES_MAX {
        return Ok(Versioned { value: None, version });
    }
    let changed = read_ids(row, 4)?;
    let removed = read_ids(row, 5)?;
    let told = i64::try_from(changed.len() + removed.len()).unwrap_or(i64::MAX);
    let has_more = told < found;
    let changes = Changes {
        changed,
        removed,
        version: if has_more { read_version(row, 3)? } else { version },
        has_more,
    };
    Ok(Versioned {
        value: Some(changes),
        version,
    })
}

fn read_ids(row: &Row, at: usize) -> Result<Vec<ItemId>, QueryError> {
    let ids: Option<Vec<Uuid>> = row.try_get(at)?;
    Ok(ids.unwrap_or_default().into_iter().map(ItemId).collect())
}
