//! Damaged files are found before use, named, and forgotten only after they passed every check again.

#![allow(clippy::disallowed_methods, reason = "a test's own threads may sleep")]

mod common;

use std::fs;
use std::ops::Range;

use blyan_formats::TensorView;
use blyan_protocol::{ExpertTable, LeaseError, WeightForm};
use common::*;

/// The byte ranges of each section of a payload.
fn sections(expert: &Expert) -> Vec<(&'static str, Range<u64>)> {
    let bytes = fs::read(&expert.path).unwrap();
    let view = TensorView::parse(&bytes).unwrap();
    let sections = view.sections();
    vec![
        ("header", 0..sections.scales.start),
        ("scales", sections.scales.clone()),
        ("padding", sections.padding.clone()),
        ("data", sections.data.clone()),
        ("tree", sections.tree.clone()),
    ]
}

#[test]
fn one_bit_in_any_section_is_found_before_use_and_healed_by_readmission() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    let table = cache.handle.table();
    for (section, range) in sections(&expert) {
        for at in [range.start, (range.start + range.end) / 2, range.end - 1] {
            let epoch = table.corruption_epoch();
            flip_bit(&expert.path, at);
            for form in [WeightForm::Fp32, WeightForm::Stored] {
                let error = cache.lease(&expert, form).err().unwrap();
                let LeaseError::Corrupt {
                    name,
                    payload,
                    fault,
                } = error
                else {
                    panic!("{section} {at}: {error}");
                };
                assert_eq!((name, payload), (expert.name, expert.payload));
                assert_eq!(table.corruption(&expert.payload), Some(fault));
            }
            let status = cache.handle.status();
            let [record] = &status.corrupt[..] else {
                panic!("{section} {at}: {status:?}")
            };
            // Header, scales and the start of the data share a tile with what follows them.
            let last_of_tile = ["header", "scales", "padding", "data"].contains(&section)
                && ["header", "padding", "data"].contains(&record.section);
            assert!(
                last_of_tile || record.section == section,
                "{section} {at}: {record:?}"
            );
            assert!(record.block.is_some() && record.since_ms > 0);
            assert_eq!(status.resident_experts, 0);
            flip_bit(&expert.path, at);
            cache.readmit(&expert).unwrap();
            assert_ne!(table.corruption_epoch(), epoch);
            assert_eq!(
                fp32(&cache.lease(&expert, WeightForm::Fp32).unwrap().0),
                expert.values
            );
            assert_eq!(cache.evict(&expert), 1);
        }
    }
}

#[test]
fn a_known_corruption_is_answered_without_reading_again() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    flip_bit(&expert.path, 5000);
    assert!(cache.lease(&expert, WeightForm::Fp32).is_err());
    let locates = cache.shelf.locates();
    assert!(matches!(
        cache.lease(&expert, WeightForm::Fp32),
        Err(LeaseError::Corrupt { .. })
    ));
    assert_eq!(cache.shelf.locates(), locates);
    let prefetch = cache
        .handle
        .load(expert.name, expert.payload, WeightForm::Stored, PATIENCE);
    assert!(matches!(
        block_on(prefetch),
        Err(LeaseError::Corrupt { .. })
    ));
    assert_eq!(cache.shelf.locates(), locates);
}

#[test]
fn the_actor_and_other_experts_are_untouched_by_a_corrupt_one() {
    let cache = Cache::new(1 << 20);
    let (bad, good) = (cache.shelf.expert(1), cache.shelf.expert(2));
    flip_bit(&bad.path, 5000);
    assert!(cache.lease(&bad, WeightForm::Fp32).is_err());
    assert!(cache.lease(&good, WeightForm::Fp32).is_ok());
    assert_eq!(cache.handle.child().generation().0, 1);
    assert_eq!(cache.handle.table().corruption(&good.payload), None);
}

#[test]
fn a_payload_of_another_length_or_of_another_expert_is_corrupt() {
    let cache = Cache::new(1 << 20);
    let (short, swapped) = (cache.shelf.expert(1), cache.shelf.expert(2));
    fs::copy(&short.path, &swapped.path).unwrap();
    truncate(&short.path, short.len - 1);
    assert!(cache.lease(&short, WeightForm::Stored).is_err());
    assert!(cache.lease(&swapped, WeightForm::Stored).is_err());
    let sections: Vec<_> = cache
        .handle
        .status()
        .corrupt
        .iter()
        .map(|record| record.section)
        .collect();
    assert_eq!(sections, ["length", "file"]);
}

