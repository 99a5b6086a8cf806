//! One round of a tile: deltas of several learners, summed so that the order of arrival changes no bit.

use std::collections::BTreeSet;

use super::slice::check_len;
use super::units::{UNITS_PER_ONE, check_range};
use crate::error::TileError;

/// Deltas that a round takes at most: 4,096 values of 2^50 stay below 2^63.
pub const DELTAS_MAX: usize = 4096;

/// Which delta of which learner. A learner never uses a number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeltaId {
    /// The learner's public key, hashed.
    pub learner: [u8; 32],
    /// Its own count of deltas.
    pub sequence: u64,
}

/// What one learner found: a gradient of one tile, the places that are not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Whose it is.
    pub id: DeltaId,
    /// The version of the tile that it was computed on.
    pub base: u64,
    /// Values of the tile, most of them 0.
    pub tile_len: usize,
    /// Place and value in units of 2^-40; places rise.
    pub entries: Vec<(u32, i64)>,
}

/// The sum of the deltas to one version of a tile. A delta to another version is refused, so the ids of one round
/// are all that is needed to count each delta once for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    base: u64,
    sums: Vec<i64>,
    accepted: BTreeSet<DeltaId>,
}

impl Round {
    /// A round without deltas, for version `base` of a tile of `tile_len` values.
    #[must_use]
    pub fn new(base: u64, tile_len: usize) -> Self {
        Self {
            base,
            sums: vec![0; tile_len],
            accepted: BTreeSet::new(),
        }
    }

    /// The deltas that are in the sum.
    #[must_use]
    pub const fn accepted(&self) -> &BTreeSet<DeltaId> {
        &self.accepted
    }

    /// Adds a delta.
    ///
    /// # Errors
    ///
    /// In this order [`TileError::WrongBase`], [`TileError::Replayed`], [`TileError::RoundFull`],
    /// [`TileError::WrongLength`], [`TileError::Misplaced`], [`TileError::TooLarge`]: nothing was added.
    pub fn accept(&mut self, delta: &Delta) -> Result<(), TileError> {
        self.check_base(delta.base)?;
        if self.accepted.contains(&delta.id) {
            return Err(TileError::Replayed);
        }
        self.check_room(1)?;
        check_len("the delta's tile", self.sums.len(), delta.tile_len)?;
        check_entries(&delta.entries, self.sums.len())?;
        for (place, units) in &delta.entries {
            self.sums[*place as usize] += units;
        }
        self.accepted.insert(delta.id);
        Ok(())
    }

    /// Adds what another aggregator summed for the same version.
    ///
    /// # Errors
    ///
    /// [`TileError::WrongBase`], [`TileError::WrongLength`], [`TileError::Replayed`] where one delta is in both, or
    /// [`TileError::RoundFull`]: nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), TileError> {
        self.check_base(other.base)?;
        check_len("the other sum", self.sums.len(), other.sums.len())?;
        if !self.accepted.is_disjoint(&other.accepted) {
            return Err(TileError::Replayed);
        }
        self.check_room(other.accepted.len())?;
        for (sum, units) in self.sums.iter_mut().zip(&other.sums) {
            *sum += units;
        }
        self.accepted.extend(&other.accepted);
        Ok(())
    }

    /// The mean gradient, each delta with the same weight: what the optimiser takes.
    ///
    /// # Errors
    ///
    /// [`TileError::Empty`] without a delta.
    pub fn mean(&self) -> Result<Vec<f32>, TileError> {
        if self.accepted.is_empty() {
            return Err(TileError::Empty("the round"));
        }
        let divisor = self.accepted.len() as f64 * UNITS_PER_ONE as f64;
        let mean = |sum: &i64| (*sum as f64 / divisor) as f32;
        Ok(self.sums.iter().map(mean).collect())
    }

    fn check_base(&self, base: u64) -> Result<(), TileError> {
        if base == self.base {
            return Ok(());
        }
        Err(TileError::WrongBase {
            expected: self.base,
            found: base,
        })
    }

    fn check_room(&self, more: usize) -> Result<(), TileError> {
        if self.accepted.len() + more > DELTAS_MAX {
            return Err(TileError::RoundFull);
        }
        Ok(())
    }
}

/// Places must rise and lie in the tile, values in their range.
fn check_entries(entries: &[(u32, i64)], tile_len: usize) -> Result<(), TileError> {
    let mut free_from = 0;
    for (place, units) in entries {
        let index = *place as usize;
        if index < free_from || index >= tile_len {
            return Err(TileError::Misplaced { index });
        }
        check_range(index, *units)?;
        free_from = index + 1;
    }
    Ok(())
}
