//! Whether other work wants the processor too.

use std::sync::atomic::{AtomicU64, Ordering};

/// Interruptions of a step, on average, from which on the processor counts as wanted by others.
const INTERRUPTIONS_MAX: u64 = 1;
/// Steps over which the average decays.
const STEPS: u64 = 8;
/// The average is kept in these parts of an interruption.
const PARTS: u64 = 1024;

/// Counts how often the system took the processor away from this process while it still had work. Threads that wait by
/// spinning are the faster ones on a processor of their own; where it is shared they take the time that the thread they
/// wait for would need.
#[derive(Default)]
pub struct Contention {
    seen: AtomicU64,
    average: AtomicU64,
}

impl Contention {
    /// Looks, once a step, and says whether others want the processor.
    pub fn look(&self) -> bool {
        self.note(interruptions())
    }

    /// Takes the number of interruptions since the process began.
    fn note(&self, interruptions: u64) -> bool {
        let before = self.seen.swap(interruptions, Ordering::Relaxed);
        let fresh = interruptions.saturating_sub(before).min(PARTS) * PARTS;
        let average = self.average.load(Ordering::Relaxed);
        let average = average - average / STEPS + fresh / STEPS;
        // Two replicas may both look; a lost count does no harm.
        self.average.store(average, Ordering::Relaxed);
        average >= INTERRUPTIONS_MAX * PARTS
    }
}

/// Involuntary context switches of the whole process.
fn interruptions() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to memory of the right type, which zeros are a value of.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_nivcsw).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lone_interruption_is_none_and_one_each_step_is_contention_until_it_is_over() {
        let contention = Contention::default();
        contention.note(500);
        let settled = (0..100).map(|_| contention.note(500)).collect::<Vec<_>>();
        assert!(!settled[99], "what was before the first step fades");
        assert!(!contention.note(501));
        let busy = (0..20)
            .map(|step| contention.note(503 + 2 * step))
            .collect::<Vec<_>>();
        assert!(!busy[0] && busy[19]);
        let quiet = (0..20).map(|_| contention.note(541)).collect::<Vec<_>>();
        assert!(!quiet[19]);
    }
}
