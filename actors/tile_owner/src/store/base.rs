//! A tile at one version as a file: what a chain of deltas begins from. Numbers are little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `BLYT` |
//! | 1 | format, 1 |
//! | 8 | version of the tile |
//! | 4 | its number of values |
//! | 8, 8 | the optimiser's `beta1_power` and `beta2_power` |
//! | 4 each | weights, the optimiser's means, its mean squares |
//! | 32 | SHA-256 of all before |

use sha2::{Digest as _, Sha256};

use crate::core::AdamW;

const MAGIC: [u8; 4] = *b"BLYT";
const FORMAT: u8 = 1;
const HEADER_LEN: usize = 33;
const HASH_LEN: usize = 32;
/// Weights and the optimiser's two arrays.
const ARRAYS: usize = 3;

/// A tile between two rounds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    pub(super) version: u64,
    pub(super) weights: Vec<f32>,
    pub(super) optimiser: AdamW,
}

impl State {
    pub(super) fn first(weights: &[f32]) -> Self {
        Self {
            version: 0,
            weights: weights.to_vec(),
            optimiser: AdamW::new(weights.len()),
        }
    }

    /// The file, which ends with the hash.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let values = self.weights.len();
        let mut bytes = Vec::with_capacity(HEADER_LEN + ARRAYS * 4 * values + HASH_LEN);
        bytes.extend(MAGIC);
        bytes.push(FORMAT);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((values as u32).to_le_bytes());
        bytes.extend(self.optimiser.beta1_power.to_le_bytes());
        bytes.extend(self.optimiser.beta2_power.to_le_bytes());
        for array in [&self.weights, &self.optimiser.mean, &self.optimiser.square] {
            bytes.extend(array.iter().flat_map(|value| value.to_le_bytes()));
        }
        let hash = Sha256::digest(&bytes);
        bytes.extend(hash);
        bytes
    }

    /// # Errors
    /// What is wrong with the bytes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let Some((covered, hash)) = bytes.split_last_chunk::<HASH_LEN>() else {
            return Err("it is cut off");
        };
        if Sha256::digest(covered)[..] != hash[..] {
            return Err("it does not fit its hash");
        }
        let Some((header, values)) = covered.split_first_chunk::<HEADER_LEN>() else {
            return Err("it is cut off");
        };
        if header[..4] != MAGIC || header[4] != FORMAT {
            return Err("it is of a format that is not known");
        }
        let eight = |at: usize| <[u8; 8]>::try_from(&header[at..at + 8]);
        let (Ok(version), Ok(beta1), Ok(beta2)) = (eight(5), eight(17), eight(25)) else {
            return Err("it is cut off");
        };
        let len = u32::from_le_bytes([header[13], header[14], header[15], header[16]]) as usize;
        if len == 0 || values.len() != ARRAYS * 4 * len {
            return Err("it has another length than it says");
        }
        let mut arrays = values.chunks_exact(4 * len).map(floats);
        let mut next = || arrays.next().unwrap_or_default();
        Ok(Self {
            version: u64::from_le_bytes(version),
            weights: next(),
            optimiser: AdamW {
                mean: next(),
                square: next(),
                beta1_power: f64::from_le_bytes(beta1),
                beta2_power: f64::from_le_bytes(beta2),
            },
        })
    }
}

/// What the file of a state ends with.
pub(super) fn hash_of(file: &[u8]) -> [u8; HASH_LEN] {
    file.last_chunk().copied().unwrap_or_default()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, _) = bytes.as_chunks::<4>();
    values
        .iter()
        .map(|value| f32::from_le_bytes(*value))
        .collect()
}
