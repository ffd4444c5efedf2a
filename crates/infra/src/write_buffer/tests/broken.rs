//! Records that cannot be read, and on which threads the store is.

use super::faulty::{Bench, Fault};
use super::{operation, user};
use crate::write_buffer::engine::BufferEngine;
use crate::write_buffer::open::{close, open_at};
use crate::write_buffer::query;
use crate::write_buffer::queue::{Draft, Limits, Parcelled};
use crate::write_buffer::record::{self, Envelope};
use crate::write_buffer::request::Request;
use futures_util::future::join_all;
use gravity_domain::clock::Timestamp;
use gravity_domain::sync::ports::{DeadLetters, DrainBuffer, WriteBuffer};
use gravity_domain::sync::{BufferError, DeadLetter, EntityKind, Entry};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

on_both!(
    what_a_broken_record_may_have_changed_is_unknown_until_it_is_buried,
    an_operation_whose_record_is_broken_is_not_acknowledged_again,
    broken_records_are_named_by_one_walk_beside_the_writer,
    a_record_that_means_nothing_here_is_kept_whole,
    a_letter_that_can_be_decoded_by_now_is_taken_back,
    the_store_is_never_read_on_the_thread_of_the_caller,
);

fn is_unknown<T>(answer: &Result<T, BufferError>) -> bool {
    matches!(answer, Err(BufferError::Unavailable(_)))
}

async fn with_one_rotten(engine: BufferEngine) -> Bench {
    let bench = Bench::new(engine).await;
    for (n, title) in [(1, "good"), (4, "rotten"), (2, "another's")] {
        bench.buffer.append(operation(n, title)).await.unwrap();
    }
    bench.fail(Fault::Rot("rotten"));
    bench
}

async fn bury_what_cannot_be_read(bench: &Bench) {
    let entries = bench.buffer.peek(None, 1_000).await.unwrap();
    for Entry { parcel, operation } in entries {
        if let Err(reason) = operation {
            bench.buffer.bury(parcel, 0, reason).await.unwrap();
        }
    }
}

async fn what_a_broken_record_may_have_changed_is_unknown_until_it_is_buried(engine: BufferEngine) {
    let bench = with_one_rotten(engine).await;
    let (good, rotten) = (operation(1, "good"), operation(4, "rotten"));
    let (buffer, task) = (&bench.buffer, good.entity_id());
    assert!(is_unknown(
        &buffer.pending_on(user(1), EntityKind::Task, task).await
    ));
    assert!(is_unknown(&buffer.pending_of(user(1), EntityKind::Task).await));
    assert!(is_unknown(&buffer.find(rotten.id).await));
    assert!(buffer.find(good.id).await.unwrap().is_some());
    let others = buffer.pending_on(user(2), EntityKind::Task, task).await.unwrap();
    assert_eq!(others.len(), 1);
    bury_what_cannot_be_read(&bench).await;
    let left = buffer.pending_on(user(1), EntityKind::Task, task).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].operation, good);
    let letter = buffer.find_dead(rotten.id).await.unwrap().unwrap();
    assert_eq!(letter.reason, "checksum_mismatch");
    assert_eq!(
        (bench.faults.lock().unwrap().opened, bench.damaged_copies()),
        (1, 0)
    );
}

async fn an_operation_whose_record_is_broken_is_not_acknowledged_again(engine: BufferEngine) {
    let bench = with_one_rotten(engine).await;
    let rotten = operation(4, "rotten");
    assert!(is_unknown(&bench.buffer.append(rotten.clone()).await));
    bench.buffer.append(operation(1, "good")).await.unwrap();
    assert_eq!(bench.buffer.status().size, 3);
    bury_what_cannot_be_read(&bench).await;
    bench.heal();
    bench.buffer.append(rotten).await.unwrap();
    assert_eq!(bench.buffer.status().size, 3);
    assert_eq!(bench.faults.lock().unwrap().opened, 1);
}

