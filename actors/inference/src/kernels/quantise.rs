//! Activations as int16.

use super::error::{ShapeError, check_multiple};
use super::isa::{Isa, Task};
use super::lanes::{BLOCK, Lanes, XBlock};

/// Largest quantised magnitude: the largest whose two bytes are both within i8 when the upper one is rounded.
pub const X_MAX: i16 = 127 * 256 + 127;
/// Blocks whose largest magnitude is below this become zeros, so that scale and inverse are normal numbers.
const MAGNITUDE_MIN: f32 = f32::MIN_POSITIVE * 32768.0;
/// A number added to this is rounded to an integer, whose two's complement then stands in the low bits of the sum.
const ROUNDER: f32 = 12_582_912.0;
const INFINITY_BITS: u32 = f32::INFINITY.to_bits();

/// Activations `[T, K]` as int16 in blocks of 32 with one scale each, in the order that some instructions want: what is
/// computed from them is computed with those. A few of a token's activations are a hundred times larger than the rest;
/// with one scale for all they would cost the rest their precision.
#[derive(Clone, Debug)]
pub struct QuantisedRows {
    isa: Isa,
    width: usize,
    tokens: usize,
    /// `[K / 32, T]`, so that those that are wanted together stand together.
    values: Vec<XBlock>,
    /// `[K / 32, T]`
    scales: Vec<f32>,
    /// `[K / 32, T]`: the sum of each block, scaled.
    sums: Vec<f32>,
    /// `[K / 32, T]`: -128 times the sum of each block's integers.
    offsets: Vec<i32>,
}

/// A block of `T` tokens, and what [`QuantisedRows`] has for it.
pub(super) struct TokenBlocks<'a, const T: usize> {
    pub values: &'a [XBlock; T],
    pub scales: &'a [f32; T],
    pub sums: &'a [f32; T],
    pub offsets: &'a [i32; T],
}

impl QuantisedRows {
    /// Quantises `input` `[T, width]`. The values of a block that holds a number which is not finite are zeros, and its
    /// scale is NaN, as will be all that is computed from it.
    ///
    /// # Errors
    /// If `width` is zero or no multiple of 32, or the length of `input` is no multiple of it.
    pub fn new(input: &[f32], width: usize) -> Result<Self, ShapeError> {
        Self::with(Isa::detect(), input, width)
    }

    /// As [`Self::new`], for given instructions.
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
            isa,
            width,
            tokens: input.len() / width,
            values: vec![XBlock::ZERO; blocks],
            scales: vec![0.0; blocks],
            sums: vec![0.0; blocks],
            offsets: vec![0; blocks],
        };
        isa.run(Quantise {
            input,
            rows: &mut rows,
        });
        Ok(rows)
    }

    /// Some of the tokens, as if they alone had been quantised.
    ///
    /// # Panics
    /// If there is no such token.
    #[must_use]
    pub fn select(&self, tokens: &[u32]) -> Self {
        Self {
            isa: self.isa,
            width: self.width,
            tokens: tokens.len(),
            values: pick(&self.values, self.tokens, tokens),
            scales: pick(&self.scales, self.tokens, tokens),
            sums: pick(&self.sums, self.tokens, tokens),
            offsets: pick(&self.offsets, self.tokens, tokens),
        }
    }

    /// T.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// K.
    #[must_use]
    pub const fn width(&self) -> usize {
        self.width
    }

    pub(super) const fn isa(&self) -> Isa {
        self.isa
    }

    /// Block `block` of `T` tokens from `first` on.
    #[inline(always)]
    pub(super) fn block<const T: usize>(&self, block: usize, first: usize) -> TokenBlocks<'_, T> {
        let start = block * self.tokens + first;
        TokenBlocks {
            values: some(&self.values[start..]),
            scales: some(&self.scales[start..]),
            sums: some(&self.sums[start..]),
            offsets: some(&self.offsets[start..]),
        }
    }
}

/// Some columns of rows that are `width` long.
fn pick<E: Copy>(elements: &[E], width: usize, columns: &[u32]) -> Vec<E> {
    let rows = elements.chunks_exact(width.max(1));
    rows.flat_map(|row| columns.iter().map(|column| row[*column as usize]))
        .collect()
}

#[inline(always)]
fn some<E, const T: usize>(elements: &[E]) -> &[E; T] {
    elements.first_chunk().expect("there are as many tokens")
}

struct Quantise<'a> {
    input: &'a [f32],
    rows: &'a mut QuantisedRows,
}

impl Task for Quantise<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { input, rows } = self;
        for (token, row) in input.chunks_exact(rows.width).enumerate() {
            for (block, numbers) in row.as_chunks::<BLOCK>().0.iter().enumerate() {
                let place = block * rows.tokens + token;
                let (inverse, unit) = unit(numbers);
                let (values, sum) = quantise(lanes, numbers, inverse);
                rows.scales[place] = unit;
                rows.values[place] = values;
                rows.sums[place] = sum as f32 * unit;
                rows.offsets[place] = -128 * sum;
            }
        }
    }
}

/// What a block's numbers are multiplied with to be quantised, which is 0 if all that comes out is to be 0, and the scale.
#[inline(always)]
fn unit(block: &[f32; BLOCK]) -> (f32, f32) {
    let magnitudes = block.iter().map(|x| x.to_bits() & (u32::MAX >> 1));
    // As integers: that order puts what is not a number above infinity.
    let largest_bits = magnitudes.fold(0, u32::max);
    let largest = f32::from_bits(largest_bits);
    if largest_bits >= INFINITY_BITS {
        (0.0, f32::NAN)
    } else if largest < MAGNITUDE_MIN {
        (0.0, 0.0)
    } else {
        (f32::from(X_MAX) / largest, largest / f32::from(X_MAX))
    }
}

/// The quantised block and its sum; zeros if `inverse` is.
#[inline(always)]
fn quantise<L: Lanes>(lanes: L, block: &[f32; BLOCK], inverse: f32) -> (XBlock, i32) {
    let mut values = [0; BLOCK];
    let mut sum = 0_i32;
    if inverse == 0.0 {
        return (lanes.pack(&values), sum);
    }
    for (value, x) in values.iter_mut().zip(block) {
        *value = (x * inverse + ROUNDER).to_bits() as i16;
        sum = sum.wrapping_add(i32::from(*value));
    }
    (lanes.pack(&values), sum)
}
