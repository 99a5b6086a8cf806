//! How far results are from exact arithmetic on the stored weights.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::draw::{self, Range};
use super::{Elements, Stored, StoredExpert};
use crate::kernels::Isa;
use crate::kernels::lanes::BLOCK;

/// What rounding to fp32 may add, as a share of the sum of magnitudes.
const ROUNDING: f64 = 1.0 / (1 << 20) as f64;

/// A number and how far from it a kernel may be.
#[derive(Clone, Copy)]
struct Bounded {
    exact: f64,
    error: f64,
}

/// Of a scalar product: each activation may be off by half of its block's unit.
fn dot(weights: impl Iterator<Item = f64>, x: &[Bounded]) -> Bounded {
    let units = x.chunks(BLOCK).map(unit);
    let units = units.flat_map(|unit| std::iter::repeat_n(unit, BLOCK));
    let mut sum = Bounded {
        exact: 0.0,
        error: 0.0,
    };
    for ((weight, x), unit) in weights.zip(x).zip(units) {
        sum.exact += weight * x.exact;
        let off = x.error + 0.501 * unit;
        sum.error += weight.abs() * (off + ROUNDING * x.exact.abs());
    }
    sum
}

fn exactly(row: &[f32]) -> Vec<Bounded> {
    let exact = |x: &f32| Bounded {
        exact: f64::from(*x),
        error: 0.0,
    };
    row.iter().map(exact).collect()
}

fn unit(block: &[Bounded]) -> f64 {
    let magnitudes = block.iter().map(|x| x.exact.abs() + x.error);
    magnitudes.fold(0.0, f64::max) / 32639.0
}

fn values(matrix: &Stored) -> Vec<f64> {
    match &matrix.elements {
        Elements::Int8(values, scales) => dequantise(values, scales),
        Elements::Uint4(packed, scales, minimums) => (0..matrix.rows * matrix.cols)
            .map(|at| {
                let (block, within) = (at / BLOCK, at % BLOCK);
                let byte = packed[block * 16 + within % 16];
                let element = if within < 16 { byte & 15 } else { byte >> 4 };
                f64::from(scales[block]) * f64::from(element) + f64::from(minimums[block])
            })
            .collect(),
        Elements::Fp32(values) => values.iter().map(|value| f64::from(*value)).collect(),
    }
}

fn dequantise(values: &[i8], scales: &[f32]) -> Vec<f64> {
    let value = |(at, value): (usize, &i8)| f64::from(scales[at / BLOCK]) * f64::from(*value);
    values.iter().enumerate().map(value).collect()
}

fn check(found: f32, bounded: Bounded, what: &str) {
    let off = (f64::from(found) - bounded.exact).abs();
    let Bounded { exact, error } = bounded;
    assert!(
        off <= error,
        "{what}: {found} instead of {exact}, off by {off}, not {error}"
    );
}

#[test]
fn products_are_as_exact_as_int16_activations_allow() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    for (rows, cols) in [(1, 32), (40, 576), (17, 320), (100, 64)] {
        for matrix in [
            draw::int8_matrix(&mut random, Range::Usual, rows, cols),
            draw::uint4_matrix(&mut random, Range::Usual, rows, cols),
            draw::fp32_matrix(&mut random, Range::Usual, rows, cols),
        ] {
            let input = draw::activations(&mut random, Range::Usual, 5, cols);
            let weights = values(&matrix);
            for isa in Isa::all_supported() {
                let found = matrix.product(isa, &input);
                for (row, found) in input.chunks(cols).zip(found.chunks(rows)) {
                    let x = exactly(row);
                    for (weights, found) in weights.chunks(cols).zip(found) {
                        check(*found, dot(weights.iter().copied(), &x), "product");
                    }
                }
            }
        }
    }
}

/// One token's outputs.
fn expert_bounds(expert: &StoredExpert, row: &[f32]) -> Vec<Bounded> {
    let StoredExpert {
        hidden,
        neurons,
        values,
        scales,
    } = expert;
    let weights = dequantise(values, scales);
    let row_of = |number: usize| weights[number * hidden..][..*hidden].iter().copied();
    let x = exactly(row);
    let activation = |neuron: usize| {
        let gate = dot(row_of(neuron), &x);
        let up = dot(row_of(neurons + neuron), &x);
        let silu = gate.exact / (1.0 + (-gate.exact).exp());
        // The slope of silu is below 1.1.
        let silu_error = 1.1 * gate.error + ROUNDING * silu.abs();
        Bounded {
            exact: silu * up.exact,
            error: silu_error * (up.exact.abs() + up.error) + silu.abs() * up.error,
        }
    };
    let activations: Vec<Bounded> = (0..*neurons).map(activation).collect();
    let output = |output: usize| {
        let at = |neuron: usize| (2 * neurons + neuron) * hidden + output;
        let scale = |neuron: usize| f64::from(scales[at(neuron) / BLOCK]).abs();
        let scaled = activations.iter().enumerate().map(|(neuron, h)| Bounded {
            exact: h.exact * scale(neuron),
            error: h.error * scale(neuron),
        });
        let scaled: Vec<Bounded> = scaled.collect();
        let signs = (0..*neurons).map(|neuron| {
            let sign = f64::from(scales[at(neuron) / BLOCK].signum());
            sign * f64::from(values[at(neuron)])
        });
        dot(signs, &scaled)
    };
    (0..*hidden).map(output).collect()
}

#[test]
fn experts_are_as_exact_as_int16_activations_allow() {
    let mut random = ChaCha8Rng::seed_from_u64(6);
    for (hidden, neurons) in [(576, 96), (32, 1), (64, 700), (96, 33)] {
        let expert = draw::expert(&mut random, Range::Usual, hidden, neurons);
        let input = draw::activations(&mut random, Range::Usual, 3, hidden);
        for isa in Isa::all_supported() {
            let found = expert.compute(isa, &input);
            for (row, found) in input.chunks(hidden).zip(found.chunks(hidden)) {
                for (bounded, found) in expert_bounds(&expert, row).into_iter().zip(found) {
                    check(*found, bounded, "expert");
                }
            }
        }
    }
}
