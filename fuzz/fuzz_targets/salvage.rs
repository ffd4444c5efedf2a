//! The raw bytes of a broken store: frames are found in order, none reaches beyond the bytes, and whole frames are found
//! among whatever lies between them.
#![no_main]

use gravity_infra::write_buffer::record::{Kind, assemble, frames};
use gravity_infra::write_buffer::salvage::scan;
use libfuzzer_sys::fuzz_target;

const ID: [u8; 16] = [7; 16];

/// The frames of our record in `bytes`, in the order in which they lie there.
fn found(bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut end, mut ours) = (0, Vec::new());
    scan(bytes, &mut |at, frame| {
        assert!(at >= end);
        end = at + frame.as_ref().map_or(1, |frame| frame.size());
        assert!(end <= bytes.len());
        if frame.is_ok_and(|frame| frame.id == ID) {
            ours.push(bytes[at..end].to_vec());
        }
    });
    ours
}

fuzz_target!(|bytes: &[u8]| {
    let strays = found(bytes);
    let Some((place, rest)) = bytes.split_first() else {
        return;
    };
    let (junk, payload) = rest.split_at(usize::from(*place).min(rest.len()));
    if payload.is_empty() || !strays.is_empty() {
        return;
    }
    let mut store = junk.to_vec();
    for frame in frames(Kind::Record, ID, payload) {
        store.extend_from_slice(&frame);
        store.extend_from_slice(junk);
    }
    assert_eq!(assemble(Kind::Record, ID, &found(&store)).as_deref(), Ok(payload));
});
