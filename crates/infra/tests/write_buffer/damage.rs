//! Stores whose files were damaged while nobody looked: what survives is served, what does not is told.

use crate::counted::counted;
use crate::home::{Home, all, drain, ids, large, task, update, user};
use crate::on_both_engines;
use gravity_domain::id::OperationId;
use gravity_domain::sync::ports::{DeadLetters, DrainBuffer, WriteBuffer};
use gravity_domain::sync::{BufferState, DeadLetter};
use gravity_infra::write_buffer::salvage::{Salvaged, salvage};
use gravity_infra::write_buffer::{BufferEngine, DurableBuffer};
use std::collections::BTreeSet;
use std::path::PathBuf;

on_both_engines!(
    a_flipped_bit_in_a_record_costs_that_record_only_and_it_becomes_a_letter,
    flipped_bits_anywhere_never_stop_the_buffer_and_what_is_whole_comes_back,
    a_truncated_file_is_noticed_and_what_is_left_of_it_comes_back,
    an_emptied_file_is_noticed,
    a_store_that_has_vanished_is_noticed_once,
    a_damaged_store_is_kept_and_can_be_searched_by_hand,
    letters_and_large_records_survive_the_salvage,
    a_broken_letter_is_kept_under_its_id_and_counted_as_lost,
    what_was_drained_before_does_not_come_back,
);

const NUMBER: u64 = 300;

/// A closed buffer with operations `0..NUMBER` of five lanes.
async fn filled(engine: BufferEngine) -> Home {
    let home = Home::new(engine);
    let buffer = home.open().await;
    let appends = (0..NUMBER).map(|n| buffer.append(update(user(u128::from(n) % 5), task(1), n)));
    for append in appends.collect::<Vec<_>>() {
        append.await.unwrap();
    }
    buffer.close().await;
    home
}

fn id(n: u64) -> OperationId {
    update(user(0), task(1), n).id
}

/// Ids of what can be read, in drain order; what cannot be read is buried, as the drain would do.
async fn survivors(buffer: &DurableBuffer) -> Vec<OperationId> {
    let mut found = Vec::new();
    for entry in all(buffer).await {
        match entry.operation {
            Ok(operation) => found.push(operation.id),
            Err(reason) => buffer.bury(entry.parcel, 0, reason).await.unwrap(),
        }
    }
    found
}

async fn letters(buffer: &DurableBuffer) -> Vec<DeadLetter> {
    buffer.list(None, 1_000).await.unwrap()
}

fn flip(path: &PathBuf, offsets: &[usize]) {
    let mut bytes = std::fs::read(path).unwrap();
    for at in offsets {
        bytes[*at] ^= 0x10;
    }
    std::fs::write(path, bytes).unwrap();
}

fn occurrences(bytes: &[u8], wanted: &[u8]) -> Vec<usize> {
    let hits = bytes
        .windows(wanted.len())
        .enumerate()
        .filter(|(_, here)| *here == wanted);
    hits.map(|(at, _)| at).collect()
}

fn damaged_copies(home: &Home) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&home.settings.path).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_string_lossy().contains(".damaged-"))
        .collect()
}

async fn a_flipped_bit_in_a_record_costs_that_record_only_and_it_becomes_a_letter(engine: BufferEngine) {
    let home = filled(engine).await;
    let title = br#""title":"title 77""#;
    let places = occurrences(&std::fs::read(home.file()).unwrap(), title);
    assert!(!places.is_empty());
    flip(&home.file(), &places);
    let buffer = home.open().await;
    let expected: Vec<_> = (0..NUMBER).filter(|n| *n != 77).map(id).collect();
    assert!(
        survivors(&buffer).await == expected,
        "the others are there, in order"
    );
    let letters = letters(&buffer).await;
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(letters[0].reason, "checksum_mismatch");
    assert!(letters[0].operation.is_none() && letters[0].raw.is_some());
    assert_eq!(buffer.lane_length(user(2)).await.unwrap(), 59);
    assert_eq!(buffer.status().size, NUMBER - 1);
}

