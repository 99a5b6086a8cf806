use serde::Serialize;

use crate::core::CorruptPayload;

/// The cache as operators see it; for `/security/integrity_status` and the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheStatus {
    /// Experts that can be leased without a load; each form counts apart.
    pub resident_experts: usize,
    /// Their bytes.
    pub resident_bytes: u64,
    /// Bytes that are mapped or about to be: residents, loads under way, and maps that outlive their entry.
    pub held_bytes: u64,
    /// The bound on `held_bytes`.
    pub bytes_max: u64,
    /// Loads that somebody waits for.
    pub loading: usize,
    /// Leases of residents.
    pub hits: u64,
    /// Leases that waited for a load or were refused.
    pub misses: u64,
    /// Loads that succeeded.
    pub loads: u64,
    /// Experts unmapped to make room or on request.
    pub evictions: u64,
    /// Maps whose file was damaged from outside while they were in use.
    pub damaged_maps: u64,
    /// Payloads that fail a check, in the order of names.
    pub corrupt: Vec<CorruptPayload>,
}
