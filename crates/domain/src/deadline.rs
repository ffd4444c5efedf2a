//! One deadline for a whole request.
//!
//! Whoever takes a request in runs it [`within`] its deadline, and whatever waits for a store on its behalf, at any depth,
//! asks for [`current`]: so the waits of one request share one limit instead of adding up. A share of the time is kept back
//! for what must still be done when Postgres has not answered: appending to the write buffer, reading what is known.
//!
//! The deadline goes with the future, not with the thread: work that is spawned has none unless it is given one. Nothing is
//! cut off here; [`current`] is for adapters that bound what they wait for. Work that is not a request has no deadline.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::{Duration, Instant};

/// Until when a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    stores: Instant,
    answer: Instant,
}

impl Deadline {
    /// That of a request which began at `start` and is to be answered within `limit`. Stores get four fifths of it.
    pub fn of(start: Instant, limit: Duration) -> Self {
        Self {
            stores: start + limit * 4 / 5,
            answer: start + limit,
        }
    }

    /// When stores must have answered.
    pub fn for_stores(self) -> Instant {
        self.stores
    }

    /// When the request must be answered.
    pub fn for_answer(self) -> Instant {
        self.answer
    }

    fn later(self, by: Duration) -> Self {
        Self {
            stores: self.stores + by,
            answer: self.answer + by,
        }
    }
}

thread_local! {
    /// Of the future that is being polled.
    static CURRENT: Cell<Option<Deadline>> = const { Cell::new(None) };
}

/// The deadline of the request that is being worked on, if it is one.
pub fn current() -> Option<Deadline> {
    CURRENT.get()
}

/// Runs `work` under `deadline`, which does not stop it.
pub async fn within<F: Future>(mut deadline: Deadline, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|context| {
        let _outer = Outer(CURRENT.replace(Some(deadline)));
        let polled = work.as_mut().poll(context);
        deadline = CURRENT.get().unwrap_or(deadline);
        polled
    })
    .await
}

/// Runs `work`, which waits neither for a store nor for the buffer but for the client or for the processor, and puts the
/// deadline off by the time that it takes.
pub async fn uncounted<F: Future>(work: F) -> F::Output {
    let since = Instant::now();
    let done = work.await;
    CURRENT.set(CURRENT.get().map(|deadline| deadline.later(since.elapsed())));
    done
}

/// What was current before; is so again also after a panic.
struct Outer(Option<Deadline>);

impl Drop for Outer {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    const SECOND: Duration = Duration::from_secs(1);

    fn run<T>(work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut context = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
                return done;
            }
        }
    }

    /// Pending once, so that others are polled in between.
    async fn turn() {
        let mut is_first = true;
        poll_fn(|_| {
            if std::mem::take(&mut is_first) {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
    }

    #[test]
    fn a_deadline_goes_with_its_request_and_not_with_the_thread() {
        let start = Instant::now();
        let (short, long) = (Deadline::of(start, SECOND), Deadline::of(start, 2 * SECOND));
        let seen = |deadline| {
            within(deadline, async {
                turn().await;
                current()
            })
        };
        let (mut first, mut second) = (pin!(seen(short)), pin!(seen(long)));
        let mut context = Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert_eq!(current(), None);
        assert_eq!(run(first), Some(short));
        assert_eq!(run(second), Some(long));
    }

    #[test]
    fn stores_must_answer_before_the_request_is_answered() {
        let start = Instant::now();
        let deadline = Deadline::of(start, SECOND);
        assert_eq!(deadline.for_stores(), start + SECOND * 4 / 5);
        assert_eq!(deadline.for_answer(), start + SECOND);
    }

    #[test]
    fn what_the_client_takes_is_not_counted() {
        let deadline = Deadline::of(Instant::now(), SECOND);
        let put_off = run(within(deadline, async {
            uncounted(async {
                let since = Instant::now();
                while since.elapsed() < Duration::from_millis(5) {
                    turn().await;
                }
            })
            .await;
            turn().await;
            current()
        }))
        .unwrap();
        let by = put_off.for_answer() - deadline.for_answer();
        assert!(by >= Duration::from_millis(5));
        assert_eq!(put_off.for_stores() - deadline.for_stores(), by);
    }

    #[test]
    fn after_a_panic_the_thread_has_no_deadline() {
        let deadline = Deadline::of(Instant::now(), SECOND);
        let panicked = std::panic::catch_unwind(|| run(within(deadline, async { panic!("on purpose") })));
        assert!(panicked.is_err());
        assert_eq!(current(), None);
    }
}
