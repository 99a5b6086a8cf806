//! AVX2 with fused multiplication: vectors of sixteen are two registers.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::super::isa::Task;
use super::super::lanes::{
    BLOCK, Int8Block, LANES, LaneFloats, LaneWords, Lanes, SLICE, Uint4Block, XBlock,
};
use super::super::rows::Rows;
use super::{bytes, halves, prefetch};

/// Exists only on a processor that has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }

    pub fn run(self, task: impl Task) {
        // SAFETY: see the module.
        unsafe { run(self, task) }
    }
}

#[target_feature(enable = "avx2,fma")]
fn run(lanes: Avx2, task: impl Task) {
    task.run(lanes);
}

impl Lanes for Avx2 {
    const SUMS: usize = 6;
    const TOKENS: usize = 2;

    /// For each pair of elements, that of each lane as two i16.
    type Weights = [LaneWords; BLOCK / 2];
    const NO_WEIGHTS: Self::Weights = [LaneWords::ZERO; BLOCK / 2];
    type XSlice = [XBlock; SLICE];
    type Ints = [__m256i; 2];
    type Floats = [__m256; 2];

    #[inline(always)]
    fn pack(self, x: &[i16; BLOCK]) -> XBlock {
        // SAFETY: see the module.
        unsafe { transmute(*x) }
    }

    #[inline(always)]
    fn unpack(self, x: &XBlock) -> [i16; BLOCK] {
        // SAFETY: see the module.
        unsafe { transmute(*x) }
    }

    #[inline(always)]
    fn lay_out_int8(self, rows: &Rows<'_, Int8Block>, at: usize, weights: &mut Self::Weights) {
        let (parts, _) = weights.as_chunks_mut::<{ BLOCK / 4 }>();
        for (half, rows) in halves(rows.runs(at)).iter().enumerate() {
            let pairs = self.pairs(rows);
            for pair in 0..BLOCK / 4 {
                parts[half][pair] = self.widen_pairs(pairs[pair]);
            }
        }
    }

    #[inline(always)]
    fn lay_out_uint4(self, rows: &Rows<'_, Uint4Block>, at: usize, weights: &mut Self::Weights) {
        let pairs = self.pairs(&rows.runs(at).map(|[block]| block));
        for pair in 0..BLOCK / 4 {
            // SAFETY: see the module.
            let [low, high] = unsafe {
                let mask = _mm256_set1_epi8(0x0f);
                let high = _mm256_srli_epi16::<4>(pairs[pair]);
                [
                    _mm256_and_si256(pairs[pair], mask),
                    _mm256_and_si256(high, mask),
                ]
            };
            weights[pair] = self.widen_pairs(low);
            weights[pair + BLOCK / 4] = self.widen_pairs(high);
        }
    }

    #[inline(always)]
    fn sums<const INT8: bool, const T: usize>(
        self,
        weights: &Self::Weights,
        x: &[XBlock; T],
        _: &[i32; T],
    ) -> [Self::Ints; T] {
        // SAFETY: see the module.
        unsafe {
            let mut sums = [[_mm256_setzero_si256(); 2]; T];
            for (pair, weights) in weights.iter().enumerate() {
                let [low, high] = transmute::<LaneWords, [__m256i; 2]>(*weights);
                for token in 0..T {
                    let x = _mm256_set1_epi32(x[token].0[pair]);
                    let [a, b] = sums[token];
                    sums[token] = [
                        _mm256_add_epi32(a, _mm256_madd_epi16(low, x)),
                        _mm256_add_epi32(b, _mm256_madd_epi16(high, x)),
                    ];
                }
            }
            sums
        }
    }

    #[inline(always)]
    fn int8_slice(self, x: &[XBlock; SLICE]) -> Self::XSlice {
        *x
    }

    #[inline(always)]
    fn uint4_slice(self, x: &[XBlock; SLICE]) -> Self::XSlice {
        *x
    }

