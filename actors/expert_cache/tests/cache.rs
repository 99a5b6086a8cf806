//! The cache through its handle: one load for many, the bound, leases that pin, damage under live maps.

#![allow(clippy::disallowed_methods, reason = "a test's own threads may sleep")]

mod common;

use std::fs;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use blyan_formats::{DType, LayerPart, PayloadHash, TensorBuf, TensorData, TensorName};
use blyan_protocol::{ExpertTable, LeaseError, WeightForm};
use common::*;

#[test]
fn both_forms_hold_the_experts_weights() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    let (derived, waited) = cache.lease(&expert, WeightForm::Fp32).unwrap();
    assert!(waited);
    assert_eq!(fp32(&derived), expert.values);
    let (stored, _) = cache.lease(&expert, WeightForm::Stored).unwrap();
    assert_eq!(stored.weights().spec().dtype, DType::Int8);
    let mut rebuilt = vec![0.0; ROWS * COLS];
    stored.weights().dequantise_into(&mut rebuilt).unwrap();
    assert_eq!(rebuilt, expert.values);
    assert!(derived.intact() && stored.intact());
}

#[test]
fn fifty_waiters_share_one_load() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    cache.shelf.held.send_replace(true);
    let start = Barrier::new(51);
    std::thread::scope(|scope| {
        let waiters: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    cache.lease(&expert, WeightForm::Fp32).unwrap()
                })
            })
            .collect();
        start.wait();
        eventually("all fifty missed", || cache.handle.status().misses == 50);
        cache.shelf.held.send_replace(false);
        let leases: Vec<_> = waiters
            .into_iter()
            .map(|waiter| waiter.join().unwrap())
            .collect();
        assert!(leases.iter().all(|(lease, _)| fp32(lease) == expert.values));
    });
    let status = cache.handle.status();
    assert_eq!((status.loads, cache.shelf.locates()), (1, 1));
    assert_eq!((status.resident_experts, status.loading), (1, 0));
}

#[test]
fn a_resident_expert_is_leased_without_a_load() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    let (first, _) = cache.lease(&expert, WeightForm::Fp32).unwrap();
    let (again, waited) = cache.lease(&expert, WeightForm::Fp32).unwrap();
    assert!(!waited);
    assert!(Arc::ptr_eq(&first, &again));
    let status = cache.handle.status();
    assert_eq!((status.hits, status.misses, status.loads), (1, 1, 1));
    assert_eq!(
        (status.resident_bytes, status.held_bytes),
        (FP32_BYTES, FP32_BYTES)
    );
}

#[test]
fn the_least_recently_used_expert_makes_room() {
    let cache = Cache::new(3 * FP32_BYTES);
    let experts: Vec<_> = (0..4).map(|number| cache.shelf.expert(number)).collect();
    for expert in &experts[..3] {
        cache.lease(expert, WeightForm::Fp32).unwrap();
    }
    cache.lease(&experts[0], WeightForm::Fp32).unwrap();
    cache.lease(&experts[3], WeightForm::Fp32).unwrap();
    let status = cache.handle.status();
    assert_eq!(
        (status.evictions, status.resident_bytes),
        (1, 3 * FP32_BYTES)
    );
    let resident: Vec<_> = [0, 2, 3, 1]
        .map(|number| cache.is_resident(&experts[number]))
        .to_vec();
    assert_eq!(
        resident,
        [true, true, true, false],
        "the second was used longest ago"
    );
}

#[test]
fn a_leased_expert_is_not_evicted_and_a_load_waits_for_room() {
    let cache = Cache::new(2 * FP32_BYTES);
    let experts: Vec<_> = (0..3).map(|number| cache.shelf.expert(number)).collect();
    let (first, _) = cache.lease(&experts[0], WeightForm::Fp32).unwrap();
    let (second, _) = cache.lease(&experts[1], WeightForm::Fp32).unwrap();
    let refused = cache.lease_within(&experts[2], WeightForm::Fp32, Duration::from_millis(30));
    assert_eq!(
        refused.err(),
        Some(LeaseError::Timeout {
            name: experts[2].name
        })
    );
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| cache.lease(&experts[2], WeightForm::Fp32).unwrap());
        eventually("the load is on its way", || {
            cache.handle.status().loading == 1
        });
        drop(second);
        let (third, _) = waiter.join().unwrap();
        assert_eq!(fp32(&third), experts[2].values);
    });
    assert_eq!(fp32(&first), experts[0].values);
    assert!(cache.is_resident(&experts[0]));
    assert_eq!(cache.handle.status().evictions, 1);
    assert!(cache.handle.status().held_bytes <= 2 * FP32_BYTES);
}

#[test]
fn an_expert_above_the_bound_is_refused_by_size() {
    let cache = Cache::new(FP32_BYTES - 1);
    let expert = cache.shelf.expert(1);
    let expected = LeaseError::TooLarge {
        name: expert.name,
        needs_bytes: FP32_BYTES,
        bound_bytes: FP32_BYTES - 1,
    };
    assert_eq!(cache.lease(&expert, WeightForm::Fp32).err(), Some(expected));
    assert!(
        cache.lease(&expert, WeightForm::Stored).is_ok(),
        "its stored form fits"
    );
}

