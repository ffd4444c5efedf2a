//! The raw bytes of a broken store: frames are found in order, and none reaches beyond the bytes.
#![no_main]

use gravity_infra::write_buffer::salvage::scan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut end = 0;
    scan(bytes, &mut |at, frame| {
        assert!(at >= end);
        end = at + frame.map_or(1, |frame| frame.size());
        assert!(end <= bytes.len());
    });
});
