//! Lists of items, newest first: which statement, and its parameters.
//!
//! A list is as many index scans as it has parts, one per view, or per view and priority, or per view, priority and
//! source: within a part, the index is in the order of the list, so each scan ends at the limit. Their first rows are
//! merged. Nothing else of the user's items is looked at, whatever the filter.

use super::rows::item_columns;
use crate::postgres::values::At;
use gravity_domain::clock::Timestamp;
use gravity_domain::id::UserId;
use gravity_domain::page::PageKey;
use gravity_domain::stream::{ItemPriority, Source, StreamFilter, View};
use std::collections::BTreeSet;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// The order and place of the items: `$1` user, `$2` views, `$3` and `$4` the position after which it begins, `$5` since,
/// `$6` limit; then the filters, and last what a selection adds.
macro_rules! found {
    ($parts:literal, $condition:literal) => {
        concat!(
            "SELECT entry.item_timestamp, entry.id FROM unnest($2::smallint[]) AS in_view (view)",
            $parts,
            " CROSS JOIN LATERAL (
                SELECT item.item_timestamp, item.id FROM priority_items AS item
                WHERE item.user_id = $1 AND item.view = in_view.view",
            $condition,
            " AND (item.item_timestamp, item.id) < (
                    COALESCE($3::timestamptz, 'infinity'), COALESCE($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
                  AND item.item_timestamp >= COALESCE($5::timestamptz, '-infinity')
                ORDER BY item.item_timestamp DESC, item.id DESC LIMIT $6
            ) AS entry ORDER BY entry.item_timestamp DESC, entry.id DESC LIMIT $6"
        )
    };
}

/// The user's version, and the time by which everything that had arrived is in this snapshot. What is not in it has
/// arrived at least a millisecond after `changed_at`; and no transaction that raises a version is open for five seconds.
macro_rules! header {
    () => {
        "SELECT COALESCE(max(version), 0) AS version, date_trunc('milliseconds',
            GREATEST(max(changed_at), now() - interval '5 seconds') + interval '999 microseconds') AS as_of
        FROM stream_versions WHERE user_id = $1"
    };
}

/// Version, `asOf` and unread count, and the items: at least one row.
macro_rules! page {
    ($found:expr) => {
        concat!(
            "SELECT header.version, header.as_of,
                (SELECT count(*) FROM priority_items WHERE user_id = $1 AND view = 0) AS unread, item.*
            FROM (",
            header!(),
            ") AS header LEFT JOIN LATERAL (",
            $found,
            ") AS found ON true LEFT JOIN LATERAL (SELECT ",
            item_columns!(),
            " FROM priority_items AS item WHERE item.id = found.id LIMIT 1) AS item ON true
            ORDER BY found.item_timestamp DESC, found.id DESC"
        )
    };
}

/// As [`page!`], with the id of each item before it; of the items `$7` only those changed after version `$8` have more.
macro_rules! page_since {
    ($found:expr) => {
        concat!(
            "SELECT header.version, header.as_of,
                (SELECT count(*) FROM priority_items WHERE user_id = $1 AND view = 0) AS unread, found.id, item.*
            FROM (",
            header!(),
            ") AS header LEFT JOIN LATERAL (",
            $found,
            ") AS found ON true LEFT JOIN LATERAL (SELECT ",
            item_columns!(),
            " FROM priority_items AS item
                WHERE item.id = found.id AND (item.version > $8 OR item.id <> ALL ($7::uuid[])) LIMIT 1) AS item ON true
            ORDER BY found.item_timestamp DESC, found.id DESC"
        )
    };
}

pub(super) use header;

const STREAM_PAGE: &str = page!(found!("", ""));
const STREAM_PAGE_BY_PRIORITY: &str = page!(found!(
    " CROSS JOIN unnest($7::text[]) AS of_priority (priority)",
    " AND item.priority = of_priority.priority"
));
const STREAM_PAGE_BY_SOURCE: &str = page!(found!(
    " CROSS JOIN unnest($7::text[]) AS of_priority (priority) CROSS JOIN unnest($8::text[]) AS of_source (source)",
    " AND item.priority = of_priority.priority AND item.source = of_source.source"
));

const STREAM_PAGE_SINCE: &str = page_since!(found!("", ""));

const STREAM_SELECT: &str = found!("", " AND item.arrived_at <= $7");
const STREAM_SELECT_BY_PRIORITY: &str = found!(
    " CROSS JOIN unnest($7::text[]) AS of_priority (priority)",
    " AND item.priority = of_priority.priority AND item.arrived_at <= $8"
);
const STREAM_SELECT_BY_SOURCE: &str = found!(
    " CROSS JOIN unnest($7::text[]) AS of_priority (priority) CROSS JOIN unnest($8::text[]) AS of_source (source)",
    " AND item.priority = of_priority.priority AND item.source = of_source.source AND item.arrived_at <= $9"
);

/// A statement with its parameters.
pub(super) struct List<'a> {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    parameters: Vec<Box<dyn ToSql + Send + Sync + 'a>>,
}