#[test]
fn an_evicted_map_lives_as_long_as_its_last_lease() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    let (lease, _) = cache.lease(&expert, WeightForm::Fp32).unwrap();
    assert_eq!(cache.evict(&expert), 0, "leased");
    let clone = Arc::clone(&lease);
    drop(lease);
    assert_eq!(cache.evict(&expert), 0, "still leased");
    drop(clone);
    assert_eq!(cache.evict(&expert), 1);
    assert_eq!(cache.evict(&expert), 0);
    let status = cache.handle.status();
    assert_eq!((status.resident_experts, status.held_bytes), (0, 0));
}

#[test]
fn a_prefetched_expert_is_leased_without_waiting() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    let load = || {
        block_on(
            cache
                .handle
                .load(expert.name, expert.payload, WeightForm::Fp32, PATIENCE),
        )
    };
    assert_eq!(load(), Ok(true));
    assert_eq!(load(), Ok(false));
    assert!(!cache.lease(&expert, WeightForm::Fp32).unwrap().1);
}

#[test]
fn an_unknown_payload_and_a_missing_file_are_unavailable() {
    let cache = Cache::new(1 << 20);
    let mut expert = cache.shelf.expert(1);
    fs::remove_file(&expert.path).unwrap();
    let missing = cache.lease(&expert, WeightForm::Fp32).err().unwrap();
    assert!(
        matches!(missing, LeaseError::Unavailable { .. }),
        "{missing}"
    );
    expert.payload = PayloadHash::from_bytes([9; 32]);
    let unknown = cache.lease(&expert, WeightForm::Fp32).err().unwrap();
    assert!(
        matches!(unknown, LeaseError::Unavailable { .. }),
        "{unknown}"
    );
    assert!(cache.handle.status().corrupt.is_empty());
}

#[test]
fn a_source_that_does_not_answer_ends_the_load_typed() {
    let config = blyan_expert_cache::ExpertCacheConfig {
        source_timeout_ms: 20,
        ..config(1 << 20)
    };
    let cache = Cache::with(config, Arc::new(blyan_supervisors::NoProbe), MANY);
    let expert = cache.shelf.expert(1);
    cache.shelf.held.send_replace(true);
    let silent = cache.lease(&expert, WeightForm::Fp32).err().unwrap();
    assert!(matches!(silent, LeaseError::Unavailable { .. }), "{silent}");
    cache.shelf.held.send_replace(false);
    assert!(cache.lease(&expert, WeightForm::Fp32).is_ok());
}

#[test]
fn a_deadline_ends_the_wait_but_not_the_load() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    cache.shelf.held.send_replace(true);
    let late = cache.lease_within(&expert, WeightForm::Fp32, Duration::from_millis(5));
    assert_eq!(late.err(), Some(LeaseError::Timeout { name: expert.name }));
    cache.shelf.held.send_replace(false);
    eventually("the load ends", || {
        cache.handle.status().resident_experts == 1
    });
    assert_eq!(cache.shelf.locates(), 1);
}

#[test]
fn a_payload_truncated_under_a_lease_is_corrupt_until_it_is_whole_again() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    let whole = fs::read(&expert.path).unwrap();
    let (lease, _) = cache.lease(&expert, WeightForm::Stored).unwrap();
    let table = cache.handle.table();
    let epoch = table.corruption_epoch();
    truncate(&expert.path, 0);
    let TensorData::Int8Blocks { values, .. } = lease.weights().data() else {
        panic!("experts are int8 blocks");
    };
    assert!(values.iter().all(|value| *value == 0));
    assert!(!lease.intact());
    table.report_damage(&expert.name, &expert.payload, "seen by a step");
    assert_eq!(
        table.corruption(&expert.payload).as_deref(),
        Some("seen by a step")
    );
    assert_ne!(table.corruption_epoch(), epoch);
    assert!(matches!(
        cache.lease(&expert, WeightForm::Stored),
        Err(LeaseError::Corrupt { .. })
    ));
    assert!(cache.readmit(&expert).is_err(), "still truncated");
    fs::write(&expert.path, whole).unwrap();
    cache.readmit(&expert).unwrap();
    assert_eq!(table.corruption(&expert.payload), None);
    let (again, _) = cache.lease(&expert, WeightForm::Stored).unwrap();
    assert!(again.intact() && !lease.intact());
    assert_eq!(cache.handle.status().damaged_maps, 1);
}

#[test]
fn a_derivation_truncated_under_a_lease_is_made_again_by_the_next() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    let (lease, _) = cache.lease(&expert, WeightForm::Fp32).unwrap();
    truncate(&expert.fp32_path, 0);
    assert!(fp32(&lease).iter().all(|value| *value == 0.0));
    assert!(!lease.intact());
    let (again, waited) = cache.lease(&expert, WeightForm::Fp32).unwrap();
    assert!(waited);
    assert_eq!(fp32(&again), expert.values);
    cache.handle.table().report_damage(
        &expert.name,
        &expert.payload,
        "late report of the first map",
    );
    assert!(
        !cache.lease(&expert, WeightForm::Fp32).unwrap().1,
        "the new map stays"
    );
    let status = cache.handle.status();
    assert!(status.corrupt.is_empty());
    assert_eq!(status.damaged_maps, 1);
}

