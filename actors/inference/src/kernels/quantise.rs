//! Activations as int16.

use super::error::{ShapeError, check_multiple};
use super::isa::{Isa, Task};
use super::lanes::{BLOCK, BLOCK_PAIRS, Lanes, PairBlock};

/// The range is symmetric: -32768 is not used.
const INT16_MAX: f32 = 32767.0;
/// Rows whose largest magnitude is below this become zeros, so that scale and inverse are normal numbers.
const MAGNITUDE_MIN: f32 = f32::MIN_POSITIVE * 32768.0;
/// A number added to this is rounded to an integer, whose two's complement then stands in the low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;
const INFINITY_BITS: u32 = f32::INFINITY.to_bits();

/// Activations `[T, K]` as int16 with one scale for each token, and what the kernels need besides.
#[derive(Clone, Debug)]
pub struct QuantisedRows {
    width: usize,
    /// `[T, K / 32]`
    values: Vec<PairBlock>,
    /// `[T]`
    scales: Vec<f32>,
    /// `[T, K / 32]`, the sum of each block; a whole number of magnitude below 2^20, so exact.
    sums: Vec<f32>,
}

impl QuantisedRows {
    /// Quantises `input` `[T, width]`. The values of a row that holds a number which is not finite are zeros, and its
    /// scale is NaN, as will be all that is computed from it.
    ///
    /// # Errors
    /// If `width` is zero or no multiple of 32, or `input` is no multiple of it.
    pub fn new(input: &[f32], width: usize) -> Result<Self, ShapeError> {
        Self::with(Isa::detect(), input, width)
    }

    /// As [`Self::new`], with given instructions.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn with(isa: Isa, input: &[f32], width: usize) -> Result<Self, ShapeError> {
        check_multiple("width", BLOCK, width)?;
        if !input.is_empty() {
            check_multiple("input", width, input.len())?;
        }
        let blocks = input.len() / BLOCK;
        let mut rows = Self {
            width,
            values: vec![[[0; 2]; BLOCK_PAIRS]; blocks],
            scales: vec![0.0; input.len() / width],
            sums: vec![0.0; blocks],
        };
        isa.run(Quantise {
            input,
            rows: &mut rows,
        });
        Ok(rows)
    }

    /// T.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.scales.len()
    }

    /// K.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    pub(super) fn row(&self, token: usize) -> &[PairBlock] {
        let blocks = self.width / BLOCK;
        &self.values[token * blocks..][..blocks]
    }

    pub(super) fn sums(&self, token: usize) -> &[f32] {
        let blocks = self.width / BLOCK;
        &self.sums[token * blocks..][..blocks]
    }

    pub(super) fn scale(&self, token: usize) -> f32 {
        self.scales[token]
    }
}

struct Quantise<'a> {
    input: &'a [f32],
    rows: &'a mut QuantisedRows,
}

impl Task for Quantise<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        let QuantisedRows {
            width,
            values,
            scales,
            sums,
        } = self.rows;
        let rows = self.input.chunks_exact(*width);
        let outputs = values.chunks_exact_mut(*width / BLOCK);
        for ((row, values), scale) in rows.zip(outputs).zip(scales) {
            *scale = quantise(row, values.as_flattened_mut().as_flattened_mut());
        }
        for (sum, block) in sums.iter_mut().zip(values) {
            let block = block.as_flattened().iter();
            *sum = block.map(|value| i32::from(*value)).sum::<i32>() as f32;
        }
    }
}

/// Overwrites `values` with `numbers` in units of the scale that is returned; both are of one length.
#[inline(always)]
pub(super) fn quantise(numbers: &[f32], values: &mut [i16]) -> f32 {
    let magnitudes = numbers.iter().map(|x| x.to_bits() & (u32::MAX >> 1));
    // As integers: that order puts what is not a number above infinity.
    let largest_bits = magnitudes.fold(0, u32::max);
    let largest = f32::from_bits(largest_bits);
    if largest_bits >= INFINITY_BITS || largest < MAGNITUDE_MIN {
        values.fill(0);
        return if largest_bits >= INFINITY_BITS {
            f32::NAN
        } else {
            0.0
        };
    }
    let inverse = INT16_MAX / largest;
    for (value, x) in values.iter_mut().zip(numbers) {
        *value = (x * inverse + ROUNDER).to_bits() as i16;
    }
    largest / INT16_MAX
}
