//! AVX-512 with the instruction that multiplies u8 with i8. Activations, which are int16, are taken apart into two i8:
//! x = 256 high + low. int8 weights are moved up by 128 to be u8; 128 times the activations' sum is then taken back.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::super::isa::Task;
use super::super::lanes::{
    BLOCK, Int8Block, LANES, LaneFloats, LaneWords, Lanes, SLICE, Uint4Block, XBlock,
};
use super::super::rows::Rows;
use super::{Avx2, bytes, halves, prefetch};

/// Exists only on a processor that has AVX-512 F, BW, VL and VNNI, and what [`Avx2`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512Vnni(Avx2);

impl Avx512Vnni {
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni");
        Avx2::detect().filter(|_| has).map(Self)
    }

    pub fn run(self, task: impl Task) {
        // SAFETY: see the module.
        unsafe { run(self, task) }
    }
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")]
fn run(lanes: Avx512Vnni, task: impl Task) {
    task.run(lanes);
}

impl Lanes for Avx512Vnni {
    const SUMS: usize = 24;
    const TOKENS: usize = 12;

    /// For each four elements, those of each lane as four u8.
    type Weights = [LaneWords; BLOCK / 4];
    const NO_WEIGHTS: Self::Weights = [LaneWords::ZERO; BLOCK / 4];
    /// High parts, then low parts: of the first and second two blocks for int8; of the first and second halves of all
    /// four blocks for uint4.
    type XSlice = [[__m512i; 2]; 2];
    type Ints = __m512i;
    type Floats = __m512;

    /// All high parts first.
    #[inline(always)]
    fn pack(self, x: &[i16; BLOCK]) -> XBlock {
        let mut parts = [[0_u8; BLOCK]; 2];
        for (at, x) in x.iter().enumerate() {
            // Rounded, so that what is left is within i8.
            parts[0][at] = (x.wrapping_add(128) >> 8) as u8;
            parts[1][at] = *x as u8;
        }
        // SAFETY: see the module.
        unsafe { transmute(parts) }
    }

    #[inline(always)]
    fn unpack(self, x: &XBlock) -> [i16; BLOCK] {
        // SAFETY: see the module.
        let [high, low]: [[i8; BLOCK]; 2] = unsafe { transmute(*x) };
        let mut values = [0; BLOCK];
        for (value, (high, low)) in values.iter_mut().zip(high.iter().zip(&low)) {
            *value = (i16::from(*high) << 8) + i16::from(*low);
        }
        values
    }

    #[inline(always)]
    fn lay_out_int8(self, rows: &Rows<'_, Int8Block>, at: usize, weights: &mut Self::Weights) {
        let (parts, _) = weights.as_chunks_mut::<{ BLOCK / 8 }>();
        for (half, rows) in halves(rows.runs(at)).iter().enumerate() {
            let fours = self.fours(rows);
            for four in 0..BLOCK / 8 {
                parts[half][four] = self.words(self.move_up(fours[four]));
            }
        }
    }

    #[inline(always)]
    fn lay_out_uint4(self, rows: &Rows<'_, Uint4Block>, at: usize, weights: &mut Self::Weights) {
        let fours = self.fours(&rows.runs(at).map(|[block]| block));
        for four in 0..BLOCK / 8 {
            let [low, high] = self.low_and_high(fours[four]);
            weights[four] = self.words(low);
            weights[four + BLOCK / 8] = self.words(high);
        }
    }

