//! Lossy compression that loses nothing for good: int8, then top-k (TILE-22, TILE-23), and what is not sent is added to the
//! next delta. All in whole numbers, so sent + kept back = accumulated, exactly.

use std::cmp::Reverse;

use super::slice::check_len;
use super::units::{UNITS_MAX, check_range};
use crate::error::TileError;

/// Values of a sub-tile: 256 KB of f32. Each has a scale of its own.
pub const SUB_TILE_LEN: usize = 65_536;

/// The largest int8 value; -128 stays unused, so that both signs reach as far.
pub(crate) const QUANTISED_MAX: i64 = 127;

/// Rounding the scale up adds less than one unit per int8 step, so what is sent stays below [`UNITS_MAX`].
const ACCUMULATED_MAX: i64 = UNITS_MAX - QUANTISED_MAX;

/// What is sent of a sub-tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubTile {
    /// Units per int8 step; 0 where nothing is sent.
    pub scale: i64,
    /// Place within the sub-tile, and the int8 value, never 0; places rise.
    pub kept: Vec<(u32, i8)>,
}

/// One learner's compressor of one tile, with what it has not sent yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressor {
    residual: Vec<i64>,
    kept_per_mille: usize,
}

impl Compressor {
    /// A compressor that owes nothing, for a tile of `tile_len` values. `kept_per_mille` of each sub-tile's values are
    /// sent, rounded up.
    ///
    /// # Errors
    ///
    /// [`TileError::Setting`] for a share outside 1 to 1000.
    pub fn new(tile_len: usize, kept_per_mille: usize) -> Result<Self, TileError> {
        Self::resume(vec![0; tile_len], kept_per_mille)
    }

    /// A compressor that goes on with the `residual` of an earlier one, in units.
    ///
    /// # Errors
    ///
    /// [`TileError::Setting`] for a share outside 1 to 1000.
    pub fn resume(residual: Vec<i64>, kept_per_mille: usize) -> Result<Self, TileError> {
        if !(1..=1000).contains(&kept_per_mille) {
            return Err(TileError::Setting {
                name: "kept_per_mille",
                range: "from 1 to 1000",
            });
        }
        Ok(Self {
            residual,
            kept_per_mille,
        })
    }

    /// What was given and not sent yet, in units.
    #[must_use]
    pub fn residual(&self) -> &[i64] {
        &self.residual
    }

    /// Takes a gradient in units and says what to send: one [`SubTile`] for every [`SUB_TILE_LEN`] values.
    ///
    /// # Errors
    ///
    /// [`TileError::WrongLength`]; [`TileError::TooLarge`] where a value, or its sum with what is owed, leaves the
    /// range: the gradient was not taken.
    pub fn compress(&mut self, gradient: &[i64]) -> Result<Vec<SubTile>, TileError> {
        check_len("the gradient", self.residual.len(), gradient.len())?;
        let mut accumulated = Vec::with_capacity(gradient.len());
        for (index, (owed, new)) in self.residual.iter().zip(gradient).enumerate() {
            check_range(index, *new)?;
            let sum = owed.saturating_add(*new);
            if sum.unsigned_abs() > ACCUMULATED_MAX as u64 {
                return Err(TileError::TooLarge { index });
            }
            accumulated.push(sum);
        }
        self.residual = accumulated;
        let share = self.kept_per_mille;
        let parts = self.residual.chunks_mut(SUB_TILE_LEN);
        Ok(parts.map(|part| send_from(part, share)).collect())
    }
}

/// Takes out of `owed` what is worth sending most.
fn send_from(owed: &mut [i64], kept_per_mille: usize) -> SubTile {
    let largest = owed.iter().map(|v| v.abs()).max().unwrap_or(0);
    let scale = (largest + QUANTISED_MAX - 1) / QUANTISED_MAX;
    let mut kept = Vec::new();
    for place in largest_places(owed, scale, kept_per_mille) {
        let value = &mut owed[place as usize];
        let quantised = nearest(*value, scale);
        *value -= i64::from(quantised) * scale;
        kept.push((place, quantised));
    }
    SubTile { scale, kept }
}

/// The places of the largest values that do not become 0, in rising order. Equal values: the first ones.
fn largest_places(owed: &[i64], scale: i64, kept_per_mille: usize) -> Vec<u32> {
    let count = (owed.len() * kept_per_mille).div_ceil(1000);
    // Half a step is where the nearest int8 value is no longer 0.
    let mut places: Vec<u32> = (0..)
        .zip(owed)
        .filter(|(_, value)| **value != 0 && 2 * value.abs() >= scale)
        .map(|(place, _)| place)
        .collect();
    if places.len() > count {
        places.select_nth_unstable_by_key(count, |place| {
            (Reverse(owed[*place as usize].abs()), *place)
        });
        places.truncate(count);
        places.sort_unstable();
    }
    places
}

/// `value / scale`, half away from zero. The scale was made so that the result is at most 127.
fn nearest(value: i64, scale: i64) -> i8 {
    let steps = (2 * value.abs() + scale) / (2 * scale);
    (steps * value.signum()) as i8
}
