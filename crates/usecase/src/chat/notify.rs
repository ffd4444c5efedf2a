//! Tells those who are not there of their messages: a round takes up due jobs, asks who is there, and tells the others by
//! Web Push and by the operator's webhook.
//!
//! A claim is a lease: it is committed before anything is sent, so that no transaction is open while the outside is talked to,
//! and a node that dies leaves its jobs to the others. What was told is written down at once, target by target, and a later
//! attempt leaves it out. Between sending and writing down a node may still die; then the same event is sent again, under the same
//! event id (webhook) and topic (Web Push), by which the receiving side knows it.

use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use gravity_domain::chat::{
    Delivery, Notice, NotificationJob, NotificationJobs, PresenceBoard, PresenceStatus, PushNotifier,
    PushSubscription, Summons, Target, WebhookNotifier,
};
use gravity_domain::error::StoreError;
use gravity_domain::id::UserId;
use gravity_domain::sync::ports::Breaker;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Whether a user has a socket on this node.
pub type IsHere = Arc<dyn Fn(UserId) -> bool + Send + Sync>;

/// What a round works with.
#[derive(Clone)]
pub struct NotifyPorts {
    /// The jobs.
    pub jobs: Arc<dyn NotificationJobs>,
    /// Who is there, on any node.
    pub presence: Arc<dyn PresenceBoard>,
    /// Who is here; known without Redis.
    pub is_here: IsHere,
    /// Web Push, when it is set up.
    pub push: Option<Arc<dyn PushNotifier>>,
    /// The webhook, when it is set up.
    pub webhook: Option<Arc<dyn WebhookNotifier>>,
    /// Before Postgres.
    pub breaker: Arc<dyn Breaker>,
}

/// How often, how long, how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotifySettings {
    /// Jobs of one round.
    pub batch: u32,
    /// Jobs told at once.
    pub parallel: usize,
    /// For how long a claim keeps others off. Longer than a round takes.
    pub lease: Duration,
    /// After so many attempts a job is dropped.
    pub max_attempts: u32,
    /// Before the second attempt; each later pause is three times the one before.
    pub first_pause: Duration,
    /// No pause is longer, but for what the other side asks for.
    pub longest_pause: Duration,
    /// How often a job waits for presence to be known before the receiver is told anyway.
    pub unknown_waits: u32,
    /// How long each time.
    pub unknown_pause: Duration,
}

impl Default for NotifySettings {
    fn default() -> Self {
        Self {
            batch: 128,
            parallel: 16,
            lease: Duration::from_secs(90),
            max_attempts: 8,
            first_pause: Duration::from_secs(5),
            longest_pause: Duration::from_secs(3_600),
            unknown_waits: 3,
            unknown_pause: Duration::from_secs(5),
        }
    }
}

impl NotifySettings {
    /// No other side is waited for longer.
    const LONGEST_ASKED: Duration = Duration::from_secs(6 * 3_600);

    /// The pause after the attempt `attempt` (from 1): exponential, at least `asked`, and up to a quarter longer, by `spread`.
    fn pause(&self, attempt: u32, asked: Option<Duration>, spread: u64) -> Duration {
        let times = 3_u32.saturating_pow(attempt.saturating_sub(1));
        let usual = self.first_pause.saturating_mul(times).min(self.longest_pause);
        let least = asked.map_or(usual, |asked| usual.max(asked.min(Self::LONGEST_ASKED)));
        let extra = u32::try_from(spread % 256).unwrap_or(0);
        least + least / 4 * extra / 256
    }
}

/// The use case.
pub struct NotifyAbsent {
    ports: NotifyPorts,
    settings: NotifySettings,
}

impl fmt::Debug for NotifyAbsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifyAbsent")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Why a target is to be tried again.
#[derive(Debug, Clone, Copy)]
struct Again {
    after: Option<Duration>,
    reason: &'static str,
}

impl NotifyAbsent {
    /// Over these ports.
    pub fn new(ports: NotifyPorts, settings: NotifySettings) -> Self {
        Self { ports, settings }
    }

