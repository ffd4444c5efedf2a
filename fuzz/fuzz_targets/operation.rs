//! The JSON of an operation, from the buffer or from another node.
#![no_main]

use gravity_domain::sync::Operation;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(operation) = serde_json::from_slice::<Operation>(bytes) {
        let text = serde_json::to_vec(&operation).expect("an operation has a form");
        let again: Operation = serde_json::from_slice(&text).expect("and comes back");
        assert_eq!(again, operation);
    }
});
