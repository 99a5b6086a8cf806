//! The law of the module: all instructions against each other and against a scalar model, to the bit; and the error
//! against exact arithmetic.
//!
//! `BLYAN_KERNEL_CASES` is the number of block products in the long test and `BLYAN_KERNEL_SEED` its seed.

mod draw;
mod error;
mod law;
mod model;

use super::{Expert, Isa, Matrix, QuantisedRows, Weights};

/// A matrix that owns its elements.
#[derive(Debug)]
struct Stored {
    rows: usize,
    cols: usize,
    elements: Elements,
}

#[derive(Debug)]
enum Elements {
    Int8(Vec<i8>, Vec<f32>),
    Uint4(Vec<u8>, Vec<f32>, Vec<f32>),
    Fp32(Vec<f32>),
}

impl Stored {
    fn matrix(&self) -> Matrix<'_> {
        let weights = match &self.elements {
            Elements::Int8(values, scales) => Weights::Int8Blocks { values, scales },
            Elements::Uint4(packed, scales, minimums) => Weights::Uint4Blocks {
                packed,
                scales,
                minimums,
            },
            Elements::Fp32(values) => Weights::Fp32(values),
        };
        Matrix::new(self.rows, self.cols, weights).unwrap()
    }

    fn product(&self, isa: Isa, input: &[f32]) -> Vec<f32> {
        let x = QuantisedRows::with(isa, input, self.cols).unwrap();
        let mut out = vec![0.25; x.tokens() * self.rows];
        self.matrix().product(0..self.rows, &x, &mut out).unwrap();
        out
    }
}

/// An expert that owns its elements.
#[derive(Debug)]
struct StoredExpert {
    hidden: usize,
    neurons: usize,
    values: Vec<i8>,
    scales: Vec<f32>,
}

impl StoredExpert {
    fn compute(&self, isa: Isa, input: &[f32]) -> Vec<f32> {
        let expert = Expert::new(self.hidden, self.neurons, &self.values, &self.scales).unwrap();
        let x = QuantisedRows::with(isa, input, self.hidden).unwrap();
        let mut out = vec![0.25; input.len()];
        expert.compute(&x, &mut out).unwrap();
        out
    }
}

/// Like [`f32::to_bits`], with one pattern for all that is not a number.
fn bits(numbers: &[f32]) -> Vec<u32> {
    let one_nan = |x: &f32| if x.is_nan() { f32::NAN } else { *x };
    numbers.iter().map(one_nan).map(f32::to_bits).collect()
}
