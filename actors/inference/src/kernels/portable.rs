//! [`Lanes`] for any processor.

use std::array::from_fn;

use super::lanes::{
    BLOCK, Int8Block, LANES, LaneFloats, LaneWords, Lanes, SLICE, Uint4Block, XBlock,
};
use super::rows::Rows;

#[derive(Clone, Copy)]
pub struct Portable;

impl Lanes for Portable {
    const SUMS: usize = 8;
    const TOKENS: usize = 4;

    /// For each element of a block, that of each lane.
    type Weights = [[i16; LANES]; BLOCK];
    const NO_WEIGHTS: Self::Weights = [[0; LANES]; BLOCK];
    type XSlice = [[i16; BLOCK]; SLICE];
    type Ints = [i32; LANES];
    type Floats = [f32; LANES];

    #[inline(always)]
    fn pack(self, x: &[i16; BLOCK]) -> XBlock {
        let low = |at: usize| i32::from(x[at].cast_unsigned());
        XBlock(from_fn(|pair| {
            low(2 * pair) | i32::from(x[2 * pair + 1]) << 16
        }))
    }

    #[inline(always)]
    fn unpack(self, x: &XBlock) -> [i16; BLOCK] {
        from_fn(|at| (x.0[at / 2] >> (at % 2 * 16)) as i16)
    }

    #[inline(always)]
    fn lay_out_int8(self, rows: &Rows<'_, Int8Block>, at: usize, weights: &mut Self::Weights) {
        for (lane, [block]) in rows.runs(at).into_iter().enumerate() {
            for (weights, byte) in weights.iter_mut().zip(block) {
                weights[lane] = i16::from(byte.cast_signed());
            }
        }
    }

    #[inline(always)]
    fn lay_out_uint4(self, rows: &Rows<'_, Uint4Block>, at: usize, weights: &mut Self::Weights) {
        for (lane, [block]) in rows.runs(at).into_iter().enumerate() {
            for (weights, element) in weights.iter_mut().zip(elements(block)) {
                weights[lane] = element;
            }
        }
    }

    #[inline(always)]
    fn sums<const INT8: bool, const T: usize>(
        self,
        weights: &Self::Weights,
        x: &[XBlock; T],
        _: &[i32; T],
    ) -> [Self::Ints; T] {
        let mut sums = [[0_i32; LANES]; T];
        for (sums, x) in sums.iter_mut().zip(x) {
            for (weights, x) in weights.iter().zip(self.unpack(x)) {
                for (sum, weight) in sums.iter_mut().zip(weights) {
                    // It cannot overflow, and checks would keep the compiler from using vectors.
                    *sum = sum.wrapping_add(i32::from(*weight).wrapping_mul(i32::from(x)));
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn int8_slice(self, x: &[XBlock; SLICE]) -> Self::XSlice {
        from_fn(|block| self.unpack(&x[block]))
    }

    #[inline(always)]
    fn uint4_slice(self, x: &[XBlock; SLICE]) -> Self::XSlice {
        self.int8_slice(x)
    }

    #[inline(always)]
    fn int8_dots(self, rows: [&[Int8Block; SLICE]; SLICE], x: &Self::XSlice) -> LaneWords {
        dots(|row, block| {
            let values = rows[row][block].map(|byte| i16::from(byte.cast_signed()));
            dot(&values, &x[block])
        })
    }

    #[inline(always)]
    fn uint4_dots(self, rows: [&[Uint4Block; SLICE]; SLICE], x: &Self::XSlice) -> LaneWords {
        dots(|row, block| dot(&elements(&rows[row][block]), &x[block]))
    }

    #[inline(always)]
    fn sums_of_dots<const INT8: bool>(
        self,
        dots: &[LaneWords; LANES / SLICE],
        _: &[i32; SLICE],
    ) -> [Self::Ints; SLICE] {
        from_fn(|block| from_fn(|row| dots[row / SLICE].0[block * SLICE + row % SLICE]))
    }

    #[inline(always)]
    fn to_floats(self, ints: Self::Ints) -> Self::Floats {
        ints.map(|int| int as f32)
    }

    #[inline(always)]
    fn bytes_to_floats(self, bytes: &[u8; LANES]) -> Self::Floats {
        bytes.map(|byte| f32::from(byte.cast_signed()))
    }

    #[inline(always)]
    fn columns(self, rows: &Rows<'_, f32>, at: usize) -> [LaneFloats; SLICE] {
        let rows = rows.runs::<SLICE>(at);
        from_fn(|at| LaneFloats(rows.map(|row| row[at])))
    }

    #[inline(always)]
    fn splat(self, number: f32) -> Self::Floats {
        [number; LANES]
    }

    #[inline(always)]
    fn load(self, numbers: &LaneFloats) -> Self::Floats {
        numbers.0
    }

    #[inline(always)]
    fn store(self, numbers: Self::Floats) -> LaneFloats {
        LaneFloats(numbers)
    }

    #[inline(always)]
    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}

/// Of a block of uint4.
fn elements(bytes: &Uint4Block) -> [i16; BLOCK] {
    from_fn(|at| {
        let byte = bytes[at % bytes.len()];
        i16::from(if at < bytes.len() {
            byte & 0x0f
        } else {
            byte >> 4
        })
    })
}

/// Of `dot(row, block)`.
fn dots(dot: impl Fn(usize, usize) -> i32) -> LaneWords {
    LaneWords(from_fn(|word| dot(word % SLICE, word / SLICE)))
}

fn dot(weights: &[i16; BLOCK], x: &[i16; BLOCK]) -> i32 {
    let products = weights
        .iter()
        .zip(x)
        .map(|(weight, x)| i32::from(*weight).wrapping_mul(i32::from(*x)));
    // It cannot overflow, and checks would keep the compiler from using vectors.
    products.fold(0, i32::wrapping_add)
}
