use super::*;
use gravity_domain::chat::notification::{MockNotificationJobs, MockPushNotifier, MockWebhookNotifier};
use gravity_domain::chat::{ConnectionId, Presence, Progress, PushKeys};
use gravity_domain::clock::Timestamp;
use gravity_domain::id::{ChatMessageId, ConversationId};
use gravity_domain::sync::ports::MockBreaker;
use std::sync::Mutex;
use uuid::Uuid;

const RECEIVER: UserId = UserId(Uuid::from_u128(2));

/// Who is there, and whether anybody knows.
#[derive(Default)]
struct Board(Mutex<Option<PresenceStatus>>);

#[async_trait::async_trait]
impl PresenceBoard for Board {
    async fn arrived(&self, _: UserId, _: ConnectionId) -> Result<bool, StoreError> {
        Ok(true)
    }
    async fn left(&self, _: UserId, _: ConnectionId) -> Result<bool, StoreError> {
        Ok(true)
    }
    async fn renew(&self, _: &[(UserId, ConnectionId)]) -> Result<(), StoreError> {
        Ok(())
    }
    async fn look_up(&self, users: &[UserId]) -> Result<Vec<Presence>, StoreError> {
        let status = self.0.lock().unwrap().ok_or(StoreError::unavailable("connect"))?;
        let of = |user_id: &UserId| Presence {
            user_id: *user_id,
            status,
            last_seen: None,
        };
        Ok(users.iter().map(of).collect())
    }
}

#[derive(Debug, Clone)]
struct Row {
    job: NotificationJob,
    run_at: Instant,
}

/// The table, on the test's clock.
#[derive(Default)]
struct Table {
    rows: Mutex<Vec<Row>>,
    subscriptions: Mutex<Vec<PushSubscription>>,
    webhook: bool,
    no: Option<&'static str>,
    broken_finishes: Mutex<u32>,
}

impl Table {
    fn with_job(push: u128, webhook: bool) -> Self {
        let job = NotificationJob {
            message_id: ChatMessageId(Uuid::from_u128(1)),
            user_id: RECEIVER,
            attempts: 0,
            done: Progress::default(),
        };
        Self {
            rows: Mutex::new(vec![Row {
                job,
                run_at: Instant::now(),
            }]),
            subscriptions: Mutex::new((1..=push).map(subscription).collect()),
            webhook,
            ..Self::default()
        }
    }

    fn is_empty(&self) -> bool {
        self.rows.lock().unwrap().is_empty()
    }

    /// How long until the job is due.
    fn due_in(&self) -> Duration {
        self.rows.lock().unwrap()[0].run_at - Instant::now()
    }

    fn change(&self, job: &NotificationJob, change: impl FnOnce(&mut Row)) -> bool {
        let mut rows = self.rows.lock().unwrap();
        let row = rows
            .iter_mut()
            .find(|row| row.job.message_id == job.message_id && row.job.attempts == job.attempts);
        row.map(change).is_some()
    }
}

fn subscription(id: u128) -> PushSubscription {
    PushSubscription {
        id: Uuid::from_u128(id),
        user_id: RECEIVER,
        endpoint: format!("https://push.example.com/{id}"),
        keys: PushKeys {
            p256dh: vec![4; 65],
            auth: vec![0; 16],
        },
        created_at: Timestamp::EPOCH,
    }
}

#[async_trait::async_trait]
impl NotificationJobs for Table {
    async fn claim(&self, limit: u32, lease: Duration) -> Result<Vec<NotificationJob>, StoreError> {
        let (mut rows, now) = (self.rows.lock().unwrap(), Instant::now());
        let due = rows.iter_mut().filter(|row| row.run_at <= now);
        let claimed = due.take(limit as usize).map(|row| {
            row.run_at = now + lease;
            row.job.attempts += 1;
            row.job.clone()
        });
        Ok(claimed.collect())
    }

    async fn summons(&self, job: &NotificationJob) -> Result<Summons, StoreError> {
        if let Some(why) = self.no {
            return Ok(Summons::No(why));
        }
        Ok(Summons::Tell {
            notice: Box::new(Notice {
                event_id: job.event_id(),
                user_id: job.user_id,
                message_id: job.message_id,
                conversation_id: ConversationId(Uuid::from_u128(3)),
                sender_id: UserId(Uuid::from_u128(4)),
                sender_name: "Ada".into(),
                snippet: "hello".into(),
                created_at: Timestamp::EPOCH,
            }),
            subscriptions: self.subscriptions.lock().unwrap().clone(),
            webhook: self.webhook,
        })
    }

