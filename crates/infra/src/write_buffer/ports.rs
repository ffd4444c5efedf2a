//! The handle, and the ports it serves.

use super::engine::{EngineError, OpenEngine};
use super::queue::{Limits, MAX_PER_ENTITY, Parcelled};
use super::readers::Readers;
use super::request::{Answer, Burial, Job, Request};
use super::search::Search;
use super::shared::{Access, Shared};
use super::wide::{Bounds, WideReads, by_deadline};
use super::writer::Writer;
use super::{BufferSettings, directory::Directory, key, letter, measure, query};
use async_trait::async_trait;
use gravity_domain::clock::WallClock;
use gravity_domain::id::{OperationId, UserId};
use gravity_domain::sync::ports::{DeadLetters, DrainBuffer, WriteBuffer};
use gravity_domain::sync::{
    BufferError, BufferStatus, DeadLetter, EntityKind, Entry, Operation, Parcel, Pending,
};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use uuid::Uuid;

/// Requests that wait for the writer at most; further callers wait for a place.
const PLACES: usize = 4_096;
/// Whole lanes that are read at once: each may be long.
pub(super) const WIDE_READS: usize = 4;

/// The write buffer of one directory. Clones share it; it closes when the last one is dropped, or by [`Self::close`].
#[derive(Clone)]
pub struct DurableBuffer {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    places: Arc<Semaphore>,
    readers: Readers,
    pub(super) wide_reads: Arc<WideReads>,
    pub(super) search: Arc<Search>,
}

impl fmt::Debug for DurableBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableBuffer")
            .field("status", &self.shared.status())
            .finish_non_exhaustive()
    }
}

impl DurableBuffer {
    /// Starts the buffer's thread, which opens the store, and goes on trying for as long as it cannot. Never fails:
    /// until it is open, the buffer is unavailable. Requests made meanwhile wait for the first try.
    pub fn open(settings: BufferSettings, wall: Arc<dyn WallClock>) -> Self {
        let engine = settings.engine;
        Self::open_with(settings, wall, Box::new(engine))
    }

    pub(super) fn open_with(
        settings: BufferSettings,
        wall: Arc<dyn WallClock>,
        opener: Box<dyn OpenEngine>,
    ) -> Self {
        let shared = Arc::new(Shared::new(Limits {
            operations: settings.max_operations,
            bytes: settings.max_bytes,
            per_user: settings.max_per_user,
            per_entity: MAX_PER_ENTITY,
        }));
        let (sender, jobs) = channel();
        let writer = Writer {
            directory: Directory::new(&settings.path, settings.engine),
            settings,
            opener,
            shared: shared.clone(),
            wall,
            jobs,
            lock: None,
            watermark: None,
            condemned: None,
            kept: Vec::new(),
            held: None,
            disk_full: false,
            generation: 0,
            failures: 0,
            panics: 0,
        };
        let thread = std::thread::Builder::new().name("write-buffer".into());
        if let Err(error) = thread.spawn(move || writer.supervise()) {
            tracing::error!(%error, "the write buffer's thread could not be started");
        }
        Self {
            shared,
            jobs: sender,
            places: Arc::new(Semaphore::new(PLACES)),
            readers: Readers::start(),
            wide_reads: Arc::new(WideReads::of(WIDE_READS)),
            search: Arc::default(),
        }
    }

    /// Waits until the store is open. False when it is not within `limit`.
    pub async fn wait_until_open(&self, limit: Duration) -> bool {
        let mut opened = self.shared.opened();
        let open = opened.wait_for(|open| *open);
        matches!(tokio::time::timeout(limit, open).await, Ok(Ok(_)))
    }

    /// Finishes what was asked before, closes the store and gives up the directory. The buffer is unavailable after it.
    pub async fn close(&self) {
        let _ = self.ask(Request::Close).await;
    }

    pub(super) async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, BufferError> {
        let closed = || BufferError::Unavailable("closed".into());
        let place = self.places.clone().acquire_owned().await.map_err(|_| closed())?;
        let (answer, outcome) = oneshot::channel();
        let request = request(answer);
        self.jobs.send(Job { request, place }).map_err(|_| closed())?;
        outcome.await.map_err(|_| closed())?
    }

    /// A request does not wait for a read beyond its deadline.
    async fn read_aside<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared) -> Result<T, BufferError> + Send + 'static,
    ) -> Result<T, BufferError> {
        let shared = self.shared.clone();
        by_deadline(self.readers.run(move || read(&shared))).await?
    }
}

#[async_trait]
impl WriteBuffer for DurableBuffer {
    async fn append(&self, operation: Operation) -> Result<(), BufferError> {
        let taken = match Parcelled::of(&operation) {
            Ok(item) => self.ask(|answer| Request::Append(Box::new(item), answer)).await,
            Err(_) => Err(BufferError::TooLarge),
        };
        taken.inspect_err(measure::refused)
    }

