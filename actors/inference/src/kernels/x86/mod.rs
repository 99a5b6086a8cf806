//! [`super::lanes::Lanes`] for AVX2 and for AVX-512 with VNNI.
//!
//! Here "see the module" stands for: a value of [`Avx2`] or [`Avx512Vnni`] is made by its `detect` alone, so a method that
//! has one runs on a processor with the instructions; arrays are read and written as vectors of their size. Vectors are
//! read and written by `transmute`: with debug assertions the instructions for that check their pointers.

mod avx2;
mod avx512;

pub use avx2::Avx2;
pub use avx512::Avx512Vnni;

use std::arch::x86_64::{__m128i, _MM_HINT_T0, _mm_prefetch};
use std::mem::transmute;

use super::lanes::{BLOCK, Int8Block};

#[inline(always)]
fn bytes(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: sixteen bytes are sixteen bytes.
    unsafe { transmute(*bytes) }
}

#[inline(always)]
fn prefetch(address: *const u8) {
    // SAFETY: every x86-64 has the instruction, and it ignores addresses that cannot be read.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

/// The first and the second halves of blocks.
#[inline(always)]
fn halves<const R: usize>(blocks: [&[Int8Block; 1]; R]) -> [[&[u8; BLOCK / 2]; R]; 2] {
    let mut halves = [[&[0; BLOCK / 2]; R]; 2];
    for row in 0..R {
        let (parts, _) = blocks[row][0].as_chunks();
        (halves[0][row], halves[1][row]) = (&parts[0], &parts[1]);
    }
    halves
}
