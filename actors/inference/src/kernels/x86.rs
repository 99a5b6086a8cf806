//! [`Lanes`] for AVX2 and for AVX-512 with VNNI.
//!
//! SAFETY of every block here: a value of [`Avx2`] or [`Avx512Vnni`] is made by its `detect` alone, so a method that has
//! one runs on a processor with the instructions; arrays are read and written as the vectors of their size.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::isa::Task;
use super::lanes::{LANES, LaneFloats, LanePairs, Lanes, Pair, SLICE};

/// Exists only on a processor that has AVX2 and fused multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

/// Exists only on a processor that has AVX-512 with the F, BW, VL and VNNI parts, and all that [`Avx2`] needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Vnni(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }

    pub fn run(self, task: impl Task) {
        // SAFETY: see the module.
        unsafe { run_avx2(self, task) }
    }
}

impl Avx512Vnni {
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        (has && Avx2::detect().is_some()).then_some(Self(()))
    }

    pub fn run(self, task: impl Task) {
        // SAFETY: see the module.
        unsafe { run_avx512(self, task) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn run_avx2(lanes: Avx2, task: impl Task) {
    task.run(lanes);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
fn run_avx512(lanes: Avx512Vnni, task: impl Task) {
    task.run(lanes);
}

impl Lanes for Avx2 {
    const TOKENS: usize = 3;

    type Bytes = __m256i;
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];

    #[inline(always)]
    fn transpose(self, rows: [&[u8; SLICE]; LANES]) -> [Self::Bytes; SLICE / 2] {
        // SAFETY: see the module.
        unsafe { transpose(rows) }
    }

    #[inline(always)]
    fn interleave(self, first: &[u8; LANES], second: &[u8; LANES]) -> Self::Bytes {
        // SAFETY: see the module.
        unsafe { interleave(first, second) }
    }

    #[inline(always)]
    fn low_halves(self, bytes: Self::Bytes) -> Self::Bytes {
        // SAFETY: see the module.
        unsafe { low_halves(bytes) }
    }

    #[inline(always)]
    fn high_halves(self, bytes: Self::Bytes) -> Self::Bytes {
        // SAFETY: see the module.
        unsafe { low_halves(_mm256_srli_epi16::<4>(bytes)) }
    }

    #[inline(always)]
    fn widen(self, bytes: Self::Bytes) -> LanePairs {
        // SAFETY: see the module.
        unsafe {
            let low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(bytes));
            let high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(bytes));
            transmute([low, high])
        }
    }

    #[inline(always)]
    fn int_zero(self) -> Self::Ints {
        // SAFETY: see the module.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn add_products(self, sum: Self::Ints, weights: &LanePairs, x: Pair) -> Self::Ints {
        // SAFETY: see the module.
        unsafe {
            let [low, high]: [__m256i; 2] = transmute(*weights);
            let x = _mm256_set1_epi32(transmute::<Pair, i32>(x));
            [
                _mm256_add_epi32(sum[0], _mm256_madd_epi16(low, x)),
                _mm256_add_epi32(sum[1], _mm256_madd_epi16(high, x)),
            ]
        }
    }

    #[inline(always)]
    fn to_floats(self, [low, high]: Self::Ints) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)] }
    }

    #[inline(always)]
    fn splat(self, number: f32) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { [_mm256_set1_ps(number); 2] }
    }

    #[inline(always)]
    fn load(self, numbers: &LaneFloats) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { transmute(*numbers) }
    }

    #[inline(always)]
    fn store(self, numbers: Self::Floats) -> LaneFloats {
        // SAFETY: see the module.
        unsafe { transmute(numbers) }
    }

    #[inline(always)]
    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: see the module.
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        prefetch(address);
    }
}

impl Lanes for Avx512Vnni {
    const TOKENS: usize = 12;

    type Bytes = __m256i;
    type Ints = __m512i;
    type Floats = __m512;

    #[inline(always)]
    fn transpose(self, rows: [&[u8; SLICE]; LANES]) -> [Self::Bytes; SLICE / 2] {
        // SAFETY: see the module.
        unsafe { transpose(rows) }
    }

    #[inline(always)]
    fn interleave(self, first: &[u8; LANES], second: &[u8; LANES]) -> Self::Bytes {
        // SAFETY: see the module.
        unsafe { interleave(first, second) }
    }

