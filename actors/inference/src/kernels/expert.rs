//! One expert: a slice of a SwiGLU layer.

use super::error::{ShapeError, check, check_multiple, elements};
use super::isa::Task;
use super::lanes::{BLOCK, Int8Block, LANES, LaneFloats, Lanes};
use super::matrix::int8_matrix;
use super::quantise::QuantisedRows;
use super::rows::{Buffer, GroupWork, Rows, for_groups};
use super::silu::silu;

/// Products and activations for which no memory is allocated.
const NUMBERS: usize = 512;
/// Blocks of outputs for which no memory is allocated.
const BLOCKS: usize = 32;

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
        check("width of activations", self.hidden, x.width())?;
        check("output", x.tokens() * self.hidden, out.len())?;
        if self.neurons == 0 {
            out.fill(0.0);
        } else {
            x.isa().run(Compute {
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
        let mut products = Buffer::<_, NUMBERS>::new(0.0, x.tokens() * 2 * neurons);
        let rows = int8_matrix(values, scales);
        rows.product(lanes, 0..2 * neurons, x, &mut products);
        let width = hidden / BLOCK;
        let down = Down {
            blocks: &rows.blocks[2 * neurons * width..],
            scales: &rows.scales[2 * neurons * width..],
            width,
            neurons,
        };
        let (out, _) = out.as_chunks_mut();
        down.product(lanes, &activations(&products, neurons), out);
    }
}

/// `[T, F / 16]`, the last lanes zero, from gate and up `[T, 2F]`.
#[inline(always)]
fn activations(products: &[f32], neurons: usize) -> Buffer<LaneFloats, { NUMBERS / LANES }> {
    let tiles = neurons.div_ceil(LANES);
    let len = products.len() / (2 * neurons) * tiles;
    let mut activations = Buffer::new(LaneFloats::ZERO, len);
    let rows = products.chunks_exact(2 * neurons);
    for (row, activations) in rows.zip(activations.chunks_exact_mut(tiles)) {
        let (gates, ups) = row.split_at(neurons);
        for ((gates, ups), activations) in
            gates.chunks(LANES).zip(ups.chunks(LANES)).zip(activations)
        {
            for ((gate, up), h) in gates.iter().zip(ups).zip(&mut activations.0) {
                *h = silu(*gate) * *up;
            }
        }
    }
    activations
}

/// The transposed matrix.
struct Down<'a> {
    /// `[F, H / 32]`, as are the scales.
    blocks: &'a [Int8Block],
    scales: &'a [f32],
    /// H / 32
    width: usize,
    /// F
    neurons: usize,
}

impl Down<'_> {
    /// Overwrites `out` `[T, H / 16]`; `activations` are `[T, F / 16]`.
    #[inline(always)]
    fn product<L: Lanes>(&self, lanes: L, activations: &[LaneFloats], out: &mut [[f32; LANES]]) {
        let tiles = self.neurons.div_ceil(LANES);
        out.fill([0.0; LANES]);
        if activations.len() == tiles {
            self.one_token(lanes, activations, out);
        } else {
            self.many_tokens(lanes, activations, out);
        }
    }

    /// Reads the weights as they stand, for speed is that of memory.
    #[inline(always)]
    fn one_token<L: Lanes>(&self, lanes: L, activations: &[LaneFloats], out: &mut [[f32; LANES]]) {
        let (mut spare, mut spare_scales) = (Vec::new(), Vec::new());
        let mut scales = Buffer::<_, BLOCKS>::new(LaneFloats::ZERO, self.width);
        for (tile, h) in activations.iter().enumerate() {
            let (first, end) = (tile * LANES, self.neurons);
            let rows = Rows::new(self.scales, self.width, first, end, &mut spare_scales);
            rows.transpose(lanes, &mut scales);
            for scale in scales.iter_mut() {
                *scale = lanes.store(lanes.multiply(lanes.load(h), lanes.load(scale)));
            }
            let rows = Rows::new(self.blocks, self.width, first, end, &mut spare);
            let mut at = 0;
            while at < self.width {
                let left = (self.width - at).min(L::SUMS / 2);
                let done = match left {
                    4.. => add_blocks::<L, 4>(lanes, &rows, at, &scales, out),
                    2.. => add_blocks::<L, 2>(lanes, &rows, at, &scales, out),
                    _ => add_blocks::<L, 1>(lanes, &rows, at, &scales, out),
                };
                for part in at..at + done {
                    rows.prefetch_next(lanes, part);
                }
                at += done;
            }
        }
    }

    /// Widens a block of outputs for all neurons, to use it for all tokens.
    #[inline(always)]
    fn many_tokens<L: Lanes>(
        &self,
        lanes: L,
        activations: &[LaneFloats],
        out: &mut [[f32; LANES]],
    ) {
        let tiles = self.neurons.div_ceil(LANES);
        let mut weights = vec![[[LaneFloats::ZERO; 2]; LANES]; tiles];
        let scales = self.scales_by_block(lanes);
        let mut spare = Vec::new();
        for block in 0..self.width {
            for (tile, weights) in weights.iter_mut().enumerate() {
                let (first, end) = (tile * LANES, self.neurons);
                let rows = Rows::new(self.blocks, self.width, first, end, &mut spare);
                for (weights, [row]) in weights.iter_mut().zip(rows.runs(block)) {
                    let (halves, _) = row.as_chunks();
                    weights[0] = lanes.store(lanes.bytes_to_floats(&halves[0]));
                    weights[1] = lanes.store(lanes.bytes_to_floats(&halves[1]));
                }
            }
            let mut work = DownBlock {
                weights: &weights,
                scales: &scales[block * tiles..][..tiles],
                activations,
                out: &mut *out,
                stride: 2 * self.width,
                at: 2 * block,
            };
            for_groups(lanes, activations.len() / tiles, &mut work);
        }
    }

    /// `[H / 32, F / 16]`
    #[inline(always)]
    fn scales_by_block<L: Lanes>(&self, lanes: L) -> Vec<LaneFloats> {
        let tiles = self.neurons.div_ceil(LANES);
        let mut scales = vec![LaneFloats::ZERO; tiles * self.width];
        let mut columns = vec![LaneFloats::ZERO; self.width];
        let mut spare = Vec::new();
        for tile in 0..tiles {
            let (first, end) = (tile * LANES, self.neurons);
            let rows = Rows::new(self.scales, self.width, first, end, &mut spare);
            rows.transpose(lanes, &mut columns);
            for (scales, column) in scales.chunks_exact_mut(tiles).zip(&columns) {
                scales[tile] = *column;
            }
        }
        scales
    }
}

