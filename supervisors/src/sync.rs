//! What a handle's callers, its actor and the supervisor meet at. Unit tests put shuttle's lock in its place, which
//! lets them try many orders of the same steps; see `docs/decisions/0030-schedules-of-the-handle.md`.

pub(crate) use chosen::{Mutex, step};

#[cfg(not(test))]
mod chosen {
    pub(crate) use parking_lot::Mutex;

    /// A place where another thread may come in between.
    #[inline]
    pub(crate) const fn step() {}
}

#[cfg(test)]
mod chosen {
    use std::sync::PoisonError;

    use shuttle::sync::{
        MutexGuard,
        atomic::{AtomicBool, Ordering},
    };

    /// As parking_lot's: not poisoned by a panic.
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    /// Shuttle chooses at each access of an atomic who goes on; what is read does not matter.
    pub(crate) fn step() {
        AtomicBool::new(false).load(Ordering::SeqCst);
    }
}