    #[inline(always)]
    fn int8_dots(self, rows: [&[Int8Block; SLICE]; SLICE], x: &Self::XSlice) -> LaneWords {
        // SAFETY: see the module.
        unsafe {
            let mut sums = [_mm256_setzero_si256(); SLICE];
            for block in 0..SLICE {
                let mut products = [_mm256_setzero_si256(); SLICE];
                for row in 0..SLICE {
                    let (parts, _) = rows[row][block].as_chunks();
                    let low = _mm256_cvtepi8_epi16(bytes(&parts[0]));
                    let high = _mm256_cvtepi8_epi16(bytes(&parts[1]));
                    products[row] = self.products(low, high, &x[block]);
                }
                sums[block] = self.across(products);
            }
            self.four_dots(sums)
        }
    }

    #[inline(always)]
    fn uint4_dots(self, rows: [&[Uint4Block; SLICE]; SLICE], x: &Self::XSlice) -> LaneWords {
        // SAFETY: see the module.
        unsafe {
            let mask = _mm256_set1_epi16(0x0f);
            let mut sums = [_mm256_setzero_si256(); SLICE];
            for block in 0..SLICE {
                let mut products = [_mm256_setzero_si256(); SLICE];
                for row in 0..SLICE {
                    let both = _mm256_cvtepu8_epi16(bytes(&rows[row][block]));
                    let low = _mm256_and_si256(both, mask);
                    products[row] = self.products(low, _mm256_srli_epi16::<4>(both), &x[block]);
                }
                sums[block] = self.across(products);
            }
            self.four_dots(sums)
        }
    }

    #[inline(always)]
    fn sums_of_dots<const INT8: bool>(
        self,
        dots: &[LaneWords; LANES / SLICE],
        _: &[i32; SLICE],
    ) -> [Self::Ints; SLICE] {
        // SAFETY: see the module.
        unsafe {
            let dots: [[__m256i; 2]; LANES / SLICE] = transmute(*dots);
            let mut sums = [[_mm256_setzero_si256(); 2]; SLICE];
            for pair in 0..2 {
                for half in 0..2 {
                    let (a, b) = (dots[2 * half][pair], dots[2 * half + 1][pair]);
                    sums[2 * pair][half] = _mm256_permute2x128_si256::<0x20>(a, b);
                    sums[2 * pair + 1][half] = _mm256_permute2x128_si256::<0x31>(a, b);
                }
            }
            sums
        }
    }

