//! Products with matrices that are stored in blocks of 32.

use std::marker::PhantomData;
use std::ops::Range;

use super::lanes::{
    BLOCK, Int8Block, LANES, LaneFloats, LaneWords, Lanes, SLICE, Uint4Block, XBlock,
};
use super::quantise::{QuantisedRows, TokenBlocks};
use super::rows::{Buffer, GroupWork, Rows, for_groups, store_lanes};

/// Blocks of a row for which no memory is allocated.
const BLOCKS: usize = 32;
const SLICES: usize = BLOCKS / SLICE;

/// A block of elements as it is stored. Every method must be `#[inline(always)]`.
pub trait Block: Copy + Default {
    /// Whether value = scale of the block x element, or + minimum of the block besides.
    const HAS_MINIMUM: bool;

    fn lay_out<L: Lanes>(lanes: L, rows: &Rows<'_, Self>, at: usize, weights: &mut L::Weights);

    /// See [`Lanes::sums`].
    fn sums<L: Lanes, const T: usize>(
        lanes: L,
        weights: &L::Weights,
        x: &[XBlock; T],
        x_offsets: &[i32; T],
    ) -> [L::Ints; T];

    fn slice<L: Lanes>(lanes: L, x: &[XBlock; SLICE]) -> L::XSlice;

    /// See [`Lanes::int8_dots`].
    fn dots<L: Lanes>(lanes: L, rows: [&[Self; SLICE]; SLICE], x: &L::XSlice) -> LaneWords;

    /// See [`Lanes::sums_of_dots`].
    fn sums_of_dots<L: Lanes>(
        lanes: L,
        dots: &[LaneWords; LANES / SLICE],
        x_offsets: &[i32; SLICE],
    ) -> [L::Ints; SLICE];
}

impl Block for Int8Block {
    const HAS_MINIMUM: bool = false;

    #[inline(always)]
    fn lay_out<L: Lanes>(lanes: L, rows: &Rows<'_, Self>, at: usize, weights: &mut L::Weights) {
        lanes.lay_out_int8(rows, at, weights);
    }

    #[inline(always)]
    fn sums<L: Lanes, const T: usize>(
        lanes: L,
        weights: &L::Weights,
        x: &[XBlock; T],
        x_offsets: &[i32; T],
    ) -> [L::Ints; T] {
        lanes.sums::<true, T>(weights, x, x_offsets)
    }

    #[inline(always)]
    fn slice<L: Lanes>(lanes: L, x: &[XBlock; SLICE]) -> L::XSlice {
        lanes.int8_slice(x)
    }

    #[inline(always)]
    fn dots<L: Lanes>(lanes: L, rows: [&[Self; SLICE]; SLICE], x: &L::XSlice) -> LaneWords {
        lanes.int8_dots(rows, x)
    }

    #[inline(always)]
    fn sums_of_dots<L: Lanes>(
        lanes: L,
        dots: &[LaneWords; LANES / SLICE],
        x_offsets: &[i32; SLICE],
    ) -> [L::Ints; SLICE] {
        lanes.sums_of_dots::<true>(dots, x_offsets)
    }
}

impl Block for Uint4Block {
    const HAS_MINIMUM: bool = true;

    #[inline(always)]
    fn lay_out<L: Lanes>(lanes: L, rows: &Rows<'_, Self>, at: usize, weights: &mut L::Weights) {
        lanes.lay_out_uint4(rows, at, weights);
    }

    #[inline(always)]
    fn sums<L: Lanes, const T: usize>(
        lanes: L,
        weights: &L::Weights,
        x: &[XBlock; T],
        x_offsets: &[i32; T],
    ) -> [L::Ints; T] {
        lanes.sums::<false, T>(weights, x, x_offsets)
    }

    #[inline(always)]
    fn slice<L: Lanes>(lanes: L, x: &[XBlock; SLICE]) -> L::XSlice {
        lanes.uint4_slice(x)
    }

    #[inline(always)]
    fn dots<L: Lanes>(lanes: L, rows: [&[Self; SLICE]; SLICE], x: &L::XSlice) -> LaneWords {
        lanes.uint4_dots(rows, x)
    }

