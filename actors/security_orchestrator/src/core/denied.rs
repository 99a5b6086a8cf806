/// The span within which records of refused tries are counted.
const SPAN_MS: u64 = 60_000;

/// Keeps refused tries from filling the disk: within a minute, those beyond a number share one record.
#[derive(Clone, Debug, Default)]
pub(super) struct DeniedBudget {
    span_began_ms: u64,
    recorded: u32,
    unrecorded: u64,
}

impl DeniedBudget {
    /// Whether a try gets a record of its own.
    pub(super) fn take(&mut self, now_ms: u64, records_max: u32) -> bool {
        if self.is_over(now_ms) {
            self.span_began_ms = now_ms;
            self.recorded = 0;
        }
        let own = self.recorded < records_max;
        if own {
            self.recorded += 1;
        } else {
            self.unrecorded += 1;
        }
        own
    }

    /// How many tries are still without a record, once their minute is over.
    pub(super) fn settle(&mut self, now_ms: u64) -> Option<u64> {
        let due = self.unrecorded > 0 && self.is_over(now_ms);
        due.then(|| std::mem::take(&mut self.unrecorded))
    }

    const fn is_over(&self, now_ms: u64) -> bool {
        now_ms.abs_diff(self.span_began_ms) >= SPAN_MS
    }
}
