//! Sixteen numbers side by side: what the kernels are written in.

/// Numbers in one vector.
pub const LANES: usize = 16;
/// Elements of a row that have one scale.
pub const BLOCK: usize = 32;
/// Pairs of elements in a block.
pub const BLOCK_PAIRS: usize = BLOCK / 2;
/// Bytes that [`Lanes::transpose`] takes of each row.
pub const SLICE: usize = 16;

/// Two neighbouring elements of a row.
pub type Pair = [i16; 2];

/// A block of quantised activations.
pub type PairBlock = [Pair; BLOCK_PAIRS];

/// A pair for each lane.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct LanePairs(pub [Pair; LANES]);

/// A number for each lane.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct LaneFloats(pub [f32; LANES]);

impl LanePairs {
    pub const ZERO: Self = Self([[0; 2]; LANES]);
}

impl LaneFloats {
    pub const ZERO: Self = Self([0.0; LANES]);
}

/// The vector instructions of one kind of processor. A value of an implementing type exists only where they can run.
/// Every operation is exact or rounds as IEEE 754 says, so that all implementations give the same bits.
pub trait Lanes: Copy {
    /// Tokens whose sums stay in registers together.
    const TOKENS: usize;

    /// Two bytes for each lane.
    type Bytes: Copy;
    /// An i32 for each lane.
    type Ints: Copy;
    /// An f32 for each lane.
    type Floats: Copy;

    /// Lane `r` of result `i` is bytes `2 i` and `2 i + 1` of row `r`.
    fn transpose(self, rows: [&[u8; SLICE]; LANES]) -> [Self::Bytes; SLICE / 2];

    /// Lane `i` is byte `i` of `first` and byte `i` of `second`.
    fn interleave(self, first: &[u8; LANES], second: &[u8; LANES]) -> Self::Bytes;

    /// The low four bits of each byte.
    fn low_halves(self, bytes: Self::Bytes) -> Self::Bytes;

    /// The high four bits of each byte.
    fn high_halves(self, bytes: Self::Bytes) -> Self::Bytes;

    /// Widens each byte, which is an i8.
    fn widen(self, bytes: Self::Bytes) -> LanePairs;

    fn int_zero(self) -> Self::Ints;

    /// `sum` plus the scalar product of each lane's pair with `x`. It must not overflow, whatever the order of addition.
    fn add_products(self, sum: Self::Ints, weights: &LanePairs, x: Pair) -> Self::Ints;

    /// Rounded to nearest, ties to even.
    fn to_floats(self, ints: Self::Ints) -> Self::Floats;

    fn splat(self, number: f32) -> Self::Floats;

    fn load(self, numbers: &LaneFloats) -> Self::Floats;

    fn store(self, numbers: Self::Floats) -> LaneFloats;

    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;

    /// `a * b + c`, rounded once.
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// Asks for the cache line at an address that need not exist.
    fn prefetch(self, address: *const u8);
}

/// Any processor.
#[derive(Clone, Copy)]
pub struct Portable;

impl Lanes for Portable {
    const TOKENS: usize = 1;

    type Bytes = [[u8; 2]; LANES];
    type Ints = [i32; LANES];
    type Floats = [f32; LANES];

    #[inline(always)]
    fn transpose(self, rows: [&[u8; SLICE]; LANES]) -> [Self::Bytes; SLICE / 2] {
        std::array::from_fn(|pair| rows.map(|row| [row[2 * pair], row[2 * pair + 1]]))
    }

    #[inline(always)]
    fn interleave(self, first: &[u8; LANES], second: &[u8; LANES]) -> Self::Bytes {
        std::array::from_fn(|lane| [first[lane], second[lane]])
    }

    #[inline(always)]
    fn low_halves(self, bytes: Self::Bytes) -> Self::Bytes {
        bytes.map(|pair| pair.map(|byte| byte & 0x0f))
    }

    #[inline(always)]
    fn high_halves(self, bytes: Self::Bytes) -> Self::Bytes {
        bytes.map(|pair| pair.map(|byte| byte >> 4))
    }

    #[inline(always)]
    fn widen(self, bytes: Self::Bytes) -> LanePairs {
        LanePairs(bytes.map(|pair| pair.map(|byte| i16::from(byte.cast_signed()))))
    }

    #[inline(always)]
    fn int_zero(self) -> Self::Ints {
        [0; LANES]
    }

    #[inline(always)]
    fn add_products(self, mut sum: Self::Ints, weights: &LanePairs, x: Pair) -> Self::Ints {
        let x = x.map(i32::from);
        for (sum, weights) in sum.iter_mut().zip(&weights.0) {
            let [a, b] = weights.map(i32::from);
            // Wrapping, because a check in every lane would keep the compiler from using vectors.
            let products = a.wrapping_mul(x[0]).wrapping_add(b.wrapping_mul(x[1]));
            *sum = sum.wrapping_add(products);
        }
        sum
    }

    #[inline(always)]
    fn to_floats(self, ints: Self::Ints) -> Self::Floats {
        ints.map(|int| int as f32)
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
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
}
