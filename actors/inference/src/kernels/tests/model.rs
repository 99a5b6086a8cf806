//! The law as it is told, one number at a time.

use super::{Elements, Stored, StoredExpert};
use crate::kernels::lanes::BLOCK;
use crate::kernels::silu::silu;

/// A block of a token's activations.
pub struct Quantised {
    pub values: Vec<i64>,
    pub scale: f32,
}

pub fn quantise(row: &[f32]) -> Vec<Quantised> {
    row.chunks(BLOCK).map(quantise_block).collect()
}

fn quantise_block(block: &[f32]) -> Quantised {
    let constant = |scale| Quantised {
        values: vec![0; BLOCK],
        scale,
    };
    if block.iter().any(|x| !x.is_finite()) {
        return constant(f32::NAN);
    }
    let largest = block
        .iter()
        .fold(0.0_f32, |largest, x| largest.max(x.abs()));
    if largest < f32::MIN_POSITIVE * 32768.0 {
        return constant(0.0);
    }
    let inverse = 32639.0 / largest;
    let values = block
        .iter()
        .map(|x| (x * inverse).round_ties_even() as i64)
        .collect();
    Quantised {
        values,
        scale: largest / 32639.0,
    }
}

/// `[T, N]`
pub fn product(matrix: &Stored, input: &[f32]) -> Vec<f32> {
    let tokens = input.chunks(matrix.cols).map(quantise);
    tokens
        .flat_map(|x| (0..matrix.rows).map(move |row| row_product(matrix, row, &x)))
        .collect()
}

fn row_product(matrix: &Stored, row: usize, x: &[Quantised]) -> f32 {
    match &matrix.elements {
        Elements::Int8(values, scales) => {
            let start = row * matrix.cols;
            block_product(&values[start..], &scales[start / BLOCK..], x)
        }
        Elements::Uint4(packed, scales, minimums) => {
            let start = row * matrix.cols;
            uint4_product(
                &packed[start / 2..],
                &scales[start / BLOCK..],
                &minimums[start / BLOCK..],
                x,
            )
        }
        Elements::Fp32(values) => fp32_product(&values[row * matrix.cols..], x),
    }
}

fn block_product(values: &[i8], scales: &[f32], x: &[Quantised]) -> f32 {
    let blocks = x.iter().zip(values.chunks(BLOCK)).zip(scales);
    blocks.fold(0.0, |y, ((x, values), scale)| {
        let products = x.values.iter().zip(values);
        let sum: i64 = products.map(|(x, value)| x * i64::from(*value)).sum();
        (sum as f32 * x.scale).mul_add(*scale, y)
    })
}

fn uint4_product(packed: &[u8], scales: &[f32], minimums: &[f32], x: &[Quantised]) -> f32 {
    let mut y = 0.0_f32;
    for (block, Quantised { values, scale }) in x.iter().enumerate() {
        let element = |at: usize| {
            let byte = packed[block * BLOCK / 2 + at % 16];
            i64::from(if at < 16 { byte & 15 } else { byte >> 4 })
        };
        let products = values.iter().enumerate().map(|(at, x)| x * element(at));
        y = (products.sum::<i64>() as f32 * scale).mul_add(scales[block], y);
        y = (values.iter().sum::<i64>() as f32 * scale).mul_add(minimums[block], y);
    }
    y
}

fn fp32_product(values: &[f32], x: &[Quantised]) -> f32 {
    let mut sums = [0.0_f32; 16];
    let x = x
        .iter()
        .flat_map(|block| block.values.iter().map(|x| *x as f32 * block.scale));
    for (at, (value, x)) in values.iter().zip(x).enumerate() {
        sums[at % 16] = value.mul_add(x, sums[at % 16]);
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = sums;
    (((a + i) + (e + m)) + ((c + k) + (g + o))) + (((b + j) + (f + n)) + ((d + l) + (h + p)))
}

/// `[T, H]`
pub fn expert(expert: &StoredExpert, input: &[f32]) -> Vec<f32> {
    let rows = input.chunks(expert.hidden);
    rows.flat_map(|row| expert_row(expert, &quantise(row)))
        .collect()
}

fn expert_row(expert: &StoredExpert, x: &[Quantised]) -> Vec<f32> {
    let StoredExpert {
        hidden,
        neurons,
        values,
        scales,
    } = expert;
    let dot = |row: usize| {
        let start = row * hidden;
        block_product(&values[start..], &scales[start / BLOCK..], x)
    };
    let activations: Vec<f32> = (0..*neurons)
        .map(|neuron| silu(dot(neuron)) * dot(neurons + neuron))
        .collect();
    let weight = |neuron: usize, output: usize| {
        let at = (2 * neurons + neuron) * hidden + output;
        (f32::from(values[at]), scales[at / BLOCK])
    };
    let output = |output: usize| {
        let terms = activations.iter().enumerate();
        let sum = terms.fold(0.0, |y: f32, (neuron, h)| {
            let (value, scale) = weight(neuron, output);
            (h * scale).mul_add(value, y)
        });
        // Neurons come in sixteens, and zeros make up the last: what they add can turn -0 into 0.
        if neurons % 16 == 0 { sum } else { sum + 0.0 }
    };
    (0..*hidden).map(output).collect()
}
