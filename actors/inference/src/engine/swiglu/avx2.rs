//! Arithmetic with AVX2 and fused multiplication.

use std::arch::x86_64::{__m256, _mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps};
use std::mem::transmute;

use super::Arithmetic;

// Vectors are read and written by `transmute`: with debug assertions the instructions for that check their pointers.
/// Numbers in one register.
const LANES: usize = 8;

/// Exists only on a processor that has both.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }
}

impl Arithmetic for Avx2 {
    fn products<const R: usize>(self, weights: [&[f32]; 2], x: [&[f32]; R]) -> [[f32; R]; 2] {
        // SAFETY: the processor has what the function needs, or there were no `self`.
        unsafe { products(weights, x) }
    }

    fn add_rows<const N: usize>(self, factors: [f32; N], rows: [&[f32]; N], y: &mut [f32]) {
        // SAFETY: see above.
        unsafe { add_rows(factors, rows, y) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn products<const R: usize>(weights: [&[f32]; 2], x: [&[f32]; R]) -> [[f32; R]; 2] {
    let len = weights[0].len() / LANES;
    let [gate, up] = weights.map(|row| vectors(row, len));
    let rows = x.map(|row| vectors(row, len));
    let mut sums = [[_mm256_setzero_ps(); R]; 2];
    for at in 0..len {
        let (gate, up) = (load(&gate[at]), load(&up[at]));
        for row in 0..R {
            let x = load(&rows[row][at]);
            sums[0][row] = _mm256_fmadd_ps(gate, x, sums[0][row]);
            sums[1][row] = _mm256_fmadd_ps(up, x, sums[1][row]);
        }
    }
    let mut products = [[0.0; R]; 2];
    for matrix in 0..2 {
        for row in 0..R {
            let tail = weights[matrix]
                .iter()
                .zip(x[row])
                .skip(len * LANES)
                .map(|(weight, x)| weight * x);
            products[matrix][row] = sum(sums[matrix][row]) + tail.sum::<f32>();
        }
    }
    products
}

#[target_feature(enable = "avx2,fma")]
fn add_rows<const N: usize>(factors: [f32; N], rows: [&[f32]; N], y: &mut [f32]) {
    let (y, tail) = y.as_chunks_mut::<LANES>();
    let done = y.len() * LANES;
    let row_vectors = rows.map(|row| vectors(row, y.len()));
    let wide = factors.map(|factor| _mm256_set1_ps(factor));
    for (at, y) in y.iter_mut().enumerate() {
        let mut sum = load(y);
        for row in 0..N {
            sum = _mm256_fmadd_ps(wide[row], load(&row_vectors[row][at]), sum);
        }
        store(y, sum);
    }
    for (factor, row) in factors.iter().zip(rows) {
        tail.iter_mut()
            .zip(&row[done..])
            .for_each(|(y, weight)| *y += factor * weight);
    }
}

fn vectors(row: &[f32], count: usize) -> &[[f32; LANES]] {
    &row.as_chunks().0[..count]
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(numbers: &[f32; LANES]) -> __m256 {
    // SAFETY: eight numbers are eight numbers, and every pattern of bits is one.
    unsafe { transmute(*numbers) }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn store(numbers: &mut [f32; LANES], vector: __m256) {
    // SAFETY: as in `load`.
    *numbers = unsafe { transmute::<__m256, [f32; LANES]>(vector) };
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn sum(vector: __m256) -> f32 {
    let mut numbers = [0.0; LANES];
    store(&mut numbers, vector);
    let [a, b, c, d, e, f, g, h] = numbers;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}