async fn flipped_bits_anywhere_never_stop_the_buffer_and_what_is_whole_comes_back(engine: BufferEngine) {
    let length = std::fs::metadata(filled(engine).await.file()).unwrap().len() as usize;
    for round in 0..12 {
        let home = filled(engine).await;
        let spread = length / 13;
        let places: Vec<usize> = (0..=round % 3)
            .map(|n| (round * spread + n * 811 + 17) % length)
            .collect();
        flip(&home.file(), &places);
        let before = std::fs::read(home.file()).unwrap();
        let buffer = home.open().await;
        let found: BTreeSet<_> = survivors(&buffer).await.into_iter().collect();
        let gone: Vec<u64> = (0..NUMBER).filter(|n| !found.contains(&id(*n))).collect();
        for n in &gone {
            let name = format!(r#""title":"title {n}""#);
            let whole = occurrences(&before, name.as_bytes()).len();
            assert!(
                whole <= 1 && gone.len() <= places.len(),
                "round {round}: lost {gone:?}"
            );
        }
        buffer.append(update(user(1), task(1), 9_000)).await.unwrap();
        assert_eq!(*survivors(&buffer).await.last().unwrap(), id(9_000));
        drain(&buffer).await;
        assert_eq!(buffer.status().size, 0);
    }
}

async fn a_truncated_file_is_noticed_and_what_is_left_of_it_comes_back(engine: BufferEngine) {
    for keep in [10, 35, 60, 90] {
        let home = filled(engine).await;
        let bytes = std::fs::read(home.file()).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        let left = &bytes[..used * keep / 100];
        std::fs::write(home.file(), left).unwrap();
        let alarms = counted("gravity_buffer_damaged_total");
        let buffer = home.open().await;
        let found: BTreeSet<_> = survivors(&buffer).await.into_iter().collect();
        let kept = (0..NUMBER).filter(|n| {
            let id = id(*n).0.to_string();
            let tail = r#""attempts":0}"#.as_bytes();
            occurrences(left, id.as_bytes())
                .iter()
                .any(|at| left[*at..].windows(tail.len()).take(600).any(|it| it == tail))
        });
        for n in kept {
            assert!(found.contains(&id(n)), "{keep} %: operation {n} was still there");
        }
        if found.len() < NUMBER as usize {
            assert!(counted("gravity_buffer_damaged_total") > alarms);
        }
        buffer.append(update(user(1), task(1), 9_000)).await.unwrap();
    }
}

async fn an_emptied_file_is_noticed(engine: BufferEngine) {
    let home = filled(engine).await;
    std::fs::write(home.file(), b"").unwrap();
    let lost = counted("gravity_buffer_records_lost_total");
    let buffer = home.open().await;
    let found = survivors(&buffer).await.len() as u64;
    assert!(counted("gravity_buffer_records_lost_total") >= lost + NUMBER - found);
    buffer.append(update(user(1), task(1), 9_000)).await.unwrap();
    assert!(all(&buffer).await[0].parcel.sequence > NUMBER);
}

async fn a_store_that_has_vanished_is_noticed_once(engine: BufferEngine) {
    let home = filled(engine).await;
    std::fs::remove_dir_all(home.store()).unwrap();
    let lost = counted("gravity_buffer_records_lost_total");
    let buffer = home.open().await;
    assert!(counted("gravity_buffer_records_lost_total") >= lost + NUMBER);
    assert_eq!(buffer.status().state, BufferState::Empty);
    buffer.close().await;
    let before = std::fs::read(home.settings.path.join("watermark")).unwrap();
    let buffer = home.open().await;
    buffer.close().await;
    assert_eq!(
        std::fs::read(home.settings.path.join("watermark")).unwrap(),
        before
    );
    let buffer = home.open().await;
    buffer.append(update(user(1), task(1), 1)).await.unwrap();
    assert!(all(&buffer).await[0].parcel.sequence > NUMBER);
}

/// Writes over the head of the file, which no store survives.
fn behead(home: &Home) {
    let mut bytes = std::fs::read(home.file()).unwrap();
    match home.settings.engine {
        BufferEngine::Redb => bytes[..4_096].fill(0xa5),
        BufferEngine::Sled => {
            let frame = bytes
                .windows(4)
                .position(|it| it == [0xf5, b'G', b'W', b'B'])
                .unwrap();
            bytes[..frame.min(2_000)].fill(0xa5);
            std::fs::write(home.store().join("conf"), [0xff; 64]).unwrap();
        }
    }
    std::fs::write(home.file(), bytes).unwrap();
}

async fn a_damaged_store_is_kept_and_can_be_searched_by_hand(engine: BufferEngine) {
    let home = filled(engine).await;
    behead(&home);
    let alarms = counted("gravity_buffer_damaged_total");
    let buffer = home.open().await;
    assert!(survivors(&buffer).await == (0..NUMBER).map(id).collect::<Vec<_>>());
    assert!(counted("gravity_buffer_damaged_total") > alarms);
    drain(&buffer).await;
    buffer.close().await;
    let copies = damaged_copies(&home);
    assert_eq!(copies.len(), 1);
    assert!(copies[0].join("salvaged").exists());
    let mut found = BTreeSet::new();
    let report = salvage(&copies[0], &mut |it| {
        if let Salvaged::Operation(operation) = it {
            found.insert(operation.id);
        }
    });
    assert_eq!(report.unwrap().operations, NUMBER);
    assert_eq!(found.len() as u64, NUMBER);
    let buffer = home.open().await;
    assert_eq!(buffer.status().state, BufferState::Empty);
    assert_eq!(damaged_copies(&home), copies);
}

async fn letters_and_large_records_survive_the_salvage(engine: BufferEngine) {
    let home = Home::new(engine);
    let buffer = home.open().await;
    let operations: Vec<_> = (0..8)
        .map(|n| large(user(1), task(n), n as u64, 40_000))
        .collect();
    for operation in &operations {
        buffer.append(operation.clone()).await.unwrap();
    }
    let head = all(&buffer).await[0].parcel;
    buffer.bury(head, 3, "version_mismatch".into()).await.unwrap();
    buffer.close().await;
    behead(&home);
    let buffer = home.open().await;
    let back: Vec<_> = all(&buffer)
        .await
        .into_iter()
        .map(|it| it.operation.unwrap())
        .collect();
    assert_eq!(back, operations[1..]);
    let letter = buffer.find_dead(operations[0].id).await.unwrap().unwrap();
    assert_eq!(letter.reason, "version_mismatch");
}

async fn a_broken_letter_is_kept_under_its_id_and_counted_as_lost(engine: BufferEngine) {
    let home = Home::new(engine);
    let buffer = home.open().await;
    for n in 1..=3 {
        buffer.append(update(user(1), task(1), n)).await.unwrap();
    }
    for entry in all(&buffer).await {
        buffer.bury(entry.parcel, 3, "expired".into()).await.unwrap();
    }
    buffer.close().await;
    let places = occurrences(&std::fs::read(home.file()).unwrap(), br#""title":"title 2""#);
    assert!(!places.is_empty());
    flip(&home.file(), &places);
    behead(&home);
    let lost = counted("gravity_buffer_records_lost_total");
    let buffer = home.open().await;
    assert!(counted("gravity_buffer_records_lost_total") > lost);
    let letters = letters(&buffer).await;
    let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
    assert_eq!(ids, [id(1), id(2), id(3)]);
    let (broken, whole) = (&letters[1], &letters[0]);
    assert!(whole.reason == "expired" && whole.operation.is_some());
    assert_eq!(broken.reason, "checksum_mismatch");
    assert!(broken.operation.is_none() && broken.raw.is_some());
}

async fn what_was_drained_before_does_not_come_back(engine: BufferEngine) {
    let home = filled(engine).await;
    let buffer = home.open().await;
    let first: Vec<_> = all(&buffer).await.iter().take(200).map(|it| it.parcel).collect();
    buffer.remove(first).await.unwrap();
    buffer.close().await;
    behead(&home);
    let buffer = home.open().await;
    assert_eq!(ids(&buffer).await, (200..NUMBER).map(id).collect::<Vec<_>>());
}
