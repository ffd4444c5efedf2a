//! The statement that applies an action to the items it names (see [`crate::sync::statement`]).
//!
//! The user's version is locked first, as by every change of a stream, so that nothing of the user's items moves meanwhile;
//! a user without one has no items. Each item gets a word of its own, which what was judged when the operation was buffered
//! may settle: nothing is done to an item that its user was told is skipped or not there. The operation's word is `applied`
//! also when it found nothing to do, and `superseded` when later stamps have won on all that it was to be applied to. The words
//! are those of the snapshot from before the wait for the lock; what is written is decided anew, on the rows as they are
//! after it, and an item that is then beyond `asOf`, or gone, is told so. The version is raised when a flag changes, and when
//! it may have changed in that wait.

use crate::postgres::QueryError;
use crate::postgres::values::At;
use crate::sync::statement::{Call, fresh, read_stamp};
use gravity_domain::id::{ItemId, UserId};
use gravity_domain::stream::{Action, ActionReceipt, ItemOutcome, StreamAction};
use gravity_domain::sync::{EntityState, Operation};
use tokio_postgres::Row;
use uuid::Uuid;

/// Locks the versions of users `$1`, in the order in which all who change several streams do.
pub(crate) const LOCK_VERSIONS: &str =
    "SELECT FROM stream_versions WHERE user_id = ANY ($1::uuid[]) ORDER BY user_id FOR NO KEY UPDATE";

/// `$10` ids, `$11` `asOf`, `$12` the flag's new value, `$13` what was judged, in the order of the ids; `$5` has no part in it but its type. Direct writes that meet a later stamp are late.
macro_rules! act {
    ($flag:literal, $stamp:literal, $action:literal) => {
        concat!(
            "WITH seen AS MATERIALIZED (
                SELECT version FROM stream_versions WHERE user_id = $3::uuid
            ), locked AS MATERIALIZED (
                SELECT version FROM stream_versions WHERE user_id = $3 AND ",
            fresh!(),
            " FOR NO KEY UPDATE
            ), wanted AS MATERIALIZED (
                SELECT wanted.id, wanted.position, item.",
            $stamp,
            " AS stamp, item.",
            $flag,
            " <> $12::boolean AS differs, CASE WHEN judged <> 'applied' THEN judged WHEN item.id IS NULL THEN 'not_found'
                    WHEN item.item_timestamp > $11::timestamptz OR item.arrived_at > $11 THEN 'skipped'
                    ELSE 'applied' END AS outcome
                FROM unnest($10::uuid[], $13::text[]) WITH ORDINALITY AS wanted (id, judged, position)
                LEFT JOIN priority_items AS item ON item.id = wanted.id AND item.user_id = $3
                    AND item.removed_at IS NULL AND EXISTS (SELECT FROM locked)
            ), verdict AS MATERIALIZED (
                SELECT COALESCE((array_agg(stamp ORDER BY stamp DESC) FILTER (WHERE outcome = 'applied'))[1], '\\x'::bytea)
                        AS newest,
                    COALESCE(bool_or(outcome = 'applied' AND stamp < $4::bytea AND (differs
                        OR (SELECT version FROM seen) <> (SELECT version FROM locked))), false) AS changes
                FROM wanted
            ), word AS MATERIALIZED (
                SELECT CASE WHEN $6::boolean AND newest >= $4 THEN 'late' ELSE 'applied' END AS word, changes, newest
                FROM verdict WHERE $5::timestamptz IS NOT NULL AND ",
            fresh!(),
            "), raised AS (
                UPDATE stream_versions AS versions SET version = versions.version + 1,
                    changed_at = GREATEST(date_trunc('milliseconds', clock_timestamp()),
                        versions.changed_at + interval '1 millisecond')
                FROM word WHERE user_id = $3 AND word.word = 'applied' AND word.changes
                RETURNING versions.version
            ), effect AS (
                UPDATE priority_items AS item SET ",
            $flag,
            " = CASE WHEN item.",
            $stamp,
            " < $4 THEN $12 ELSE item.",
            $flag,
            " END, ",
            $stamp,
            " = GREATEST(item.",
            $stamp,
            ", $4), version = CASE WHEN item.",
            $stamp,
            " < $4 AND item.",
            $flag,
            " <> $12 THEN (SELECT version FROM raised) ELSE item.version END
                FROM wanted, word
                WHERE item.id = wanted.id AND word.word = 'applied' AND wanted.outcome = 'applied'
                    AND item.removed_at IS NULL
                    AND ($11 IS NULL OR item.item_timestamp <= $11 AND item.arrived_at <= $11)
                RETURNING item.id, item.",
            $stamp,
            " = $4 AND wanted.stamp < $4 AS won
            ), done AS MATERIALIZED (
                SELECT wanted.id, wanted.position, effect.won, CASE
                    WHEN word.word = 'late' OR wanted.outcome <> 'applied' OR effect.id IS NOT NULL THEN wanted.outcome
                    WHEN $11 IS NULL THEN 'not_found' ELSE 'skipped' END AS outcome
                FROM word CROSS JOIN wanted LEFT JOIN effect ON effect.id = wanted.id
            ), receipt AS MATERIALIZED (
                SELECT CASE WHEN (SELECT NOT bool_or(won) FROM done) THEN 'superseded' ELSE word.word END AS word,
                    $1::uuid AS id, $3::uuid AS user_id,
                    CASE WHEN word.word = 'late' THEN word.newest ELSE $4 END AS stamp,
                    ",
            $action,
            " AS action, (SELECT array_agg(id ORDER BY position) FROM done) AS ids,
                    (SELECT array_agg(outcome ORDER BY position) FROM done) AS outcomes,
                    COALESCE((SELECT version FROM raised), (SELECT version FROM locked), 0) AS version
                FROM word
            ), log AS (
                INSERT INTO applied_operations (id, user_id, entity, entity_id, kind, accepted_at, attempts, superseded,
                    fingerprint, buffered, answer)
                SELECT $1, $3, 'stream_action', $2::uuid, 'create', $4, $7::integer, word = 'superseded', $8::bytea, NOT $6,
                    CASE WHEN $8 IS NULL THEN NULL WHEN $9::jsonb IS NOT NULL THEN $9::jsonb ELSE jsonb_build_object(
                        'kind', 'stream_action', 'id', id, 'user_id', user_id, 'stamp', encode(stamp, 'hex'), 'action', action,
                        'results', COALESCE((SELECT jsonb_agg(jsonb_build_array(id, outcome) ORDER BY position)
                            FROM done), '[]'),
                        'version', version) END
                FROM receipt WHERE word <> 'late'
            ) SELECT word, id, user_id, stamp, action, ids, outcomes, version FROM receipt"
        )
    };
}

