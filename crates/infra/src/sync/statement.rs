//! The shape of the statements that apply an operation.
//!
//! Each is one statement that has the operation's effect and records its id, or does nothing when the id is recorded
//! already. The same text serves direct writes (`$6` true) and replay (`$6` false). It is a chain of common table
//! expressions:
//!
//! | part | what it is |
//! |---|---|
//! | `target` | the row, locked, unless the operation's id is recorded: a second session waits here and then sees what the first one left; with one word by the rules of `Entity::apply` and, for direct writes, those of `Verdict` |
//! | `effect` | the write, if the word is `applied` |
//! | `state` | the row as the operation left it, or as it is, and the word |
//! | `log` | the record, if the word is `applied` or `superseded` |
//!
//! No row in answer means that the operation is recorded already, or that there is nothing for it to change: which of
//! the two, [`OPERATION_FIND`] tells. Two sessions with one operation id at once: the second fails on the primary key of
//! `applied_operations`, and with it its effect.
//!
//! Every node of a plan costs, and so does every statement, so what comes often is applied by statements of many
//! ([`Call::of_many`]): the same parts over arrays, one row for each operation in answer, in their order, which has no word
//! where a single statement has no row. The plan (`plan.rs`) says which operations share one.
//!
//! Parameters 1 to 9 are the same everywhere ([`Call::new`]); a statement's own begin at 10.

use crate::postgres::QueryError;
use crate::postgres::values::{At, Stamp};
use gravity_domain::chat::UserEvent;
use gravity_domain::clock::Hlc;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::{
    Applied, AppliedRecord, Entity, EntityKind, EntityState, Fingerprint, Operation, OperationKind, Refusal,
    Refused, Verdict,
};
use serde_json::Value;
use std::borrow::Cow;
use tokio_postgres::Row;
use tokio_postgres::types::{Json, ToSql};

/// True when the operation is not recorded yet.
macro_rules! fresh {
    () => {
        "NOT EXISTS (SELECT FROM applied_operations WHERE id = $1)"
    };
}

/// `state`, `log` and the answer, for an entity with these columns, with its and the operation's name and its JSON.
macro_rules! record {
    ($entity:literal, $kind:literal, $columns:expr, $json:expr) => {
        concat!(
            ", state AS (
                SELECT 'applied' AS word, ",
            $columns,
            " FROM effect UNION ALL SELECT word, ",
            $columns,
            " FROM target WHERE word <> 'applied'
            ), log AS (
                INSERT INTO applied_operations (id, user_id, entity, entity_id, kind, accepted_at, attempts, superseded,
                    fingerprint, buffered, answer)
                SELECT $1::uuid, $3::uuid, '",
            $entity,
            "', $2::uuid, '",
            $kind,
            "', $4::bytea, $7::integer, word = 'superseded', $8::bytea, NOT $6::boolean,
                    CASE WHEN $8::bytea IS NULL THEN NULL WHEN $9::jsonb IS NOT NULL THEN $9::jsonb ELSE ",
            $json,
            " END
                FROM state WHERE word IN ('applied', 'superseded')
            ) SELECT word, ",
            $columns,
            " FROM state"
        )
    };
}

/// A time as [`Timestamp`](gravity_domain::clock::Timestamp) writes it.
macro_rules! time_json {
    ($column:literal) => {
        concat!(
            "to_char(",
            $column,
            " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
        )
    };
}

/// A field with its stamp as [`Lww`](gravity_domain::sync::Lww) writes it.
macro_rules! field_json {
    ($column:literal) => {
        concat!(
            "jsonb_build_object('value', ",
            $column,
            ", 'stamp', encode(",
            $column,
            "_stamp, 'hex'))"
        )
    };
}

pub(crate) use {field_json, fresh, record, time_json};

/// The columns of `applied_operations` in the order in which [`read_record`] takes them.
pub(crate) const OPERATION_FIND: &str =
    "SELECT id, user_id, entity, entity_id, kind, accepted_at, applied_at,
    attempts, superseded, fingerprint, buffered, answer
    FROM applied_operations WHERE id = $1 AND user_id = COALESCE($2::uuid, user_id)";

pub(crate) type ReadState = fn(&Row, usize) -> Result<EntityState, QueryError>;

/// A statement with its parameters.
pub(crate) struct Call<'a> {
    pub(crate) name: &'static str,
    pub(crate) sql: &'static str,
    parameters: Vec<Box<dyn ToSql + Send + Sync + 'a>>,
    read: ReadState,
    /// By row, what a create makes: as good as its columns.
    created: Vec<Option<EntityState>>,
}

