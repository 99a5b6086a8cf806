//! The bound on messages that are admitted and not yet answered.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The largest bound that can be counted.
pub(crate) const BOUND_MAX: usize = usize::MAX >> 3;

/// Counts the messages of one generation. Nobody waits to be admitted, so that no lock is needed; and since callers write
/// one count and the actor the other, on different cache lines, neither core fetches a line from the other for each
/// message.
pub(crate) struct Admission {
    callers: Callers,
    actor: Actors,
    bound: usize,
}

#[repr(align(128))]
struct Callers {
    /// Ever admitted; wraps around.
    entered: AtomicUsize,
    /// What `left` was at the last look: never more than it is.
    left_seen: AtomicUsize,
}

#[repr(align(128))]
struct Actors {
    /// Ever answered or dropped; wraps around.
    left: AtomicUsize,
}

impl Admission {
    pub(crate) fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self {
            callers: Callers {
                entered: AtomicUsize::new(0),
                left_seen: AtomicUsize::new(0),
            },
            actor: Actors {
                left: AtomicUsize::new(0),
            },
            bound,
        })
    }

    /// Counts a message in and says how many came before it; `None` where as many as there may be are.
    pub(crate) fn enter(&self) -> Option<usize> {
        // The counts order nothing else: the channel hands the message over.
        let admit = |entered: usize| self.has_room(entered).then(|| entered.wrapping_add(1));
        self.callers
            .entered
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit)
            .ok()
    }

    /// Whether one more has room after `entered`. An `entered` that is out of date may say so wrongly: it is then not
    /// the one that is replaced.
    fn has_room(&self, entered: usize) -> bool {
        if between(self.callers.left_seen.load(Ordering::Relaxed), entered) < self.bound {
            return true;
        }
        let left = self.actor.left.load(Ordering::Relaxed);
        self.callers.left_seen.store(left, Ordering::Relaxed);
        between(left, entered) < self.bound
    }

    /// Counts a message out.
    pub(crate) fn leave(&self) {
        self.actor.left.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message out when dropped.
    pub(crate) fn place(self: &Arc<Self>) -> Place {
        Place(Arc::clone(self))
    }

    /// Messages admitted and not yet answered.
    pub(crate) fn taken(&self) -> usize {
        let left = self.actor.left.load(Ordering::Relaxed);
        between(left, self.callers.entered.load(Ordering::Relaxed))
    }
}

/// Those who entered and had not left; none where `entered` is older than `left`.
fn between(left: usize, entered: usize) -> usize {
    let ahead = entered.wrapping_sub(left);
    if ahead > usize::MAX / 2 { 0 } else { ahead }
}

/// The place of a message that the actor has in hand.
pub(crate) struct Place(Arc<Admission>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn the_bound_holds_whoever_enters_and_leaves() {
        const BOUND: usize = 3;
        let admission = Admission::new(BOUND);
        let inside = AtomicUsize::new(0);
        let admitted = thread::scope(|scope| {
            let threads = [(); 4].map(|()| {
                scope.spawn(|| {
                    let times = (0..100_000).filter(|_| {
                        let entered = admission.enter().is_some();
                        if entered {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < BOUND);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(admission.place());
                        }
                        entered
                    });
                    times.count()
                })
            });
            threads.map(|thread| thread.join().expect("within the bound"))
        });
        assert_eq!(admission.taken(), 0, "{admitted:?}");
        for _ in 0..BOUND {
            assert!(admission.enter().is_some());
        }
        assert_eq!(admission.enter(), None);
        assert_eq!(admission.taken(), BOUND);
    }
}
