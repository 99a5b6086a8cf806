//! The bound on messages that are admitted and not yet answered.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The largest bound that can be counted.
pub(crate) const BOUND_MAX: usize = usize::MAX >> 3;

/// Counts the places of one generation. Nobody waits for a place, so that giving one back takes no lock.
pub(crate) struct Admission {
    taken: AtomicUsize,
    bound: usize,
}

impl Admission {
    pub(crate) fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self {
            taken: AtomicUsize::new(0),
            bound,
        })
    }

    /// A place; `None` where all are taken.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Place> {
        // The count orders nothing else: the channel hands the message over.
        let next = |taken| (taken < self.bound).then_some(taken + 1);
        let entered = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        entered.is_ok().then(|| Place(Arc::clone(self)))
    }

    /// Messages admitted and not yet answered.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Given back when dropped.
pub(crate) struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}
