use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blyan_formats::{PayloadHash, Tensor};
use blyan_protocol::{LeasedExpert, WeightForm};
use parking_lot::Mutex;

use crate::core::Ledger;
use crate::loader::Weights;

/// One payload in one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) payload: PayloadHash,
    pub(crate) form: WeightForm,
}

impl Key {
    pub(crate) const fn new(payload: PayloadHash, form: WeightForm) -> Self {
        Self { payload, form }
    }
}

/// Bytes held in the ledger; dropping it frees them.
#[derive(Debug)]
pub(crate) struct Hold {
    ledger: Arc<Mutex<Ledger<Key>>>,
    bytes: u64,
}

impl Hold {
    /// For `bytes` that `ledger` just held.
    pub(super) fn new(ledger: &Arc<Mutex<Ledger<Key>>>, bytes: u64) -> Self {
        Self {
            ledger: Arc::clone(ledger),
            bytes,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.ledger.lock().release(self.bytes);
    }
}

/// A mapped expert. The table has one reference, every lease another.
#[derive(Debug)]
pub(crate) struct Resident {
    // Dropped first: bytes are free only when the map is gone.
    weights: Weights,
    hold: Hold,
    last_used: AtomicU64,
}

impl Resident {
    pub(crate) fn new(weights: Weights, hold: Hold) -> Self {
        Self {
            weights,
            hold,
            last_used: AtomicU64::new(0),
        }
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.hold.bytes
    }

    pub(super) fn touch(&self, tick: u64) {
        self.last_used.fetch_max(tick, Ordering::Relaxed);
    }

    pub(super) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    pub(super) const fn is_payload(&self) -> bool {
        self.weights.is_payload()
    }
}

impl LeasedExpert for Resident {
    fn weights(&self) -> Tensor<'_> {
        self.weights.tensor()
    }

    fn intact(&self) -> bool {
        self.weights.intact()
    }
}
