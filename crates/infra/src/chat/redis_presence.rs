//! Presence as leases in Redis, one per socket, on Redis' clock.
//!
//! Each user has a sorted set of connections by the end of their lease, and a key that says when they were last here. A node
//! that dies renews nothing, so its sockets are gone when their leases end; what it wrote last tells when they were here. All of
//! it is lost with Redis, and comes back with the next arrivals and renewals.

use crate::redis::{PREFIX, Redis};
use async_trait::async_trait;
use gravity_domain::chat::{ConnectionId, Presence, PresenceBoard, PresenceStatus};
use gravity_domain::clock::Timestamp;
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use redis::Script;
use std::collections::HashMap;
use std::time::Duration;

/// The most leases, or users, of one round trip.
const BATCH: usize = 200;

/// How long leases and memories last.
#[derive(Debug, Clone, Copy)]
pub struct PresenceSettings {
    /// How long a connection counts as there after its arrival or renewal.
    pub lease: Duration,
    /// How long a connection has been gone when its leaving is told: last seen is so much earlier.
    pub grace: Duration,
    /// How long it is known when somebody was last here.
    pub remembered: Duration,
}

impl Default for PresenceSettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(75),
            grace: Duration::from_secs(15),
            remembered: Duration::from_secs(30 * 24 * 3_600),
        }
    }
}

/// The board. Cheap to use from any node.
pub struct RedisPresence {
    redis: Redis,
    settings: PresenceSettings,
    arrive: Script,
    leave: Script,
}

impl std::fmt::Debug for RedisPresence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisPresence")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn here(user: UserId) -> String {
    format!("{PREFIX}chat:here:{{{user}}}")
}

fn seen(user: UserId) -> String {
    format!("{PREFIX}chat:seen:{{{user}}}")
}

/// The answer to `TIME`, in milliseconds.
fn now((seconds, micros): (u64, u64)) -> u64 {
    seconds * 1_000 + micros / 1_000
}

impl RedisPresence {
    /// A board in `redis`.
    pub fn new(redis: Redis, settings: PresenceSettings) -> Self {
        Self {
            redis,
            settings,
            arrive: Script::new(include_str!("presence_arrive.lua")),
            leave: Script::new(include_str!("presence_leave.lua")),
        }
    }

    async fn look_up_some(&self, users: &[UserId]) -> Result<Vec<Presence>, StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME");
        for user in users {
            pipeline
                .cmd("ZREVRANGE")
                .arg(here(*user))
                .arg(0)
                .arg(0)
                .arg("WITHSCORES");
        }
        pipeline
            .cmd("MGET")
            .arg(users.iter().map(|user| seen(*user)).collect::<Vec<_>>());
        let mut answers: Vec<redis::Value> = self.redis.pipeline("presence_look_up", &pipeline).await?;
        let seen: Vec<Option<i64>> = read(answers.pop())?;
        let mut answers = answers.into_iter();
        let now = now(read(answers.next())?);
        let mut found = Vec::with_capacity(users.len());
        for ((user, last), seen) in users.iter().zip(answers).zip(seen) {
            let longest: Vec<(String, u64)> = read(Some(last))?;
            let is_here = longest.first().is_some_and(|(_, until)| *until > now);
            found.push(presence(*user, is_here, seen));
        }
        Ok(found)
    }
}

fn read<T: redis::FromRedisValue>(value: Option<redis::Value>) -> Result<T, StoreError> {
    let odd = || StoreError::Rejected {
        reason: "redis".to_owned(),
        source: None,
    };
    redis::from_redis_value(value.ok_or_else(odd)?).map_err(|_| odd())
}

fn presence(user_id: UserId, is_here: bool, seen: Option<i64>) -> Presence {
    let status = if is_here {
        PresenceStatus::Online
    } else {
        PresenceStatus::Offline
    };
    Presence {
        user_id,
        status,
        last_seen: seen.filter(|_| !is_here).map(Timestamp::from_millis),
    }
}

#[async_trait]
impl PresenceBoard for RedisPresence {
    async fn arrived(&self, user: UserId, connection: ConnectionId) -> Result<bool, StoreError> {
        let mut call = self.arrive.key(here(user));
        call.key(seen(user))
            .arg(connection.0.to_string())
            .arg(millis(self.settings.lease))
            .arg(millis(self.settings.remembered));
        self.redis.script("presence_arrive", &call).await
    }

    async fn left(&self, user: UserId, connection: ConnectionId) -> Result<bool, StoreError> {
        let mut call = self.leave.key(here(user));
        call.key(seen(user))
            .arg(connection.0.to_string())
            .arg(millis(self.settings.grace))
            .arg(millis(self.settings.remembered));
        self.redis.script("presence_leave", &call).await
    }

    async fn renew(&self, connections: &[(UserId, ConnectionId)]) -> Result<(), StoreError> {
        if connections.is_empty() {
            return Ok(());
        }
        let time: (u64, u64) = self.redis.command("presence_time", &redis::cmd("TIME")).await?;
        let now = now(time);
        let lease = millis(self.settings.lease);
        for some in connections.chunks(BATCH) {
            let mut of_user: HashMap<UserId, Vec<ConnectionId>> = HashMap::new();
            for (user, connection) in some {
                of_user.entry(*user).or_default().push(*connection);
            }
            let mut pipeline = redis::pipe();
            for (user, connections) in of_user {
                let leases = pipeline.cmd("ZADD").arg(here(user));
                for connection in connections {
                    leases.arg(now + lease).arg(connection.0.to_string());
                }
                leases.ignore();
                pipeline.cmd("PEXPIRE").arg(here(user)).arg(lease).ignore();
                pipeline
                    .cmd("SET")
                    .arg(seen(user))
                    .arg(now)
                    .arg("PX")
                    .arg(millis(self.settings.remembered))
                    .ignore();
            }
            self.redis.pipeline::<()>("presence_renew", &pipeline).await?;
        }
        Ok(())
    }

    async fn look_up(&self, users: &[UserId]) -> Result<Vec<Presence>, StoreError> {
        let mut found = Vec::with_capacity(users.len());
        for some in users.chunks(BATCH) {
            found.extend(self.look_up_some(some).await?);
        }
        Ok(found)
    }
}
