//! The jobs of notifications in Postgres.
//!
//! A claim pushes `run_at` forward by the lease and counts the attempt, in one statement of its own. The number of the attempt
//! fences: whoever comes back after another node has taken the job up changes nothing.

use crate::postgres::values::At;
use crate::postgres::{Pool, QueryError};
use async_trait::async_trait;
use gravity_domain::chat::{
    Notice, NotificationJob, NotificationJobs, Progress, PushKeys, PushSubscription, Summons, Target,
};
use gravity_domain::error::StoreError;
use gravity_domain::id::{ChatMessageId, ConversationId, UserId};
use serde_json::Value;
use std::time::Duration;
use tokio_postgres::Row;
use uuid::Uuid;

/// Rows are found again by where they lie: a join may read all of the table, whose size no plan that is kept can know. One that
/// was changed meanwhile lies elsewhere, and is left alone.
const CLAIM: &str = "UPDATE notification_jobs
    SET run_at = now() + make_interval(secs => $2), attempts = attempts + 1
    WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM notification_jobs WHERE run_at <= now() ORDER BY run_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ))
    RETURNING message_id, user_id, attempts, done";

/// As it stands now: what was read, muted, blocked or switched off since the message was stored counts.
const SUMMONS: &str = "SELECT message.conversation_id, message.sender_id, left(message.content, 1000),
        message.created_at, message.seq <= receiver.read_seq,
        receiver.muted OR NOT COALESCE(wants.chat_messages, true)
            OR COALESCE(account.status, 'active') = 'suspended' OR EXISTS (
                SELECT FROM blocks WHERE is_blocked
                    AND (blocker, blocked) IN ((message.sender_id, receiver.user_id), (receiver.user_id, message.sender_id))
            ),
        COALESCE(wants.web_push, true), COALESCE(wants.webhook, true),
        COALESCE(sender.name, sender.username, '')
    FROM messages AS message
    JOIN conversation_participants AS receiver
        ON receiver.conversation_id = message.conversation_id AND receiver.user_id = $2
    LEFT JOIN users AS sender ON sender.id = message.sender_id
    LEFT JOIN users AS account ON account.id = receiver.user_id
    LEFT JOIN notification_preferences AS wants ON wants.user_id = receiver.user_id
    WHERE message.id = $1";

const SUBSCRIPTIONS: &str = "SELECT id, user_id, endpoint, p256dh, auth, created_at
    FROM push_subscriptions WHERE user_id = $1 ORDER BY created_at DESC, id LIMIT 50";

const RECORD: &str = "UPDATE notification_jobs SET done = $4
    WHERE message_id = $1 AND user_id = $2 AND attempts = $3";

const PUT_OFF: &str = "UPDATE notification_jobs
    SET done = $4, run_at = now() + make_interval(secs => $5), last_error = $6
    WHERE message_id = $1 AND user_id = $2 AND attempts = $3";

const FINISH: &str = "DELETE FROM notification_jobs WHERE ctid = ANY (ARRAY(
        SELECT job.ctid
        FROM unnest($1::uuid[], $2::uuid[], $3::integer[]) AS over (message_id, user_id, attempts)
        CROSS JOIN LATERAL (
            SELECT ctid FROM notification_jobs AS one
            WHERE one.message_id = over.message_id AND one.user_id = over.user_id AND one.attempts = over.attempts
            OFFSET 0
        ) AS job
    ))";

const FORGET: &str = "DELETE FROM push_subscriptions WHERE id = $1";
const WAITING: &str = "SELECT count(*) FROM (SELECT FROM notification_jobs LIMIT 100000) AS counted";

/// The table of jobs.
#[derive(Debug, Clone)]
pub struct PostgresJobs {
    pool: Pool,
}

impl PostgresJobs {
    /// Over this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    async fn subscriptions(&self, user: UserId) -> Result<Vec<PushSubscription>, QueryError> {
        let rows = self
            .pool
            .query("push_subscriptions", SUBSCRIPTIONS, &[&user.0])
            .await?;
        rows.iter().map(read_subscription).collect()
    }
}

#[async_trait]
impl NotificationJobs for PostgresJobs {
    async fn claim(&self, limit: u32, lease: Duration) -> Result<Vec<NotificationJob>, StoreError> {
        let (limit, lease) = (i64::from(limit), lease.as_secs_f64());
        let rows = self
            .pool
            .query("notification_claim", CLAIM, &[&limit, &lease])
            .await?;
        let jobs: Result<Vec<_>, QueryError> = rows.iter().map(read_job).collect();
        Ok(jobs?)
    }

    async fn summons(&self, job: &NotificationJob) -> Result<Summons, StoreError> {
        let (message, user) = (&job.message_id.0, &job.user_id.0);
        let row = self
            .pool
            .query_opt("notification_summons", SUMMONS, &[message, user])
            .await?;
        let Some(row) = row else {
            return Ok(Summons::No("gone"));
        };
        match read_summons(&row, job)? {
            Found::No(why) => Ok(Summons::No(why)),
            Found::Tell {
                notice,
                web_push,
                webhook,
            } => {
                let subscriptions = match web_push {
                    true => self.subscriptions(job.user_id).await?,
                    false => Vec::new(),
                };
                Ok(Summons::Tell {
                    notice,
                    subscriptions,
                    webhook,
                })
            }
        }
    }