    async fn record(&self, job: &NotificationJob) -> Result<bool, StoreError> {
        Ok(self.change(job, |row| row.job.done = job.done.clone()))
    }

    async fn put_off(&self, job: &NotificationJob, after: Duration, _: &str) -> Result<(), StoreError> {
        self.change(job, |row| {
            row.job.done = job.done.clone();
            row.run_at = Instant::now() + after;
        });
        Ok(())
    }

    async fn finish(&self, jobs: &[NotificationJob]) -> Result<(), StoreError> {
        let mut broken = self.broken_finishes.lock().unwrap();
        if *broken > 0 {
            *broken -= 1;
            return Err(StoreError::unavailable("closed"));
        }
        self.rows.lock().unwrap().retain(|row| {
            !jobs
                .iter()
                .any(|job| (job.message_id, job.attempts) == (row.job.message_id, row.job.attempts))
        });
        Ok(())
    }

    async fn forget(&self, subscription: Uuid) -> Result<(), StoreError> {
        self.subscriptions
            .lock()
            .unwrap()
            .retain(|one| one.id != subscription);
        Ok(())
    }

    async fn waiting(&self) -> Result<u64, StoreError> {
        Ok(self.rows.lock().unwrap().len() as u64)
    }
}

/// Says what it was given, in turn, then that all is told; remembers who was told.
struct Outside {
    answers: Mutex<Vec<Delivery>>,
    told: Mutex<Vec<(Target, Uuid)>>,
}

impl Outside {
    fn saying(answers: &[Delivery]) -> Arc<Self> {
        Arc::new(Self {
            answers: Mutex::new(answers.to_vec()),
            told: Mutex::default(),
        })
    }

    fn answer(&self, target: Target, notice: &Notice) -> Delivery {
        self.told.lock().unwrap().push((target, notice.event_id));
        let mut answers = self.answers.lock().unwrap();
        if answers.is_empty() {
            Delivery::Told
        } else {
            answers.remove(0)
        }
    }

    fn calls(&self) -> usize {
        self.told.lock().unwrap().len()
    }
}

#[async_trait::async_trait]
impl PushNotifier for Outside {
    fn public_key(&self) -> String {
        String::new()
    }
    async fn push(&self, subscription: &PushSubscription, notice: &Notice) -> Delivery {
        self.answer(Target::Push(subscription.id), notice)
    }
}

#[async_trait::async_trait]
impl WebhookNotifier for Outside {
    async fn post(&self, notice: &Notice) -> Delivery {
        self.answer(Target::Webhook, notice)
    }
}

struct World {
    table: Arc<Table>,
    board: Arc<Board>,
    outside: Arc<Outside>,
    notify: NotifyAbsent,
}

fn world(table: Table, answers: &[Delivery]) -> World {
    let (table, board, outside) = (
        Arc::new(table),
        Arc::new(Board::default()),
        Outside::saying(answers),
    );
    *board.0.lock().unwrap() = Some(PresenceStatus::Offline);
    let mut breaker = MockBreaker::new();
    breaker.expect_allows_writes().return_const(true);
    breaker.expect_failed().return_const(());
    let ports = NotifyPorts {
        jobs: table.clone(),
        presence: board.clone(),
        is_here: Arc::new(|_| false),
        push: Some(outside.clone()),
        webhook: Some(outside.clone()),
        breaker: Arc::new(breaker),
    };
    World {
        table,
        board,
        outside,
        notify: NotifyAbsent::new(ports, NotifySettings::default()),
    }
}

const BUSY: Delivery = Delivery::Later {
    after: None,
    reason: "status",
};

