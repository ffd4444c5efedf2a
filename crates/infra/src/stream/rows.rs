//! Rows of items and messages, and back.

use crate::postgres::QueryError;
use crate::postgres::values::At;
use crate::sync::statement::{read_stamp, read_version};
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::page::{Page, PageKey};
use gravity_domain::stream::{Item, ItemPriority, ItemTitle, Message, Person, Snippet, Source};
use gravity_domain::sync::Lww;
use tokio_postgres::Row;
use tokio_postgres::types::Json;
use uuid::Uuid;

/// The columns of `priority_items AS item`, with its participants, in the order in which [`read_item`] takes them.
macro_rules! item_columns {
    () => {
        "item.id, item.user_id, item.title, item.source, item.priority, item.is_unread, item.unread_stamp,
        item.is_archived, item.archived_stamp, item.snippet, item.item_timestamp, item.arrived_at, item.version,
        (SELECT json_agg(json_build_object('id', person.id, 'name', person.name, 'avatar_url', person.avatar_url)
                ORDER BY part.position)
            FROM priority_item_participants AS part JOIN people AS person ON person.id = part.person_id
            WHERE part.item_id = item.id) AS participants"
    };
}

/// The newest messages of `item` that pass `$after`, newest first, as JSON of [`Message`]s.
macro_rules! messages_json {
    ($after:literal, $limit:literal) => {
        concat!(
            "(SELECT json_agg(json_build_object('id', id, 'sender_id', sender_id, 'sender_name', sender_name,
                    'sender_type', sender_type, 'content_type', content_type, 'content', content,
                    'full_content_html', full_content_html, 'timestamp', ",
            crate::sync::statement::time_json!("message_timestamp"),
            ", 'event_details', event_details, 'social_details', social_details, 'attachments', attachments,
                    'ai_insights', ai_insights) ORDER BY message_timestamp DESC, id DESC)
                FROM (SELECT * FROM priority_item_messages AS message WHERE message.item_id = item.id",
            $after,
            " ORDER BY message.message_timestamp DESC, message.id DESC LIMIT ",
            $limit,
            ") AS newest) AS messages"
        )
    };
}

pub(super) use {item_columns, messages_json};

/// How many columns [`read_item`] takes.
pub(super) const ITEM_COLUMNS: usize = 14;

/// The item whose first column is at `at`.
pub(super) fn read_item(row: &Row, at: usize) -> Result<Item, QueryError> {
    let title =
        ItemTitle::parse(row.try_get(at + 2)?).map_err(|_| QueryError::Row("priority_items.title"))?;
    let source = Source::parse(row.try_get(at + 3)?).map_err(|_| QueryError::Row("priority_items.source"))?;
    let priority =
        ItemPriority::parse(row.try_get(at + 4)?).ok_or(QueryError::Row("priority_items.priority"))?;
    let snippet = row
        .try_get::<_, Option<&str>>(at + 9)?
        .map(Snippet::parse)
        .transpose()
        .map_err(|_| QueryError::Row("priority_items.snippet"))?;
    let participants: Option<Json<Vec<Person>>> = row.try_get(at + 13)?;
    Ok(Item {
        id: ItemId(row.try_get(at)?),
        user_id: UserId(row.try_get(at + 1)?),
        title,
        source,
        priority,
        unread: Lww::new(row.try_get(at + 5)?, read_stamp(row, at + 6)?),
        archived: Lww::new(row.try_get(at + 7)?, read_stamp(row, at + 8)?),
        snippet,
        timestamp: row.try_get::<_, At>(at + 10)?.0,
        arrived_at: row.try_get::<_, At>(at + 11)?.0,
        participants: participants.map(|people| people.0).unwrap_or_default(),
        version: read_version(row, at + 12)?,
    })
}

/// The item whose first column is at `at`, of an outer join.
pub(super) fn read_item_if_any(row: &Row, at: usize) -> Result<Option<Item>, QueryError> {
    let id: Option<Uuid> = row.try_get(at)?;
    id.map(|_| read_item(row, at)).transpose()
}

/// The messages in the column at `at`: one more than `limit` when there are older ones.
pub(super) fn read_messages(row: &Row, at: usize, limit: usize) -> Result<Page<Message>, QueryError> {
    let messages: Option<Json<Vec<Message>>> = row.try_get(at)?;
    Ok(cut(
        messages.map(|messages| messages.0).unwrap_or_default(),
        limit,
        Message::page_key,
    ))
}

/// A page of `limit` out of rows of which one too many was asked for.
pub(super) fn cut<T>(mut rows: Vec<T>, limit: usize, key: impl Fn(&T) -> PageKey) -> Page<T> {
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(key);
    Page { items: rows, next }
}
