//! The turn, the attempt and the append share one deadline.

use super::*;
use async_trait::async_trait;
use gravity_domain::deadline::{self, Deadline};
use gravity_domain::sync::{BufferStatus, DeadLetter};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

const SECOND: Duration = Duration::from_secs(1);

/// A Postgres that hangs: as an adapter must, it waits no longer than half a second and the request's deadline.
struct Hanging;

#[async_trait]
impl OperationStore for Hanging {
    async fn apply(&self, _: &Operation) -> Result<Verdict, StoreError> {
        let limit = deadline::current().expect("every write has a deadline");
        sleep_until(Instant::from_std(limit.for_stores()).min(Instant::now() + SECOND / 2)).await;
        Err(StoreError::unavailable("timeout"))
    }

    async fn find(&self, _: UserId, _: OperationId) -> Result<Option<AppliedRecord>, StoreError> {
        unreachable!("no write here has a key and a lane")
    }
}

/// An empty buffer whose appends come back when they are let.
struct Slow {
    inner: MockWriteBuffer,
    appends: Semaphore,
}

impl Slow {
    fn new(appends: usize) -> (Arc<Self>, Arc<Mutex<Vec<Operation>>>) {
        let (world, appended) = World::default().lane(0).pending(vec![]).appends();
        let slow = Self {
            inner: world.buffer,
            appends: Semaphore::new(appends),
        };
        (Arc::new(slow), appended)
    }
}

#[async_trait]
impl WriteBuffer for Slow {
    async fn append(&self, operation: Operation) -> Result<(), BufferError> {
        let _permit = self.appends.acquire().await.expect("it is never closed");
        self.inner.append(operation).await
    }

    async fn lane_length(&self, user: UserId) -> Result<u64, BufferError> {
        self.inner.lane_length(user).await
    }

    async fn pending_on(
        &self,
        user: UserId,
        entity: EntityKind,
        id: Uuid,
    ) -> Result<Vec<Pending>, BufferError> {
        self.inner.pending_on(user, entity, id).await
    }

    async fn pending_of(&self, user: UserId, entity: EntityKind) -> Result<Vec<Pending>, BufferError> {
        self.inner.pending_of(user, entity).await
    }

    async fn find(&self, id: OperationId) -> Result<Option<Pending>, BufferError> {
        self.inner.find(id).await
    }

    async fn find_dead(&self, id: OperationId) -> Result<Option<DeadLetter>, BufferError> {
        self.inner.find_dead(id).await
    }

    fn status(&self) -> BufferStatus {
        self.inner.status()
    }
}

/// A breaker that stays closed whatever fails, as while a failure is only a doubt.
fn world() -> World {
    let mut world = World::new(true).cached(Found::Unknown);
    world.breaker.expect_failed().return_const(());
    world
}

/// Writes as a request that began now and is to be answered within a second. What came of it, and after how long.
async fn write(
    writer: &Arc<Writer>,
    reader: &Arc<EntityReader<Task>>,
    user: UserId,
) -> (Result<Written<Task>, WriteError>, Duration) {
    let start = Instant::now();
    let limit = Deadline::of(start.into_std(), SECOND);
    let writing = writer.write(request(user, None), reader, create("t"));
    (deadline::within(limit, writing).await, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn the_turn_the_attempt_and_the_append_share_one_deadline() {
    let (buffer, appended) = Slow::new(8);
    let (writer, reader) = world().build_over(Arc::new(Hanging), buffer);
    let user = UserId::random();
    let writes = (0..3).map(|_| write(&writer, &reader, user));
    let answers = futures_util::future::join_all(writes).await;
    let took: Vec<_> = answers.iter().map(|(_, took)| took.as_millis()).collect();
    // The second has three tenths of a second left for its attempt; the third gets no turn in time.
    assert_eq!(took, [500, 800, 800]);
    let answers: Vec<_> = answers.into_iter().map(|(answer, _)| answer).collect();
    assert!(answers[..2].iter().all(|answer| matches!(
        answer,
        Ok(Written {
            outcome: WriteOutcome::Buffered(_),
            ..
        })
    )));
    assert!(matches!(answers[2], Err(WriteError::Unknown)));
    assert_eq!(appended.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_append_that_does_not_come_back_is_not_acknowledged_and_nothing_overtakes_it() {
    let (buffer, appended) = Slow::new(0);
    let (writer, reader) = world().build_over(Arc::new(Hanging), buffer.clone());
    let user = UserId::random();
    let (answer, took) = write(&writer, &reader, user).await;
    assert!(matches!(answer, Err(WriteError::Unknown)));
    assert_eq!(took, SECOND);

    let (next, took) = write(&writer, &reader, user).await;
    assert!(matches!(next, Err(WriteError::Unknown)), "it has no turn");
    assert_eq!(took, SECOND * 4 / 5);
    assert!(appended.lock().unwrap().is_empty());

    buffer.appends.add_permits(8);
    let (last, _) = write(&writer, &reader, user).await;
    let last = last.unwrap().operation_id;
    let stamps: Vec<_> = appended
        .lock()
        .unwrap()
        .iter()
        .map(|o| (o.accepted_at, o.id))
        .collect();
    assert_eq!((stamps.len(), stamps[1].1), (2, last));
    assert!(stamps.is_sorted());
}

#[tokio::test(start_paused = true)]
async fn a_write_without_a_request_has_the_deadline_of_the_settings() {
    let (buffer, _) = Slow::new(0);
    let (writer, reader) = world().build_over(Arc::new(Hanging), buffer);
    let start = Instant::now();
    let answer = writer
        .write(request(UserId::random(), None), &reader, create("t"))
        .await;
    assert!(matches!(answer, Err(WriteError::Unknown)));
    assert_eq!(start.elapsed(), 10 * SECOND);
}