    #[inline(always)]
    fn sums_of_dots<L: Lanes>(
        lanes: L,
        dots: &[LaneWords; LANES / SLICE],
        x_offsets: &[i32; SLICE],
    ) -> [L::Ints; SLICE] {
        lanes.sums_of_dots::<false>(dots, x_offsets)
    }
}

/// A matrix `[N, K]`.
pub struct BlockMatrix<'a, B> {
    /// `[N, K / 32]`, as are scales and minimums.
    pub blocks: &'a [B],
    pub scales: &'a [f32],
    /// Empty if there are none.
    pub minimums: &'a [f32],
}

impl<B: Block> BlockMatrix<'_, B> {
    /// Overwrites `out` `[T, rows.len()]`.
    #[inline(always)]
    pub fn product<L: Lanes>(
        &self,
        lanes: L,
        rows: Range<usize>,
        x: &QuantisedRows,
        out: &mut [f32],
    ) {
        if x.tokens() == 1 && x.width() >= SLICE * BLOCK {
            self.one_token(lanes, rows, x, out);
        } else {
            self.many_tokens(lanes, rows, x, out);
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
        let slices = slices::<L, B>(lanes, x);
        let mut dots = Buffer::<_, SLICES>::new([LaneWords::ZERO; LANES / SLICE], slices.len());
        let mut factors = Factors::new(blocks, B::HAS_MINIMUM);
        let mut spare = Vec::new();
        for first in rows.clone().step_by(LANES) {
            factors.set(lanes, [self.scales, self.minimums], first, rows.end);
            let tile = Rows::new(self.blocks, blocks, first, rows.end, &mut spare);
            for part in 0..LANES / SLICE {
                for (at, (slice, dots)) in slices.iter().zip(dots.iter_mut()).enumerate() {
                    let rows = tile.some_runs(part * SLICE, slice.first);
                    dots[part] = B::dots(lanes, rows, &slice.x);
                    tile.prefetch_next(lanes, part * slices.len() + at);
                }
            }
            let numbers = lanes.store(factors.sum::<L, B>(lanes, &dots, &slices));
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
        let mut factors = Factors::new(blocks, B::HAS_MINIMUM);
        let mut spare = Vec::new();
        for first in rows.clone().step_by(LANES) {
            factors.set(lanes, [self.scales, self.minimums], first, rows.end);
            let tile = Rows::new(self.blocks, blocks, first, rows.end, &mut spare);
            for (block, weights) in weights.iter_mut().enumerate() {
                tile.prefetch_next(lanes, block);
                B::lay_out(lanes, &tile, block, weights);
            }
            let mut product = TileProduct::<L, B> {
                weights: &weights,
                factors: &factors,
                x,
                out: &mut *out,
                stride: rows.len(),
                at: first - rows.start,
                block: PhantomData,
            };
            for_groups(lanes, x.tokens(), &mut product);
        }
    }
}

/// Four blocks of one token's activations.
#[derive(Clone, Copy)]
struct Slice<X> {
    /// The first of them.
    first: usize,
    /// How many of them are in the slice before, too.
    repeated: usize,
    x: X,
    /// See [`TokenBlocks`].
    scales: [f32; SLICE],
    sums: [f32; SLICE],
    offsets: [i32; SLICE],
}

#[inline(always)]
fn slices<L: Lanes, B: Block>(lanes: L, x: &QuantisedRows) -> Buffer<Slice<L::XSlice>, SLICES> {
    let slices = (x.width() / BLOCK).div_ceil(SLICE);
    let mut slices = Buffer::new(slice::<L, B>(lanes, x, 0), slices);
    for (at, place) in slices.iter_mut().enumerate().skip(1) {
        *place = slice::<L, B>(lanes, x, at * SLICE);
    }
    slices
}

/// From block `at` on; the last slice goes back as far as it needs to be whole.
#[inline(always)]
fn slice<L: Lanes, B: Block>(lanes: L, x: &QuantisedRows, at: usize) -> Slice<L::XSlice> {
    let first = at.min(x.width() / BLOCK - SLICE);
    let mut values = [XBlock::ZERO; SLICE];
    let (mut scales, mut sums) = ([0.0; SLICE], [0.0; SLICE]);
    let mut offsets = [0; SLICE];
    for place in 0..SLICE {
        let block: TokenBlocks<'_, 1> = x.block(first + place, 0);
        [values[place]] = *block.values;
        [scales[place]] = *block.scales;
        [sums[place]] = *block.sums;
        [offsets[place]] = *block.offsets;
    }
    Slice {
        first,
        repeated: at - first,
        x: B::slice(lanes, &values),
        scales,
        sums,
        offsets,
    }
}

/// Scales and minimums of sixteen rows, by block.
struct Factors {
    scales: Buffer<LaneFloats, BLOCKS>,
    /// Empty if there are none.
    minimums: Buffer<LaneFloats, BLOCKS>,
    spare: Vec<f32>,
}

impl Factors {
    #[inline(always)]
    fn new(blocks: usize, has_minimum: bool) -> Self {
        Self {
            scales: Buffer::new(LaneFloats::ZERO, blocks),
            minimums: Buffer::new(LaneFloats::ZERO, if has_minimum { blocks } else { 0 }),
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
        for (from, to) in [(scales, &mut *self.scales), (minimums, &mut *self.minimums)] {
            if !to.is_empty() {
                let rows = Rows::new(from, blocks, first, end, &mut self.spare);
                for part in 0..blocks {
                    rows.prefetch_next(lanes, part);
                }
                rows.transpose(lanes, to);
            }
        }
    }

    /// One token's sums over all blocks.
    #[inline(always)]
    fn sum<L: Lanes, B: Block>(
        &self,
        lanes: L,
        dots: &[[LaneWords; LANES / SLICE]],
        slices: &[Slice<L::XSlice>],
    ) -> L::Floats {
        let (scales, minimums): (&[_], &[_]) = (&self.scales, &self.minimums);
        let mut sum = lanes.splat(0.0);
        for (dots, slice) in dots.iter().zip(slices) {
            let sums = B::sums_of_dots(lanes, dots, &slice.offsets);
            let scales = four(scales, slice.first);
            for (place, products) in sums.iter().enumerate() {
                if place >= slice.repeated {
                    let minimum =
                        B::HAS_MINIMUM.then(|| lanes.load(&four(minimums, slice.first)[place]));
                    let factors = (lanes.load(&scales[place]), minimum);
                    let x = (slice.scales[place], slice.sums[place]);
                    sum = add_block(lanes, factors, *products, x, sum);
                }
            }
        }
        sum
    }

    /// Scale and minimum of a block.
    #[inline(always)]
    fn load<L: Lanes>(&self, lanes: L, block: usize) -> (L::Floats, Option<L::Floats>) {
        let minimum = self.minimums.get(block);
        (
            lanes.load(&self.scales[block]),
            minimum.map(|minimum| lanes.load(minimum)),
        )
    }
}

#[inline(always)]
fn four(by_block: &[LaneFloats], first: usize) -> &[LaneFloats; SLICE] {
    by_block[first..].first_chunk().expect("a slice is whole")
}

/// Adds to `sum` what a block contributes whose activations have a scale and a sum.
#[inline(always)]
fn add_block<L: Lanes>(
    lanes: L,
    (scale, minimum): (L::Floats, Option<L::Floats>),
    products: L::Ints,
    (x_scale, x_sum): (f32, f32),
    sum: L::Floats,
) -> L::Floats {
    let products = lanes.multiply(lanes.to_floats(products), lanes.splat(x_scale));
    let sum = lanes.multiply_add(products, scale, sum);
    match minimum {
        None => sum,
        Some(minimum) => lanes.multiply_add(lanes.splat(x_sum), minimum, sum),
    }
}

/// Sixteen columns of an output `[T, stride]`, from column `at`.
struct TileProduct<'a, L: Lanes, B> {
    /// By block.
    weights: &'a [L::Weights],
    factors: &'a Factors,
    x: &'a QuantisedRows,
    out: &'a mut [f32],
    stride: usize,
    at: usize,
    block: PhantomData<B>,
}

impl<L: Lanes, B: Block> GroupWork<L> for TileProduct<'_, L, B> {
    #[inline(always)]
    fn group<const T: usize>(&mut self, lanes: L, first: usize) -> usize {
        let mut sums = [lanes.splat(0.0); T];
        for (block, weights) in self.weights.iter().enumerate() {
            let x = self.x.block::<T>(block, first);
            let products = B::sums::<L, T>(lanes, weights, x.values, x.offsets);
            let factors = self.factors.load(lanes, block);
            for token in 0..T {
                let scale_and_sum = (x.scales[token], x.sums[token]);
                sums[token] =
                    add_block(lanes, factors, products[token], scale_and_sum, sums[token]);
            }
        }
        for (token, sum) in sums.iter().enumerate() {
            let row = &mut self.out[(first + token) * self.stride..][..self.stride];
            store_lanes(&mut row[self.at..], &lanes.store(*sum));
        }
        T
    }
}
