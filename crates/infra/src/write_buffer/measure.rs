//! The buffer's metrics.

use super::queue::Counters;
use gravity_domain::clock::Timestamp;
use gravity_domain::sync::{BufferError, BufferStatus};
use metrics::{counter, gauge, histogram};
use std::time::Duration;

/// Describes the buffer's metrics to the recorder. Call it once one is installed.
pub fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_gauge!(
        "gravity_buffer_operations",
        "Operations waiting in the write buffer"
    );
    describe_gauge!(
        "gravity_buffer_bytes",
        Unit::Bytes,
        "Bytes of the operations waiting"
    );
    describe_gauge!(
        "gravity_buffer_disk_bytes",
        Unit::Bytes,
        "What the store takes on disk"
    );
    describe_gauge!(
        "gravity_buffer_oldest_age_seconds",
        Unit::Seconds,
        "Age of the oldest operation waiting"
    );
    describe_gauge!("gravity_buffer_dead_letters", "Dead letters kept");
    describe_counter!("gravity_buffer_appended_total", "Operations appended");
    describe_counter!(
        "gravity_buffer_removed_total",
        "Operations removed after their commit, or buried"
    );
    describe_counter!(
        "gravity_buffer_damaged_total",
        "Times the store was found damaged"
    );
    describe_counter!(
        "gravity_buffer_records_lost_total",
        "Acknowledged operations that could not be restored"
    );
    describe_counter!("gravity_buffer_refused_total", "Appends refused, by reason");
    describe_counter!(
        "gravity_clock_reserve_failed_total",
        "Failures to write the stamp ceiling"
    );
    describe_histogram!(
        "gravity_buffer_sync_seconds",
        Unit::Seconds,
        "Time of one commit of the store"
    );
    describe_histogram!("gravity_buffer_group_size", "Requests in one commit");
}

#[allow(clippy::cast_precision_loss, reason = "a gauge")]
fn float(number: u64) -> f64 {
    number as f64
}

pub(super) fn group(size: usize, appended: u64, removed: u64) {
    histogram!("gravity_buffer_group_size").record(float(size as u64));
    counter!("gravity_buffer_appended_total").increment(appended);
    counter!("gravity_buffer_removed_total").increment(removed);
}

pub(super) fn synced(took: Duration) {
    histogram!("gravity_buffer_sync_seconds").record(took);
}

pub(super) fn holds(counters: &Counters) {
    gauge!("gravity_buffer_operations").set(float(counters.count));
    gauge!("gravity_buffer_bytes").set(float(counters.bytes));
    gauge!("gravity_buffer_dead_letters").set(float(counters.dead));
}

pub(super) fn second(disk_bytes: u64, status: &BufferStatus, now: Timestamp) {
    let age = status.oldest.map_or(0, |oldest| now.millis_since(oldest));
    gauge!("gravity_buffer_disk_bytes").set(float(disk_bytes));
    gauge!("gravity_buffer_oldest_age_seconds").set(float(age) / 1_000.0);
}

pub(super) fn damaged() {
    counter!("gravity_buffer_damaged_total").increment(1);
}

pub(super) fn lost(records: u64) {
    counter!("gravity_buffer_records_lost_total").increment(records);
}

pub(super) fn refused(error: &BufferError) {
    let reason = match error {
        BufferError::Full => "full",
        BufferError::TooLarge => "too_large",
        _ => "unavailable",
    };
    counter!("gravity_buffer_refused_total", "reason" => reason).increment(1);
}
