//! What a search makes of dead letters of which not all is left.

use super::codec::letter;
use crate::write_buffer::letter;
use crate::write_buffer::record::{HEADER, Kind, frames};
use crate::write_buffer::salvage::{SalvageReport, Salvaged, Window, salvage_window};
use gravity_domain::clock::Timestamp;
use gravity_domain::sync::DeadLetter;

const WINDOW: Window = Window {
    from: 1,
    to: u64::MAX,
};

fn long(n: u64) -> DeadLetter {
    letter(n, "undecodable".into(), Some(vec![n as u8; 9_000]))
}

fn short(n: u64) -> DeadLetter {
    letter(n, "expired".into(), None)
}

/// The only frame of a letter, with a flipped bit at `at`.
fn flipped(n: u64, at: usize) -> Vec<u8> {
    let mut frames = letter::write(&short(n)).unwrap();
    assert_eq!(frames.len(), 1);
    frames[0][at] ^= 0x20;
    frames.remove(0)
}

fn found_in(frames: Vec<Vec<u8>>) -> (Vec<Salvaged>, SalvageReport) {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = Vec::new();
    for frame in frames {
        bytes.extend_from_slice(&frame);
        bytes.extend_from_slice(&[0x55; 100]);
    }
    std::fs::write(dir.path().join("db"), bytes).unwrap();
    let mut found = Vec::new();
    let report = salvage_window(dir.path(), WINDOW, &mut |it| found.push(it)).unwrap();
    (found, report)
}

fn as_letters(found: Vec<Salvaged>) -> Vec<DeadLetter> {
    found
        .into_iter()
        .map(|it| it.into_letter(Timestamp::EPOCH).unwrap())
        .collect()
}

#[test]
fn broken_letters_beside_a_whole_one_are_kept_under_their_ids() {
    let mut torn = letter::write(&long(2)).unwrap();
    torn.remove(1);
    let mut headless = letter::write(&long(3)).unwrap();
    headless.remove(0);
    let mut all = letter::write(&short(1)).unwrap();
    all.extend(torn);
    all.extend(headless);
    all.extend([flipped(4, HEADER + 20), flipped(5, 5)]);
    let (found, report) = found_in(all);
    assert_eq!((report.letters, report.fragments), (1, 4));
    let mut letters = as_letters(found);
    letters.sort_by_key(|letter| letter.id);
    assert_eq!(letters[0], short(1));
    assert_eq!(letters.len(), 5);
    for (n, letter) in (2..).zip(&letters[1..]) {
        assert_eq!((letter.id, letter.user_id), (short(n).id, None));
        assert!(letter.operation.is_none() && letter.raw.is_some());
    }
}

#[test]
fn a_broken_copy_of_a_whole_letter_is_no_other_letter() {
    let mut torn = letter::write(&long(1)).unwrap();
    torn.remove(2);
    let mut all = torn;
    all.push(flipped(2, HEADER + 20));
    all.extend(letter::write(&long(1)).unwrap());
    all.extend(letter::write(&short(2)).unwrap());
    let (found, report) = found_in(all);
    assert_eq!((report.letters, report.fragments), (2, 0));
    assert_eq!(as_letters(found), [long(1), short(2)]);
}

#[test]
fn a_whole_letter_that_means_nothing_here_is_kept_whole() {
    let payload = vec![b'?'; 10_000];
    let (found, _) = found_in(frames(Kind::Letter, short(1).id.0.into_bytes(), &payload));
    let letters = as_letters(found);
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].id, letters[0].user_id), (short(1).id, None));
    assert!(letters[0].raw.as_ref() == Some(&payload));
}
