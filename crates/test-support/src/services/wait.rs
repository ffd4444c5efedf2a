//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(4);

/// Asks `condition` every few milliseconds until it holds. `false` when it did not within `patience`.
pub fn poll_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        pause();
    }
}

#[allow(clippy::disallowed_methods)] // the one blocking wait of the blocking part of this crate
fn pause() {
    std::thread::sleep(STEP);
}
