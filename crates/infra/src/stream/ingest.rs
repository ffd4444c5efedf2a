//! Items as services tell them, into Postgres: a whole batch in one round trip.
//!
//! BEGIN, a statement that locks the versions of all users named (in the order of their ids, as every writer of streams
//! does), one that does the work, and COMMIT are sent without waiting in between; after a failure COMMIT rolls back. The
//! second statement's snapshot is taken when the locks are held, so that what it compares with cannot move: it finds
//! what differs, raises the versions of the users concerned, once each, and writes only what differs, with those versions.
//!
//! Whoever is called otherwise, or looks otherwise, changes every item that shows them, told or not: an item is the same as long
//! as its version is.
//!
//! What is merged: a picture that is not told stays; participants told come first, in their order, before those that there
//! are, 50 at most; messages not told stay. Flags told take their value and their stamp, unless what was set at a later stamp is
//! there; that is no change unless the value differs. To all this a removed item is one that has never been.
//!
//! A large batch may take as long as one of the drain; that it took longer is no sign that Postgres is away.
//!
//! changed_at is in whole milliseconds, as times are outside: arrivals are later than every `asOf` before them there too.

use super::action::LOCK_VERSIONS;
use super::columns::Batch;
use crate::postgres::values::Stamp;
use crate::postgres::{Pool, QueryError, Session, refusal};
use futures_util::future::join4;
use gravity_domain::clock::Hlc;
use gravity_domain::error::StoreError;
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{Ingested, ItemChange, ItemKey, NewItem, Raised, Removed};
use std::collections::{BTreeSet, HashMap, HashSet};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// Plans are made for the sizes at hand: a general one would join lists of hundreds by going through all pairs.
/// The session has a limit of its own.
const BEGIN: &str = "BEGIN; SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL jit = off;
    SET LOCAL statement_timeout = 0";
/// To plan costs more than all the work for a few rows, for which the general plan is as good.
const BEGIN_FEW: &str = "BEGIN; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL jit = off";
/// How many rows are few.
const FEW: usize = 16;

/// The rows that are there are locked, although none is updated.
const LOCK_OR_MAKE: &str = "INSERT INTO stream_versions AS versions (user_id, version, changed_at)
    SELECT id, 0, date_trunc('milliseconds', clock_timestamp()) FROM unnest($1::uuid[]) AS told (id) ORDER BY id
    ON CONFLICT (user_id) DO UPDATE SET version = versions.version WHERE false";

