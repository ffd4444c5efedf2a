//! Jobs of notifications.

use crate::fixture::Fixture;
use gravity_domain::chat::{NotificationJob, NotificationJobs as _, Summons, Target};
use gravity_domain::id::UserId;
use gravity_infra::chat::PostgresJobs;
use std::collections::HashSet;
use std::time::Duration;
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(60);

/// A conversation of two, whose `receiver` is to be told of messages.
struct World {
    fixture: Fixture,
    jobs: PostgresJobs,
    conversation: Uuid,
    sender: UserId,
    receiver: UserId,
}

impl World {
    async fn new() -> Self {
        Self::over(Fixture::new().await).await
    }

    async fn over(fixture: Fixture) -> Self {
        let (conversation, sender, receiver) = (Uuid::new_v4(), UserId::random(), UserId::random());
        fixture.insert_user(sender).await;
        let sql = format!(
            "INSERT INTO conversations (id, direct_key) VALUES ('{conversation}', 'a:b');
             INSERT INTO conversation_participants (conversation_id, user_id)
                VALUES ('{conversation}', '{sender}'), ('{conversation}', '{receiver}')"
        );
        fixture.execute(&sql).await;
        Self {
            jobs: PostgresJobs::new(fixture.pool.clone()),
            fixture,
            conversation,
            sender,
            receiver,
        }
    }

    /// Messages with the places `from..=to`, and their jobs, due now.
    async fn messages(&self, from: u32, to: u32) {
        let (conversation, sender, receiver) = (self.conversation, self.sender, self.receiver);
        let sql = format!(
            "WITH sent AS (
                INSERT INTO messages (id, conversation_id, seq, sender_id, sender_seq, client_message_id, content, created_at)
                SELECT gen_random_uuid(), '{conversation}', n, '{sender}', n, gen_random_uuid(), 'message ' || n, now()
                FROM generate_series({from}, {to}) AS n RETURNING id
            ) INSERT INTO notification_jobs (message_id, user_id) SELECT id, '{receiver}' FROM sent"
        );
        self.fixture.execute(&sql).await;
    }

    async fn claim(&self) -> Vec<NotificationJob> {
        self.jobs.claim(100, LEASE).await.unwrap()
    }

    /// The only job there is.
    async fn claim_one(&self) -> NotificationJob {
        let mut claimed = self.claim().await;
        assert_eq!(claimed.len(), 1);
        claimed.remove(0)
    }

    /// All leases and pauses are over.
    async fn later(&self) {
        self.fixture
            .execute("UPDATE notification_jobs SET run_at = now()")
            .await;
    }

    async fn why_not(&self, job: &NotificationJob) -> Option<&'static str> {
        match self.jobs.summons(job).await.unwrap() {
            Summons::No(why) => Some(why),
            Summons::Tell { .. } => None,
        }
    }
}

#[tokio::test]
async fn nodes_that_claim_at_once_never_get_the_same_job() {
    let world = World::new().await;
    world.messages(1, 200).await;
    let claim = || world.jobs.claim(20, LEASE);
    let mut seen = HashSet::new();
    for _ in 0..10 {
        let rounds = tokio::join!(claim(), claim(), claim());
        for job in [rounds.0, rounds.1, rounds.2]
            .into_iter()
            .flat_map(Result::unwrap)
        {
            assert!(seen.insert(job.message_id), "claimed twice");
            assert_eq!((job.attempts, job.user_id), (1, world.receiver));
        }
    }
    assert_eq!(seen.len(), 200);
}

#[tokio::test]
async fn claims_and_their_ends_read_only_what_they_take_however_many_wait() {
    let world = World::over(Fixture::with(|settings| settings.max_connections = 1).await).await;
    // The plan is made while the table is known to be empty, and kept.
    world.fixture.execute("VACUUM (ANALYZE) notification_jobs").await;
    assert!(world.claim().await.is_empty());
    world.jobs.finish(&[]).await.unwrap();
    world.messages(1, 2_000).await;
    let wait = "UPDATE notification_jobs SET run_at = now() + interval '1 hour'";
    world.fixture.execute(wait).await;
    world.messages(2_001, 2_005).await;
    let rows_read = async |statement: &str, arguments: &str| {
        let session = world.fixture.pool.session("plans").await.unwrap();
        let named = format!("SELECT name FROM pg_prepared_statements WHERE statement LIKE '{statement}'");
        let name: String = session.client().query_one(&named, &[]).await.unwrap().get(0);
        let explain = format!("EXPLAIN (ANALYZE, TIMING OFF) EXECUTE {name} ({arguments})");
        let plan = session.client().query(&explain, &[]).await.unwrap();
        let lines: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let rows = lines.iter().filter_map(|line| {
            let rows = line.split_once("(actual rows=")?.1;
            rows.split(' ').next()?.parse::<u64>().ok()
        });
        let most = rows.max();
        session.finish(Ok(())).unwrap();
        most
    };
    assert_eq!(rows_read("UPDATE%SKIP LOCKED%", "100, 60").await, Some(5));
    let client = world.fixture.database.connect().await.unwrap();
    let claimed = "SELECT array_agg(message_id)::text, array_agg(user_id)::text, array_agg(attempts)::text
        FROM notification_jobs WHERE attempts = 1";
    let row = client.query_one(claimed, &[]).await.unwrap();
    let arrays: [String; 3] = std::array::from_fn(|column| format!("'{}'", row.get::<_, String>(column)));
    let arrays = arrays.join(", ");
    assert_eq!(
        rows_read("DELETE FROM notification_jobs%", &arrays).await,
        Some(5)
    );
}