/// Adds to blocks `at` to `at + B` of a token's outputs what sixteen neurons contribute; `x` are its activations times
/// scales, by block. Returns `B`.
#[inline(always)]
fn add_blocks<L: Lanes, const B: usize>(
    lanes: L,
    rows: &Rows<'_, Int8Block>,
    at: usize,
    x: &[LaneFloats],
    out: &mut [[f32; LANES]],
) -> usize {
    let rows: [&[Int8Block; B]; LANES] = rows.runs(at);
    let x: &[LaneFloats; B] = x[at..].first_chunk().expect("there is one for each block");
    let (out, _) = out[2 * at..].as_chunks_mut::<2>();
    let out: &mut [_; B] = out
        .first_chunk_mut()
        .expect("there are two vectors for each block");
    let mut sums = [[lanes.splat(0.0); 2]; B];
    for block in 0..B {
        for half in 0..2 {
            sums[block][half] = lanes.load(&LaneFloats(out[block][half]));
        }
    }
    for (neuron, row) in rows.iter().enumerate() {
        for block in 0..B {
            let x = lanes.splat(x[block].0[neuron]);
            let (halves, _) = row[block].as_chunks();
            for half in 0..2 {
                let weights = lanes.bytes_to_floats(&halves[half]);
                sums[block][half] = lanes.multiply_add(x, weights, sums[block][half]);
            }
        }
    }
    for block in 0..B {
        for half in 0..2 {
            out[block][half] = lanes.store(sums[block][half]).0;
        }
    }
    B
}

/// A block of outputs, whose first sixteen are column `at` of `[T, stride]`.
struct DownBlock<'a> {
    /// By neuron.
    weights: &'a [[[LaneFloats; 2]; LANES]],
    /// `[F / 16]`
    scales: &'a [LaneFloats],
    /// `[T, F / 16]`
    activations: &'a [LaneFloats],
    out: &'a mut [[f32; LANES]],
    stride: usize,
    at: usize,
}

impl<L: Lanes> GroupWork<L> for DownBlock<'_> {
    #[inline(always)]
    fn group<const T: usize>(&mut self, lanes: L, first: usize) -> usize {
        let tiles = self.weights.len();
        let activations = &self.activations[first * tiles..][..T * tiles];
        let mut sums = [[lanes.splat(0.0); 2]; T];
        let mut x = [LaneFloats::ZERO; T];
        for (tile, (weights, scale)) in self.weights.iter().zip(self.scales).enumerate() {
            for (x, h) in x.iter_mut().zip(activations.chunks_exact(tiles)) {
                *x = lanes.store(lanes.multiply(lanes.load(&h[tile]), lanes.load(scale)));
            }
            for (neuron, [low, high]) in weights.iter().enumerate() {
                for token in 0..T {
                    let x = lanes.splat(x[token].0[neuron]);
                    let [a, b] = sums[token];
                    sums[token] = [
                        lanes.multiply_add(x, lanes.load(low), a),
                        lanes.multiply_add(x, lanes.load(high), b),
                    ];
                }
            }
        }
        for (token, [low, high]) in sums.iter().enumerate() {
            let out = &mut self.out[(first + token) * self.stride + self.at..][..2];
            (out[0], out[1]) = (lanes.store(*low).0, lanes.store(*high).0);
        }
        T
    }
}