    /// Takes up what is due, once. True when there may be more. Failures are logged and counted; their jobs are taken up
    /// again when the lease is over.
    pub async fn round(&self) -> bool {
        if !self.ports.breaker.allows_writes() {
            return false;
        }
        let started = Instant::now();
        let jobs = match self
            .ports
            .jobs
            .claim(self.settings.batch, self.settings.lease)
            .await
        {
            Ok(jobs) => jobs,
            Err(error) => {
                self.failed(&error);
                return false;
            }
        };
        let is_full = jobs.len() >= usize::try_from(self.settings.batch).unwrap_or(usize::MAX);
        let (there, absent) = self.divide(jobs).await;
        if !there.is_empty() {
            count("none", "online", there.len());
            if let Err(error) = self.ports.jobs.finish(&there).await {
                self.failed(&error);
                return false;
            }
        }
        stream::iter(absent)
            .for_each_concurrent(self.settings.parallel, |(job, status)| async move {
                // Far into the lease there is no time left to tell and to write it down.
                if started.elapsed() < self.settings.lease / 2
                    && let Err(error) = self.see_to(job, status).await
                {
                    self.failed(&error);
                }
            })
            .await;
        is_full
    }

    /// Publishes how many jobs there are.
    pub async fn publish_metrics(&self) {
        if !self.ports.breaker.allows_reads() {
            return;
        }
        match self.ports.jobs.waiting().await {
            #[allow(clippy::cast_precision_loss, reason = "at most 100,000")]
            Ok(waiting) => metrics::gauge!("gravity_chat_notification_jobs").set(waiting as f64),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &StoreError) {
        self.ports.breaker.failed(error);
        tracing::warn!(error = error as &dyn Error, "notifications could not be seen to");
    }

    /// Those whose receivers are there, and the others.
    async fn divide(
        &self,
        jobs: Vec<NotificationJob>,
    ) -> (Vec<NotificationJob>, Vec<(NotificationJob, PresenceStatus)>) {
        if jobs.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let mut users: Vec<UserId> = jobs.iter().map(|job| job.user_id).collect();
        users.sort_unstable();
        users.dedup();
        let known = self.ports.presence.look_up(&users).await.unwrap_or_default();
        let status = |user: UserId| {
            if (self.ports.is_here)(user) {
                return PresenceStatus::Online;
            }
            let found = known.iter().find(|presence| presence.user_id == user);
            found.map_or(PresenceStatus::Unknown, |presence| presence.status)
        };
        let (mut there, mut absent) = (Vec::new(), Vec::new());
        for job in jobs {
            match status(job.user_id) {
                PresenceStatus::Online => there.push(job),
                status => absent.push((job, status)),
            }
        }
        (there, absent)
    }

    async fn see_to(&self, mut job: NotificationJob, status: PresenceStatus) -> Result<(), StoreError> {
        if status == PresenceStatus::Unknown && job.done.waits < self.settings.unknown_waits {
            job.done.waits += 1;
            let pause = self.settings.unknown_pause;
            return self.ports.jobs.put_off(&job, pause, "presence unknown").await;
        }
        match self.ports.jobs.summons(&job).await? {
            Summons::No(why) => {
                count("none", why, 1);
                self.ports.jobs.finish(&[job]).await
            }
            Summons::Tell {
                notice,
                subscriptions,
                webhook,
            } => {
                let subscriptions = self.open_subscriptions(&job, subscriptions);
                let webhook = webhook && !job.done.settled.contains(&Target::Webhook);
                let again = self.tell(&mut job, &notice, &subscriptions, webhook).await;
                self.conclude(&job, &again).await
            }
        }
    }

    fn open_subscriptions(
        &self,
        job: &NotificationJob,
        mut subscriptions: Vec<PushSubscription>,
    ) -> Vec<PushSubscription> {
        subscriptions.retain(|subscription| {
            self.ports.push.is_some() && !job.done.settled.contains(&Target::Push(subscription.id))
        });
        subscriptions
    }

    /// Tells every target that is left, all at once; those to try again.
    async fn tell(
        &self,
        job: &mut NotificationJob,
        notice: &Notice,
        subscriptions: &[PushSubscription],
        webhook: bool,
    ) -> Vec<(Target, Again)> {
        let mut telling = FuturesUnordered::new();
        if let Some(push) = &self.ports.push {
            for subscription in subscriptions {
                let told: futures_util::future::BoxFuture<'_, (Target, Delivery)> = Box::pin(async move {
                    (
                        Target::Push(subscription.id),
                        push.push(subscription, notice).await,
                    )
                });
                telling.push(told);
            }
        }
        if let Some(operator) = self.ports.webhook.as_ref().filter(|_| webhook) {
            telling.push(Box::pin(
                async move { (Target::Webhook, operator.post(notice).await) },
            ));
        }
        if telling.is_empty() && job.done.settled.is_empty() {
            count("none", "no_target", 1);
        }
        let mut again = Vec::new();
        while let Some((target, delivery)) = telling.next().await {
            if let Some(later) = note(job, target, delivery) {
                again.push((target, later));
                continue;
            }
            if let (Target::Push(id), Delivery::Gone) = (target, delivery)
                && let Err(error) = self.ports.jobs.forget(id).await
            {
                self.failed(&error);
            }
            // The last one is written down with the end of the job.
            if !telling.is_empty()
                && let Err(error) = self.ports.jobs.record(job).await
            {
                self.failed(&error);
            }
        }
        again
    }

    async fn conclude(&self, job: &NotificationJob, again: &[(Target, Again)]) -> Result<(), StoreError> {
        let attempt = job.attempts.saturating_sub(job.done.waits).max(1);
        let Some((_, first)) = again.first() else {
            return self
                .insist(|| self.ports.jobs.finish(std::slice::from_ref(job)))
                .await;
        };
        if attempt >= self.settings.max_attempts {
            for (target, again) in again {
                count(target.channel(), "dropped", 1);
                tracing::warn!(
                    message_id = %job.message_id,
                    channel = target.channel(),
                    reason = again.reason,
                    "a notification was given up"
                );
            }
            return self
                .insist(|| self.ports.jobs.finish(std::slice::from_ref(job)))
                .await;
        }
        let asked = again.iter().filter_map(|(_, again)| again.after).max();
        let spread = job.event_id().as_u64_pair().0.rotate_left(attempt);
        let pause = self.settings.pause(attempt, asked, spread);
        let put_off = || self.ports.jobs.put_off(job, pause, first.reason);
        self.insist(put_off).await
    }

    /// Tries to write down what was told for a good while: without it, it is told again.
    async fn insist<F>(&self, write: impl Fn() -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<(), StoreError>>,
    {
        const TRIES: u32 = 5;
        for _ in 1..TRIES {
            match write().await {
                Err(error) if error.is_transient() => self.ports.breaker.failed(&error),
                answer => return answer,
            }
            tokio::time::sleep(self.settings.lease / 30).await;
        }
        write().await
    }
}

/// Counts what became of it, and settles it unless it is to be tried again.
fn note(job: &mut NotificationJob, target: Target, delivery: Delivery) -> Option<Again> {
    let (word, again) = match delivery {
        Delivery::Told => ("told", None),
        Delivery::Gone => ("gone", None),
        Delivery::Refused { reason } => {
            tracing::warn!(
                message_id = %job.message_id,
                channel = target.channel(),
                reason,
                "a notification was refused"
            );
            ("refused", None)
        }
        Delivery::Later { after, reason } => ("retry", Some(Again { after, reason })),
    };
    count(target.channel(), word, 1);
    if again.is_none() {
        job.done.settled.push(target);
    }
    again
}

fn count(channel: &'static str, result: &'static str, jobs: usize) {
    metrics::counter!("gravity_chat_notifications_total", "channel" => channel, "result" => result)
        .increment(u64::try_from(jobs).unwrap_or(0));
}

#[cfg(test)]
#[path = "notify_tests.rs"]
mod tests;
