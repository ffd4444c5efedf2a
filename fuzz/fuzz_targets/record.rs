//! A frame or a payload from the disk: never a panic, and what decodes encodes to something that decodes the same.
#![no_main]

use gravity_infra::write_buffer::record::{Frame, Kind, assemble, decode, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = Frame::parse(bytes) {
        let _ = assemble(frame.kind, frame.id, &[&bytes[..frame.size()]]);
    }
    let _ = assemble(Kind::Record, [0; 16], &[bytes]);
    if let Ok(operation) = decode(bytes) {
        let again = encode(&operation).expect("what was decoded has a form");
        assert_eq!(decode(&again), Ok(operation));
    }
});
