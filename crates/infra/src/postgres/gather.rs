//! What is asked for at the same time is asked together: one round trip, and one transaction, for many callers.
//!
//! Nobody waits for company. A question that comes while fewer than [`AT_ONCE`] batches are under way is put at once; the
//! others gather until one of those is back, and go out together then. Idle, that costs nothing; the busier it is, the larger the
//! batches. A question is always put after it came, so an answer is never older than it.

use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Batches under way: while one is committed, the next is worked on.
const AT_ONCE: usize = 2;

/// A question, and where its answer goes.
pub(crate) type Asked<Q, A> = (Q, oneshot::Sender<A>);

type Ask<Q, A> = dyn Fn(Vec<Asked<Q, A>>) -> BoxFuture<'static, ()> + Send + Sync;

/// When somebody came to a question.
type Taken = Arc<OnceLock<Instant>>;

struct Queue<Q, A> {
    waiting: VecDeque<(Taken, Asked<Q, A>)>,
    under_way: usize,
}

struct Shared<Q, A> {
    /// Not that of the asker, which may end before the others.
    handle: Handle,
    most: usize,
    at_once: usize,
    queue: Mutex<Queue<Q, A>>,
    ask: Box<Ask<Q, A>>,
}

/// Puts the questions of many callers together. Cheap to clone.
pub(crate) struct Gather<Q, A> {
    shared: Arc<Shared<Q, A>>,
}

impl<Q, A> Clone for Gather<Q, A> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<Q, A> fmt::Debug for Gather<Q, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather")
            .field("most", &self.shared.most)
            .finish_non_exhaustive()
    }
}

impl<Q, A> Shared<Q, A> {
    fn lock(&self) -> MutexGuard<'_, Queue<Q, A>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the question is taken, and whether it is one to be put at once.
    fn take(&self, asked: Asked<Q, A>) -> (Taken, bool) {
        let taken = Taken::default();
        let mut queue = self.lock();
        queue.waiting.push_back((Arc::clone(&taken), asked));
        let is_free = queue.under_way < self.at_once;
        queue.under_way += usize::from(is_free);
        (taken, is_free)
    }

    /// The next batch, without those who have gone meanwhile.
    fn next(&self) -> Vec<Asked<Q, A>> {
        let mut queue = self.lock();
        let mut batch = Vec::new();
        while batch.len() < self.most
            && let Some((taken, asked)) = queue.waiting.pop_front()
        {
            taken.get_or_init(Instant::now);
            if !asked.1.is_closed() {
                batch.push(asked);
            }
        }
        batch
    }
}

/// One batch under way, however it ends.
struct UnderWay<Q: Send + 'static, A: Send + 'static> {
    shared: Arc<Shared<Q, A>>,
    is_over: bool,
}

impl<Q: Send + 'static, A: Send + 'static> UnderWay<Q, A> {
    fn start(shared: Arc<Shared<Q, A>>) {
        let handle = shared.handle.clone();
        handle.spawn(run(Self {
            shared,
            is_over: false,
        }));
    }

    /// Whether nobody waits: then this is over, in the same moment, so that whoever comes next finds the place free.
    fn ends(&mut self) -> bool {
        let mut queue = self.shared.lock();
        self.is_over = queue.waiting.is_empty();
        queue.under_way -= usize::from(self.is_over);
        self.is_over
    }
}

impl<Q: Send + 'static, A: Send + 'static> Drop for UnderWay<Q, A> {
    /// Whoever waits is not to wait for ever because of a panic.
    fn drop(&mut self) {
        if !self.is_over && std::thread::panicking() {
            Self::start(Arc::clone(&self.shared));
        }
    }
}

