//! SwiGLU in fp32: the order of the work, and its arithmetic for any processor. [`avx2`] has faster arithmetic.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::array::from_fn;

/// Rows of the input that share one reading of a weight.
const ROWS: usize = 4;
/// Neurons whose weights stay in the nearest cache while all rows pass.
const NEURONS: usize = 8;

/// Overwrites `output` `[n, H]` with `down(silu(gate(x)) * up(x))` for each row of `input` `[n, H]`. `weights` are the
/// rows of gate, up and transposed down one after the other, `[3F, H]`.
pub fn swiglu(weights: &[f32], hidden: usize, input: &[f32], output: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = avx2::Avx2::detect() {
        return compute(avx2, weights, hidden, input, output);
    }
    compute(Plain, weights, hidden, input, output);
}

/// The two inner loops.
trait Arithmetic: Copy {
    /// The scalar products of two rows of weights with each row of `x`; all rows are of one length.
    fn products<const R: usize>(self, weights: [&[f32]; 2], x: [&[f32]; R]) -> [[f32; R]; 2];

    /// Adds rows, each times its factor, to `y`; all rows are of one length.
    fn add_rows<const N: usize>(self, factors: [f32; N], rows: [&[f32]; N], y: &mut [f32]);
}

fn compute(
    arithmetic: impl Arithmetic,
    weights: &[f32],
    hidden: usize,
    input: &[f32],
    output: &mut [f32],
) {
    let (gate, rest) = weights.split_at(weights.len() / 3);
    let (up, down) = rest.split_at(rest.len() / 2);
    output.fill(0.0);
    let (block, group) = (NEURONS * hidden, ROWS * hidden);
    for ((gate, up), down) in gate
        .chunks(block)
        .zip(up.chunks(block))
        .zip(down.chunks(block))
    {
        let weights = [gate, up, down];
        for (x, y) in input.chunks(group).zip(output.chunks_mut(group)) {
            match x.len() / hidden {
                1 => add_block::<1>(arithmetic, weights, hidden, x, y),
                2 => add_block::<2>(arithmetic, weights, hidden, x, y),
                3 => add_block::<3>(arithmetic, weights, hidden, x, y),
                _ => add_block::<ROWS>(arithmetic, weights, hidden, x, y),
            }
        }
    }
}

/// Adds what a block of neurons contributes to `R` rows.
fn add_block<const R: usize>(
    arithmetic: impl Arithmetic,
    [gate, up, down]: [&[f32]; 3],
    hidden: usize,
    x: &[f32],
    y: &mut [f32],
) {
    let x: [&[f32]; R] = from_fn(|row| &x[row * hidden..][..hidden]);
    let mut activations = [[0.0; NEURONS]; R];
    for (neuron, (gate, up)) in gate
        .chunks_exact(hidden)
        .zip(up.chunks_exact(hidden))
        .enumerate()
    {
        let [gates, ups] = arithmetic.products([gate, up], x);
        for row in 0..R {
            activations[row][neuron] = silu(gates[row]) * ups[row];
        }
    }
    for (activations, y) in activations.iter().zip(y.chunks_exact_mut(hidden)) {
        add_down(arithmetic, activations, down, y);
    }
}

/// Adds each row of `down` times its activation to `y`, where possible four rows at one reading of `y`.
fn add_down(arithmetic: impl Arithmetic, activations: &[f32], down: &[f32], y: &mut [f32]) {
    let hidden = y.len();
    for (rows, activations) in down.chunks(4 * hidden).zip(activations.chunks(4)) {
        match *activations {
            [a, b, c, d] if rows.len() == 4 * hidden => {
                arithmetic.add_rows(
                    [a, b, c, d],
                    from_fn(|row| &rows[row * hidden..][..hidden]),
                    y,
                );
            }
            _ => {
                for (row, activation) in rows.chunks_exact(hidden).zip(activations) {
                    arithmetic.add_rows([*activation], [row], y);
                }
            }
        }
    }
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

#[derive(Clone, Copy)]
struct Plain;

impl Arithmetic for Plain {
    fn products<const R: usize>(self, weights: [&[f32]; 2], x: [&[f32]; R]) -> [[f32; R]; 2] {
        weights.map(|weights| x.map(|x| weights.iter().zip(x).map(|(weight, x)| weight * x).sum()))
    }

    fn add_rows<const N: usize>(self, factors: [f32; N], rows: [&[f32]; N], y: &mut [f32]) {
        for (factor, row) in factors.iter().zip(rows) {
            y.iter_mut()
                .zip(row)
                .for_each(|(y, weight)| *y += factor * weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn plain(weights: &[f32], hidden: usize, x: &[f32]) -> Vec<f64> {
        let neurons = weights.len() / hidden / 3;
        let row = |number: usize| {
            weights[number * hidden..][..hidden]
                .iter()
                .map(|w| f64::from(*w))
        };
        let mut y = vec![0.0; hidden];
        for neuron in 0..neurons {
            let dot = |number| {
                row(number)
                    .zip(x)
                    .map(|(w, x)| w * f64::from(*x))
                    .sum::<f64>()
            };
            let gate = dot(neuron);
            let activation = gate / (1.0 + (-gate).exp()) * dot(neurons + neuron);
            y.iter_mut()
                .zip(row(2 * neurons + neuron))
                .for_each(|(y, w)| *y += w * activation);
        }
        y
    }

    #[test]
    fn every_size_is_computed_right_on_any_processor() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for (hidden, neurons, rows) in [
            (32, 8, 1),
            (576, 96, 5),
            (40, 11, 9),
            (7, 1, 2),
            (64, 13, 3),
            (33, 10, 4),
        ] {
            let mut numbers = |len: usize| {
                (0..len)
                    .map(|_| random.random_range(-1.0..1.0))
                    .collect::<Vec<f32>>()
            };
            let (weights, input) = (numbers(3 * neurons * hidden), numbers(rows * hidden));
            let expected: Vec<f64> = input
                .chunks(hidden)
                .flat_map(|x| plain(&weights, hidden, x))
                .collect();
            let largest = expected
                .iter()
                .fold(0.0, |largest: f64, y| largest.max(y.abs()));
            for compute in [swiglu, |w: &[f32], h, x: &[f32], y: &mut [f32]| {
                compute(Plain, w, h, x, y)
            }] {
                let mut output = vec![f32::NAN; input.len()];
                compute(&weights, hidden, &input, &mut output);
                for (ours, expected) in output.iter().zip(&expected) {
                    let difference = (f64::from(*ours) - expected).abs();
                    assert!(
                        difference <= 1e-5 * largest,
                        "{hidden} {neurons} {rows}: {ours} {expected}"
                    );
                }
            }
        }
    }
}
