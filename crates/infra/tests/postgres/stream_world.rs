//! Items put into a database of a test's own, without the ingest.

use crate::fixture::{Fixture, at};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::page::{PageKey, PageLimit};
use gravity_domain::stream::{
    Item, ItemPriority, Source, StreamFilter, StreamPage, StreamQuery, StreamStore, View,
};
use gravity_infra::stream::PostgresStream;
use std::sync::Arc;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

const PUT: &str = "WITH raised AS (
        INSERT INTO stream_versions AS versions (user_id, version, changed_at)
        VALUES ($1, 1, date_trunc('milliseconds', clock_timestamp()))
        ON CONFLICT (user_id) DO UPDATE SET version = versions.version + 1,
            changed_at = GREATEST(date_trunc('milliseconds', clock_timestamp()), versions.changed_at + interval '1 millisecond')
        RETURNING version, changed_at
    )
    INSERT INTO priority_items (id, user_id, external_id, title, source, priority, is_unread, is_archived, item_timestamp,
        arrived_at, version, unread_stamp, archived_stamp, removed_at)
    SELECT $2, $1, $3, 'title', $4, $5, $6, $7, to_timestamp($8::bigint / 1000.0), changed_at, version, $9, $9,
        CASE WHEN $10 THEN now() END FROM raised
    ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version, is_unread = EXCLUDED.is_unread,
        is_archived = EXCLUDED.is_archived, item_timestamp = EXCLUDED.item_timestamp, removed_at = EXCLUDED.removed_at";

/// An item as it is put, whatever was there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) external_id: String,
    pub(crate) source: &'static str,
    pub(crate) priority: ItemPriority,
    pub(crate) millis: i64,
    pub(crate) unread: bool,
    pub(crate) archived: bool,
    pub(crate) removed: bool,
}

impl Given {
    /// An unread e-mail of a time in the past.
    #[allow(clippy::needless_pass_by_value, reason = "calls are shorter")]
    pub(crate) fn new(external_id: impl ToString, millis: i64) -> Self {
        Self {
            external_id: external_id.to_string(),
            source: "email",
            priority: ItemPriority::Low,
            millis,
            unread: true,
            archived: false,
            removed: false,
        }
    }

    pub(crate) fn read(mut self) -> Self {
        self.unread = false;
        self
    }

    pub(crate) fn archived(mut self) -> Self {
        self.archived = true;
        self
    }

    pub(crate) fn removed(mut self) -> Self {
        self.removed = true;
        self
    }

    pub(crate) fn id(&self, user: UserId) -> ItemId {
        ItemId::of(user, self.source, &self.external_id)
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        time(self.millis)
    }

    pub(crate) fn page_key(&self, user: UserId) -> PageKey {
        PageKey {
            at: self.timestamp(),
            id: self.id(user).0,
        }
    }
}

/// A time `millis` after the first of these tests.
pub(crate) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

pub(crate) struct World {
    pub(crate) fixture: Fixture,
    pub(crate) stream: PostgresStream,
    pub(crate) client: Client,
}

impl World {
    pub(crate) async fn new() -> Self {
        let fixture = Fixture::new().await;
        Self {
            stream: PostgresStream::new(fixture.pool.clone()),
            client: fixture.database.connect().await.unwrap(),
            fixture,
        }
    }

    pub(crate) async fn put(&self, user: UserId, given: &Given) -> ItemId {
        put(&self.client, user, given).await
    }

    /// The item as it is.
    pub(crate) async fn item(&self, user: UserId, id: ItemId) -> Item {
        let mut found = self.stream.items(user, &[id]).await.unwrap();
        found.pop().unwrap()
    }

    pub(crate) async fn page(
        &self,
        user: UserId,
        filter: &StreamFilter,
        after: Option<PageKey>,
        limit: usize,
    ) -> StreamPage {
        let query = StreamQuery {
            filter: filter.clone(),
            after,
            limit: PageLimit::new(limit).unwrap(),
        };
        self.stream.page(user, &query).await.unwrap()
    }

    /// Every item of the filter, page by page.
    pub(crate) async fn walk(&self, user: UserId, filter: &StreamFilter, limit: usize) -> Vec<Arc<Item>> {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = self.page(user, filter, after, limit).await;
            assert!(page.items.len() == limit || page.next.is_none());
            seen.extend(page.items);
            after = page.next;
            if after.is_none() {
                return seen;
            }
        }
    }
}

/// Puts the item, with the stamp `at(0)` on its flags when it is new. Raises the version by one.
pub(crate) async fn put(client: &Client, user: UserId, given: &Given) -> ItemId {
    let id = given.id(user);
    let stamp = at(0).to_bytes();
    let parameters: [&(dyn ToSql + Sync); 10] = [
        &user.0,
        &id.0,
        &given.external_id,
        &given.source,
        &given.priority.as_str(),
        &given.unread,
        &given.archived,
        &given.timestamp().millis(),
        &&stamp[..],
        &given.removed,
    ];
    client.execute(PUT, &parameters).await.unwrap();
    id
}

/// Every view with every kind of filter.
pub(crate) fn filters() -> Vec<StreamFilter> {
    let priorities = [ItemPriority::High, ItemPriority::Low];
    let sources = ["email", "chat"].map(|source| Source::parse(source).unwrap());
    let mut filters = Vec::new();
    for view in View::ALL {
        for (by_priority, by_source) in [(false, false), (true, false), (false, true), (true, true)] {
            filters.push(StreamFilter {
                view,
                priorities: priorities.into_iter().filter(|_| by_priority).collect(),
                sources: sources.clone().into_iter().filter(|_| by_source).collect(),
                since: None,
                until: None,
            });
        }
    }
    filters
}
