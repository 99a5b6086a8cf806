//! One expert: a slice of a SwiGLU layer.

use super::blocks::BlockMatrix;
use super::error::{ShapeError, check, check_multiple, elements};
use super::isa::Task;
use super::lanes::{BLOCK, LANES, LaneFloats, Lanes};
use super::matrix::as_bytes;
use super::quantise::QuantisedRows;
use super::rows::{GroupWork, Rows, for_groups};
use super::silu::silu;

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
        let values = as_bytes(values);
        let mut products = vec![0.0; x.tokens() * 2 * neurons];
        BlockMatrix::int8(values, scales).product(lanes, 0..2 * neurons, x, &mut products);
        let down = Down {
            values: &values[2 * neurons * hidden..],
            scales: &scales[2 * neurons * hidden / BLOCK..],
            hidden,
            neurons,
        };
        down.product(lanes, &activations(&products, neurons), out);
    }
}

/// `[T, F / 16]`, the last lanes zero, from gate and up `[T, 2F]`.
#[inline(always)]
fn activations(products: &[f32], neurons: usize) -> Vec<LaneFloats> {
    let tiles = neurons.div_ceil(LANES);
    let mut activations = vec![LaneFloats::ZERO; products.len() / (2 * neurons) * tiles];
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

/// `[F, H]`
struct Down<'a> {
    values: &'a [u8],
    scales: &'a [f32],
    hidden: usize,
    neurons: usize,
}

impl Down<'_> {
    /// `activations` are `[T, F / 16]`.
    #[inline(always)]
    fn product<L: Lanes>(&self, lanes: L, activations: &[LaneFloats], out: &mut [f32]) {
        let mut work = DownProduct {
            down: self,
            activations,
            scales: vec![LaneFloats::ZERO; self.hidden / BLOCK],
            spare_values: Vec::new(),
            spare_scales: Vec::new(),
            out,
        };
        for_groups(lanes, work.out.len() / self.hidden, &mut work);
    }
}

struct DownProduct<'a> {
    down: &'a Down<'a>,
    /// `[T, F / 16]`
    activations: &'a [LaneFloats],
    /// Of sixteen neurons, by block.
    scales: Vec<LaneFloats>,
    spare_values: Vec<u8>,
    spare_scales: Vec<f32>,
    /// `[T, H]`
    out: &'a mut [f32],
}

impl<L: Lanes> GroupWork<L> for DownProduct<'_> {
    #[inline(always)]
    fn group<const T: usize>(&mut self, lanes: L, first: usize) -> usize {
        let Down {
            values,
            scales,
            hidden,
            neurons,
        } = *self.down;
        let blocks = hidden / BLOCK;
        let tiles = neurons.div_ceil(LANES);
        let out = &mut self.out[first * hidden..][..T * hidden];
        out.fill(0.0);
        for tile in 0..tiles {
            let at = tile * LANES;
            let scales = Rows::new(scales, blocks, at, neurons, &mut self.spare_scales);
            scales.transpose(lanes, &mut self.scales);
            let rows = Rows::new(values, hidden, at, neurons, &mut self.spare_values);
            let mut h = [LaneFloats::ZERO; T];
            for (token, h) in h.iter_mut().enumerate() {
                *h = self.activations[(first + token) * tiles + tile];
            }
            for (block, scales) in self.scales.iter().enumerate() {
                rows.prefetch_next(lanes, block, blocks);
                add_block(lanes, rows.runs(block * BLOCK), scales, &h, block, out);
            }
        }
        T
    }
}

/// Adds to block `block` of each token's outputs, `[T, H]`, what sixteen neurons contribute.
#[inline(always)]
fn add_block<L: Lanes, const T: usize>(
    lanes: L,
    neurons: [&[u8; BLOCK]; LANES],
    scales: &LaneFloats,
    h: &[LaneFloats; T],
    block: usize,
    out: &mut [f32],
) {
    let hidden = out.len() / T;
    let mut x = [LaneFloats::ZERO; T];
    let mut sums = [[lanes.splat(0.0); 2]; T];
    for token in 0..T {
        x[token] = lanes.store(lanes.multiply(lanes.load(&h[token]), lanes.load(scales)));
        let (parts, _) = out[token * hidden + block * BLOCK..].as_chunks::<LANES>();
        sums[token] = [
            lanes.load(&LaneFloats(parts[0])),
            lanes.load(&LaneFloats(parts[1])),
        ];
    }
    for (neuron, weights) in neurons.iter().enumerate() {
        let (parts, _) = weights.as_chunks::<LANES>();
        let low = lanes.bytes_to_floats(&parts[0]);
        let high = lanes.bytes_to_floats(&parts[1]);
        for token in 0..T {
            let x = lanes.splat(x[token].0[neuron]);
            let [a, b] = sums[token];
            sums[token] = [
                lanes.multiply_add(x, low, a),
                lanes.multiply_add(x, high, b),
            ];
        }
    }
    for token in 0..T {
        let (parts, _) = out[token * hidden + block * BLOCK..].as_chunks_mut::<LANES>();
        parts[0] = lanes.store(sums[token][0]).0;
        parts[1] = lanes.store(sums[token][1]).0;
    }
}