impl<Q: Send + 'static, A: Send + 'static> Gather<Q, A> {
    /// At most `most` questions together, asked on `handle`. `ask` gives one answer each, in their order.
    pub(crate) fn new<F>(
        handle: &Handle,
        most: usize,
        ask: impl Fn(Vec<Q>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Vec<A>> + Send + 'static,
    {
        Self::with(handle, (most, AT_ONCE), move |batch| {
            let (questions, callers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let answers = ask(questions);
            async move {
                for (caller, answer) in callers.into_iter().zip(answers.await) {
                    // Who has gone needs no answer.
                    let _ = caller.send(answer);
                }
            }
        })
    }

    /// As [`Self::new`], with `at_once` batches under way, each until `ask` is through with it; it sends the answers itself, and may do
    /// so later.
    pub(crate) fn with<F>(
        handle: &Handle,
        (most, at_once): (usize, usize),
        ask: impl Fn(Vec<Asked<Q, A>>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let queue = Mutex::new(Queue {
            waiting: VecDeque::new(),
            under_way: 0,
        });
        let ask = Box::new(move |batch| Box::pin(ask(batch)) as BoxFuture<'static, ()>);
        Self {
            shared: Arc::new(Shared {
                handle: handle.clone(),
                most,
                at_once,
                queue,
                ask,
            }),
        }
    }

    /// Puts a question. One whose asker goes away before it was put is not put.
    pub(crate) fn put(&self, question: Q) -> Put<Q, A> {
        let (caller, answer) = oneshot::channel();
        let (taken, is_free) = self.shared.take((question, caller));
        if is_free {
            UnderWay::start(Arc::clone(&self.shared));
        }
        Put {
            shared: Arc::clone(&self.shared),
            taken,
            answer,
        }
    }
}

/// A question that was put.
pub(crate) struct Put<Q, A> {
    shared: Arc<Shared<Q, A>>,
    taken: Taken,
    answer: oneshot::Receiver<A>,
}

impl<Q, A> Put<Q, A> {
    /// The answer; `None` when the runtime that asked ends before it came.
    pub(crate) async fn answer(&mut self) -> Option<A> {
        (&mut self.answer).await.ok()
    }

    /// When somebody came to the question. If nobody has, nobody will.
    pub(crate) fn withdraw(self) -> Option<Instant> {
        let mut queue = self.shared.lock();
        queue
            .waiting
            .retain(|(taken, _)| !Arc::ptr_eq(taken, &self.taken));
        self.taken.get().copied()
    }
}

async fn run<Q: Send + 'static, A: Send + 'static>(mut under_way: UnderWay<Q, A>) {
    while !under_way.ends() {
        let batch = under_way.shared.next();
        if !batch.is_empty() {
            (under_way.shared.ask)(batch).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use tokio::sync::Semaphore;

    type Sizes = Arc<Mutex<Vec<usize>>>;

    /// Doubles; each answer needs a permit. The sizes of the batches.
    fn doubling(most: usize) -> (Gather<u32, u32>, Arc<Semaphore>, Sizes) {
        let (permits, sizes) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (gate, seen) = (Arc::clone(&permits), Arc::clone(&sizes));
        let gather = Gather::new(&Handle::current(), most, move |questions: Vec<u32>| {
            let (gate, seen) = (Arc::clone(&gate), Arc::clone(&seen));
            async move {
                seen.lock().unwrap().push(questions.len());
                gate.acquire().await.unwrap().forget();
                questions.into_iter().map(|question| question * 2).collect()
            }
        });
        (gather, permits, sizes)
    }

    async fn until_asked(sizes: &Mutex<Vec<usize>>, times: usize) {
        while sizes.lock().unwrap().len() < times {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_first_go_out_alone_and_those_that_come_meanwhile_together_each_with_its_own_answer() {
        let (gather, permits, sizes) = doubling(8);
        let ask = |question| {
            let gather = gather.clone();
            tokio::spawn(async move { gather.put(question).answer().await })
        };
        let mut asked = Vec::new();
        for question in 0..12 {
            asked.push(ask(question));
            if question < 2 {
                until_asked(&sizes, asked.len()).await;
            }
        }
        tokio::task::yield_now().await;
        permits.add_permits(4);
        for (question, asked) in (0..).zip(asked) {
            assert_eq!(asked.await.unwrap(), Some(question * 2));
        }
        assert_eq!(*sizes.lock().unwrap(), [1, 1, 8, 2]);
        permits.add_permits(1);
        assert_eq!(
            gather.put(21).answer().await,
            Some(42),
            "it goes on after it was idle"
        );
    }

    #[tokio::test]
    async fn a_question_whose_asker_has_gone_before_it_was_put_is_not_put() {
        let (gather, permits, sizes) = doubling(8);
        let ask = |question| {
            let gather = gather.clone();
            tokio::spawn(async move { gather.put(question).answer().await })
        };
        let mut busy = Vec::new();
        for question in 1..=2 {
            busy.push(ask(question));
            until_asked(&sizes, busy.len()).await;
        }
        let gone = ask(3);
        tokio::task::yield_now().await;
        gone.abort();
        assert!(gone.await.is_err());
        permits.add_permits(2);
        for asked in busy {
            asked.await.unwrap().unwrap();
        }
        permits.add_permits(1);
        assert_eq!(gather.put(4).answer().await, Some(8));
        assert_eq!(*sizes.lock().unwrap(), [1, 1, 1]);
    }

    #[tokio::test]
    async fn a_question_can_be_withdrawn_until_it_is_put() {
        let (gather, permits, sizes) = doubling(8);
        let first = gather.put(1);
        until_asked(&sizes, 1).await;
        let mut second = gather.put(2);
        until_asked(&sizes, 2).await;
        assert!(first.withdraw().is_some() && gather.put(3).withdraw().is_none());
        permits.add_permits(2);
        assert_eq!(second.answer().await, Some(4));
        permits.add_permits(1);
        assert_eq!(gather.put(5).answer().await, Some(10));
        assert_eq!(*sizes.lock().unwrap(), [1, 1, 1]);
    }

    #[tokio::test]
    async fn an_answer_that_panics_is_none_and_the_next_is_asked_for_all_the_same() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let gather = Gather::new(&Handle::current(), 8, move |questions: Vec<u32>| {
            let first = count.fetch_add(1, SeqCst) < AT_ONCE;
            async move {
                assert!(!first, "as meant");
                questions
            }
        });
        for _ in 0..AT_ONCE {
            assert_eq!(gather.put(1).answer().await, None);
        }
        assert_eq!(gather.put(2).answer().await, Some(2));
    }
}
