//! What a verified load costs against hashing the same bytes, and what a lease of a resident costs; ratios of one run.
//! `cargo test -p blyan-expert-cache --bench load`: the one profile is optimised already.
#![allow(clippy::disallowed_methods, reason = "a bench may wait")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use blyan_expert_cache::GuardedMap;
use blyan_formats::{Tensor, TensorData, TensorView};
use blyan_protocol::WeightForm;
use common::*;
use sha2::{Digest, Sha256};

/// An expert of SmolLM2-135M: 3 x 96 rows of 576.
const SHAPE: (usize, usize) = (288, 576);
const ROUNDS: usize = 200;

fn median(mut work: impl FnMut()) -> Duration {
    median_of(|| {
        let began = Instant::now();
        work();
        began.elapsed()
    })
}

fn median_of(mut work: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS).map(|_| work()).collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

/// Touches every page.
fn first_use(weights: Tensor<'_>) -> i64 {
    match weights.data() {
        TensorData::Fp32(values) => values.iter().step_by(1024).map(|value| *value as i64).sum(),
        TensorData::Int8Blocks { values, .. } => {
            values.iter().step_by(4096).copied().map(i64::from).sum()
        }
        _ => 0,
    }
}

fn report(what: &str, took: Duration, bytes: u64, against: Duration) {
    let gigabytes = bytes as f64 / took.as_secs_f64() / 1e9;
    let ratio = took.as_secs_f64() / against.as_secs_f64();
    println!("{what:<44} {took:>10.1?} {gigabytes:>7.2} GB/s {ratio:>7.2}x");
}

fn main() {
    let cache = Cache::new(1 << 30);
    let expert = cache.shelf.expert_of_shape(1, SHAPE.0, SHAPE.1);
    let (payload, fp32_bytes) = (
        fs::read(&expert.path).unwrap(),
        (SHAPE.0 * SHAPE.1 * 4) as u64,
    );
    let hash = median(|| {
        black_box(Sha256::digest(black_box(&payload)));
    });
    let verify = median(|| {
        let map = GuardedMap::open(&expert.path, expert.len).unwrap();
        let view = TensorView::parse(map.as_slice()).unwrap();
        view.verify_full(expert.payload).unwrap();
    });
    let load = |form| {
        median_of(|| {
            let began = Instant::now();
            let (lease, waited) = cache.lease(&expert, form).unwrap();
            assert!(waited);
            black_box(first_use(lease.weights()));
            let took = began.elapsed();
            drop(lease);
            assert_eq!(cache.evict(&expert), 1);
            took
        })
    };
    let (stored, fp32) = (load(WeightForm::Stored), load(WeightForm::Fp32));
    cache.lease(&expert, WeightForm::Fp32).unwrap();
    let resident = median(|| drop(black_box(cache.lease(&expert, WeightForm::Fp32))));
    println!(
        "payload {} bytes, fp32 {fp32_bytes} bytes, median of {ROUNDS}",
        expert.len
    );
    report("SHA-256 of the payload in memory", hash, expert.len, hash);
    report("map and verify the payload", verify, expert.len, hash);
    report(
        "lease, load and first use, stored",
        stored,
        expert.len,
        hash,
    );
    report(
        "lease, load and first use, fp32",
        fp32,
        expert.len + fp32_bytes,
        hash,
    );
    println!("{:<44} {resident:>10.1?}", "lease of a resident");
}
