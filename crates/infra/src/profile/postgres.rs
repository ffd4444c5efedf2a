//! Profiles in Postgres: the finder, and the statement that applies an update (see [`crate::sync::statement`]).

use crate::postgres::values::At;
use crate::postgres::{Pool, QueryError};
use crate::sync::statement::{Call, field_json, fresh, read_stamp, read_version, record, time_json};
use async_trait::async_trait;
use gravity_domain::auth::{Role, UserStatus, Username};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::profile::{AvatarUrl, Name, Profile, ProfilePatch};
use gravity_domain::sync::ports::EntityStore;
use gravity_domain::sync::{EntityState, Lww, Operation};
use tokio_postgres::Row;
use uuid::Uuid;

/// The columns of a profile, in the order in which [`read`] takes them.
macro_rules! columns {
    () => {
        "id, username, name, avatar_url, role, status, created_at, updated_at, version, name_stamp, avatar_url_stamp"
    };
}

/// The JSON of a profile, equal to that of `EntityState`.
macro_rules! json {
    () => {
        concat!(
            "jsonb_build_object('kind', 'profile', 'id', id, 'username', username, 'name', ",
            field_json!("name"),
            ", 'avatar_url', ",
            field_json!("avatar_url"),
            ", 'role', role, 'status', status, 'version', version, 'created_at', ",
            time_json!("created_at"),
            ", 'updated_at', ",
            time_json!("updated_at"),
            ")"
        )
    };
}

const PROFILE_UPDATE: &str = concat!(
    "WITH target AS (
        SELECT CASE
            WHEN version <> $10::bigint THEN 'precondition_failed'
            WHEN $6::boolean AND GREATEST(name_stamp, avatar_url_stamp) >= $4::bytea THEN 'late'
            WHEN ($11::boolean AND $4 > name_stamp) OR ($13::boolean AND $4 > avatar_url_stamp) THEN 'applied'
            ELSE 'superseded' END AS word, ",
    columns!(),
    " FROM users WHERE id = $2::uuid AND ",
    fresh!(),
    " FOR NO KEY UPDATE
    ), verdict AS NOT MATERIALIZED (
        SELECT word FROM target
    ), effect AS (
        UPDATE users SET
            name = CASE WHEN $11 AND $4 > name_stamp THEN $12::text ELSE name END,
            name_stamp = CASE WHEN $11 AND $4 > name_stamp THEN $4 ELSE name_stamp END,
            avatar_url = CASE WHEN $13 AND $4 > avatar_url_stamp THEN $14::text ELSE avatar_url END,
            avatar_url_stamp = CASE WHEN $13 AND $4 > avatar_url_stamp THEN $4 ELSE avatar_url_stamp END,
            version = version + 1,
            updated_at = GREATEST(updated_at, $5::timestamptz)
        FROM verdict WHERE id = $2 AND verdict.word = 'applied'
        RETURNING ",
    columns!(),
    ")",
    record!("profile", "update", columns!(), json!())
);

const PROFILE_FIND: &str = concat!("SELECT ", columns!(), " FROM users WHERE id = $1");

/// The statement that applies `patch`.
pub(crate) fn call<'a>(operation: &'a Operation, patch: &'a ProfilePatch, direct: bool) -> Call<'a> {
    let (name, avatar_url) = (patch.name.as_ref(), patch.avatar_url.as_ref());
    Call::new("profile_update", PROFILE_UPDATE, read_state, operation, direct)
        .with_precondition(operation)
        .with(name.is_some())
        .with(name.and_then(Option::as_ref).map(Name::as_str))
        .with(avatar_url.is_some())
        .with(avatar_url.and_then(Option::as_ref).map(AvatarUrl::as_str))
}

fn read_state(row: &Row, at: usize) -> Result<EntityState, QueryError> {
    read(row, at).map(EntityState::Profile)
}

/// The profile whose first column is at `at`.
fn read(row: &Row, at: usize) -> Result<Profile, QueryError> {
    let name = row
        .try_get::<_, Option<&str>>(at + 2)?
        .map(Name::parse)
        .transpose()
        .map_err(|_| QueryError::Row("users.name"))?;
    let avatar_url = row
        .try_get::<_, Option<&str>>(at + 3)?
        .map(AvatarUrl::parse)
        .transpose()
        .map_err(|_| QueryError::Row("users.avatar_url"))?;
    Ok(Profile {
        id: UserId(row.try_get(at)?),
        username: Username::parse(row.try_get(at + 1)?).map_err(|_| QueryError::Row("users.username"))?,
        name: Lww::new(name, read_stamp(row, at + 9)?),
        avatar_url: Lww::new(avatar_url, read_stamp(row, at + 10)?),
        role: Role::parse(row.try_get(at + 4)?).ok_or(QueryError::Row("users.role"))?,
        status: UserStatus::parse(row.try_get(at + 5)?).ok_or(QueryError::Row("users.status"))?,
        created_at: row.try_get::<_, At>(at + 6)?.0,
        updated_at: row.try_get::<_, At>(at + 7)?.0,
        version: read_version(row, at + 8)?,
    })
}

/// Finds profiles.
#[derive(Debug, Clone)]
pub struct PostgresProfiles {
    pool: Pool,
}

impl PostgresProfiles {
    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }
}

#[async_trait]
impl EntityStore<Profile> for PostgresProfiles {
    async fn find(&self, user: UserId, id: Uuid) -> Result<Option<Profile>, StoreError> {
        if user.0 != id {
            return Ok(None);
        }
        let row = self.pool.query_opt("profile_find", PROFILE_FIND, &[&id]).await?;
        Ok(row.map(|row| read(&row, 0)).transpose()?)
    }
}
