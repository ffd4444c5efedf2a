//! Counts what the buffer counts: a recorder for the whole test process.

use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};

static COUNTS: Mutex<Option<HashMap<String, Arc<Count>>>> = Mutex::new(None);
static INSTALL: Once = Once::new();

#[derive(Default)]
struct Count(AtomicU64);

impl CounterFn for Count {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::SeqCst);
    }

    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }
}

struct Counting;

fn count(name: &str) -> Arc<Count> {
    let mut counts = COUNTS.lock().unwrap();
    counts
        .get_or_insert_default()
        .entry(name.to_owned())
        .or_default()
        .clone()
}

impl Recorder for Counting {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(count(key.name()))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// How often a counter has been raised in this process, by any test.
pub(crate) fn counted(name: &str) -> u64 {
    INSTALL.call_once(|| {
        metrics::set_global_recorder(Counting).unwrap();
        gravity_infra::write_buffer::describe_metrics();
    });
    count(name).0.load(Ordering::SeqCst)
}