#[tokio::test]
async fn a_claim_that_was_given_up_is_taken_over_and_its_former_holder_changes_nothing() {
    let world = World::new().await;
    world.messages(1, 1).await;
    let mut first = world.claim_one().await;
    assert!(world.claim().await.is_empty(), "the lease holds");
    first.done.settled.push(Target::Webhook);
    first.done.waits = 1;
    assert!(world.jobs.record(&first).await.unwrap());

    world.later().await;
    let second = world.claim_one().await;
    assert_eq!((second.attempts, &second.done), (2, &first.done));
    assert!(!world.jobs.record(&first).await.unwrap());
    world.jobs.finish(std::slice::from_ref(&first)).await.unwrap();
    world.jobs.put_off(&first, Duration::ZERO, "late").await.unwrap();
    assert!(world.claim().await.is_empty(), "the second lease holds");
    assert_eq!(world.jobs.waiting().await.unwrap(), 1);
    world.jobs.finish(&[second]).await.unwrap();
    assert_eq!(world.jobs.waiting().await.unwrap(), 0);
}

#[tokio::test]
async fn a_job_that_is_put_off_rests_and_keeps_what_is_done() {
    let world = World::new().await;
    world.messages(1, 1).await;
    let mut job = world.claim_one().await;
    let subscription = Uuid::new_v4();
    job.done.settled.push(Target::Push(subscription));
    world
        .jobs
        .put_off(&job, Duration::from_secs(30), "timeout")
        .await
        .unwrap();
    assert!(world.claim().await.is_empty());
    let due = "SELECT count(*) FROM notification_jobs WHERE last_error = 'timeout'
        AND run_at BETWEEN now() + interval '25 seconds' AND now() + interval '30 seconds'";
    assert_eq!(world.fixture.count(due).await, 1);
    world.later().await;
    assert_eq!(world.claim_one().await.done.settled, [Target::Push(subscription)]);
}

#[tokio::test]
async fn what_is_told_is_judged_by_what_is_stored_now() {
    let world = World::new().await;
    world.messages(1, 1).await;
    let job = world.claim_one().await;
    let (sender, receiver) = (world.sender, world.receiver);
    let run = async |sql: &str| world.fixture.execute(sql).await;
    let Summons::Tell {
        notice,
        subscriptions,
        webhook,
    } = world.jobs.summons(&job).await.unwrap()
    else {
        panic!("not told");
    };
    assert_eq!(notice.snippet, "message 1");
    assert_eq!(notice.event_id, job.event_id());
    assert_eq!((notice.sender_id, notice.user_id), (sender, receiver));
    assert!(
        notice.sender_name.starts_with('u'),
        "the username, for want of a name"
    );
    assert!(subscriptions.is_empty() && webhook);

    run("UPDATE conversation_participants SET muted = true").await;
    assert_eq!(world.why_not(&job).await, Some("unwanted"));
    run("UPDATE conversation_participants SET muted = false").await;
    run(&format!(
        "INSERT INTO blocks (blocker, blocked, is_blocked, stamp, created_at) VALUES ('{receiver}', '{sender}', true, '', now())"
    ))
    .await;
    assert_eq!(world.why_not(&job).await, Some("unwanted"));
    run("UPDATE blocks SET is_blocked = false").await;
    assert_eq!(world.why_not(&job).await, None);
    run(&format!(
        "INSERT INTO notification_preferences (user_id, chat_messages) VALUES ('{receiver}', false)"
    ))
    .await;
    assert_eq!(world.why_not(&job).await, Some("unwanted"));
    run("DELETE FROM notification_preferences").await;
    run("UPDATE conversation_participants SET read_seq = 1").await;
    assert_eq!(world.why_not(&job).await, Some("read"));
    run("DELETE FROM messages").await;
    assert_eq!(world.why_not(&job).await, Some("gone"));
}

#[tokio::test]
async fn each_way_can_be_switched_off_and_a_subscription_that_has_ended_is_forgotten() {
    let world = World::new().await;
    world.messages(1, 1).await;
    let job = world.claim_one().await;
    let receiver = world.receiver;
    let sql = format!(
        "INSERT INTO push_subscriptions (id, user_id, endpoint, p256dh, auth)
         SELECT gen_random_uuid(), '{receiver}', 'https://push.example.com/' || n, '\\x04', '\\x05' FROM generate_series(1, 2) AS n"
    );
    world.fixture.execute(&sql).await;
    let ways = async || match world.jobs.summons(&job).await.unwrap() {
        Summons::Tell {
            subscriptions,
            webhook,
            ..
        } => (subscriptions, webhook),
        Summons::No(why) => panic!("{why}"),
    };
    let (subscriptions, webhook) = ways().await;
    assert_eq!((subscriptions.len(), webhook), (2, true));
    world.jobs.forget(subscriptions[0].id).await.unwrap();
    assert_eq!(ways().await.0, subscriptions[1..]);
    let sql = format!(
        "INSERT INTO notification_preferences (user_id, web_push, webhook) VALUES ('{receiver}', false, false)"
    );
    world.fixture.execute(&sql).await;
    let (subscriptions, webhook) = ways().await;
    assert!(subscriptions.is_empty() && !webhook);
}
