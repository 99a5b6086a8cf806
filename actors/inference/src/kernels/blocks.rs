//! Products with matrices that are stored in blocks of 32.

use std::marker::PhantomData;
use std::ops::Range;

use super::lanes::{BLOCK, LANES, LaneFloats, LaneWords, Lanes, PACKED_BLOCK, SLICE, XBlock};
use super::quantise::QuantisedRows;
use super::rows::{GroupWork, Rows, for_groups, store_lanes};

/// How elements are stored. Every method must be `#[inline(always)]`.
pub trait Storage {
    /// Of one block.
    const BYTES: usize;
    const INT8: bool;

    fn lay_out<L: Lanes>(lanes: L, rows: &Rows<'_, u8>, at: usize, weights: &mut L::Weights);

    fn slice<L: Lanes>(lanes: L, x: &[XBlock; SLICE]) -> L::XSlice;

    /// Of the four rows from `first` on, see [`Lanes::int8_dots`].
    fn dots<L: Lanes>(
        lanes: L,
        rows: &Rows<'_, u8>,
        first: usize,
        at: usize,
        x: &L::XSlice,
    ) -> LaneWords;
}

/// value = scale of the block x element.
pub struct Int8;

/// value = scale of the block x element + minimum of the block.
pub struct Uint4;

impl Storage for Int8 {
    const BYTES: usize = BLOCK;
    const INT8: bool = true;

    #[inline(always)]
    fn lay_out<L: Lanes>(lanes: L, rows: &Rows<'_, u8>, at: usize, weights: &mut L::Weights) {
        lanes.lay_out_int8(rows, at, weights);
    }

    #[inline(always)]
    fn slice<L: Lanes>(lanes: L, x: &[XBlock; SLICE]) -> L::XSlice {
        lanes.int8_slice(x)
    }

    #[inline(always)]
    fn dots<L: Lanes>(
        lanes: L,
        rows: &Rows<'_, u8>,
        first: usize,
        at: usize,
        x: &L::XSlice,
    ) -> LaneWords {
        let mut spare = [[0; SLICE * BLOCK]; SLICE];
        lanes.int8_dots(rows.padded_runs(first, at, &mut spare), x)
    }
}

impl Storage for Uint4 {
    const BYTES: usize = PACKED_BLOCK;
    const INT8: bool = false;

    #[inline(always)]
    fn lay_out<L: Lanes>(lanes: L, rows: &Rows<'_, u8>, at: usize, weights: &mut L::Weights) {
        lanes.lay_out_uint4(rows, at, weights);
    }

    #[inline(always)]
    fn slice<L: Lanes>(lanes: L, x: &[XBlock; SLICE]) -> L::XSlice {
        lanes.uint4_slice(x)
    }

    #[inline(always)]
    fn dots<L: Lanes>(
        lanes: L,
        rows: &Rows<'_, u8>,
        first: usize,
        at: usize,
        x: &L::XSlice,
    ) -> LaneWords {
        let mut spare = [[0; SLICE * PACKED_BLOCK]; SLICE];
        lanes.uint4_dots(rows.padded_runs(first, at, &mut spare), x)
    }
}

/// `[N, K]`
pub struct BlockMatrix<'a, S> {
    bytes: &'a [u8],
    /// `[N, K / 32]`
    scales: &'a [f32],
    /// `[N, K / 32]`, or nothing if there are none.
    minimums: &'a [f32],
    storage: PhantomData<S>,
}

impl<'a> BlockMatrix<'a, Int8> {
    pub fn int8(bytes: &'a [u8], scales: &'a [f32]) -> Self {
        Self {
            bytes,
            scales,
            minimums: &[],
            storage: PhantomData,
        }
    }
}

impl<'a> BlockMatrix<'a, Uint4> {
    pub fn uint4(bytes: &'a [u8], scales: &'a [f32], minimums: &'a [f32]) -> Self {
        Self {
            bytes,
            scales,
            minimums,
            storage: PhantomData,
        }
    }
}