    #[inline(always)]
    fn low_halves(self, bytes: Self::Bytes) -> Self::Bytes {
        // SAFETY: see the module.
        unsafe { low_halves(bytes) }
    }

    #[inline(always)]
    fn high_halves(self, bytes: Self::Bytes) -> Self::Bytes {
        // SAFETY: see the module.
        unsafe { low_halves(_mm256_srli_epi16::<4>(bytes)) }
    }

    #[inline(always)]
    fn widen(self, bytes: Self::Bytes) -> LanePairs {
        // SAFETY: see the module.
        unsafe { transmute(_mm512_cvtepi8_epi16(bytes)) }
    }

    #[inline(always)]
    fn int_zero(self) -> Self::Ints {
        // SAFETY: see the module.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn add_products(self, sum: Self::Ints, weights: &LanePairs, x: Pair) -> Self::Ints {
        // SAFETY: see the module.
        unsafe {
            let x = _mm512_set1_epi32(transmute::<Pair, i32>(x));
            _mm512_dpwssd_epi32(sum, transmute::<LanePairs, __m512i>(*weights), x)
        }
    }

    #[inline(always)]
    fn to_floats(self, ints: Self::Ints) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { _mm512_cvtepi32_ps(ints) }
    }

    #[inline(always)]
    fn splat(self, number: f32) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { _mm512_set1_ps(number) }
    }

    #[inline(always)]
    fn load(self, numbers: &LaneFloats) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { transmute(*numbers) }
    }

    #[inline(always)]
    fn store(self, numbers: Self::Floats) -> LaneFloats {
        // SAFETY: see the module.
        unsafe { transmute(numbers) }
    }

    #[inline(always)]
    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        prefetch(address);
    }
}

/// Rows 0 to 7 stand in the low halves of the vectors, rows 8 to 15 in the high halves.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [&[u8; SLICE]; LANES]) -> [__m256i; SLICE / 2] {
    let mut r = [_mm256_setzero_si256(); 8];
    for (at, r) in r.iter_mut().enumerate() {
        *r = halves(rows[at], rows[at + 8]);
    }
    let mut quads = [r[0]; 8];
    for at in 0..4 {
        quads[at] = _mm256_unpacklo_epi16(r[2 * at], r[2 * at + 1]);
        quads[at + 4] = _mm256_unpackhi_epi16(r[2 * at], r[2 * at + 1]);
    }
    let mut columns = [r[0]; 8];
    for half in 0..2 {
        let q = &quads[4 * half..][..4];
        let (a, b) = (
            _mm256_unpacklo_epi32(q[0], q[1]),
            _mm256_unpacklo_epi32(q[2], q[3]),
        );
        let (c, d) = (
            _mm256_unpackhi_epi32(q[0], q[1]),
            _mm256_unpackhi_epi32(q[2], q[3]),
        );
        columns[4 * half] = _mm256_unpacklo_epi64(a, b);
        columns[4 * half + 1] = _mm256_unpackhi_epi64(a, b);
        columns[4 * half + 2] = _mm256_unpacklo_epi64(c, d);
        columns[4 * half + 3] = _mm256_unpackhi_epi64(c, d);
    }
    columns
}

#[inline]
#[target_feature(enable = "avx2")]
fn interleave(first: &[u8; LANES], second: &[u8; LANES]) -> __m256i {
    let (first, second) = (bytes(first), bytes(second));
    _mm256_set_m128i(
        _mm_unpackhi_epi8(first, second),
        _mm_unpacklo_epi8(first, second),
    )
}

#[inline]
#[target_feature(enable = "avx2")]
fn low_halves(bytes: __m256i) -> __m256i {
    _mm256_and_si256(bytes, _mm256_set1_epi8(0x0f))
}

#[inline]
#[target_feature(enable = "avx2")]
fn halves(low: &[u8; SLICE], high: &[u8; SLICE]) -> __m256i {
    _mm256_set_m128i(bytes(high), bytes(low))
}

#[inline]
#[target_feature(enable = "avx2")]
fn bytes(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: sixteen bytes are sixteen bytes.
    unsafe { transmute(*bytes) }
}

#[inline(always)]
fn prefetch(address: *const u8) {
    // SAFETY: every x86-64 has the instruction, and it ignores addresses that cannot be read.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}
