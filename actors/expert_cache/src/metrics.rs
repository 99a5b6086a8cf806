//! Names of the crate's metrics.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

pub(crate) const RESIDENT_BYTES: &str = "blyan_expert_cache_resident_bytes";
pub(crate) const RESIDENT_EXPERTS: &str = "blyan_expert_cache_resident_experts";
pub(crate) const HITS: &str = "blyan_expert_cache_hits_total";
pub(crate) const MISSES: &str = "blyan_expert_cache_misses_total";
pub(crate) const LOADS: &str = "blyan_expert_cache_loads_total";
pub(crate) const EVICTIONS: &str = "blyan_expert_cache_evictions_total";
pub(crate) const CORRUPT: &str = "blyan_expert_cache_corrupt_total";
pub(crate) const DAMAGED: &str = "blyan_expert_cache_damaged_maps_total";
pub(crate) const REBUILT: &str = "blyan_expert_cache_fp32_rebuilt_total";
pub(crate) const LOAD_SECONDS: &str = "blyan_expert_cache_load_seconds";

/// Gives every metric of the crate its help text; call it after the recorder is in place.
pub fn describe_metrics() {
    describe_gauge!(
        RESIDENT_BYTES,
        Unit::Bytes,
        "Bytes of experts that are mapped and can be leased"
    );
    describe_gauge!(
        RESIDENT_EXPERTS,
        "Experts that are mapped and can be leased, each form counted apart"
    );
    describe_counter!(HITS, "Leases of experts that were resident");
    describe_counter!(MISSES, "Leases that had to wait for a load");
    describe_counter!(LOADS, "Loads that succeeded");
    describe_counter!(EVICTIONS, "Experts unmapped to make room or on request");
    describe_counter!(CORRUPT, "Payloads found to fail a check");
    describe_counter!(
        DAMAGED,
        "Maps whose file was damaged from outside while they were in use"
    );
    describe_counter!(REBUILT, "fp32 derivations that were made or made again");
    describe_histogram!(
        LOAD_SECONDS,
        Unit::Seconds,
        "Time from the first miss to the expert's map, loads that succeeded only"
    );
}