async fn broken_records_are_named_by_one_walk_beside_the_writer(engine: BufferEngine) {
    const BROKEN: usize = 30;
    let bench = Bench::new(engine).await;
    for n in 0..BROKEN as u64 {
        bench.buffer.append(operation(n, "rotten")).await.unwrap();
        bench.buffer.append(operation(1_000 + n, "good")).await.unwrap();
    }
    bench.fail(Fault::Rot("rotten"));
    let broken = bench.buffer.peek(None, 1_000).await.unwrap();
    let broken = broken.into_iter().filter(|entry| entry.operation.is_err());
    let search = bench.buffer.search.clone();
    let turn = search.turn.lock().await;
    let buffer = bench.buffer.clone();
    let burials = tokio::spawn(join_all(broken.map(move |entry| {
        let buffer = buffer.clone();
        async move { buffer.bury(entry.parcel, 0, "checksum_mismatch".into()).await }
    })));
    let deadline = Instant::now() + Duration::from_secs(20);
    while search.lock().len() < BROKEN {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.buffer.append(operation(5_000, "good")).await.unwrap();
    drop(turn);
    assert!(burials.await.unwrap().iter().all(Result::is_ok));
    assert_eq!(search.walks.load(SeqCst), 1);
    assert_eq!(bench.faults.lock().unwrap().walks_of_the_writer, 0);
    assert!(search.lock().is_empty());
    let letters = bench.buffer.list(None, 1_000).await.unwrap();
    let named = letters.iter().map(|letter| (letter.id, letter.user_id));
    let expected = (0..BROKEN as u64).map(|n| (operation(n, "rotten").id, Some(user(u128::from(n) % 3))));
    assert!(named.eq(expected));
    assert_eq!(bench.buffer.status().size, BROKEN as u64 + 1);
}

/// A record as a newer version might write it: whole, and nothing that this one knows.
fn of_a_newer_version() -> Parcelled {
    let known = operation(1, "title");
    let mut payload = record::encode(&known).unwrap()[..65].to_vec();
    payload.extend_from_slice(format!("{{\"newer\":\"{}\"}}", "x".repeat(20_000)).as_bytes());
    Parcelled {
        envelope: Envelope::of(&known),
        priority: 3,
        payload,
    }
}

async fn a_record_that_means_nothing_here_is_kept_whole(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    let (newer, id) = (of_a_newer_version(), operation(1, "title").id);
    let append = |answer| Request::Append(Box::new(newer.clone()), answer);
    bench.buffer.ask(append).await.unwrap();
    assert!(is_unknown(&bench.buffer.find(id).await));
    bury_what_cannot_be_read(&bench).await;
    let letter = bench.buffer.find_dead(id).await.unwrap().unwrap();
    assert!(letter.reason.starts_with("undecodable") && letter.user_id == Some(user(1)));
    assert_eq!(letter.raw.unwrap(), newer.payload[..4_096]);
    assert_eq!(bench.buffer.retry(id).await, Err(BufferError::Undecodable));
    assert_eq!(bench.buffer.status().dead_letters, 1);
    bench.buffer.close().await;
    let store = open_at(&engine, &bench.store(engine)).unwrap();
    let kept = query::find_letter(&*store.reader, id).unwrap().unwrap();
    assert!(kept.raw.unwrap() == newer.payload, "all of it");
    close(store).unwrap();
}

async fn a_letter_that_can_be_decoded_by_now_is_taken_back(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    bench.buffer.close().await;
    let operations = [operation(1, "record"), operation(2, "json")];
    let raws = [
        record::encode(&operations[0]).unwrap(),
        serde_json::to_vec(&operations[1]).unwrap(),
    ];
    let mut store = open_at(&engine, &bench.store(engine)).unwrap();
    let reader = store.reader.clone();
    let mut draft = Draft::new(&*reader, store.counters, Limits::NONE);
    for (operation, raw) in operations.iter().zip(raws) {
        let letter = DeadLetter {
            id: operation.id,
            operation: None,
            user_id: None,
            reason: "undecodable: by an older version".into(),
            died_at: Timestamp::from_millis(5),
            raw: Some(raw),
        };
        draft.put_letter(&letter).unwrap();
    }
    store.commit(draft).unwrap();
    drop(reader);
    close(store).unwrap();
    let buffer = bench.reopened(engine).await;
    for operation in &operations {
        let letter = buffer.retry(operation.id).await.unwrap();
        assert_eq!(letter.operation.as_ref(), Some(operation));
        let waiting = buffer.find(operation.id).await.unwrap().unwrap().operation;
        assert!(waiting.retried && waiting.change == operation.change);
    }
    assert_eq!((buffer.status().size, buffer.status().dead_letters), (2, 0));
}

async fn the_store_is_never_read_on_the_thread_of_the_caller(engine: BufferEngine) {
    let bench = Bench::new(engine).await;
    let (first, task) = (operation(1, "title"), operation(1, "title").entity_id());
    bench.buffer.append(first.clone()).await.unwrap();
    bench.buffer.append(operation(4, "title")).await.unwrap();
    let dead = bench.buffer.peek(None, 1).await.unwrap()[0].parcel;
    bench.buffer.bury(dead, 1, "expired".into()).await.unwrap();
    bench.faults.lock().unwrap().readers.clear();
    let buffer = &bench.buffer;
    for (empty, length) in [(true, 0), (false, 1)] {
        let lane = user(if empty { 2 } else { 1 });
        assert_eq!(buffer.lane_length(lane).await, Ok(length));
        let on = buffer.pending_on(lane, EntityKind::Task, task).await.unwrap();
        let of = buffer.pending_of(lane, EntityKind::Task).await.unwrap();
        assert_eq!((on.len() as u64, of.len() as u64), (length, length));
        let readers = bench.faults.lock().unwrap().readers.clone();
        assert_eq!(readers.is_empty(), empty, "an empty lane is known from memory");
    }
    assert!(buffer.find(operation(4, "title").id).await.unwrap().is_some());
    assert!(buffer.find_dead(first.id).await.unwrap().is_some());
    let readers = bench.faults.lock().unwrap().readers.clone();
    assert!(!readers.contains(&std::thread::current().id()));
}
