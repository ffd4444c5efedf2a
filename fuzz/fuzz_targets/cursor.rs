//! A page cursor from a client: what is accepted is one that we would have given out.
#![no_main]

use gravity_domain::page::PageKey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(key) = PageKey::decode(text) {
        assert_eq!(PageKey::decode(&key.encode()), Ok(key));
    }
});
