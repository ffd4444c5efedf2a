//! Whole lanes are read within bounds: of time, of places for each user, of bytes.

use super::faulty::{Bench, Fault};
use super::{operation, user};
use crate::write_buffer::engine::BufferEngine;
use crate::write_buffer::open::{close, open_at};
use crate::write_buffer::wide::Bounds;
use crate::write_buffer::{key, query};
use gravity_domain::deadline::{Deadline, within};
use gravity_domain::sync::ports::WriteBuffer;
use gravity_domain::sync::{BufferError, EntityKind, Pending};
use std::time::{Duration, Instant};

on_both!(
    a_read_that_takes_too_long_is_given_up_at_the_deadline,
    many_lists_of_one_user_leave_room_for_those_of_another,
    a_lane_of_more_bytes_than_are_read_at_once_is_unavailable,
);

/// Reads of the lane of user 1 last until healed.
async fn with_one_stalled(engine: BufferEngine) -> Bench {
    let bench = Bench::new(engine).await;
    for n in 1..3 {
        bench.buffer.append(operation(n, "title")).await.unwrap();
    }
    bench.fail(Fault::Stall(key::entities(user(1), EntityKind::Task.code())));
    bench
}

async fn listed(bench: &Bench, n: u128, limit: Duration) -> Result<Vec<Pending>, BufferError> {
    let deadline = Deadline::of(Instant::now(), limit);
    let reading = within(deadline, bench.buffer.pending_of(user(n), EntityKind::Task));
    tokio::time::timeout(Duration::from_secs(4), reading)
        .await
        .expect("a deadline")
}

async fn a_read_that_takes_too_long_is_given_up_at_the_deadline(engine: BufferEngine) {
    let bench = with_one_stalled(engine).await;
    for _ in 0..2 {
        let answer = listed(&bench, 1, Duration::from_millis(50)).await;
        assert!(matches!(answer, Err(BufferError::Unavailable(_))), "{answer:?}");
    }
    bench.heal();
    assert_eq!(listed(&bench, 1, Duration::from_secs(3)).await.unwrap().len(), 1);
}

async fn many_lists_of_one_user_leave_room_for_those_of_another(engine: BufferEngine) {
    let bench = with_one_stalled(engine).await;
    let buffer = bench.buffer.clone();
    let lists: Vec<_> = (0..8)
        .map(|_| {
            let buffer = buffer.clone();
            tokio::spawn(async move { buffer.pending_of(user(1), EntityKind::Task).await })
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(20);
    while bench.stalled() == 0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(listed(&bench, 2, Duration::from_secs(3)).await.unwrap().len(), 1);
    assert_eq!(bench.stalled(), 1, "one at a time");
    bench.heal();
    for list in lists {
        assert_eq!(list.await.unwrap().unwrap().len(), 1);
    }
    assert_eq!(buffer.wide_reads.known_users(), 0, "nobody is remembered");
}

async fn a_lane_of_more_bytes_than_are_read_at_once_is_unavailable(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    for n in 0..30 {
        bench.buffer.append(operation(n * 3, "title")).await.unwrap();
    }
    bench.buffer.close().await;
    let store = open_at(&engine, &bench.store(engine)).unwrap();
    let prefix = key::entities(user(0), EntityKind::Task.code());
    let read = |until, bytes| query::pending(&*store.reader, &prefix, Bounds { until, bytes }).unwrap();
    assert_eq!(read(None, 64 << 10).unwrap().len(), 30);
    for refused in [read(None, 4 << 10), read(Some(Instant::now()), 64 << 10)] {
        assert!(matches!(refused, Err(BufferError::Unavailable(_))), "{refused:?}");
    }
    close(store).unwrap();
}
