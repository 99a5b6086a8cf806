use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::metrics as names;

/// A count that is read back for the status and exported as a metric.
pub(super) struct Counted {
    value: AtomicU64,
    exported: Counter,
}

impl Counted {
    fn new(exported: Counter) -> Self {
        Self {
            value: AtomicU64::new(0),
            exported,
        }
    }

    pub(super) fn add_one(&self) {
        self.value.fetch_add(1, Ordering::Relaxed);
        self.exported.increment(1);
    }

    pub(super) fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

/// Everything that the table counts.
pub(super) struct Counters {
    pub(super) hits: Counted,
    pub(super) misses: Counted,
    pub(super) loads: Counted,
    pub(super) evictions: Counted,
    pub(super) corrupt: Counted,
    pub(super) damaged: Counted,
    resident_bytes: Gauge,
    resident_experts: Gauge,
    load_seconds: Histogram,
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            hits: Counted::new(counter!(names::HITS)),
            misses: Counted::new(counter!(names::MISSES)),
            loads: Counted::new(counter!(names::LOADS)),
            evictions: Counted::new(counter!(names::EVICTIONS)),
            corrupt: Counted::new(counter!(names::CORRUPT)),
            damaged: Counted::new(counter!(names::DAMAGED)),
            resident_bytes: gauge!(names::RESIDENT_BYTES),
            resident_experts: gauge!(names::RESIDENT_EXPERTS),
            load_seconds: histogram!(names::LOAD_SECONDS),
        }
    }

    pub(super) fn loaded(&self, took: Duration) {
        self.loads.add_one();
        self.load_seconds.record(took.as_secs_f64());
    }

    pub(super) fn resident(&self, experts: usize, bytes: u64) {
        self.resident_experts.set(experts as f64);
        self.resident_bytes.set(bytes as f64);
    }
}