/// Raises the versions of the users that `$users` gives.
macro_rules! raise {
    ($users:literal) => {
        concat!(
            "UPDATE stream_versions AS versions SET version = versions.version + 1,
                changed_at = date_trunc('milliseconds', interval '999 microseconds' +
                    GREATEST(clock_timestamp(), versions.changed_at + interval '1 millisecond'))
            WHERE user_id IN (",
            $users,
            ") RETURNING user_id, version, changed_at"
        )
    };
}

/// `$1` stamp, `$2..=$11` items, `$12..=$14` people, `$15..=$17` participants, `$18..=$30` messages.
const INGEST: &str = concat!(
    "WITH told AS MATERIALIZED (
        SELECT * FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
            $9::timestamptz[], $10::boolean[], $11::boolean[])
            AS told (id, user_id, external_id, title, source, priority, snippet, item_timestamp, unread, archived)
    ), judged AS MATERIALIZED (
        SELECT told.id, told.user_id, told.external_id, told.title, told.source, told.priority, told.snippet,
            told.item_timestamp, item.arrived_at, item.version, item.id IS NULL AS is_new,
            COALESCE(flag.unread, item.is_unread, true) AS is_unread,
            COALESCE(flag.archived, item.is_archived, false) AS is_archived,
            CASE WHEN flag.unread IS NULL THEN COALESCE(item.unread_stamp, zero.stamp) ELSE $1 END AS unread_stamp,
            CASE WHEN flag.archived IS NULL THEN COALESCE(item.archived_stamp, zero.stamp) ELSE $1 END AS archived_stamp,
            flag.unread IS NOT NULL OR flag.archived IS NOT NULL AS is_flagged,
            (told.title, told.priority, told.snippet, told.item_timestamp,
                COALESCE(flag.unread, item.is_unread), COALESCE(flag.archived, item.is_archived))
            IS DISTINCT FROM (item.title, item.priority, item.snippet, item.item_timestamp,
                item.is_unread, item.is_archived) AS differs
        FROM (SELECT decode(repeat('00', 16), 'hex') AS stamp) AS zero CROSS JOIN told
        LEFT JOIN priority_items AS item ON item.id = told.id AND item.removed_at IS NULL
        CROSS JOIN LATERAL (SELECT CASE WHEN item.unread_stamp >= $1::bytea THEN NULL ELSE told.unread END AS unread,
            CASE WHEN item.archived_stamp >= $1 THEN NULL ELSE told.archived END AS archived) AS flag
    ), changed_people AS MATERIALIZED (
        SELECT told.id, told.name, COALESCE(told.avatar_url, person.avatar_url) AS avatar_url,
            person.id IS NOT NULL AS was_known
        FROM unnest($12::uuid[], $13::text[], $14::text[]) AS told (id, name, avatar_url)
        LEFT JOIN people AS person ON person.id = told.id
        WHERE (told.name, COALESCE(told.avatar_url, person.avatar_url))
            IS DISTINCT FROM (person.name, person.avatar_url)
    ), shown AS MATERIALIZED (
        SELECT DISTINCT part.item_id FROM changed_people
        JOIN priority_item_participants AS part ON part.person_id = changed_people.id WHERE was_known
    ), seats AS MATERIALIZED (
        SELECT * FROM unnest($15::uuid[], $16::uuid[], $17::smallint[]) AS seats (item_id, person_id, position)
    ), taken AS MATERIALIZED (
        SELECT item_id, person_id, position FROM priority_item_participants
        WHERE item_id IN (SELECT item_id FROM seats)
    ), ranked AS MATERIALIZED (
        SELECT item_id, person_id, taken.position AS old, (row_number() OVER (PARTITION BY item_id
            ORDER BY seats.position NULLS LAST, taken.position, person_id) - 1)::smallint AS position
        FROM seats FULL JOIN taken USING (item_id, person_id)
    ), moved AS MATERIALIZED (
        SELECT item_id, person_id, position FROM ranked
        WHERE CASE WHEN position < 50 THEN old IS DISTINCT FROM position ELSE old IS NOT NULL END
    ), changed_messages AS MATERIALIZED (
        SELECT told.* FROM unnest($18::uuid[], $19::uuid[], $20::uuid[], $21::text[], $22::text[], $23::text[],
            $24::text[], $25::text[], $26::timestamptz[], $27::jsonb[], $28::jsonb[], $29::jsonb[], $30::jsonb[])
            AS told (id, item_id, sender_id, sender_name, sender_type, content_type, content, full_content_html,
                message_timestamp, event_details, social_details, attachments, ai_insights)
        LEFT JOIN priority_item_messages AS message ON message.id = told.id
        WHERE (told.sender_id, told.sender_name, told.sender_type, told.content_type, told.content,
                told.full_content_html, told.message_timestamp, told.event_details, told.social_details,
                told.attachments, told.ai_insights)
            IS DISTINCT FROM (message.sender_id, message.sender_name, message.sender_type, message.content_type,
                message.content, message.full_content_html, message.message_timestamp, message.event_details,
                message.social_details, message.attachments, message.ai_insights)
    ), touched AS MATERIALIZED (
        SELECT id FROM judged WHERE differs
        UNION SELECT item_id FROM moved
        UNION SELECT item_id FROM seats JOIN changed_people ON changed_people.id = seats.person_id
        UNION SELECT item_id FROM shown
        UNION SELECT item_id FROM changed_messages
    ), raised AS (",
    raise!("SELECT user_id FROM judged WHERE id IN (SELECT id FROM touched)"),
    "), write_items AS (
        INSERT INTO priority_items (id, user_id, external_id, title, source, priority, is_unread, is_archived, snippet,
            item_timestamp, arrived_at, version, unread_stamp, archived_stamp)
        SELECT judged.id, user_id, external_id, title, source, priority, is_unread, is_archived, snippet,
            item_timestamp, COALESCE(judged.arrived_at, raised.changed_at),
            CASE WHEN touched.id IS NULL THEN judged.version ELSE raised.version END, unread_stamp, archived_stamp
        FROM judged LEFT JOIN touched USING (id) LEFT JOIN raised USING (user_id)
        WHERE touched.id IS NOT NULL OR judged.is_flagged
        ON CONFLICT (id) DO UPDATE SET title = excluded.title, priority = excluded.priority,
            is_unread = excluded.is_unread, is_archived = excluded.is_archived, snippet = excluded.snippet,
            item_timestamp = excluded.item_timestamp, arrived_at = excluded.arrived_at, version = excluded.version,
            unread_stamp = excluded.unread_stamp, archived_stamp = excluded.archived_stamp, removed_at = NULL
    ), write_others AS (
        UPDATE priority_items AS item SET version = raised.version FROM shown, raised
        WHERE item.id = shown.item_id AND item.user_id = raised.user_id AND item.removed_at IS NULL
            AND NOT EXISTS (SELECT FROM judged WHERE judged.id = item.id)
    ), write_people AS (
        INSERT INTO people (id, name, avatar_url) SELECT id, name, avatar_url FROM changed_people
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, avatar_url = excluded.avatar_url
    ), write_participants AS (
        INSERT INTO priority_item_participants (item_id, person_id, position)
        SELECT item_id, person_id, position FROM moved WHERE position < 50
        ON CONFLICT (item_id, person_id) DO UPDATE SET position = excluded.position
    ), drop_participants AS (
        DELETE FROM priority_item_participants AS seat USING moved
        WHERE seat.item_id = moved.item_id AND seat.person_id = moved.person_id AND moved.position >= 50
    ), write_messages AS (
        INSERT INTO priority_item_messages (id, item_id, sender_id, sender_name, sender_type, content_type, content,
            full_content_html, message_timestamp, event_details, social_details, attachments, ai_insights)
        SELECT * FROM changed_messages
        ON CONFLICT (id) DO UPDATE SET sender_id = excluded.sender_id, sender_name = excluded.sender_name,
            sender_type = excluded.sender_type, content_type = excluded.content_type, content = excluded.content,
            full_content_html = excluded.full_content_html, message_timestamp = excluded.message_timestamp,
            event_details = excluded.event_details, social_details = excluded.social_details,
            attachments = excluded.attachments, ai_insights = excluded.ai_insights
    ) SELECT judged.id, user_id, COALESCE(raised.version, versions.version) AS version,
        CASE WHEN is_new THEN 'created' WHEN touched.id IS NULL THEN 'unchanged' ELSE 'updated' END AS change
    FROM judged LEFT JOIN touched USING (id) LEFT JOIN raised USING (user_id)
    JOIN stream_versions AS versions USING (user_id)"
);