impl<'a> List<'a> {
    /// Up to `limit` items after `after`, with what a page tells besides.
    pub(super) fn page(user: UserId, filter: &'a StreamFilter, after: Option<PageKey>, limit: usize) -> Self {
        let statements = [
            ("stream_page", STREAM_PAGE),
            ("stream_page_by_priority", STREAM_PAGE_BY_PRIORITY),
            ("stream_page_by_source", STREAM_PAGE_BY_SOURCE),
        ];
        Self::new(statements, user, filter, after, limit)
    }

    /// As [`Self::page`], for those who know these items of the page as they were at a version; `None` of a list by
    /// priority or source.
    pub(super) fn page_since(
        user: UserId,
        filter: &'a StreamFilter,
        after: Option<PageKey>,
        limit: usize,
        known: (Vec<Uuid>, u64),
    ) -> Option<Self> {
        let is_plain = filter.sources.is_empty() && is_any_priority(filter);
        let statements = [("stream_page_since", STREAM_PAGE_SINCE); 3];
        is_plain.then(|| {
            Self::new(statements, user, filter, after, limit)
                .with(known.0)
                .with(i64::try_from(known.1).unwrap_or(i64::MAX))
        })
    }

    /// Times and ids of up to `limit` items that are not newer than `as_of`.
    pub(super) fn select(user: UserId, filter: &'a StreamFilter, as_of: Timestamp, limit: usize) -> Self {
        let statements = [
            ("stream_select", STREAM_SELECT),
            ("stream_select_by_priority", STREAM_SELECT_BY_PRIORITY),
            ("stream_select_by_source", STREAM_SELECT_BY_SOURCE),
        ];
        let newest = PageKey {
            at: as_of,
            id: Uuid::max(),
        };
        Self::new(statements, user, filter, Some(newest), limit).with(At(as_of))
    }

    fn new(
        statements: [(&'static str, &'static str); 3],
        user: UserId,
        filter: &'a StreamFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> Self {
        let any_priority = is_any_priority(filter);
        let (name, sql) = match (filter.sources.is_empty(), any_priority) {
            (true, true) => statements[0],
            (true, false) => statements[1],
            (false, _) => statements[2],
        };
        let start = start(after, filter.until);
        let list = Self {
            name,
            sql,
            parameters: Vec::with_capacity(9),
        };
        let list = list
            .with(user.0)
            .with(views(filter.view))
            .with(start.map(|key| At(key.at)))
            .with(start.map(|key| key.id))
            .with(filter.since.map(At))
            .with(i64::try_from(limit).unwrap_or(i64::MAX));
        match (filter.sources.is_empty(), any_priority) {
            (true, true) => list,
            (true, false) => list.with(priorities(&filter.priorities)),
            (false, true) => list
                .with(ItemPriority::ALL.map(ItemPriority::as_str).to_vec())
                .with(sources(&filter.sources)),
            (false, false) => list
                .with(priorities(&filter.priorities))
                .with(sources(&filter.sources)),
        }
    }

    fn with(mut self, value: impl ToSql + Send + Sync + 'a) -> Self {
        self.parameters.push(Box::new(value));
        self
    }

    pub(super) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.parameters
            .iter()
            .map(|value| &**value as &(dyn ToSql + Sync))
            .collect()
    }
}

fn is_any_priority(filter: &StreamFilter) -> bool {
    filter.priorities.is_empty() || filter.priorities.len() == ItemPriority::ALL.len()
}

/// The values of `view` in this part of a stream.
fn views(view: View) -> Vec<i16> {
    match view {
        View::All => vec![0, 1],
        View::Unread => vec![0],
        View::Archived => vec![2],
    }
}

/// Where a list begins: `until` is before every item of its time.
fn start(after: Option<PageKey>, until: Option<Timestamp>) -> Option<PageKey> {
    let until = until.map(|until| PageKey {
        at: until,
        id: Uuid::nil(),
    });
    match (after, until) {
        (Some(after), Some(until)) => Some(after.min(until)),
        (after, until) => after.or(until),
    }
}

fn priorities(chosen: &BTreeSet<ItemPriority>) -> Vec<&'static str> {
    chosen.iter().map(|priority| priority.as_str()).collect()
}

fn sources(chosen: &BTreeSet<Source>) -> Vec<&str> {
    chosen.iter().map(Source::as_str).collect()
}
