//! Random weights and activations, extreme ones among them.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::{Elements, Stored, StoredExpert};
use crate::kernels::lanes::BLOCK;

/// How far the numbers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// Like a model's.
    Usual,
    /// Also zero, subnormal, huge, infinite and not a number.
    Extreme,
}

const EXTREMES: [f32; 14] = [
    0.0,
    -0.0,
    f32::MIN_POSITIVE,
    1e-45,
    -1e-40,
    3.9e-34,
    1e-20,
    1e20,
    -1e30,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// Mostly usual numbers of `magnitude`.
fn number(random: &mut ChaCha8Rng, range: Range, magnitude: f32) -> f32 {
    if range == Range::Extreme && random.random_ratio(1, 40) {
        *EXTREMES.choose(random).unwrap()
    } else {
        random.random_range(-magnitude..magnitude)
    }
}

fn numbers(random: &mut ChaCha8Rng, range: Range, magnitude: f32, len: usize) -> Vec<f32> {
    (0..len).map(|_| number(random, range, magnitude)).collect()
}

/// Row by row: usual, all of one magnitude, with one outlier, zero, tiny, huge, or with a number that is not finite.
pub fn activations(random: &mut ChaCha8Rng, range: Range, tokens: usize, width: usize) -> Vec<f32> {
    (0..tokens)
        .flat_map(|_| activation_row(random, range, width))
        .collect()
}

fn activation_row(random: &mut ChaCha8Rng, range: Range, width: usize) -> Vec<f32> {
    let mut row = numbers(random, Range::Usual, 2.0, width);
    if range == Range::Usual {
        return row;
    }
    match random.random_range(0..9) {
        0 => row.iter_mut().for_each(|x| *x = x.signum()),
        1 => row.fill(1.0),
        2 => row.fill(-3.0),
        3 => row[random.random_range(0..width)] = 1e6,
        4 => row.iter_mut().for_each(|x| *x *= 1e-34),
        5 => row.iter_mut().for_each(|x| *x *= 1e38),
        6 => row[random.random_range(0..width)] = *EXTREMES.choose(random).unwrap(),
        7 => row.fill(0.0),
        _ => {}
    }
    row
}

/// Block by block: anything, all of one extreme value, or a mix of extreme values.
fn int8(random: &mut ChaCha8Rng, len: usize) -> Vec<i8> {
    let mut values = vec![0; len];
    for block in values.chunks_mut(BLOCK) {
        let kind = random.random_range(0..8);
        for value in block.iter_mut() {
            *value = match kind {
                0 => -128,
                1 => 127,
                2 => *[-128, 127, -127, 0, 1, -1].choose(random).unwrap(),
                _ => random.random(),
            };
        }
    }
    values
}

pub fn int8_matrix(random: &mut ChaCha8Rng, range: Range, rows: usize, cols: usize) -> Stored {
    let values = int8(random, rows * cols);
    let scales = numbers(random, range, 0.02, rows * cols / BLOCK);
    Stored {
        rows,
        cols,
        elements: Elements::Int8(values, scales),
    }
}

pub fn uint4_matrix(random: &mut ChaCha8Rng, range: Range, rows: usize, cols: usize) -> Stored {
    let packed = (0..rows * cols / 2).map(|_| random.random());
    let packed = packed.map(|byte: u8| if byte % 16 == 7 { 0xff } else { byte });
    let blocks = rows * cols / BLOCK;
    let packed = packed.collect();
    let scales = numbers(random, range, 0.02, blocks);
    let minimums = numbers(random, range, 0.2, blocks);
    Stored {
        rows,
        cols,
        elements: Elements::Uint4(packed, scales, minimums),
    }
}

pub fn fp32_matrix(random: &mut ChaCha8Rng, range: Range, rows: usize, cols: usize) -> Stored {
    Stored {
        rows,
        cols,
        elements: Elements::Fp32(numbers(random, range, 1.0, rows * cols)),
    }
}

pub fn expert(
    random: &mut ChaCha8Rng,
    range: Range,
    hidden: usize,
    neurons: usize,
) -> StoredExpert {
    let len = 3 * neurons * hidden;
    StoredExpert {
        hidden,
        neurons,
        values: int8(random, len),
        scales: numbers(random, range, 0.004, len / BLOCK),
    }
}
