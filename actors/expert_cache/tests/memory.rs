//! Loading and evicting for ever does not grow the process. A binary of its own: nothing else may allocate.

#![allow(clippy::disallowed_methods, reason = "a test's own threads may sleep")]

mod common;

use blyan_protocol::WeightForm;
use common::*;

const PAGE: u64 = 4096;

fn resident_set_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * PAGE
}

fn maps() -> usize {
    std::fs::read_to_string("/proc/self/maps")
        .unwrap()
        .lines()
        .count()
}

/// `BLYAN_CACHE_CYCLES=100000` for the long run.
#[test]
fn loads_and_evictions_leave_memory_where_it_was() {
    let cycles =
        std::env::var("BLYAN_CACHE_CYCLES").map_or(10_000, |cycles| cycles.parse().unwrap());
    let cache = Cache::new(FP32_BYTES);
    let experts = [cache.shelf.expert(1), cache.shelf.expert(2)];
    let cycle = |round: usize| {
        let form = if round % 4 < 2 {
            WeightForm::Fp32
        } else {
            WeightForm::Stored
        };
        let (lease, waited) = cache.lease(&experts[round % 2], form).unwrap();
        assert!(waited && lease.intact());
    };
    (0..500).for_each(cycle);
    let (memory, mapped) = (resident_set_bytes(), maps());
    (0..cycles).for_each(cycle);
    let (memory_after, mapped_after) = (resident_set_bytes(), maps());
    println!("resident {memory} -> {memory_after} bytes, {mapped} -> {mapped_after} maps");
    assert_eq!(cache.handle.status().loads as usize, 500 + cycles);
    assert!(
        memory_after <= memory + memory / 20 + (8 << 20),
        "{memory} -> {memory_after}"
    );
    assert!(mapped_after <= mapped + 8, "{mapped} -> {mapped_after}");
}
