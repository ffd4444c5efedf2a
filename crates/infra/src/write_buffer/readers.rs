//! The threads that read the store for everybody but the writer: a few, and always the same.
//!
//! Each thread that reads sled holds back some MiB. On a runtime's pool, which grows to dozens of threads when reads come
//! together, that was more than the store's cache.

use gravity_domain::sync::BufferError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// More than the whole lanes that are read at once, so that short reads need not wait for these.
const THREADS: usize = super::ports::WIDE_READS + 4;

type Job = Box<dyn FnOnce() + Send>;

/// Clones share the threads, which end with the last clone.
#[derive(Clone)]
pub(super) struct Readers(Sender<Job>);

impl Readers {
    pub(super) fn start() -> Self {
        let (sender, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..THREADS {
            let jobs = jobs.clone();
            let thread = std::thread::Builder::new().name("buffer-reader".into());
            if let Err(error) = thread.spawn(move || serve(&jobs)) {
                tracing::error!(%error, "a thread that reads the write buffer could not be started");
            }
        }
        Self(sender)
    }

    /// Runs `read` on one of the threads; not at all, when nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, BufferError> + Send + 'static,
    ) -> Result<T, BufferError> {
        let unavailable = |why: &str| BufferError::Unavailable(why.into());
        let (answer, outcome) = oneshot::channel();
        let job = move || {
            if !answer.is_closed() {
                let _ = answer.send(read());
            }
        };
        self.0
            .send(Box::new(job))
            .map_err(|_| unavailable("nobody reads the store"))?;
        outcome.await.map_err(|_| unavailable("a read panicked"))?
    }
}

fn serve(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // The panic has been reported by its hook; the caller sees that no answer comes.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}