/// What a statement answered.
#[allow(clippy::large_enum_variant, reason = "most are verdicts, and none is kept")]
pub(crate) enum Answer {
    /// The final word.
    Verdict(Verdict),
    /// Nothing was done: the operation is recorded, or there is nothing for it to change.
    Nothing,
}

impl<'a> Call<'a> {
    /// A call with the parameters that all share.
    pub(crate) fn new(
        name: &'static str,
        sql: &'static str,
        read: ReadState,
        operation: &'a Operation,
        direct: bool,
    ) -> Self {
        let answer = first_answer(operation, None);
        Self::with_answer(name, sql, read, operation, direct, answer)
    }

    /// A call that makes `created`, which its first answer shows.
    pub(crate) fn creating(
        name: &'static str,
        sql: &'static str,
        read: ReadState,
        created: Option<EntityState>,
        operation: &'a Operation,
        direct: bool,
    ) -> Self {
        let answer = first_answer(operation, created.as_ref());
        Self {
            created: vec![created],
            ..Self::with_answer(name, sql, read, operation, direct, answer)
        }
    }

    fn with_answer(
        name: &'static str,
        sql: &'static str,
        read: ReadState,
        operation: &'a Operation,
        direct: bool,
        answer: Option<Cow<'a, Value>>,
    ) -> Self {
        let replay = operation.replay.as_ref();
        let call = Self {
            name,
            sql,
            parameters: Vec::with_capacity(16),
            read,
            created: Vec::new(),
        };
        call.with(operation.id.0)
            .with(operation.entity_id())
            .with(operation.user_id.0)
            .with(Stamp(operation.accepted_at))
            .with(At(operation.accepted_at.timestamp()))
            .with(direct)
            .with(attempts(operation))
            .with(replay.map(|replay| &replay.fingerprint.0[..]))
            .with(answer.map(Json))
    }

    /// A call for many operations, which answers with one row for each, in their order. The parameters that all share are
    /// the same as for one, and all of them but the sixth are arrays.
    pub(crate) fn of_many(
        name: &'static str,
        sql: &'static str,
        read: ReadState,
        operations: &[&'a Operation],
        created: Vec<Option<EntityState>>,
        direct: bool,
    ) -> Self {
        let answers: Vec<_> = operations
            .iter()
            .enumerate()
            .map(|(nth, operation)| {
                first_answer(operation, created.get(nth).and_then(Option::as_ref)).map(Json)
            })
            .collect();
        let call = Self {
            name,
            sql,
            parameters: Vec::with_capacity(16),
            read,
            created,
        };
        let replays = operations.iter().map(|operation| operation.replay.as_ref());
        call.with(column(operations, |operation| operation.id.0))
            .with(column(operations, |operation| operation.entity_id()))
            .with(column(operations, |operation| operation.user_id.0))
            .with(column(operations, |operation| Stamp(operation.accepted_at)))
            .with(column(operations, |operation| {
                At(operation.accepted_at.timestamp())
            }))
            .with(direct)
            .with(column(operations, |operation| attempts(operation)))
            .with(
                replays
                    .map(|replay| replay.map(|replay| &replay.fingerprint.0[..]))
                    .collect::<Vec<_>>(),
            )
            .with(answers)
    }

    /// Adds the next parameter.
    pub(crate) fn with(mut self, value: impl ToSql + Send + Sync + 'a) -> Self {
        self.parameters.push(Box::new(value));
        self
    }

    /// Adds the version that the entity must have.
    pub(crate) fn with_precondition(self, operation: &Operation) -> Self {
        self.with(expected(operation))
    }

    pub(crate) fn parameters(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.parameters
            .iter()
            .map(|value| &**value as &(dyn ToSql + Sync))
            .collect()
    }

    /// Reads the row of its nth operation. No row is as good as one without a word.
    pub(crate) fn read(&self, nth: usize, row: Option<&Row>) -> Result<Answer, QueryError> {
        let Some(row) = row else {
            return Ok(Answer::Nothing);
        };
        let Some(word) = row.try_get::<_, Option<&str>>(0)? else {
            return Ok(Answer::Nothing);
        };
        let verdict = match word {
            "missing" => Verdict::Missing,
            "blocked" | "message_id_reused" => Verdict::Refused(Refused {
                refusal: Refusal::parse(word).ok_or(QueryError::Row("word"))?,
                events: read_events(row, 1)?,
            }),
            "precondition_failed" => Verdict::PreconditionFailed {
                current: version(&(self.read)(row, 1)?),
            },
            "late" => Verdict::Late {
                newest: newest_stamp(&(self.read)(row, 1)?),
            },
            "applied" | "superseded" => Verdict::Applied(Applied {
                superseded: word == "superseded",
                state: match self.created.get(nth) {
                    Some(Some(created)) if word == "applied" => created.clone(),
                    _ => (self.read)(row, 1)?,
                },
            }),
            _ => return Err(QueryError::Row("word")),
        };
        Ok(Answer::Verdict(verdict))
    }
}

/// The answer that is kept for an operation that came with an `Idempotency-Key`: what was said when it was accepted, else
/// what it creates.
fn first_answer<'a>(operation: &'a Operation, created: Option<&EntityState>) -> Option<Cow<'a, Value>> {
    let replay = operation.replay.as_ref()?;
    match (&replay.accepted, created) {
        (Some(accepted), _) => Some(Cow::Borrowed(accepted)),
        (None, Some(created)) => serde_json::to_value(created).ok().map(Cow::Owned),
        (None, None) => None,
    }
}

