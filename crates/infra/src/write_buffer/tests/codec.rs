//! Records and letters come back as they were written, and any other bytes are a fault, never a panic.

use super::{operation, user};
use crate::write_buffer::letter;
use crate::write_buffer::record::{self, Envelope, Fault, Frame, Kind, MAX_FRAME, assemble, frames};
use crate::write_buffer::salvage::{Salvaged, Window, salvage_window, scan};
use gravity_domain::clock::Timestamp;
use gravity_domain::sync::{DeadLetter, Parcel};
use proptest::prelude::*;

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 1..most)
}

pub(super) fn letter(n: u64, reason: String, raw: Option<Vec<u8>>) -> DeadLetter {
    DeadLetter {
        id: operation(n, "t").id,
        operation: raw.is_none().then(|| operation(n, "t")),
        user_id: Some(user(1)),
        reason,
        died_at: Timestamp::from_millis(5),
        raw,
    }
}

proptest! {
    #[test]
    fn payloads_of_any_length_come_back_from_their_frames(payload in bytes(20_000), id in any::<[u8; 16]>()) {
        let parts = frames(Kind::Record, id, &payload);
        prop_assert!(parts.iter().all(|part| part.len() <= MAX_FRAME));
        prop_assert_eq!(assemble(Kind::Record, id, &parts), Ok(payload));
        prop_assert!(assemble(Kind::Letter, id, &parts).is_err());
        prop_assert!(assemble(Kind::Record, [1; 16], &parts).is_err());
    }

    #[test]
    fn a_flipped_bit_or_a_missing_part_is_a_fault(
        payload in bytes(9_000), bit in any::<prop::sample::Index>(), part in any::<prop::sample::Index>()
    ) {
        let mut parts = frames(Kind::Record, [7; 16], &payload);
        let at = part.index(parts.len());
        let bit = bit.index(parts[at].len() * 8);
        parts[at][bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(assemble(Kind::Record, [7; 16], &parts), Err(Fault::Checksum));
        parts.remove(at);
        prop_assert!(assemble(Kind::Record, [7; 16], &parts).is_err());
    }

    #[test]
    fn parts_of_two_records_are_never_taken_for_one(one in bytes(9_000), two in bytes(9_000)) {
        prop_assume!(one != two);
        let (one, two) = (frames(Kind::Record, [7; 16], &one), frames(Kind::Record, [7; 16], &two));
        let mixed: Vec<_> = one.iter().take(1).chain(two.iter().skip(1)).cloned().collect();
        prop_assume!(mixed != one && mixed != two);
        prop_assert!(assemble(Kind::Record, [7; 16], &mixed).is_err());
    }

    #[test]
    fn operations_come_back_and_their_envelope_names_them(n in any::<u32>(), title in "[a-zäö€😀]{1,80}") {
        let operation = operation(u64::from(n), &title);
        let payload = record::encode(&operation).unwrap();
        prop_assert_eq!(Envelope::parse(&payload), Ok(Envelope::of(&operation)));
        prop_assert_eq!(record::decode(&payload), Ok(operation));
    }

    #[test]
    fn letters_come_back(n in any::<u32>(), reason in ".{0,80}", raw in prop::option::of(bytes(4_096))) {
        let letter = letter(u64::from(n), reason, raw);
        prop_assert_eq!(letter::decode(&letter::encode(&letter).unwrap()), Ok(letter));
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic(bytes in bytes(6_000)) {
        let _ = Frame::parse(&bytes);
        let _ = record::decode(&bytes);
        let _ = letter::decode(&bytes);
        let _ = assemble(Kind::Letter, [0; 16], &[&bytes]);
        scan(&bytes, &mut |_, _| {});
    }

    #[test]
    fn frames_are_found_wherever_they_lie(
        payloads in prop::collection::vec(bytes(5_000), 1..8), junk in prop::collection::vec(bytes(3_000), 8)
    ) {
        let (mut all, mut written) = (Vec::new(), Vec::new());
        for (n, payload) in payloads.iter().enumerate() {
            for frame in frames(Kind::Record, [n as u8; 16], payload) {
                all.extend_from_slice(&junk[n]);
                written.push(all.len());
                all.extend_from_slice(&frame);
            }
        }
        let mut found = Vec::new();
        scan(&all, &mut |at, frame| if frame.is_ok() { found.push(at) });
        prop_assert_eq!(found, written);
    }
}

#[test]
fn a_search_brings_parts_from_several_files_together_in_order_of_acceptance() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(200);
    let mut files = [Vec::new(), vec![0x77; (1 << 20) - 100]];
    for n in (0..40u64).rev() {
        let parcel = Parcel {
            rank: (n % 5) as u8,
            sequence: n + 1,
        };
        let payload = record::encode(&operation(n, &long)).unwrap();
        for (part, frame) in frames(Kind::Record, record::place_id(parcel), &payload)
            .iter()
            .enumerate()
        {
            files[part % 2].extend_from_slice(frame);
            files[1 - part % 2].extend_from_slice(frame);
        }
    }
    let kept = letter(99, "expired".into(), None);
    for frame in letter::write(&kept).unwrap() {
        files[1].extend_from_slice(&frame);
    }
    std::fs::create_dir(dir.path().join("below")).unwrap();
    std::fs::write(dir.path().join("db"), &files[0]).unwrap();
    std::fs::write(dir.path().join("below").join("more"), &files[1]).unwrap();
    let mut found = Vec::new();
    let window = Window { from: 11, to: 30 };
    let report = salvage_window(dir.path(), window, &mut |it| found.push(it)).unwrap();
    let mut expected: Vec<_> = (10..30)
        .map(|n| Salvaged::Operation(Box::new(operation(n, &long))))
        .collect();
    expected.push(Salvaged::Letter(Box::new(kept)));
    assert_eq!(found, expected);
    assert_eq!((report.operations, report.letters, report.fragments), (20, 1, 0));
}

#[test]
fn a_letter_whose_operation_this_version_cannot_read_is_still_a_letter() {
    let written = letter::encode(&letter(1, "not_found".into(), None)).unwrap();
    let text = String::from_utf8(written).unwrap();
    let newer = text.replace("\"entity\":\"task\"", "\"entity\":\"planet\"");
    assert_ne!(text, newer);
    let read = letter::decode(newer.as_bytes()).unwrap();
    assert_eq!(
        (read.reason.as_str(), read.operation.is_none(), read.raw.is_some()),
        ("not_found", true, true)
    );
}
