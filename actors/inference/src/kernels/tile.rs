//! Sixteen outputs at a time: weights widened and laid out by lane, and their sums with tokens.

use super::lanes::{BLOCK, BLOCK_PAIRS, LANES, LaneFloats, LanePairs, Lanes, PairBlock, SLICE};

/// For each pair of elements of a block, the weights of sixteen outputs.
pub type BlockWeights = [LanePairs; BLOCK_PAIRS];

const NO_WEIGHTS: BlockWeights = [LanePairs::ZERO; BLOCK_PAIRS];

/// The weights of sixteen outputs, block by block.
pub struct Tile(Vec<BlockWeights>);

/// A row of weights as they are stored: two slices of 16 for a block of int8, one for a block of uint4.
pub type StoredRow<'a> = &'a [[u8; SLICE]];

impl Tile {
    pub fn new(blocks: usize) -> Self {
        Self(vec![NO_WEIGHTS; blocks])
    }

    pub fn blocks(&self) -> &[BlockWeights] {
        &self.0
    }

    /// Output `i` gets row `i` of int8.
    #[inline(always)]
    pub fn set_int8(&mut self, lanes: impl Lanes, rows: [StoredRow<'_>; LANES]) {
        for (at, block) in self.0.iter_mut().enumerate() {
            prefetch_next(lanes, &rows, 2 * at);
            for half in 0..2 {
                let columns = lanes.transpose(slices(&rows, 2 * at + half));
                for (column, pairs) in columns.into_iter().zip(&mut block[half * SLICE / 2..]) {
                    *pairs = lanes.widen(column);
                }
            }
        }
    }

    /// Output `i` gets row `i` of uint4.
    #[inline(always)]
    pub fn set_uint4(&mut self, lanes: impl Lanes, rows: [StoredRow<'_>; LANES]) {
        for (at, block) in self.0.iter_mut().enumerate() {
            prefetch_next(lanes, &rows, at);
            let columns = lanes.transpose(slices(&rows, at));
            let (low, high) = block.split_at_mut(SLICE / 2);
            for (column, (low, high)) in columns.into_iter().zip(low.iter_mut().zip(high)) {
                *low = lanes.widen(lanes.low_halves(column));
                *high = lanes.widen(lanes.high_halves(column));
            }
        }
    }

    /// Output `i` gets column `16 * slice + i` of `rows`, int8; each row is one element of the sum.
    #[inline(always)]
    pub fn set_int8_columns(&mut self, lanes: impl Lanes, rows: &[u8], width: usize, slice: usize) {
        let column = |row: &[u8]| -> [u8; LANES] {
            *row[slice * LANES..]
                .first_chunk()
                .expect("a slice of a row is whole")
        };
        let pairs = self.0.iter_mut().flatten();
        for (pairs, rows) in pairs.zip(rows.chunks(2 * width)) {
            let (first, second) = rows.split_at(width);
            let second = if second.is_empty() {
                [0; LANES]
            } else {
                column(second)
            };
            *pairs = lanes.widen(lanes.interleave(&column(first), &second));
        }
    }
}

#[inline(always)]
fn slices<'a>(rows: &[StoredRow<'a>; LANES], at: usize) -> [&'a [u8; SLICE]; LANES] {
    let mut slices = [&[0; SLICE]; LANES];
    for (slice, row) in slices.iter_mut().zip(rows) {
        *slice = &row[at];
    }
    slices
}

/// Asks for what stands in the next sixteen rows where these have slice `at`.
#[inline(always)]
fn prefetch_next(lanes: impl Lanes, rows: &[StoredRow<'_>; LANES], at: usize) {
    for row in rows {
        let next = row.as_ptr().wrapping_add(LANES * row.len() + at);
        lanes.prefetch(next.cast());
    }
}

/// The scales of sixteen rows, `[rows, blocks]`, by block.
pub fn set_by_block(by_block: &mut [LaneFloats], rows: [&[f32]; LANES]) {
    for (at, block) in by_block.iter_mut().enumerate() {
        for (number, row) in block.0.iter_mut().zip(rows) {
            *number = row[at];
        }
    }
}

/// Adds to each token's sums those of one block.
#[inline(always)]
pub fn add_block<L: Lanes, const T: usize>(
    lanes: L,
    sums: &mut [L::Ints; T],
    weights: &BlockWeights,
    x: [&PairBlock; T],
) {
    for (pair, weights) in weights.iter().enumerate() {
        for token in 0..T {
            sums[token] = lanes.add_products(sums[token], weights, x[token][pair]);
        }
    }
}

/// Calls `work.group::<T>(first token)` for groups of tokens that together are all `tokens`.
#[inline(always)]
pub fn for_groups<L: Lanes>(lanes: L, tokens: usize, work: &mut impl GroupWork) {
    let mut at = 0;
    while at < tokens {
        let left = (tokens - at).min(L::TOKENS);
        at += match left {
            12.. => work.group::<L, 12>(lanes, at),
            8.. => work.group::<L, 8>(lanes, at),
            4.. => work.group::<L, 4>(lanes, at),
            3 => work.group::<L, 3>(lanes, at),
            2 => work.group::<L, 2>(lanes, at),
            _ => work.group::<L, 1>(lanes, at),
        };
    }
}

/// What is done with a tile for some tokens.
pub trait GroupWork {
    /// For the `T` tokens from `first`; returns `T`. It must be `#[inline(always)]`.
    fn group<L: Lanes, const T: usize>(&mut self, lanes: L, first: usize) -> usize;
}

/// Number of blocks that hold `elements`.
pub const fn blocks_of(elements: usize) -> usize {
    elements.div_ceil(BLOCK)
}