#[test]
fn a_readmission_that_fails_keeps_the_fault_and_finds_new_ones() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    flip_bit(&expert.path, 5000);
    let error = cache.readmit(&expert).unwrap_err();
    assert_eq!(error.class(), blyan_formats::ErrorClass::Corrupt);
    assert!(matches!(
        cache.lease(&expert, WeightForm::Fp32),
        Err(LeaseError::Corrupt { .. })
    ));
    assert!(cache.readmit(&expert).is_err());
    assert_eq!(cache.handle.status().corrupt.len(), 1);
}

#[test]
fn a_wrong_derivation_is_rebuilt_and_never_used() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    let reload = || {
        let values = fp32(&cache.lease(&expert, WeightForm::Fp32).unwrap().0).to_vec();
        assert_eq!(cache.evict(&expert), 1);
        values
    };
    assert_eq!(reload(), expert.values);
    let (right, remembered) = (
        fs::read(&expert.fp32_path).unwrap(),
        cache.shelf.remembered(&expert),
    );
    assert!(remembered.is_some());
    let damages: [&dyn Fn(); 4] = [
        &|| flip_bit(&expert.fp32_path, 8),
        &|| truncate(&expert.fp32_path, 4),
        &|| fs::remove_file(&expert.fp32_path).unwrap(),
        &|| cache.shelf.set_remembered(&expert, Some([1; 32])),
    ];
    for damage in damages {
        damage();
        assert_eq!(reload(), expert.values);
        assert_eq!(fs::read(&expert.fp32_path).unwrap(), right);
        assert_eq!(cache.shelf.remembered(&expert), remembered);
    }
    assert_eq!(
        cache.shelf.cache_files(),
        std::slice::from_ref(&expert.fp32_path),
        "no temporary file is left"
    );
    assert!(cache.handle.status().corrupt.is_empty());
}

#[test]
fn a_right_derivation_is_not_written_again() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    cache.lease(&expert, WeightForm::Fp32).unwrap();
    let made = fs::metadata(&expert.fp32_path).unwrap().modified().unwrap();
    assert_eq!(cache.evict(&expert), 1);
    cache.lease(&expert, WeightForm::Fp32).unwrap();
    assert_eq!(
        fs::metadata(&expert.fp32_path).unwrap().modified().unwrap(),
        made
    );
    assert_eq!(
        cache
            .shelf
            .remembers
            .load(std::sync::atomic::Ordering::SeqCst),
        1
    );
}

#[test]
fn what_a_killed_process_left_of_a_derivation_is_removed() {
    let cache = Cache::new(1 << 20);
    let (expert, other) = (cache.shelf.expert(1), cache.shelf.expert(2));
    fs::create_dir_all(expert.fp32_path.parent().unwrap()).unwrap();
    // No process has this number: Linux stops at 4194304.
    let dead = expert.fp32_path.with_extension("f32.tmp-4194305-0");
    let alive = expert
        .fp32_path
        .with_extension(format!("f32.tmp-{}-99", std::process::id()));
    let of_another = other.fp32_path.with_extension("f32.tmp-4194305-0");
    for leftover in [&dead, &alive, &of_another] {
        fs::write(leftover, b"half").unwrap();
    }
    cache.lease(&expert, WeightForm::Fp32).unwrap();
    assert!(!dead.exists() && alive.exists() && of_another.exists());
    assert!(expert.fp32_path.exists());
}

#[test]
fn a_derivation_that_cannot_be_remembered_serves_all_the_same() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    cache
        .shelf
        .forgetful
        .store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(
        fp32(&cache.lease(&expert, WeightForm::Fp32).unwrap().0),
        expert.values
    );
    assert_eq!(cache.shelf.remembered(&expert), None);
}

#[test]
fn a_derivation_does_not_hide_a_corrupt_payload() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    cache.lease(&expert, WeightForm::Fp32).unwrap();
    assert_eq!(cache.evict(&expert), 1);
    flip_bit(&expert.path, 5000);
    assert!(matches!(
        cache.lease(&expert, WeightForm::Fp32),
        Err(LeaseError::Corrupt { .. })
    ));
}

#[test]
fn a_cache_folder_that_cannot_be_written_is_an_unavailable_expert() {
    let cache = Cache::new(1 << 20);
    let expert = cache.shelf.expert(1);
    fs::write(
        expert.fp32_path.parent().unwrap(),
        b"a file where the folder belongs",
    )
    .unwrap();
    let error = cache.lease(&expert, WeightForm::Fp32).err().unwrap();
    assert!(matches!(error, LeaseError::Unavailable { .. }), "{error}");
    assert!(cache.handle.status().corrupt.is_empty());
    assert_eq!(
        cache.handle.status().held_bytes,
        0,
        "a failed load holds nothing"
    );
}