    async fn lane_length(&self, user: UserId) -> Result<u64, BufferError> {
        if self.shared.is_lane_empty(user)? {
            return Ok(0);
        }
        self.read_aside(move |shared| {
            let length = shared.with_waiting(|reader| query::lane_length(reader, user));
            length.map(Access::or_default)
        })
        .await
    }

    async fn pending_on(
        &self,
        user: UserId,
        entity: EntityKind,
        id: Uuid,
    ) -> Result<Vec<Pending>, BufferError> {
        if self.shared.is_lane_empty(user)? {
            return Ok(Vec::new());
        }
        let bounds = Bounds::current();
        self.read_aside(move |shared| {
            let prefix = key::entity(user, entity.code(), id);
            legible(shared.with_waiting(|reader| query::pending(reader, &prefix, bounds)))
        })
        .await
    }

    async fn pending_of(&self, user: UserId, entity: EntityKind) -> Result<Vec<Pending>, BufferError> {
        if self.shared.is_lane_empty(user)? {
            return Ok(Vec::new());
        }
        let (turn, bounds) = (self.wide_reads.enter(user).await?, Bounds::current());
        self.read_aside(move |shared| {
            let _turn = turn;
            let prefix = key::entities(user, entity.code());
            legible(shared.with_waiting(|reader| query::pending(reader, &prefix, bounds)))
        })
        .await
    }

    async fn find(&self, id: OperationId) -> Result<Option<Pending>, BufferError> {
        if self.shared.is_empty()? {
            return Ok(None);
        }
        self.read_aside(move |shared| legible(shared.with_waiting(|reader| query::find(reader, id))))
            .await
    }

    async fn find_dead(&self, id: OperationId) -> Result<Option<DeadLetter>, BufferError> {
        if self.shared.has_no_letters()? {
            return Ok(None);
        }
        self.read_aside(move |shared| {
            let found = shared.with_dead(|reader| query::find_letter(reader, id));
            Ok(found.map(Access::or_default)?.map(letter::shown))
        })
        .await
    }

    fn status(&self) -> BufferStatus {
        self.shared.status()
    }
}

#[async_trait]
impl DrainBuffer for DurableBuffer {
    async fn peek(&self, after: Option<Parcel>, limit: usize) -> Result<Vec<Entry>, BufferError> {
        self.read_aside(move |shared| {
            let acknowledged = shared.acknowledged();
            let entries = shared.with_waiting(|reader| query::peek(reader, after, limit, acknowledged));
            entries.map(Access::or_default)
        })
        .await
    }

    async fn remove(&self, parcels: Vec<Parcel>) -> Result<(), BufferError> {
        self.ask(|answer| Request::Remove(parcels, answer)).await
    }

    async fn bury(&self, parcel: Parcel, attempts: u32, reason: String) -> Result<(), BufferError> {
        let is_named = self
            .read_aside(move |shared| {
                let named = shared.with_waiting(|reader| query::names_itself(reader, parcel))?;
                Ok(matches!(named, Access::Nothing | Access::Asked(true)))
            })
            .await?;
        let entries = match is_named {
            true => None,
            false => self.search.entries_of(&self.shared, parcel.sequence).await?,
        };
        let burial = Burial {
            parcel,
            attempts,
            reason,
            entries,
        };
        self.ask(|answer| Request::Bury(Box::new(burial), answer)).await
    }

    async fn appended(&self) {
        self.shared.arrived.notified().await;
    }
}

#[async_trait]
impl DeadLetters for DurableBuffer {
    async fn list(&self, after: Option<OperationId>, limit: usize) -> Result<Vec<DeadLetter>, BufferError> {
        self.read_aside(move |shared| {
            let letters = shared.with_dead(|reader| query::letters(reader, after, limit));
            let letters = letters.map(Access::or_default)?;
            Ok(letters.into_iter().map(letter::shown).collect())
        })
        .await
    }

    async fn retry(&self, id: OperationId) -> Result<DeadLetter, BufferError> {
        let letter = self.ask(|answer| Request::Retry(id, answer)).await;
        letter.map(letter::shown)
    }

    async fn discard(&self, id: OperationId) -> Result<DeadLetter, BufferError> {
        let letter = self.ask(|answer| Request::Discard(id, answer)).await;
        letter.map(letter::shown)
    }
}

/// What was read; a record that cannot be makes the answer unknown.
fn legible<T: Default>(read: Result<Access<Result<T, BufferError>>, BufferError>) -> Result<T, BufferError> {
    match read? {
        Access::Asked(found) => found,
        Access::Nothing => Ok(T::default()),
    }
}

impl From<EngineError> for BufferError {
    fn from(error: EngineError) -> Self {
        Self::Unavailable(error.to_string())
    }
}
