//! Sixteen numbers side by side: what the kernels are written in.

use super::rows::Rows;

/// Numbers in one vector.
pub const LANES: usize = 16;
/// Elements of a row that have one scale.
pub const BLOCK: usize = 32;
/// Blocks of a row that [`Lanes::int8_dots`] and its like take at one time; also rows.
pub const SLICE: usize = 4;

/// A block of int8.
pub type Int8Block = [u8; BLOCK];

/// A block of uint4: byte `i` holds element `i` in its low half and element `i + 16` in its high half.
pub type Uint4Block = [u8; BLOCK / 2];

/// A 32-bit word for each lane.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct LaneWords(pub [i32; LANES]);

/// A number for each lane.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct LaneFloats(pub [f32; LANES]);

impl LaneWords {
    pub const ZERO: Self = Self([0; LANES]);
}

impl LaneFloats {
    pub const ZERO: Self = Self([0.0; LANES]);
}

/// A block of a token's quantised activations, in the order in which a [`Lanes`] wants them.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct XBlock(pub [i32; BLOCK / 2]);

impl XBlock {
    pub const ZERO: Self = Self([0; BLOCK / 2]);
}

/// The vector instructions of one kind of processor. A value of an implementing type exists only where they can run.
/// Every operation is exact or rounds as IEEE 754 says, so that all implementations give the same bits.
///
/// Where `x_offsets` are wanted they are -128 times the sums of the activations' blocks.
pub trait Lanes: Copy {
    /// Vectors of sums that stay in registers together.
    const SUMS: usize;
    /// Tokens whose sums stay in registers together.
    const TOKENS: usize;

    /// The elements of a block of sixteen rows, lane by lane.
    type Weights: Copy;
    const NO_WEIGHTS: Self::Weights;
    /// Four blocks of activations, as the `dots` want them.
    type XSlice: Copy;
    /// An i32 for each lane.
    type Ints: Copy;
    /// An f32 for each lane.
    type Floats: Copy;

    /// Of activations of magnitude [`super::quantise::X_MAX`] at most.
    fn pack(self, x: &[i16; BLOCK]) -> XBlock;

    /// The inverse of [`Self::pack`].
    fn unpack(self, x: &XBlock) -> [i16; BLOCK];

    /// Takes block `at` of each row.
    fn lay_out_int8(self, rows: &Rows<'_, Int8Block>, at: usize, weights: &mut Self::Weights);

    /// Takes block `at` of each row.
    fn lay_out_uint4(self, rows: &Rows<'_, Uint4Block>, at: usize, weights: &mut Self::Weights);

    /// The scalar products of a block of sixteen rows with each token's.
    fn sums<const INT8: bool, const T: usize>(
        self,
        weights: &Self::Weights,
        x: &[XBlock; T],
        x_offsets: &[i32; T],
    ) -> [Self::Ints; T];

    fn int8_slice(self, x: &[XBlock; SLICE]) -> Self::XSlice;

    fn uint4_slice(self, x: &[XBlock; SLICE]) -> Self::XSlice;

    /// Word `4 b + r` is what [`Self::sums_of_dots`] makes the scalar product of block `b` of row `r` from.
    fn int8_dots(self, rows: [&[Int8Block; SLICE]; SLICE], x: &Self::XSlice) -> LaneWords;

    /// As [`Self::int8_dots`].
    fn uint4_dots(self, rows: [&[Uint4Block; SLICE]; SLICE], x: &Self::XSlice) -> LaneWords;

    /// The scalar products of four blocks of sixteen rows, block by block, from what four times four rows gave.
    fn sums_of_dots<const INT8: bool>(
        self,
        dots: &[LaneWords; LANES / SLICE],
        x_offsets: &[i32; SLICE],
    ) -> [Self::Ints; SLICE];

    /// Rounded to nearest, ties to even.
    fn to_floats(self, ints: Self::Ints) -> Self::Floats;

    /// Each byte is an i8.
    fn bytes_to_floats(self, bytes: &[u8; LANES]) -> Self::Floats;

    /// Lane `r` of result `i` is number `at + i` of row `r`.
    fn columns(self, rows: &Rows<'_, f32>, at: usize) -> [LaneFloats; SLICE];

    fn splat(self, number: f32) -> Self::Floats;

    fn load(self, numbers: &LaneFloats) -> Self::Floats;

    fn store(self, numbers: Self::Floats) -> LaneFloats;

    fn multiply(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;

    /// `a * b + c`, rounded once.
    fn multiply_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;

    /// Asks for the cache line at an address that need not exist.
    fn prefetch(self, address: *const u8);
}