/// `$1` items, `$2` their users. A tombstone tells nothing of what there was.
const REMOVE: &str = concat!(
    "WITH told AS MATERIALIZED (
        SELECT told.id, told.user_id, item.id IS NOT NULL AS is_there
        FROM unnest($1::uuid[], $2::uuid[]) AS told (id, user_id)
        LEFT JOIN priority_items AS item ON item.id = told.id AND item.removed_at IS NULL
    ), raised AS (",
    raise!("SELECT user_id FROM told WHERE is_there"),
    "), removed AS (
        UPDATE priority_items AS item SET title = '-', snippet = NULL, removed_at = raised.changed_at,
            version = raised.version
        FROM told JOIN raised USING (user_id) WHERE told.is_there AND item.id = told.id
    ), participants AS (
        DELETE FROM priority_item_participants WHERE item_id IN (SELECT id FROM told WHERE is_there)
    ), messages AS (
        DELETE FROM priority_item_messages WHERE item_id IN (SELECT id FROM told WHERE is_there)
    ) SELECT told.id, user_id, COALESCE(raised.version, versions.version, 0) AS version, is_there
    FROM told LEFT JOIN raised USING (user_id) LEFT JOIN stream_versions AS versions USING (user_id)"
);

/// See [`StreamStore::ingest`](gravity_domain::stream::StreamStore::ingest). Of an item told twice the last counts.
pub(super) async fn ingest(pool: &Pool, items: &[NewItem], stamp: Hlc) -> Result<Ingested, StoreError> {
    let batch = Batch::of(items);
    let stamp = Stamp(stamp);
    let answers = Work {
        name: "stream_ingest",
        lock: LOCK_OR_MAKE,
        sql: INGEST,
        parameters: &batch.parameters(&stamp),
        rows: batch.rows(),
    };
    let answers = answers.run(pool, batch.users(), read_change).await;
    let answers: Answers<ItemChange> = answers.map_err(raced)?;
    let ids = items.iter().map(|item| item.key.item_id());
    Ok(Ingested {
        changes: ids
            .map(|id| Ok((id, answers.of(id)?)))
            .collect::<Result<_, QueryError>>()?,
        versions: answers.versions,
    })
}