    #[inline(always)]
    fn sums<const INT8: bool, const T: usize>(
        self,
        weights: &Self::Weights,
        x: &[XBlock; T],
        x_offsets: &[i32; T],
    ) -> [Self::Ints; T] {
        // SAFETY: see the module.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); T];
            for four in 0..BLOCK / 4 {
                let weights = transmute::<LaneWords, __m512i>(weights[four]);
                for token in 0..T {
                    let high = _mm512_set1_epi32(x[token].0[four]);
                    sums[token] = _mm512_dpbusd_epi32(sums[token], weights, high);
                }
            }
            for token in 0..T {
                sums[token] = _mm512_slli_epi32::<8>(sums[token]);
                if INT8 {
                    let offset = _mm512_set1_epi32(x_offsets[token]);
                    sums[token] = _mm512_add_epi32(sums[token], offset);
                }
            }
            for four in 0..BLOCK / 4 {
                let weights = transmute::<LaneWords, __m512i>(weights[four]);
                for token in 0..T {
                    let low = _mm512_set1_epi32(x[token].0[BLOCK / 4 + four]);
                    sums[token] = _mm512_dpbusd_epi32(sums[token], weights, low);
                }
            }
            sums
        }
    }

    #[inline(always)]
    fn int8_slice(self, x: &[XBlock; SLICE]) -> Self::XSlice {
        // SAFETY: see the module.
        unsafe {
            let x: [__m512i; SLICE] = transmute(*x);
            [
                [
                    _mm512_shuffle_i32x4::<0x44>(x[0], x[1]),
                    _mm512_shuffle_i32x4::<0x44>(x[2], x[3]),
                ],
                [
                    _mm512_shuffle_i32x4::<0xee>(x[0], x[1]),
                    _mm512_shuffle_i32x4::<0xee>(x[2], x[3]),
                ],
            ]
        }
    }

    #[inline(always)]
    fn uint4_slice(self, x: &[XBlock; SLICE]) -> Self::XSlice {
        // SAFETY: see the module.
        let [a, b, c, d] =
            self.transpose_quarters(unsafe { transmute::<[XBlock; 4], [__m512i; 4]>(*x) });
        [[a, b], [c, d]]
    }

    #[inline(always)]
    fn int8_dots(self, rows: [&[Int8Block; SLICE]; SLICE], x: &Self::XSlice) -> LaneWords {
        // SAFETY: see the module.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); 2];
            for half in 0..2 {
                let mut products = [_mm512_setzero_si512(); SLICE];
                for row in 0..SLICE {
                    let blocks = [rows[row][2 * half], rows[row][2 * half + 1]];
                    let weights = self.move_up(transmute::<[Int8Block; 2], __m512i>(blocks));
                    let high = _mm512_dpbusd_epi32(products[row], weights, x[0][half]);
                    let high = _mm512_slli_epi32::<8>(high);
                    products[row] = _mm512_dpbusd_epi32(high, weights, x[1][half]);
                }
                sums[half] = self.across(products);
            }
            // A block is two quarters of a register.
            let even = _mm512_shuffle_i32x4::<0x88>(sums[0], sums[1]);
            let odd = _mm512_shuffle_i32x4::<0xdd>(sums[0], sums[1]);
            self.words(_mm512_add_epi32(even, odd))
        }
    }

    #[inline(always)]
    fn uint4_dots(self, rows: [&[Uint4Block; SLICE]; SLICE], x: &Self::XSlice) -> LaneWords {
        // SAFETY: see the module.
        unsafe {
            let mut products = [_mm512_setzero_si512(); SLICE];
            for row in 0..SLICE {
                let [low, high] =
                    self.low_and_high(transmute::<[Uint4Block; SLICE], __m512i>(*rows[row]));
                let sum = _mm512_dpbusd_epi32(products[row], low, x[0][0]);
                let sum = _mm512_dpbusd_epi32(sum, high, x[0][1]);
                let sum = _mm512_slli_epi32::<8>(sum);
                let sum = _mm512_dpbusd_epi32(sum, low, x[1][0]);
                products[row] = _mm512_dpbusd_epi32(sum, high, x[1][1]);
            }
            self.words(self.across(products))
        }
    }

    #[inline(always)]
    fn sums_of_dots<const INT8: bool>(
        self,
        dots: &[LaneWords; LANES / SLICE],
        x_offsets: &[i32; SLICE],
    ) -> [Self::Ints; SLICE] {
        // SAFETY: see the module.
        unsafe {
            let mut sums =
                self.transpose_quarters(transmute::<[LaneWords; 4], [__m512i; 4]>(*dots));
            if INT8 {
                for block in 0..SLICE {
                    let offset = _mm512_set1_epi32(x_offsets[block]);
                    sums[block] = _mm512_add_epi32(sums[block], offset);
                }
            }
            sums
        }
    }

    #[inline(always)]
    fn to_floats(self, ints: Self::Ints) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { _mm512_cvtepi32_ps(ints) }
    }

    #[inline(always)]
    fn bytes_to_floats(self, numbers: &[u8; LANES]) -> Self::Floats {
        // SAFETY: see the module.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes(numbers))) }
    }

    #[inline(always)]
    fn columns(self, rows: &Rows<'_, f32>, at: usize) -> [LaneFloats; SLICE] {
        self.0.columns(rows, at)
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

impl Avx512Vnni {
    /// i8 to u8, by adding 128.
    #[inline(always)]
    fn move_up(self, bytes: __m512i) -> __m512i {
        // SAFETY: see the module.
        unsafe { _mm512_xor_si512(bytes, _mm512_set1_epi8(-128)) }
    }

    /// The halves of each byte.
    #[inline(always)]
    fn low_and_high(self, bytes: __m512i) -> [__m512i; 2] {
        // SAFETY: see the module.
        unsafe {
            let mask = _mm512_set1_epi8(0x0f);
            let high = _mm512_srli_epi16::<4>(bytes);
            [_mm512_and_si512(bytes, mask), _mm512_and_si512(high, mask)]
        }
    }

    #[inline(always)]
    fn words(self, vector: __m512i) -> LaneWords {
        // SAFETY: see the module.
        unsafe { transmute(vector) }
    }

    /// Lane `r` of result `i` is bytes `4 i` to `4 i + 3` of row `r`.
    #[inline(always)]
    fn fours(self, rows: &[&[u8; BLOCK / 2]; LANES]) -> [__m512i; BLOCK / 8] {
        // SAFETY: see the module.
        unsafe {
            let mut r = [_mm512_setzero_si512(); 4];
            for row in 0..4 {
                let quarters = _mm512_castsi128_si512(bytes(rows[row]));
                let quarters = _mm512_inserti32x4::<1>(quarters, bytes(rows[row + 4]));
                let quarters = _mm512_inserti32x4::<2>(quarters, bytes(rows[row + 8]));
                r[row] = _mm512_inserti32x4::<3>(quarters, bytes(rows[row + 12]));
            }
            let a = _mm512_unpacklo_epi32(r[0], r[1]);
            let b = _mm512_unpacklo_epi32(r[2], r[3]);
            let c = _mm512_unpackhi_epi32(r[0], r[1]);
            let d = _mm512_unpackhi_epi32(r[2], r[3]);
            [
                _mm512_unpacklo_epi64(a, b),
                _mm512_unpackhi_epi64(a, b),
                _mm512_unpacklo_epi64(c, d),
                _mm512_unpackhi_epi64(c, d),
            ]
        }
    }

    /// Word `r` of each quarter is the sum of the words of that quarter of row `r`.
    #[inline(always)]
    fn across(self, rows: [__m512i; SLICE]) -> __m512i {
        // SAFETY: see the module.
        unsafe {
            let [a, b, c, d] = rows;
            let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
        }
    }

    /// Quarter `j` of result `i` is quarter `i` of `rows[j]`.
    #[inline(always)]
    fn transpose_quarters(self, rows: [__m512i; 4]) -> [__m512i; 4] {
        // SAFETY: see the module.
        unsafe {
            let [a, b, c, d] = rows;
            let ab_low = _mm512_shuffle_i32x4::<0x44>(a, b);
            let ab_high = _mm512_shuffle_i32x4::<0xee>(a, b);
            let cd_low = _mm512_shuffle_i32x4::<0x44>(c, d);
            let cd_high = _mm512_shuffle_i32x4::<0xee>(c, d);
            [
                _mm512_shuffle_i32x4::<0x88>(ab_low, cd_low),
                _mm512_shuffle_i32x4::<0xdd>(ab_low, cd_low),
                _mm512_shuffle_i32x4::<0x88>(ab_high, cd_high),
                _mm512_shuffle_i32x4::<0xdd>(ab_high, cd_high),
            ]
        }
    }
}
