//! A query string from a client.
#![no_main]

use gravity_api::extract::Query;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &str| {
    if let Ok(query) = Query::parse(raw, &["limit", "cursor", "status"]) {
        let _ = (query.limit(), query.cursor(), query.get("status"));
    }
});
