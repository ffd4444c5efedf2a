//! Sessions in Redis: a hash per session, and a sorted set per user of their ids by when they end.
//!
//! Each transition is one script. Keys of one user share a hash tag, so that a cluster keeps them together. Of refresh tokens only
//! hashes are stored.

use crate::redis::{PREFIX, Redis};
use async_trait::async_trait;
use gravity_domain::auth::{NewSession, Role, Rotation, Session, SessionStore, Spend};
use gravity_domain::clock::Timestamp;
use gravity_domain::error::StoreError;
use gravity_domain::id::{SessionId, UserId};
use redis::Script;
use uuid::Uuid;

/// The store.
pub struct RedisSessions {
    redis: Redis,
    most_per_user: usize,
    create: Script,
    rotate: Script,
    list: Script,
    revoke: Script,
}

impl std::fmt::Debug for RedisSessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSessions").finish_non_exhaustive()
    }
}

impl RedisSessions {
    /// A store for at most `most_per_user` sessions of each user (at least 1).
    pub fn new(redis: Redis, most_per_user: usize) -> Self {
        Self {
            redis,
            most_per_user: most_per_user.max(1),
            create: Script::new(include_str!("session_create.lua")),
            rotate: Script::new(include_str!("session_rotate.lua")),
            list: Script::new(include_str!("session_list.lua")),
            revoke: Script::new(include_str!("session_revoke.lua")),
        }
    }
}

fn prefix(user: UserId) -> String {
    format!("{PREFIX}session:{{{user}}}:")
}

fn session_key(user: UserId, session: SessionId) -> String {
    format!("{}{session}", prefix(user))
}

fn index_key(user: UserId) -> String {
    format!("{PREFIX}sessions:{{{user}}}")
}

fn unreadable() -> StoreError {
    StoreError::Rejected {
        reason: "a session cannot be read".to_owned(),
        source: None,
    }
}

/// From role, client, generation, created, used, expires.
fn session(user_id: UserId, id: SessionId, fields: &[String]) -> Option<Session> {
    let [role, client, generation, created, used, expires] = fields else {
        return None;
    };
    let time = |text: &String| text.parse().ok().map(Timestamp::from_millis);
    Some(Session {
        id,
        user_id,
        role: Role::parse(role)?,
        client: (!client.is_empty()).then(|| client.clone()),
        generation: generation.parse().ok()?,
        created_at: time(created)?,
        last_used_at: time(used)?,
        expires_at: time(expires)?,
    })
}

#[async_trait]
impl SessionStore for RedisSessions {
    async fn create(&self, new: NewSession) -> Result<(), StoreError> {
        let mut call = self.create.key(session_key(new.user_id, new.id));
        call.key(index_key(new.user_id))
            .arg(new.id.to_string())
            .arg(new.role.as_str())
            .arg(new.client.unwrap_or_default())
            .arg(&new.refresh_hash.0[..])
            .arg(new.created_at.millis())
            .arg(new.expires_at.millis())
            .arg(self.most_per_user)
            .arg(prefix(new.user_id));
        self.redis.script("session_create", &call).await
    }

    async fn rotate(&self, spend: &Spend) -> Result<Rotation, StoreError> {
        let mut call = self.rotate.key(session_key(spend.user_id, spend.session_id));
        call.key(index_key(spend.user_id))
            .arg(spend.session_id.to_string())
            .arg(spend.generation)
            .arg(&spend.presented.0[..])
            .arg(&spend.successor.0[..])
            .arg(spend.now.millis())
            .arg(u64::try_from(spend.grace.as_millis()).unwrap_or(u64::MAX))
            .arg(spend.expires_at.millis());
        let answer: Vec<String> = self.redis.script("session_rotate", &call).await?;
        let (what, fields) = answer.split_first().ok_or_else(unreadable)?;
        let stored = || session(spend.user_id, spend.session_id, fields).ok_or_else(unreadable);
        match what.as_str() {
            "rotated" => Ok(Rotation::Rotated(stored()?)),
            "replayed" => Ok(Rotation::Replayed(stored()?)),
            "revoked" => Ok(Rotation::Revoked),
            _ => Ok(Rotation::Unknown),
        }
    }

    async fn list(&self, user: UserId) -> Result<Vec<Session>, StoreError> {
        let mut call = self.list.key(index_key(user));
        call.arg(prefix(user));
        let rows: Vec<Vec<String>> = self.redis.script("session_list", &call).await?;
        let mut sessions = Vec::with_capacity(rows.len());
        for row in rows {
            let (id, fields) = row.split_first().ok_or_else(unreadable)?;
            let id = SessionId(Uuid::try_parse(id).map_err(|_| unreadable())?);
            sessions.push(session(user, id, fields).ok_or_else(unreadable)?);
        }
        sessions.sort_by_key(|session| std::cmp::Reverse((session.created_at, session.id)));
        Ok(sessions)
    }

    async fn revoke(&self, user: UserId, session: SessionId) -> Result<bool, StoreError> {
        let mut call = self.revoke.key(session_key(user, session));
        call.key(index_key(user)).arg(session.to_string());
        let ended: u32 = self.redis.script("session_revoke", &call).await?;
        Ok(ended > 0)
    }
}