#[test]
fn shared_weights_are_mapped_outside_of_the_bound() {
    let cache = Cache::new(1);
    let norm_values = values(3, 64);
    let norm = TensorBuf::fp32(1, 64, norm_values.clone()).unwrap();
    let norm = cache.shelf.put(TensorName::OutputNorm, &norm);
    let scales = vec![0.5; 4 * 2];
    let embedding = TensorBuf::int8_blocks(4, 64, vec![3; 256], scales).unwrap();
    let embedding = cache.shelf.put(TensorName::Embedding, &embedding);
    let wanted = [
        (norm.name, norm.payload),
        (embedding.name, embedding.payload),
    ];
    let shared = block_on(cache.handle.load_shared(&wanted, WeightForm::Fp32)).unwrap();
    let norm = shared.get(&TensorName::OutputNorm).unwrap();
    assert_eq!((norm.rows(), norm.cols()), (1, 64));
    assert_eq!(norm.as_fp32(), Some(&norm_values[..]));
    let embedded = shared.get(&TensorName::Embedding).unwrap();
    assert_eq!((embedded.rows(), embedded.cols()), (4, 64));
    assert_eq!(embedded.as_fp32(), Some(&[1.5; 256][..]));
    assert_eq!(shared.names().count(), 2);
    assert!(
        shared
            .get(&TensorName::layer_part(0, LayerPart::Router))
            .is_none()
    );
    assert_eq!(cache.handle.status().held_bytes, 0);
    assert_eq!(
        cache.shelf.cache_files(),
        [embedding.fp32_path],
        "fp32 payloads need no derivation"
    );
    let stored = block_on(cache.handle.load_shared(&wanted, WeightForm::Stored)).unwrap();
    let embedded = stored.get(&TensorName::Embedding).unwrap();
    assert_eq!(embedded.spec().dtype, DType::Int8);
}

#[test]
fn a_corrupt_shared_weight_is_named() {
    let cache = Cache::new(1);
    let norm = TensorBuf::fp32(1, 64, values(3, 64)).unwrap();
    let norm = cache.shelf.put(TensorName::OutputNorm, &norm);
    flip_bit(&norm.path, 4096);
    let error = block_on(
        cache
            .handle
            .load_shared(&[(norm.name, norm.payload)], WeightForm::Fp32),
    )
    .unwrap_err();
    assert_eq!(error.class(), blyan_formats::ErrorClass::Corrupt);
    assert_eq!(
        cache.handle.status().corrupt[0].name,
        TensorName::OutputNorm
    );
}

#[test]
fn a_shared_weight_damaged_in_use_is_corrupt_until_it_is_loaded_anew() {
    let cache = Cache::new(1);
    let norm = TensorBuf::fp32(1, 64, values(3, 64)).unwrap();
    let norm = cache.shelf.put(TensorName::OutputNorm, &norm);
    let whole = fs::read(&norm.path).unwrap();
    let wanted = [(norm.name, norm.payload)];
    let shared = block_on(cache.handle.load_shared(&wanted, WeightForm::Fp32)).unwrap();
    truncate(&norm.path, 0);
    assert_eq!(shared.get(&norm.name).unwrap().as_fp32().unwrap()[0], 0.0);
    assert_eq!(shared.damaged(), wanted);
    let table = cache.handle.table();
    table.report_damage(&norm.name, &norm.payload, "seen by a step");
    assert!(table.corruption(&norm.payload).is_some());
    fs::write(&norm.path, whole).unwrap();
    let refused = cache.readmit(&norm).unwrap_err();
    assert!(
        matches!(refused, blyan_expert_cache::CacheError::InUse(_)),
        "{refused}"
    );
    drop(shared);
    cache.readmit(&norm).unwrap();
    assert!(
        block_on(cache.handle.load_shared(&wanted, WeightForm::Fp32))
            .unwrap()
            .intact()
    );
}

#[test]
fn leases_of_many_threads_under_a_small_bound_are_always_right() {
    let cache = Cache::new(5 * FP32_BYTES);
    let experts: Vec<_> = (0..12).map(|number| cache.shelf.expert(number)).collect();
    let end = Instant::now() + PATIENCE;
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let (cache, experts) = (&cache, &experts);
            scope.spawn(move || {
                for round in 0..200 {
                    let expert = &experts[(round * (thread + 3) + thread) % experts.len()];
                    let (lease, _) = cache.lease(expert, WeightForm::Fp32).unwrap();
                    assert_eq!(fp32(&lease), expert.values);
                    assert!(cache.handle.status().held_bytes <= 5 * FP32_BYTES);
                    assert!(Instant::now() < end);
                }
            });
        }
    });
    assert!(cache.handle.status().evictions > 0);
    assert_eq!(
        cache.handle.status().held_bytes,
        cache.handle.status().resident_bytes
    );
}
