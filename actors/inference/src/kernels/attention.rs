//! Causal attention over one key/value head. As elsewhere here a token's bits depend on nothing beside it: a score is
//! summed over the head's width in order, the softmax's sum over positions lane by lane, an output over positions in
//! order.

use super::isa::{Isa, Task};
use super::lanes::{LANES, LaneFloats, Lanes};
use super::silu::exp;

/// Vectors of an output that are summed together.
const VECTORS: usize = 2;

/// Where one head keeps its keys and values, `context x width` numbers each, `width` a multiple of 16. Values stand
/// position by position. Keys stand in tiles of 16 positions (the last tile may have fewer), and in a tile number by
/// number of the head: 16 scores are then sixteen lanes.
#[derive(Clone, Copy)]
pub struct HeadMemory<'a> {
    /// See [`put_key`].
    pub keys: &'a [f32],
    /// `[context, width]`.
    pub values: &'a [f32],
    /// Positions.
    pub context: usize,
    /// Numbers of one position.
    pub width: usize,
}

/// Writes one position's key.
pub fn put_key(keys: &mut [f32], context: usize, position: usize, key: &[f32]) {
    let start = position / LANES * LANES;
    let stride = LANES.min(context - start);
    let tile = &mut keys[start * key.len()..][position - start..];
    for (place, number) in tile.iter_mut().step_by(stride).zip(key) {
        *place = *number;
    }
}

/// Overwrites each of `outputs` with the attention of the query at its place over the first `visible` positions.
/// Queries are rotated and scaled already; all are of one token, and share the head.
pub fn attend(
    isa: Isa,
    memory: HeadMemory<'_>,
    visible: usize,
    queries: &[f32],
    outputs: &mut [f32],
    scratch: &mut Vec<LaneFloats>,
) {
    isa.run(Attend {
        memory,
        visible,
        queries,
        outputs,
        scratch,
    });
}

struct Attend<'a> {
    memory: HeadMemory<'a>,
    visible: usize,
    queries: &'a [f32],
    outputs: &'a mut [f32],
    scratch: &'a mut Vec<LaneFloats>,
}

impl Task for Attend<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self {
            memory,
            visible,
            queries,
            outputs,
            scratch,
        } = self;
        let width = memory.width;
        let mut queries = queries.chunks_exact(width);
        let mut outputs = outputs.chunks_exact_mut(width);
        while queries.len() >= 3 {
            let three = std::array::from_fn(|_| queries.next().unwrap_or_default());
            let out = std::array::from_fn(|_| outputs.next().unwrap_or_default());
            attend_together::<L, 3>(lanes, memory, visible, three, out, scratch);
        }
        for (query, out) in queries.zip(outputs) {
            attend_together::<L, 1>(lanes, memory, visible, [query], [out], scratch);
        }
    }
}

#[inline(always)]
fn attend_together<L: Lanes, const G: usize>(
    lanes: L,
    memory: HeadMemory<'_>,
    visible: usize,
    queries: [&[f32]; G],
    mut outputs: [&mut [f32]; G],
    scratch: &mut Vec<LaneFloats>,
) {
    let tiles = visible.div_ceil(LANES);
    scratch.clear();
    scratch.resize(G * tiles, LaneFloats::ZERO);
    for tile in 0..tiles {
        let scores = tile_scores(lanes, memory, tile, queries);
        for (query, scores) in scores.into_iter().enumerate() {
            scratch[query * tiles + tile] = scores;
        }
    }
    let mut shares = [1.0; G];
    for query in 0..G {
        shares[query] = softmax(&mut scratch[query * tiles..][..tiles], visible);
    }
    let weights = Shares {
        tiles: scratch,
        per_query: tiles,
        visible,
        shares,
    };
    let mut at = 0;
    while at + VECTORS * LANES <= memory.width {
        mix::<L, G, VECTORS>(lanes, memory, at, &weights, &mut outputs);
        at += VECTORS * LANES;
    }
    while at < memory.width {
        mix::<L, G, 1>(lanes, memory, at, &weights, &mut outputs);
        at += LANES;
    }
}

#[inline(always)]
fn tile_scores<L: Lanes, const G: usize>(
    lanes: L,
    memory: HeadMemory<'_>,
    tile: usize,
    queries: [&[f32]; G],
) -> [LaneFloats; G] {
    let HeadMemory {
        keys,
        context,
        width,
        ..
    } = memory;
    let start = tile * LANES;
    let stride = LANES.min(context - start);
    let mut sums = [lanes.splat(0.0); G];
    for (at, numbers) in keys[start * width..][..stride * width]
        .chunks_exact(stride)
        .enumerate()
    {
        let key = lanes.load(&padded(numbers));
        for query in 0..G {
            sums[query] = lanes.multiply_add(lanes.splat(queries[query][at]), key, sums[query]);
        }
    }
    let mut scores = [LaneFloats::ZERO; G];
    for query in 0..G {
        scores[query] = lanes.store(sums[query]);
    }
    scores
}

#[inline(always)]
fn padded(numbers: &[f32]) -> LaneFloats {
    if let Some(whole) = numbers.first_chunk::<LANES>() {
        return LaneFloats(*whole);
    }
    let mut padded = LaneFloats::ZERO;
    padded.0[..numbers.len()].copy_from_slice(numbers);
    padded
}