/// See [`StreamStore::remove`](gravity_domain::stream::StreamStore::remove).
pub(super) async fn remove(pool: &Pool, keys: &[ItemKey]) -> Result<Removed, StoreError> {
    let ids: Vec<ItemId> = keys.iter().map(ItemKey::item_id).collect();
    let items: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let users: Vec<Uuid> = keys.iter().map(|key| key.user_id.0).collect();
    let work = Work {
        name: "stream_remove",
        lock: LOCK_VERSIONS,
        sql: REMOVE,
        parameters: &[&items, &users],
        rows: items.len(),
    };
    let answers: Answers<bool> = work.run(pool, &users, |row| Ok(row.try_get("is_there")?)).await?;
    Ok(Removed {
        removed: ids
            .into_iter()
            .map(|id| answers.of(id))
            .collect::<Result<_, _>>()?,
        versions: answers.versions,
    })
}

/// Somebody who had no seat any more was purged meanwhile.
fn raced(error: QueryError) -> StoreError {
    let is_race = refusal(&error).is_some_and(|refusal| refusal.condition == "foreign_key_violation");
    if is_race {
        return StoreError::Busy {
            reason: "serialization",
            source: Some(Box::new(error)),
        };
    }
    error.into()
}

fn read_change(row: &Row) -> Result<ItemChange, QueryError> {
    match row.try_get("change")? {
        "created" => Ok(ItemChange::Created),
        "updated" => Ok(ItemChange::Updated),
        "unchanged" => Ok(ItemChange::Unchanged),
        _ => Err(QueryError::Row("change")),
    }
}

/// A transaction of two statements.
struct Work<'a> {
    name: &'static str,
    lock: &'static str,
    sql: &'static str,
    parameters: &'a Parameters<'a>,
    /// In the longest of the parameters.
    rows: usize,
}

impl Work<'_> {
    async fn run<T>(
        &self,
        pool: &Pool,
        users: &[Uuid],
        read: fn(&Row) -> Result<T, QueryError>,
    ) -> Result<Answers<T>, QueryError> {
        if users.is_empty() {
            return Ok(Answers::default());
        }
        let session = if self.is_large() {
            pool.long_session(self.name).await?
        } else {
            pool.session(self.name).await?
        };
        let rows = self.transact(&session, users).await;
        Answers::read(&session.finish(rows)?, read)
    }

    fn is_large(&self) -> bool {
        self.rows > FEW
    }

    /// The driver's futures send their request when first polled, and these are polled in their order.
    async fn transact(&self, session: &Session, users: &[Uuid]) -> Result<Vec<Row>, QueryError> {
        let client = session.client();
        let lock = session.within(client.prepare_cached(self.lock)).await?;
        let work = session.within(client.prepare_cached(self.sql)).await?;
        let users: Vec<Uuid> = users
            .iter()
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        let of_lock: [&(dyn ToSql + Sync); 1] = [&users];
        let begin = if self.is_large() { BEGIN } else { BEGIN_FEW };
        let sent = join4(
            client.batch_execute(begin),
            client.execute(&lock, &of_lock),
            client.query(&work, self.parameters),
            client.batch_execute("COMMIT"),
        );
        let (begun, locked, rows, committed) = session.within(async { Ok(sent.await) }).await?;
        begun?;
        locked?;
        let rows = rows?;
        committed?;
        Ok(rows)
    }
}

/// What a statement says of each item and user.
struct Answers<T> {
    of_items: HashMap<ItemId, T>,
    versions: Vec<Raised>,
}

impl<T> Default for Answers<T> {
    fn default() -> Self {
        Self {
            of_items: HashMap::new(),
            versions: Vec::new(),
        }
    }
}

impl<T> Answers<T> {
    fn read(rows: &[Row], read: fn(&Row) -> Result<T, QueryError>) -> Result<Self, QueryError> {
        let mut answers = Self::default();
        let mut users = HashSet::new();
        for row in rows {
            let user = UserId(row.try_get("user_id")?);
            let version: i64 = row.try_get("version")?;
            if users.insert(user) {
                let version = u64::try_from(version).map_err(|_| QueryError::Row("version"))?;
                answers.versions.push((user, version));
            }
            answers.of_items.insert(ItemId(row.try_get("id")?), read(row)?);
        }
        Ok(answers)
    }
}

impl<T: Copy> Answers<T> {
    fn of(&self, id: ItemId) -> Result<T, QueryError> {
        self.of_items.get(&id).copied().ok_or(QueryError::Row("id"))
    }
}