#[tokio::test(start_paused = true)]
async fn whoever_is_away_is_told_once_by_every_way() {
    let world = world(Table::with_job(2, true), &[]);
    assert!(!world.notify.round().await);
    assert_eq!(world.outside.calls(), 3);
    assert!(world.table.is_empty());
    world.notify.round().await;
    assert_eq!(world.outside.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_there_or_has_a_socket_here_is_not_told() {
    let online = world(Table::with_job(1, true), &[]);
    *online.board.0.lock().unwrap() = Some(PresenceStatus::Online);
    online.notify.round().await;
    assert!(online.table.is_empty());
    assert_eq!(online.outside.calls(), 0);

    let mut here = world(Table::with_job(1, true), &[]);
    *here.board.0.lock().unwrap() = None;
    here.notify.ports.is_here = Arc::new(|user| user == RECEIVER);
    here.notify.round().await;
    assert!(here.table.is_empty());
    assert_eq!(here.outside.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_or_is_not_wanted_is_not_told() {
    for why in ["read", "unwanted", "gone"] {
        let table = Table {
            no: Some(why),
            ..Table::with_job(1, true)
        };
        let world = world(table, &[]);
        world.notify.round().await;
        assert!(world.table.is_empty());
        assert_eq!(world.outside.calls(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_without_any_way_is_over() {
    let world = world(Table::with_job(0, false), &[]);
    world.notify.round().await;
    assert!(world.table.is_empty());
}

#[tokio::test(start_paused = true)]
async fn unknown_presence_is_waited_for_a_few_times_and_then_the_receiver_is_told() {
    let world = world(Table::with_job(1, false), &[]);
    *world.board.0.lock().unwrap() = None;
    let settings = NotifySettings::default();
    for _ in 0..settings.unknown_waits {
        world.notify.round().await;
        assert_eq!(world.outside.calls(), 0);
        assert_eq!(world.table.due_in(), settings.unknown_pause);
        tokio::time::advance(settings.unknown_pause).await;
    }
    world.notify.round().await;
    assert_eq!(world.outside.calls(), 1);
    assert!(world.table.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_retry_tells_only_those_who_were_not_told_under_the_same_event_id() {
    let world = world(Table::with_job(2, true), &[Delivery::Told, BUSY]);
    world.notify.round().await;
    assert_eq!(world.outside.calls(), 3);
    let pause = world.table.due_in();
    assert!((5_000..=6_250).contains(&pause.as_millis()), "{pause:?}");
    tokio::time::advance(pause).await;
    world.notify.round().await;
    let told = world.outside.told.lock().unwrap().clone();
    assert_eq!(told.len(), 4);
    assert_eq!(told[3], told[1], "the one that was busy");
    assert!(world.table.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_has_ended_is_removed() {
    let world = world(Table::with_job(1, false), &[Delivery::Gone]);
    world.notify.round().await;
    assert!(world.table.subscriptions.lock().unwrap().is_empty());
    assert!(world.table.is_empty());
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_and_heed_what_the_other_side_asks_for() {
    let asked = Duration::from_secs(600);
    let throttled = Delivery::Later {
        after: Some(asked),
        reason: "throttled",
    };
    let world = world(Table::with_job(1, false), &[BUSY, BUSY, throttled]);
    let mut pauses = Vec::new();
    for _ in 0..3 {
        world.notify.round().await;
        pauses.push(world.table.due_in());
        tokio::time::advance(world.table.due_in()).await;
    }
    assert!((5_000..=6_250).contains(&pauses[0].as_millis()), "{pauses:?}");
    assert!((15_000..=18_750).contains(&pauses[1].as_millis()), "{pauses:?}");
    assert!(pauses[2] >= asked && pauses[2] <= asked * 5 / 4, "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn after_the_last_attempt_the_job_is_dropped() {
    let world = world(Table::with_job(1, false), &[BUSY; 20]);
    let attempts = NotifySettings::default().max_attempts;
    for _ in 0..attempts {
        assert!(!world.table.is_empty());
        world.notify.round().await;
        tokio::time::advance(Duration::from_secs(7 * 3_600)).await;
    }
    assert!(world.table.is_empty());
    assert_eq!(world.outside.calls(), attempts as usize);
}

#[tokio::test(start_paused = true)]
async fn what_was_told_is_written_down_even_when_the_store_is_away_for_a_while() {
    let world = world(Table::with_job(1, false), &[]);
    *world.table.broken_finishes.lock().unwrap() = 3;
    world.notify.round().await;
    assert!(world.table.is_empty());
    assert_eq!(world.outside.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_dies_leaves_its_jobs_to_the_others() {
    let world = world(Table::with_job(1, false), &[]);
    let lease = NotifySettings::default().lease;
    let taken = world.table.claim(10, lease).await.unwrap();
    world.notify.round().await;
    assert_eq!(world.outside.calls(), 0);
    tokio::time::advance(lease).await;
    world.notify.round().await;
    assert_eq!(world.outside.calls(), 1);
    assert!(!world.table.record(&taken[0]).await.unwrap());
}

#[tokio::test]
async fn nothing_is_taken_up_while_the_store_takes_no_writes() {
    let mut breaker = MockBreaker::new();
    breaker.expect_allows_writes().return_const(false);
    let ports = NotifyPorts {
        jobs: Arc::new(MockNotificationJobs::new()),
        presence: Arc::new(Board::default()),
        is_here: Arc::new(|_| false),
        push: Some(Arc::new(MockPushNotifier::new())),
        webhook: Some(Arc::new(MockWebhookNotifier::new())),
        breaker: Arc::new(breaker),
    };
    let notify = NotifyAbsent::new(ports, NotifySettings::default());
    assert!(!notify.round().await);
}
