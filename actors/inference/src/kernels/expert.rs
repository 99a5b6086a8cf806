//! One expert: a slice of a SwiGLU layer.

use super::error::{ShapeError, check, check_multiple, elements};
use super::isa::{Isa, Task};
use super::lanes::{BLOCK, BLOCK_PAIRS, LANES, Lanes, PairBlock};
use super::matrix::{Int8Rows, as_bytes, int8_product};
use super::quantise::{QuantisedRows, quantise};
use super::silu::silu;
use super::tile::{GroupWork, Tile, add_block, blocks_of, for_groups};

/// Blocks of neurons whose integer sum cannot overflow: 8 x 32 products of magnitude 2^7 x 2^15.
const SUM_BLOCKS: usize = 8;

/// The weights of one expert of F neurons, `[3F, H]`: the rows of gate, of up, and of down transposed. int8 in blocks of
/// 32, value = `scales[row, block]` x element.
#[derive(Clone, Copy, Debug)]
pub struct Expert<'a> {
    hidden: usize,
    neurons: usize,
    /// `[3F, H]`
    values: &'a [i8],
    /// `[3F, H / 32]`
    scales: &'a [f32],
}

impl<'a> Expert<'a> {
    /// # Errors
    /// If `hidden` is zero or no multiple of 32, or a slice has another length than the shape asks for.
    pub fn new(
        hidden: usize,
        neurons: usize,
        values: &'a [i8],
        scales: &'a [f32],
    ) -> Result<Self, ShapeError> {
        check_multiple("hidden", BLOCK, hidden)?;
        let len = elements("neurons", hidden, elements("neurons", 3, neurons)?)?;
        check("values", len, values.len())?;
        check("scales", len / BLOCK, scales.len())?;
        Ok(Self {
            hidden,
            neurons,
            values,
            scales,
        })
    }

    /// Overwrites `out` `[T, H]` with `down(silu(gate(x)) * up(x))`.
    ///
    /// # Errors
    /// If `x` or `out` have another shape.
    pub fn compute(&self, x: &QuantisedRows, out: &mut [f32]) -> Result<(), ShapeError> {
        self.compute_with(Isa::detect(), x, out)
    }

    /// As [`Self::compute`], with given instructions.
    ///
    /// # Errors
    /// See [`Self::compute`].
    pub fn compute_with(
        &self,
        isa: Isa,
        x: &QuantisedRows,
        out: &mut [f32],
    ) -> Result<(), ShapeError> {
        check("width of activations", self.hidden, x.width())?;
        check("output", x.tokens() * self.hidden, out.len())?;
        if self.neurons == 0 {
            out.fill(0.0);
        } else {
            isa.run(Compute {
                expert: self,
                x,
                out,
            });
        }
        Ok(())
    }
}

struct Compute<'a> {
    expert: &'a Expert<'a>,
    x: &'a QuantisedRows,
    out: &'a mut [f32],
}

impl Task for Compute<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { expert, x, out } = self;
        let Expert {
            hidden,
            neurons,
            values,
            scales,
        } = *expert;
        let mut products = vec![0.0; x.tokens() * 2 * neurons];
        let weights = Int8Rows::new(values, scales, hidden);
        int8_product(lanes, weights, 0..2 * neurons, x, &mut products);
        for products in products.chunks_exact_mut(2 * neurons) {
            let (gates, ups) = products.split_at_mut(neurons);
            for (gate, up) in gates.iter_mut().zip(ups) {
                *gate = silu(*gate) * *up;
            }
        }
        let down = Down {
            values: &as_bytes(values)[2 * neurons * hidden..],
            scales: &scales[2 * neurons * hidden / BLOCK..],
            hidden,
            neurons,
        };
        down.product(lanes, &products, out);
    }
}

/// `[F, H]`
struct Down<'a> {
    values: &'a [u8],
    scales: &'a [f32],
    hidden: usize,
    neurons: usize,
}

impl Down<'_> {
    /// `activations` stand in the first half of each row of `[T, 2F]`.
    #[inline(always)]
    fn product<L: Lanes>(&self, lanes: L, activations: &[f32], out: &mut [f32]) {
        let blocks = blocks_of(self.neurons);
        let tokens = out.len() / self.hidden;
        let mut tile = Tile::new(blocks);
        let mut scales = vec![0.0; self.neurons];
        let mut scaled = vec![0.0; self.neurons];
        let mut x = vec![[[0; 2]; BLOCK_PAIRS]; tokens * blocks];
        let mut x_scales = vec![0.0; tokens];
        for block in 0..self.hidden / BLOCK {
            let column = self.scales[block..].iter().step_by(self.hidden / BLOCK);
            scales
                .iter_mut()
                .zip(column)
                .for_each(|(to, from)| *to = *from);
            for token in 0..tokens {
                let activations = &activations[token * 2 * self.neurons..][..self.neurons];
                for neuron in 0..self.neurons {
                    scaled[neuron] = activations[neuron] * scales[neuron];
                }
                let x = x[token * blocks..][..blocks]
                    .as_flattened_mut()
                    .as_flattened_mut();
                x_scales[token] = quantise(&scaled, &mut x[..self.neurons]);
            }
            for slice in [2 * block, 2 * block + 1] {
                tile.set_int8_columns(lanes, self.values, self.hidden, slice);
                let mut work = DownTile {
                    tile: &tile,
                    x: &x,
                    x_scales: &x_scales,
                    out: &mut *out,
                    hidden: self.hidden,
                    at: slice * LANES,
                };
                for_groups(lanes, tokens, &mut work);
            }
        }
    }
}

/// Sixteen columns of an output `[T, H]`, from column `at`.
struct DownTile<'a> {
    tile: &'a Tile,
    /// `[T, blocks]`
    x: &'a [PairBlock],
    x_scales: &'a [f32],
    out: &'a mut [f32],
    hidden: usize,
    at: usize,
}

impl GroupWork for DownTile<'_> {
    #[inline(always)]
    fn group<L: Lanes, const T: usize>(&mut self, lanes: L, first: usize) -> usize {
        let weights = self.tile.blocks();
        let mut x: [&[PairBlock]; T] = [&[]; T];
        for token in 0..T {
            x[token] = &self.x[(first + token) * weights.len()..][..weights.len()];
        }
        let mut totals = [lanes.splat(0.0); T];
        let one = lanes.splat(1.0);
        for (chunk, weights) in weights.chunks(SUM_BLOCKS).enumerate() {
            let mut sums = [lanes.int_zero(); T];
            for (at, weights) in weights.iter().enumerate() {
                let at = chunk * SUM_BLOCKS + at;
                let mut block_x = [&x[0][at]; T];
                for token in 1..T {
                    block_x[token] = &x[token][at];
                }
                add_block(lanes, &mut sums, weights, block_x);
            }
            for token in 0..T {
                let sum = lanes.to_floats(sums[token]);
                totals[token] = lanes.multiply_add(sum, one, totals[token]);
            }
        }
        for token in 0..T {
            let scale = lanes.splat(self.x_scales[first + token]);
            let numbers = lanes.store(lanes.multiply(totals[token], scale));
            let row = &mut self.out[(first + token) * self.hidden + self.at..];
            *row.first_chunk_mut().expect("a slice of a row is whole") = numbers.0;
        }
        T
    }
}
