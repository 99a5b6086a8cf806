//! Rows of a stored matrix times activations.

use std::ops::Range;

use super::error::{ShapeError, check, check_multiple, elements};
use super::isa::{Isa, Task};
use super::lanes::{BLOCK, LANES, LaneFloats, Lanes, PairBlock};
use super::quantise::QuantisedRows;
use super::tile::{GroupWork, StoredRow, Tile, add_block, for_groups, set_by_block};

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
        self.product_with(Isa::detect(), rows, x, out)
    }

    /// As [`Self::product`], with given instructions.
    ///
    /// # Errors
    /// See [`Self::product`].
    pub fn product_with(
        &self,
        isa: Isa,
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
            isa.run(Product {
                matrix: self,
                rows,
                x,
                out,
            });
        }
        Ok(())
    }
}

pub(super) fn as_bytes(values: &[i8]) -> &[u8] {
    // SAFETY: an i8 is a byte, and the slice is borrowed as long.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) }
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
                int8_product(
                    lanes,
                    Int8Rows::new(values, scales, matrix.cols),
                    rows,
                    x,
                    out,
                );
            }
            Weights::Uint4Blocks {
                packed,
                scales,
                minimums,
            } => uint4_product(lanes, [scales, minimums], packed, rows, x, out),
            Weights::Fp32(values) => fp32_product(values, rows, x, out),
        }
    }
}

/// int8 in blocks of 32, `[N, K]`.
#[derive(Clone, Copy)]
pub(super) struct Int8Rows<'a> {
    values: &'a [u8],
    scales: &'a [f32],
    cols: usize,
}

impl<'a> Int8Rows<'a> {
    pub fn new(values: &'a [i8], scales: &'a [f32], cols: usize) -> Self {
        Self {
            values: as_bytes(values),
            scales,
            cols,
        }
    }
}

/// Overwrites `out` `[T, rows.len()]`.
#[inline(always)]
pub(super) fn int8_product<L: Lanes>(
    lanes: L,
    weights: Int8Rows<'_>,
    rows: Range<usize>,
    x: &QuantisedRows,
    out: &mut [f32],
) {
    let blocks = weights.cols / BLOCK;
    let mut tile = Tile::new(blocks);
    let mut scales = vec![LaneFloats::ZERO; blocks];
    for first in rows.clone().step_by(LANES) {
        let tile_rows = lane_rows(&rows, first);
        tile.set_int8(lanes, stored_rows(weights.values, weights.cols, tile_rows));
        set_by_block(&mut scales, number_rows(weights.scales, blocks, tile_rows));
        let mut work = TileProduct {
            tile: &tile,
            scales: &scales,
            minimums: None,
            x,
            out: &mut *out,
            stride: rows.len(),
            at: first - rows.start,
        };
        for_groups(lanes, x.tokens(), &mut work);
    }
}

#[inline(always)]
fn uint4_product<L: Lanes>(
    lanes: L,
    [scales, minimums]: [&[f32]; 2],
    packed: &[u8],
    rows: Range<usize>,
    x: &QuantisedRows,
    out: &mut [f32],
) {
    let blocks = x.width() / BLOCK;
    let mut tile = Tile::new(blocks);
    let mut tile_scales = vec![LaneFloats::ZERO; blocks];
    let mut tile_minimums = vec![LaneFloats::ZERO; blocks];
    for first in rows.clone().step_by(LANES) {
        let tile_rows = lane_rows(&rows, first);
        tile.set_uint4(lanes, stored_rows(packed, x.width() / 2, tile_rows));
        set_by_block(&mut tile_scales, number_rows(scales, blocks, tile_rows));
        set_by_block(&mut tile_minimums, number_rows(minimums, blocks, tile_rows));
        let mut work = TileProduct {
            tile: &tile,
            scales: &tile_scales,
            minimums: Some(&tile_minimums),
            x,
            out: &mut *out,
            stride: rows.len(),
            at: first - rows.start,
        };
        for_groups(lanes, x.tokens(), &mut work);
    }
}

