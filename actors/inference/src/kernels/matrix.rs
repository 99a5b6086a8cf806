//! Rows of a stored matrix times activations.

use std::ops::Range;

use super::blocks::BlockMatrix;
use super::error::{ShapeError, check, check_multiple, elements};
use super::isa::Task;
use super::lanes::{BLOCK, Int8Block, LANES, Lanes};
use super::quantise::QuantisedRows;

/// Elements as a TensorBlock stores them, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// value = `scales[row, block]` x element.
    Int8Blocks {
        /// `[N, K]`
        values: &'a [i8],
        /// `[N, K / 32]`
        scales: &'a [f32],
    },
    /// value = `scales[row, block]` x element + `minimums[row, block]`. Byte i of a block's 16 holds element i in its low
    /// half and element i + 16 in its high half.
    Uint4Blocks {
        /// `[N, K / 2]`
        packed: &'a [u8],
        /// `[N, K / 32]`
        scales: &'a [f32],
        /// `[N, K / 32]`
        minimums: &'a [f32],
    },
    /// `[N, K]`
    Fp32(&'a [f32]),
}

/// A matrix `[N, K]` whose slices have the lengths that its shape asks for.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    rows: usize,
    cols: usize,
    weights: Weights<'a>,
}

impl<'a> Matrix<'a> {
    /// # Errors
    /// If `cols` is zero or no multiple of 32, or a slice has another length than the shape asks for.
    pub fn new(rows: usize, cols: usize, weights: Weights<'a>) -> Result<Self, ShapeError> {
        check_multiple("columns", BLOCK, cols)?;
        let values = elements("rows", cols, rows)?;
        let blocks = values / BLOCK;
        match weights {
            Weights::Int8Blocks { values: v, scales } => {
                check("values", values, v.len())?;
                check("scales", blocks, scales.len())?;
            }
            Weights::Uint4Blocks {
                packed,
                scales,
                minimums,
            } => {
                check("packed values", values / 2, packed.len())?;
                check("scales", blocks, scales.len())?;
                check("minimums", blocks, minimums.len())?;
            }
            Weights::Fp32(v) => check("values", values, v.len())?,
        }
        Ok(Self {
            rows,
            cols,
            weights,
        })
    }

    /// N.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// K.
    #[must_use]
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Overwrites `out` `[T, rows.len()]` with the products of some rows and each token's activations.
    ///
    /// # Errors
    /// If `rows` is not within the matrix, or `x` or `out` have another shape.
    pub fn product(
        &self,
        rows: Range<usize>,
        x: &QuantisedRows,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        check("width of activations", self.cols, x.width())?;
        if rows.start > rows.end || rows.end > self.rows {
            return Err(ShapeError {
                what: "end of rows",
                expected: self.rows,
                found: rows.end,
            });
        }
        let len = elements("rows", x.tokens(), rows.len())?;
        check("output", len, out.len())?;
        if len > 0 {
            x.isa().run(Product {
                matrix: self,
                rows,
                x,
                out,
            });
        }
        Ok(())
    }
}

/// Of `values` `[N, K]` and `scales` `[N, K / 32]`.
pub(super) fn int8_matrix<'a>(values: &'a [i8], scales: &'a [f32]) -> BlockMatrix<'a, Int8Block> {
    // SAFETY: an i8 is a byte, and the slice is borrowed as long.
    let bytes: &[u8] = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) };
    BlockMatrix {
        blocks: bytes.as_chunks().0,
        scales,
        minimums: &[],
    }
}

struct Product<'a> {
    matrix: &'a Matrix<'a>,
    rows: Range<usize>,
    x: &'a QuantisedRows,
    out: &'a mut [f32],
}

impl Task for Product<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self {
            matrix,
            rows,
            x,
            out,
        } = self;
        match matrix.weights {
            Weights::Int8Blocks { values, scales } => {
                int8_matrix(values, scales).product(lanes, rows, x, out);
            }
            Weights::Uint4Blocks {
                packed,
                scales,
                minimums,
            } => BlockMatrix {
                blocks: packed.as_chunks::<{ BLOCK / 2 }>().0,
                scales,
                minimums,
            }
            .product(lanes, rows, x, out),
            Weights::Fp32(values) => fp32_product(lanes, values, rows, x, out),
        }
    }
}

/// Lane `i` sums the elements whose number is `i` modulo 16; the lanes are then added in pairs.
#[inline(always)]
fn fp32_product<L: Lanes>(
    lanes: L,
    values: &[f32],
    rows: Range<usize>,
    x: &QuantisedRows,
    out: &mut [f32],
) {
    let width = x.width();
    let mut floats = vec![0.0; width];
    for (token, out) in out.chunks_exact_mut(rows.len()).enumerate() {
        for (block, floats) in floats.chunks_exact_mut(BLOCK).enumerate() {
            let x = x.block::<1>(block, token);
            for (float, value) in floats.iter_mut().zip(lanes.unpack(&x.values[0])) {
                *float = f32::from(value) * x.scales[0];
            }
        }
        let values = values[rows.start * width..].chunks_exact(width);
        for (out, row) in out.iter_mut().zip(values) {
            *out = fp32_row(row, &floats);
        }
    }
}

#[inline(always)]
fn fp32_row(row: &[f32], x: &[f32]) -> f32 {
    let (row, x) = (row.as_chunks::<LANES>().0, x.as_chunks::<LANES>().0);
    let mut sums = [0.0_f32; LANES];
    for (weights, x) in row.iter().zip(x) {
        for lane in 0..LANES {
            sums[lane] = weights[lane].mul_add(x[lane], sums[lane]);
        }
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
    }
    sums[0]
}
