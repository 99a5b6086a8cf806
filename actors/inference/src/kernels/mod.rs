//! Products of quantised weights with int16 activations, and the experts made of them.
//!
//! **The law.** What comes out for a token depends on that token's input and on the weights, bit by bit: not on the
//! tokens beside it, not on the range of rows that was asked for, not on the processor. (Where it is not a number, its
//! payload may differ.) It holds because every output is one lane of a vector and sees the same operations in the same
//! order everywhere:
//!
//! * a token's activations x become int16 q in blocks of 32: unit = max |x| / 32639, q = x * (32639 / max |x|) rounded to
//!   nearest, ties to even ([`QuantisedRows`]);
//! * a row's block of 32 gives the integer sum of q * weight, which is exact in whatever order, and rounded once to fp32;
//!   from the first block to the last, y = fused(sum * unit, scale of the block, y) and, if blocks have a minimum,
//!   y = fused(sum of the block's q * unit, minimum, y) ([`Matrix::product`]);
//! * an expert's gate and up are such products; h = silu(gate) * up with an exponential of fixed arithmetic; down is in
//!   fp32, from the first neuron to the last y = fused(h * scale of the block, weight, y) ([`Expert::compute`]).
//!
//! `tests::law` holds all instruction sets to a scalar model of this, bit by bit; `tests::error` bounds the distance to
//! exact arithmetic.
//!
//! **How.** The kernels are written once, over `lanes::Lanes`: sixteen rows or outputs are the lanes of a vector. For
//! many tokens the weights of sixteen rows are laid out lane by lane once; for a single one they are read as they stand,
//! because then the speed is that of memory. [`Isa`] picks the instructions when the processor is known.
//!
//! Shapes: a matrix is `[N, K]` row-major and K a multiple of 32; activations are `[T, K]`, results `[T, N]`.

mod attention;
mod blocks;
mod error;
mod expert;
mod isa;
mod lanes;
mod matrix;
mod portable;
mod quantise;
mod rows;
mod silu;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use attention::{HeadMemory, attend, put_key};
pub use error::ShapeError;
pub use expert::Expert;
pub use isa::Isa;
pub use matrix::{Matrix, Weights};
pub use quantise::QuantisedRows;