impl<S: Storage> BlockMatrix<'_, S> {
    /// Overwrites `out` `[T, rows.len()]`.
    #[inline(always)]
    pub fn product<L: Lanes>(
        &self,
        lanes: L,
        rows: Range<usize>,
        x: &QuantisedRows,
        out: &mut [f32],
    ) {
        match x.tokens() {
            1 => self.one_token(lanes, rows, x, out),
            _ => self.many_tokens(lanes, rows, x, out),
        }
    }

    /// Reads the rows as they stand, for speed is that of memory.
    #[inline(always)]
    fn one_token<L: Lanes>(
        &self,
        lanes: L,
        rows: Range<usize>,
        x: &QuantisedRows,
        out: &mut [f32],
    ) {
        let blocks = x.width() / BLOCK;
        let slices = Slices::<L>::new::<S>(lanes, x);
        let mut dots = vec![[LaneWords::ZERO; LANES / SLICE]; blocks.div_ceil(SLICE)];
        let mut factors = Factors::new(blocks, S::INT8);
        let mut spare = Vec::new();
        for first in rows.clone().step_by(LANES) {
            factors.set(lanes, [self.scales, self.minimums], first, rows.end);
            let len = blocks * S::BYTES;
            let tile = Rows::new(self.bytes, len, first, rows.end, &mut spare);
            for (part, row) in (0..LANES).step_by(SLICE).enumerate() {
                tile.prefetch_next(lanes, part, LANES / SLICE);
                for ((at, dots), (x, _)) in dots.iter_mut().enumerate().zip(&slices.0) {
                    dots[part] = S::dots(lanes, &tile, row, at * SLICE * S::BYTES, x);
                }
            }
            let sum = factors.sum(lanes, &dots, &slices);
            let numbers = lanes.store(lanes.multiply(sum, lanes.splat(x.scale(0))));
            store_lanes(&mut out[first - rows.start..], &numbers);
        }
    }

    /// Lays sixteen rows out by lane, to use them for all tokens.
    #[inline(always)]
    fn many_tokens<L: Lanes>(
        &self,
        lanes: L,
        rows: Range<usize>,
        x: &QuantisedRows,
        out: &mut [f32],
    ) {
        let blocks = x.width() / BLOCK;
        let mut weights = vec![L::NO_WEIGHTS; blocks];
        let mut factors = Factors::new(blocks, S::INT8);
        let mut spare = Vec::new();
        for first in rows.clone().step_by(LANES) {
            factors.set(lanes, [self.scales, self.minimums], first, rows.end);
            let len = blocks * S::BYTES;
            let tile = Rows::new(self.bytes, len, first, rows.end, &mut spare);
            for (block, weights) in weights.iter_mut().enumerate() {
                tile.prefetch_next(lanes, block, blocks);
                S::lay_out(lanes, &tile, block * S::BYTES, weights);
            }
            let mut product = TileProduct::<L, S> {
                weights: &weights,
                factors: &factors,
                x,
                out: &mut *out,
                stride: rows.len(),
                at: first - rows.start,
                storage: PhantomData,
            };
            for_groups(lanes, x.tokens(), &mut product);
        }
    }
}

/// The activations of one token, four blocks at a time, and the blocks' offsets.
struct Slices<L: Lanes>(Vec<(L::XSlice, [i32; SLICE])>);

impl<L: Lanes> Slices<L> {
    #[inline(always)]
    fn new<S: Storage>(lanes: L, x: &QuantisedRows) -> Self {
        let blocks = x.width() / BLOCK;
        let mut slices = Vec::with_capacity(blocks.div_ceil(SLICE));
        for at in (0..blocks).step_by(SLICE) {
            let mut values = [XBlock::ZERO; SLICE];
            let mut offsets = [0; SLICE];
            for (place, block) in (at..blocks.min(at + SLICE)).enumerate() {
                let ([value], [offset]) = x.block(block, 0);
                (values[place], offsets[place]) = (*value, *offset);
            }
            slices.push((S::slice(lanes, &values), offsets));
        }
        Self(slices)
    }
}

