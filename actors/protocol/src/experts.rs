use std::sync::Arc;
use std::time::Instant;

use blyan_formats::{PayloadHash, Tensor, TensorName};

/// In which form a backend wants an expert's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightForm {
    /// fp32, derived from the payload where it holds anything else.
    Fp32,
    /// The payload's own elements, as quantised as they are stored.
    Stored,
}

/// An expert's weights, mapped and verified, pinned for as long as the lease lives.
pub trait LeasedExpert: Send + Sync {
    /// `[3F, H]`, rows of gate, up and down transposed, in the form that was asked for.
    fn weights(&self) -> Tensor<'_>;
    /// False once the file behind the map was damaged from outside (SIGBUS); what was computed from
    /// it must then be thrown away.
    fn intact(&self) -> bool;
}

/// Dropping the last clone lets the cache evict the expert.
pub type Lease = Arc<dyn LeasedExpert>;

/// Why an expert cannot be leased.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Its payload fails its hash. It stays quarantined until it is verified again.
    #[error("expert {name} ({payload}) is corrupt: {fault}")]
    Corrupt {
        /// The expert.
        name: TensorName,
        /// Its payload.
        payload: PayloadHash,
        /// Which check failed, for the operator.
        fault: String,
    },
    /// It is larger than the cache's bound.
    #[error("expert {name} needs {needs_bytes} bytes, the cache is bounded to {bound_bytes}")]
    TooLarge {
        /// The expert.
        name: TensorName,
        /// Bytes of its mapped form.
        needs_bytes: u64,
        /// The bound.
        bound_bytes: u64,
    },
    /// Everything in the cache is pinned and nothing became free in time, or the load took too long.
    #[error("expert {name} was not loaded in time")]
    Timeout {
        /// The expert.
        name: TensorName,
    },
    /// The loader is down, or the file is missing or unreadable.
    #[error("expert {name} cannot be loaded: {why}")]
    Unavailable {
        /// The expert.
        name: TensorName,
        /// For the operator.
        why: String,
    },
}

/// The cache's shared table. A lease of a resident expert takes no message; a miss is loaded by the
/// ExpertCacheActor, once for all who wait, while the calling thread blocks (at most until `deadline`).
pub trait ExpertTable: Send + Sync {
    /// Leases the expert `name` whose weights are `payload`. The flag says whether this call waited for a load.
    fn lease(
        &self,
        name: &TensorName,
        payload: &PayloadHash,
        form: WeightForm,
        deadline: Instant,
    ) -> Result<(Lease, bool), LeaseError>;

    /// The fault of a payload that is known to be corrupt.
    fn corruption(&self, payload: &PayloadHash) -> Option<String>;

    /// Changes whenever an expert becomes corrupt or healthy again; a cheap way to see whether to ask.
    fn corruption_epoch(&self) -> u64;

    /// Reports that a mapped payload was damaged from outside while it was leased.
    fn report_damage(&self, name: &TensorName, payload: &PayloadHash, fault: &str);
}