    #[inline(always)]
    fn to_floats(self, [low, high]: Self::Ints) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)] }
    }

    #[inline(always)]
    fn bytes_to_floats(self, bytes: &[u8; LANES]) -> Self::Floats {
        // SAFETY: see the module.
        unsafe {
            let [low, high]: [i64; 2] = transmute(*bytes);
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_set_epi64x(0, low))),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_set_epi64x(0, high))),
            ]
        }
    }

    #[inline(always)]
    fn columns(self, rows: &Rows<'_, f32>, at: usize) -> [LaneFloats; SLICE] {
        let rows: [&[f32; SLICE]; LANES] = rows.runs(at);
        // SAFETY: see the module.
        unsafe {
            let mut columns = [[_mm256_setzero_ps(); 2]; SLICE];
            for half in 0..2 {
                // Rows 0 to 3 stand in the low halves of the registers, rows 4 to 7 in the high halves.
                let mut r = [_mm256_setzero_ps(); SLICE];
                for row in 0..SLICE {
                    let both = [*rows[8 * half + row], *rows[8 * half + row + 4]];
                    let [low, high]: [__m128; 2] = transmute(both);
                    r[row] = _mm256_set_m128(high, low);
                }
                let (a, b) = (
                    _mm256_unpacklo_ps(r[0], r[1]),
                    _mm256_unpacklo_ps(r[2], r[3]),
                );
                let (c, d) = (
                    _mm256_unpackhi_ps(r[0], r[1]),
                    _mm256_unpackhi_ps(r[2], r[3]),
                );
                columns[0][half] = _mm256_shuffle_ps::<0x44>(a, b);
                columns[1][half] = _mm256_shuffle_ps::<0xee>(a, b);
                columns[2][half] = _mm256_shuffle_ps::<0x44>(c, d);
                columns[3][half] = _mm256_shuffle_ps::<0xee>(c, d);
            }
            transmute(columns)
        }
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

impl Avx2 {
    /// Lane `r` of result `i` is bytes `2 i` and `2 i + 1` of row `r`.
    #[inline(always)]
    fn pairs(self, rows: &[&[u8; BLOCK / 2]; LANES]) -> [__m256i; BLOCK / 4] {
        // SAFETY: see the module.
        unsafe {
            // Rows 0 to 7 stand in the low halves of the registers, rows 8 to 15 in the high halves.
            let mut r = [_mm256_setzero_si256(); 8];
            for row in 0..8 {
                r[row] = _mm256_set_m128i(bytes(rows[row + 8]), bytes(rows[row]));
            }
            let mut fours = r;
            for at in 0..4 {
                fours[at] = _mm256_unpacklo_epi16(r[2 * at], r[2 * at + 1]);
                fours[at + 4] = _mm256_unpackhi_epi16(r[2 * at], r[2 * at + 1]);
            }
            let mut pairs = r;
            for at in [0, 4] {
                let a = _mm256_unpacklo_epi32(fours[at], fours[at + 1]);
                let b = _mm256_unpacklo_epi32(fours[at + 2], fours[at + 3]);
                let c = _mm256_unpackhi_epi32(fours[at], fours[at + 1]);
                let d = _mm256_unpackhi_epi32(fours[at + 2], fours[at + 3]);
                pairs[at] = _mm256_unpacklo_epi64(a, b);
                pairs[at + 1] = _mm256_unpackhi_epi64(a, b);
                pairs[at + 2] = _mm256_unpacklo_epi64(c, d);
                pairs[at + 3] = _mm256_unpackhi_epi64(c, d);
            }
            pairs
        }
    }

    /// Each byte is an i8.
    #[inline(always)]
    fn widen_pairs(self, pairs: __m256i) -> LaneWords {
        // SAFETY: see the module.
        unsafe {
            let low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(pairs));
            let high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(pairs));
            transmute([low, high])
        }
    }

    /// Eight sums that together are the scalar product with the first and the last sixteen elements of a block.
    #[inline(always)]
    fn products(self, first: __m256i, last: __m256i, x: &XBlock) -> __m256i {
        // SAFETY: see the module.
        unsafe {
            let [low, high] = transmute::<XBlock, [__m256i; 2]>(*x);
            _mm256_add_epi32(_mm256_madd_epi16(first, low), _mm256_madd_epi16(last, high))
        }
    }

    /// Word `r` of each half is the sum of the words of that half of row `r`.
    #[inline(always)]
    fn across(self, rows: [__m256i; SLICE]) -> __m256i {
        // SAFETY: see the module.
        unsafe {
            let a = _mm256_hadd_epi32(rows[0], rows[1]);
            let b = _mm256_hadd_epi32(rows[2], rows[3]);
            _mm256_hadd_epi32(a, b)
        }
    }

    /// Adds the two halves of each, and puts those of four blocks one after the other.
    #[inline(always)]
    fn four_dots(self, blocks: [__m256i; SLICE]) -> LaneWords {
        // SAFETY: see the module.
        unsafe {
            let mut dots = [_mm256_setzero_si256(); 2];
            for pair in 0..2 {
                let (a, b) = (blocks[2 * pair], blocks[2 * pair + 1]);
                let low = _mm256_permute2x128_si256::<0x20>(a, b);
                let high = _mm256_permute2x128_si256::<0x31>(a, b);
                dots[pair] = _mm256_add_epi32(low, high);
            }
            transmute(dots)
        }
    }
}