/// The version that the entity must have.
pub(crate) fn expected(operation: &Operation) -> Option<i64> {
    let version = operation.precondition?;
    Some(i64::try_from(version).unwrap_or(i64::MAX))
}

fn attempts(operation: &Operation) -> i32 {
    i32::try_from(operation.attempts.saturating_add(1)).unwrap_or(i32::MAX)
}

/// One value of each.
pub(crate) fn column<T, V>(items: &[T], value: impl Fn(&T) -> V) -> Vec<V> {
    items.iter().map(value).collect()
}

fn version(state: &EntityState) -> u64 {
    match state {
        EntityState::Profile(profile) => profile.version(),
        EntityState::Task(task) => task.version(),
        EntityState::StreamAction(receipt) => Entity::version(receipt),
        EntityState::Message(message) => message.version(),
        EntityState::ReadMarker(marker) => marker.version(),
        EntityState::Block(state) => state.version(),
    }
}

fn newest_stamp(state: &EntityState) -> Hlc {
    match state {
        EntityState::Profile(profile) => profile.newest_stamp(),
        EntityState::Task(task) => task.newest_stamp(),
        EntityState::StreamAction(receipt) => receipt.newest_stamp(),
        EntityState::Message(message) => message.newest_stamp(),
        EntityState::ReadMarker(marker) => marker.newest_stamp(),
        EntityState::Block(state) => state.newest_stamp(),
    }
}

/// The record whose first column is at `at`.
pub(crate) fn read_record(row: &Row, at: usize) -> Result<AppliedRecord, QueryError> {
    let fingerprint: Option<&[u8]> = row.try_get(at + 9)?;
    Ok(AppliedRecord {
        id: OperationId(row.try_get(at)?),
        user_id: UserId(row.try_get(at + 1)?),
        entity: EntityKind::parse(row.try_get(at + 2)?)
            .ok_or(QueryError::Row("applied_operations.entity"))?,
        entity_id: row.try_get(at + 3)?,
        kind: OperationKind::parse(row.try_get(at + 4)?).ok_or(QueryError::Row("applied_operations.kind"))?,
        accepted_at: read_stamp(row, at + 5)?,
        applied_at: row.try_get::<_, At>(at + 6)?.0,
        attempts: u32::try_from(row.try_get::<_, i32>(at + 7)?).unwrap_or(0),
        superseded: row.try_get(at + 8)?,
        fingerprint: match fingerprint {
            Some(bytes) => Some(Fingerprint(
                bytes
                    .try_into()
                    .map_err(|_| QueryError::Row("applied_operations.fingerprint"))?,
            )),
            None => None,
        },
        buffered: row.try_get(at + 10)?,
        answer: row.try_get::<_, Option<Value>>(at + 11)?,
    })
}

/// What was appended to the logs of users.
pub(crate) fn read_events(row: &Row, at: usize) -> Result<Vec<UserEvent>, QueryError> {
    let events: Option<Json<Vec<UserEvent>>> = row.try_get(at)?;
    Ok(events.map(|events| events.0).unwrap_or_default())
}

pub(crate) fn read_stamp(row: &Row, at: usize) -> Result<Hlc, QueryError> {
    Ok(row.try_get::<_, Stamp>(at)?.0)
}

pub(crate) fn read_version(row: &Row, at: usize) -> Result<u64, QueryError> {
    u64::try_from(row.try_get::<_, i64>(at)?).map_err(|_| QueryError::Row("version"))
}