/// Scales and minimums of sixteen rows, by block.
struct Factors {
    scales: Vec<LaneFloats>,
    /// Empty if there are none.
    minimums: Vec<LaneFloats>,
    spare: Vec<f32>,
}

impl Factors {
    fn new(blocks: usize, int8: bool) -> Self {
        Self {
            scales: vec![LaneFloats::ZERO; blocks],
            minimums: vec![LaneFloats::ZERO; if int8 { 0 } else { blocks }],
            spare: Vec::new(),
        }
    }

    /// Takes them from matrices `[_, blocks]`, from row `first` on and up to `end`.
    #[inline(always)]
    fn set<L: Lanes>(
        &mut self,
        lanes: L,
        [scales, minimums]: [&[f32]; 2],
        first: usize,
        end: usize,
    ) {
        let blocks = self.scales.len();
        for (from, to) in [(scales, &mut self.scales), (minimums, &mut self.minimums)] {
            if !to.is_empty() {
                let rows = Rows::new(from, blocks, first, end, &mut self.spare);
                rows.prefetch_next(lanes, 0, 1);
                rows.transpose(lanes, to);
            }
        }
    }

    /// One token's sums over all blocks.
    #[inline(always)]
    fn sum<L: Lanes>(
        &self,
        lanes: L,
        dots: &[[LaneWords; LANES / SLICE]],
        slices: &Slices<L>,
    ) -> L::Floats {
        let mut sum = lanes.splat(0.0);
        for (at, (dots, (_, offsets))) in dots.iter().zip(&slices.0).enumerate() {
            let sums = if self.minimums.is_empty() {
                lanes.sums_of_dots::<true>(dots, offsets)
            } else {
                lanes.sums_of_dots::<false>(dots, offsets)
            };
            let blocks = at * SLICE..self.scales.len().min((at + 1) * SLICE);
            for (block, (ints, offset)) in blocks.zip(sums.iter().zip(offsets)) {
                sum = self.add_block(lanes, block, lanes.to_floats(*ints), *offset, sum);
            }
        }
        sum
    }

    #[inline(always)]
    fn add_block<L: Lanes>(
        &self,
        lanes: L,
        block: usize,
        products: L::Floats,
        x_offset: i32,
        sum: L::Floats,
    ) -> L::Floats {
        let sum = lanes.multiply_add(products, lanes.load(&self.scales[block]), sum);
        match self.minimums.get(block) {
            None => sum,
            Some(minimum) => {
                let x = lanes.splat(x_offset as f32 * (-1.0 / 128.0));
                lanes.multiply_add(x, lanes.load(minimum), sum)
            }
        }
    }
}

/// Sixteen columns of an output `[T, stride]`, from column `at`.
struct TileProduct<'a, L: Lanes, S> {
    /// By block.
    weights: &'a [L::Weights],
    factors: &'a Factors,
    x: &'a QuantisedRows,
    out: &'a mut [f32],
    stride: usize,
    at: usize,
    storage: PhantomData<S>,
}

impl<L: Lanes, S: Storage> GroupWork<L> for TileProduct<'_, L, S> {
    #[inline(always)]
    fn group<const T: usize>(&mut self, lanes: L, first: usize) -> usize {
        let mut sums = [lanes.splat(0.0); T];
        for (block, weights) in self.weights.iter().enumerate() {
            let (x, x_offsets) = self.x.block::<T>(block, first);
            let products = if S::INT8 {
                lanes.sums::<true, T>(weights, x, x_offsets)
            } else {
                lanes.sums::<false, T>(weights, x, x_offsets)
            };
            for token in 0..T {
                let products = lanes.to_floats(products[token]);
                let offset = x_offsets[token];
                sums[token] = self
                    .factors
                    .add_block(lanes, block, products, offset, sums[token]);
            }
        }
        for (token, sum) in sums.iter().enumerate() {
            let scale = lanes.splat(self.x.scale(first + token));
            let numbers = lanes.store(lanes.multiply(*sum, scale));
            let row = &mut self.out[(first + token) * self.stride..][..self.stride];
            store_lanes(&mut row[self.at..], &numbers);
        }
        T
    }
}
