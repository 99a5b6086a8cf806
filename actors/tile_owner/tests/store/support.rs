//! Deltas of two learners, the same ones for the same seed.

use blyan_tile_owner::{AdamWConfig, Compressor, DeltaId, encode, to_units};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const TILE_LEN: usize = 3_000;
pub const CONFIG: AdamWConfig = AdamWConfig {
    learning_rate: 0.01,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.1,
};

pub fn weights() -> Vec<f32> {
    (0..TILE_LEN).map(|at| (at as f32).sin()).collect()
}

/// What a learner sends to a version of the tile.
pub fn delta(learner: u8, base: u64, seed: u64) -> Vec<u8> {
    delta_of(TILE_LEN, learner, base, seed)
}

pub fn delta_of(tile_len: usize, learner: u8, base: u64, seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (base << 8) ^ u64::from(learner));
    let gradient: Vec<f32> = (0..tile_len)
        .map(|_| rng.random_range(-1.0_f32..1.0))
        .collect();
    let mut compressor = Compressor::new(tile_len, 40).unwrap();
    let parts = compressor.compress(&to_units(&gradient).unwrap()).unwrap();
    let id = DeltaId {
        learner: [learner; 32],
        sequence: base,
    };
    encode(id, base, tile_len as u32, &parts).unwrap()
}

pub fn bits(weights: &[f32]) -> Vec<u32> {
    weights.iter().map(|weight| weight.to_bits()).collect()
}
