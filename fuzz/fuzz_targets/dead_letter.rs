//! A dead letter from the disk.
#![no_main]

use gravity_infra::write_buffer::letter::{decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(letter) = decode(bytes) {
        let again = encode(&letter).expect("what was decoded has a form");
        assert_eq!(decode(&again), Ok(letter));
    }
});