    async fn record(&self, job: &NotificationJob) -> Result<bool, StoreError> {
        let (message, user) = (&job.message_id.0, &job.user_id.0);
        let (attempts, done) = (attempts_of(job), to_json(&job.done));
        let changed = self
            .pool
            .execute("notification_record", RECORD, &[message, user, &attempts, &done])
            .await?;
        Ok(changed > 0)
    }

    async fn put_off(&self, job: &NotificationJob, after: Duration, reason: &str) -> Result<(), StoreError> {
        let (message, user) = (&job.message_id.0, &job.user_id.0);
        let (attempts, done, after) = (attempts_of(job), to_json(&job.done), after.as_secs_f64());
        self.pool
            .execute(
                "notification_put_off",
                PUT_OFF,
                &[message, user, &attempts, &done, &after, &reason],
            )
            .await?;
        Ok(())
    }

    async fn finish(&self, jobs: &[NotificationJob]) -> Result<(), StoreError> {
        let messages: Vec<Uuid> = jobs.iter().map(|job| job.message_id.0).collect();
        let users: Vec<Uuid> = jobs.iter().map(|job| job.user_id.0).collect();
        let attempts: Vec<i32> = jobs.iter().map(attempts_of).collect();
        self.pool
            .execute("notification_finish", FINISH, &[&messages, &users, &attempts])
            .await?;
        Ok(())
    }

    async fn forget(&self, subscription: Uuid) -> Result<(), StoreError> {
        self.pool.execute("push_forget", FORGET, &[&subscription]).await?;
        Ok(())
    }

    async fn waiting(&self) -> Result<u64, StoreError> {
        let row = self.pool.query_opt("notification_waiting", WAITING, &[]).await?;
        let count: i64 = row
            .ok_or(QueryError::Row("count"))?
            .try_get(0)
            .map_err(QueryError::from)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }
}

fn attempts_of(job: &NotificationJob) -> i32 {
    i32::try_from(job.attempts).unwrap_or(i32::MAX)
}

enum Found {
    No(&'static str),
    Tell {
        notice: Box<Notice>,
        web_push: bool,
        webhook: bool,
    },
}

fn read_summons(row: &Row, job: &NotificationJob) -> Result<Found, QueryError> {
    if row.try_get(4)? {
        return Ok(Found::No("read"));
    }
    if row.try_get(5)? {
        return Ok(Found::No("unwanted"));
    }
    let notice = Notice {
        event_id: job.event_id(),
        user_id: job.user_id,
        message_id: job.message_id,
        conversation_id: ConversationId(row.try_get(0)?),
        sender_id: UserId(row.try_get(1)?),
        sender_name: row.try_get(8)?,
        snippet: Notice::snippet_of(row.try_get(2)?),
        created_at: row.try_get::<_, At>(3)?.0,
    };
    Ok(Found::Tell {
        notice: Box::new(notice),
        web_push: row.try_get(6)?,
        webhook: row.try_get(7)?,
    })
}

fn read_job(row: &Row) -> Result<NotificationJob, QueryError> {
    let attempts: i32 = row.try_get(2)?;
    Ok(NotificationJob {
        message_id: ChatMessageId(row.try_get(0)?),
        user_id: UserId(row.try_get(1)?),
        attempts: u32::try_from(attempts).map_err(|_| QueryError::Row("notification_jobs.attempts"))?,
        done: from_json(&row.try_get(3)?),
    })
}

fn read_subscription(row: &Row) -> Result<PushSubscription, QueryError> {
    Ok(PushSubscription {
        id: row.try_get(0)?,
        user_id: UserId(row.try_get(1)?),
        endpoint: row.try_get(2)?,
        keys: PushKeys {
            p256dh: row.try_get(3)?,
            auth: row.try_get(4)?,
        },
        created_at: row.try_get::<_, At>(5)?.0,
    })
}

/// `["wait", "webhook", "push:<subscription>"]`.
fn to_json(done: &Progress) -> Value {
    let waits = (0..done.waits).map(|_| "wait".to_owned());
    let settled = done.settled.iter().map(|target| match target {
        Target::Webhook => "webhook".to_owned(),
        Target::Push(id) => format!("push:{id}"),
    });
    waits.chain(settled).map(Value::String).collect()
}

/// Words that this version does not know are passed over.
fn from_json(value: &Value) -> Progress {
    let mut done = Progress::default();
    for word in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
        match word.strip_prefix("push:").map(Uuid::parse_str) {
            Some(Ok(id)) => done.settled.push(Target::Push(id)),
            Some(Err(_)) => {}
            None if word == "webhook" => done.settled.push(Target::Webhook),
            None if word == "wait" => done.waits += 1,
            None => {}
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_comes_back_as_it_was() {
        let done = Progress {
            settled: vec![Target::Push(Uuid::from_u128(5)), Target::Webhook],
            waits: 2,
        };
        assert_eq!(from_json(&to_json(&done)), done);
        assert_eq!(
            from_json(&serde_json::json!(["push:?", "later", 4])),
            Progress::default()
        );
    }
}