/// The rows of sixteen lanes from `first` on; lanes beyond the range repeat the last row.
#[inline(always)]
fn lane_rows(rows: &Range<usize>, first: usize) -> [usize; LANES] {
    let mut lanes = [rows.end - 1; LANES];
    for (lane, row) in lanes.iter_mut().zip(first..rows.end) {
        *lane = row;
    }
    lanes
}

#[inline(always)]
fn stored_rows(bytes: &[u8], row_len: usize, rows: [usize; LANES]) -> [StoredRow<'_>; LANES] {
    rows.map(|row| bytes[row * row_len..][..row_len].as_chunks().0)
}

#[inline(always)]
fn number_rows(numbers: &[f32], row_len: usize, rows: [usize; LANES]) -> [&[f32]; LANES] {
    rows.map(|row| &numbers[row * row_len..][..row_len])
}

/// Sixteen columns of an output `[T, stride]`, from column `at`.
struct TileProduct<'a> {
    tile: &'a Tile,
    /// By block.
    scales: &'a [LaneFloats],
    minimums: Option<&'a [LaneFloats]>,
    x: &'a QuantisedRows,
    out: &'a mut [f32],
    stride: usize,
    at: usize,
}

impl GroupWork for TileProduct<'_> {
    #[inline(always)]
    fn group<L: Lanes, const T: usize>(&mut self, lanes: L, first: usize) -> usize {
        let mut sums = [lanes.splat(0.0); T];
        let mut x: [&[PairBlock]; T] = [&[]; T];
        let mut x_sums: [&[f32]; T] = [&[]; T];
        for token in 0..T {
            x[token] = self.x.row(first + token);
            x_sums[token] = self.x.sums(first + token);
        }
        for (at, weights) in self.tile.blocks().iter().enumerate() {
            let mut block_x = [&x[0][at]; T];
            for token in 1..T {
                block_x[token] = &x[token][at];
            }
            let mut block_sums = [lanes.int_zero(); T];
            add_block(lanes, &mut block_sums, weights, block_x);
            let scale = lanes.load(&self.scales[at]);
            for token in 0..T {
                let sum = lanes.to_floats(block_sums[token]);
                sums[token] = lanes.multiply_add(sum, scale, sums[token]);
            }
            if let Some(minimums) = self.minimums {
                let minimum = lanes.load(&minimums[at]);
                for token in 0..T {
                    let sum = lanes.splat(x_sums[token][at]);
                    sums[token] = lanes.multiply_add(sum, minimum, sums[token]);
                }
            }
        }
        for token in 0..T {
            let scale = lanes.splat(self.x.scale(first + token));
            let numbers = lanes.store(lanes.multiply(sums[token], scale));
            let row = &mut self.out[(first + token) * self.stride..][..self.stride];
            let row = &mut row[self.at..];
            match row.first_chunk_mut() {
                Some(row) => *row = numbers.0,
                None => row.copy_from_slice(&numbers.0[..row.len()]),
            }
        }
        T
    }
}

/// Lane `i` sums the elements whose number is `i` modulo 16; the lanes are then added in pairs.
#[inline(always)]
fn fp32_product(values: &[f32], rows: Range<usize>, x: &QuantisedRows, out: &mut [f32]) {
    let width = x.width();
    for (token, out) in out.chunks_exact_mut(rows.len()).enumerate() {
        let values = values[rows.start * width..].chunks_exact(width);
        for (out, row) in out.iter_mut().zip(values) {
            *out = fp32_row(row, x.row(token)) * x.scale(token);
        }
    }
}

#[inline(always)]
fn fp32_row(row: &[f32], x: &[PairBlock]) -> f32 {
    let (row, _) = row.as_chunks::<LANES>();
    let (x, _) = x.as_flattened().as_flattened().as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (weights, x) in row.iter().zip(x) {
        for lane in 0..LANES {
            sums[lane] = weights[lane].mul_add(f32::from(x[lane]), sums[lane]);
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