/// Replaces scores with e^(score - greatest), those beyond `visible` with 0, and returns 1 over their sum.
#[inline(always)]
fn softmax(tiles: &mut [LaneFloats], visible: usize) -> f32 {
    let greatest = greatest(tiles, visible);
    let hidden = tiles.len() * LANES - visible;
    let mut sums = LaneFloats::ZERO;
    let last = tiles.len() - 1;
    for (at, tile) in tiles.iter_mut().enumerate() {
        for score in &mut tile.0 {
            *score = exp(*score - greatest);
        }
        if at == last {
            tile.0[LANES - hidden..].fill(0.0);
        }
        for lane in 0..LANES {
            sums.0[lane] += tile.0[lane];
        }
    }
    1.0 / sums.0.iter().sum::<f32>()
}

#[inline(always)]
fn greatest(tiles: &[LaneFloats], visible: usize) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = (visible / LANES, visible % LANES);
    for tile in &tiles[..whole] {
        for (greatest, score) in lanes.iter_mut().zip(tile.0) {
            *greatest = if score > *greatest { score } else { *greatest };
        }
    }
    let mut greatest = f32::NEG_INFINITY;
    for number in lanes {
        greatest = greatest.max(number);
    }
    for lane in 0..rest {
        greatest = greatest.max(tiles[whole].0[lane]);
    }
    greatest
}

/// What each position counts for, before it is multiplied with the query's share.
struct Shares<'a, const G: usize> {
    tiles: &'a [LaneFloats],
    per_query: usize,
    visible: usize,
    shares: [f32; G],
}

/// The outputs' numbers `at` to `at + 16 V`.
#[inline(always)]
fn mix<L: Lanes, const G: usize, const V: usize>(
    lanes: L,
    memory: HeadMemory<'_>,
    at: usize,
    weights: &Shares<'_, G>,
    outputs: &mut [&mut [f32]; G],
) {
    let mut sums = [[lanes.splat(0.0); V]; G];
    let rows = memory.values.chunks_exact(memory.width);
    for (position, row) in rows.take(weights.visible).enumerate() {
        let (tile, lane) = (position / LANES, position % LANES);
        let mut value = [lanes.splat(0.0); V];
        for v in 0..V {
            value[v] = lanes.load(&padded(&row[at + v * LANES..]));
        }
        for (query, sums) in sums.iter_mut().enumerate() {
            let weight = weights.tiles[query * weights.per_query + tile].0[lane];
            let weight = lanes.splat(weight);
            for v in 0..V {
                sums[v] = lanes.multiply_add(weight, value[v], sums[v]);
            }
        }
    }
    for (query, output) in outputs.iter_mut().enumerate() {
        let share = lanes.splat(weights.shares[query]);
        for v in 0..V {
            let out = lanes.store(lanes.multiply(sums[query][v], share));
            output[at + v * LANES..][..LANES].copy_from_slice(&out.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -2 and 2 that follow from their place.
    fn numbers(seed: u32, len: usize) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 22) as f32 - 2.0
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn plain(query: &[f32], keys: &[f32], values: &[f32], visible: usize) -> Vec<f64> {
        let width = query.len();
        let dot = |key: &[f32]| -> f64 {
            let products = query
                .iter()
                .zip(key)
                .map(|(q, k)| f64::from(*q) * f64::from(*k));
            products.sum()
        };
        let scores = keys.chunks(width).take(visible).map(dot);
        let powers: Vec<f64> = scores.map(|score| score.exp()).collect();
        let sum: f64 = powers.iter().sum();
        let share = |at: usize| -> f64 {
            let values = values.chunks(width).zip(&powers);
            values
                .map(|(value, power)| f64::from(value[at]) * power)
                .sum()
        };
        (0..width).map(|at| share(at) / sum).collect()
    }

    #[test]
    fn attention_is_the_softmax_of_scores_over_values_with_equal_bits_everywhere() {
        for (context, width, heads) in [
            (1, 16, 1),
            (5, 48, 2),
            (16, 64, 3),
            (37, 64, 5),
            (50, 16, 4),
        ] {
            let keys = numbers(context as u32, context * width);
            let values = numbers(99, context * width);
            let queries = numbers(7, heads * width);
            let mut tiled = vec![f32::NAN; keys.len()];
            for (position, key) in keys.chunks(width).enumerate() {
                put_key(&mut tiled, context, position, key);
            }
            let memory = HeadMemory {
                keys: &tiled,
                values: &values,
                context,
                width,
            };
            for visible in 1..=context {
                let of = |isa: Isa, queries: &[f32]| {
                    let mut out = vec![0.0; queries.len()];
                    attend(isa, memory, visible, queries, &mut out, &mut Vec::new());
                    out
                };
                let expected = of(Isa::detect(), &queries);
                for (query, out) in queries.chunks(width).zip(expected.chunks(width)) {
                    let plain = plain(query, &keys, &values, visible);
                    for (out, plain) in out.iter().zip(plain) {
                        assert!((f64::from(*out) - plain).abs() < 1e-5, "{out} {plain}");
                    }
                    assert_eq!(of(Isa::detect(), query), out, "a head alone");
                }
                for isa in Isa::all_supported() {
                    assert_eq!(of(isa, &queries), expected, "{isa:?}");
                }
            }
        }
    }
}
