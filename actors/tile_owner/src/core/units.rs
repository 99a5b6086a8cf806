//! Gradients as whole numbers. Sums of floats depend on their order; sums of these do not.

use crate::error::TileError;

/// Units per 1.0: a unit is 2^-40, about 9 * 10^-13.
pub const UNITS_PER_ONE: i64 = 1 << 40;

/// The largest value, in units: 2^50, which is 1024. With at most [`DELTAS_MAX`](super::round::DELTAS_MAX) deltas in a
/// round no sum leaves an `i64`.
pub const UNITS_MAX: i64 = 1 << 50;

/// Each value in units, rounded to the nearest one, half to even. Exact from 2^-17 on: an f32 has 24 bits.
///
/// # Errors
///
/// [`TileError::NotANumber`], [`TileError::Infinite`] or [`TileError::TooLarge`] for the first such value.
pub fn to_units(values: &[f32]) -> Result<Vec<i64>, TileError> {
    let units = |(index, value): (usize, &f32)| {
        if value.is_nan() {
            return Err(TileError::NotANumber { index });
        }
        if value.is_infinite() {
            return Err(TileError::Infinite { index });
        }
        // Times a power of two, so only the rounding to a whole number loses anything.
        let scaled = (f64::from(*value) * UNITS_PER_ONE as f64).round_ties_even();
        if scaled.abs() > UNITS_MAX as f64 {
            return Err(TileError::TooLarge { index });
        }
        Ok(scaled as i64)
    };
    values.iter().enumerate().map(units).collect()
}

/// Refuses the first value beyond [`UNITS_MAX`].
pub(crate) fn check_range(index: usize, units: i64) -> Result<(), TileError> {
    if units.unsigned_abs() > UNITS_MAX as u64 {
        return Err(TileError::TooLarge { index });
    }
    Ok(())
}
