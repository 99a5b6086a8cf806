//! The time of sequences.

use std::time::Duration;

use tokio::time::Instant;

use crate::core::Moment;

/// The table's time: a monotonic clock that knows the wall clock of its beginning.
pub(crate) struct Clock {
    origin: Instant,
    origin_unix_ms: u64,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            origin: Instant::now(),
            origin_unix_ms: unix.map_or(0, millis),
        }
    }

    pub(crate) fn now(&self) -> Moment {
        self.origin.elapsed()
    }

    pub(crate) fn instant(&self, at: Moment) -> Instant {
        self.origin + at
    }

    pub(crate) fn unix_ms(&self, at: Moment) -> u64 {
        self.origin_unix_ms.saturating_add(millis(at))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