const STREAM_ACT_ON_UNREAD: &str = act!(
    "is_unread",
    "unread_stamp",
    "CASE WHEN $12 THEN 'unread' ELSE 'read' END"
);
const STREAM_ACT_ON_ARCHIVED: &str = act!(
    "is_archived",
    "archived_stamp",
    "CASE WHEN $12 THEN 'archive' ELSE 'unarchive' END"
);

/// The statement that applies `action`.
pub(crate) fn call<'a>(operation: &'a Operation, action: &'a StreamAction, direct: bool) -> Call<'a> {
    let (name, sql) = if action.action.is_about_reading() {
        ("stream_act_on_unread", STREAM_ACT_ON_UNREAD)
    } else {
        ("stream_act_on_archived", STREAM_ACT_ON_ARCHIVED)
    };
    let ids: Vec<Uuid> = action.ids.iter().map(|id| id.0).collect();
    let judged: Vec<&str> = action.judged.iter().map(|outcome| outcome.as_str()).collect();
    Call::new(name, sql, read_state, operation, direct)
        .with(ids)
        .with(action.as_of.map(At))
        .with(action.action.value())
        .with(judged)
}

fn read_state(row: &Row, at: usize) -> Result<EntityState, QueryError> {
    let ids: Option<Vec<Uuid>> = row.try_get(at + 4)?;
    let outcomes: Option<Vec<&str>> = row.try_get(at + 5)?;
    let outcomes = outcomes
        .unwrap_or_default()
        .into_iter()
        .map(|outcome| ItemOutcome::parse(outcome).ok_or(QueryError::Row("outcome")));
    let results = ids
        .unwrap_or_default()
        .into_iter()
        .zip(outcomes)
        .map(|(id, outcome)| Ok((ItemId(id), outcome?)))
        .collect::<Result<_, QueryError>>()?;
    let action = Action::parse(row.try_get(at + 3)?).ok_or(QueryError::Row("action"))?;
    let version: i64 = row.try_get(at + 6)?;
    Ok(EntityState::StreamAction(ActionReceipt {
        id: row.try_get(at)?,
        user_id: UserId(row.try_get(at + 1)?),
        stamp: read_stamp(row, at + 2)?,
        action: Some(action),
        results,
        version: Some(u64::try_from(version).map_err(|_| QueryError::Row("version"))?),
    }))
}
