use half::f16;
use std::ops::Range;

use super::cursor::Cursor;
use super::error::{GgufError, quote};
use crate::tensorblock::{BLOCK_LEN, TensorBuf, TensorError};

/// Most dimensions of a tensor.
const DIMS_MAX: usize = 4;

/// The smallest entry of the tensor table: an empty name, one dimension.
pub(super) const ENTRY_LEN_MIN: u64 = 8 + 4 + 8 + 4 + 8;

/// Type of the elements. Quantised types hold blocks of 32 along the fastest dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorKind {
    F32,
    F16,
    /// d (f16), 32 x 4 bits: value = d x (q - 8).
    Q4_0,
    /// d (f16), m (f16), 32 x 4 bits: value = d x q + m.
    Q4_1,
    /// d (f16), 32 x int8: value = d x q.
    Q8_0,
}

impl TensorKind {
    const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            8 => Self::Q8_0,
            _ => return None,
        })
    }

    /// Elements of one block; 1 where there are no blocks.
    #[must_use]
    pub const fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => BLOCK_LEN,
        }
    }

    /// Bytes of one block.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q8_0 => 2 + 32,
        }
    }
}

/// A line of the tensor table.
pub(super) struct Entry<'a> {
    name: &'a str,
    cols: u64,
    rows: u64,
    kind: TensorKind,
    offset: u64,
}

impl<'a> Entry<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>) -> Result<Self, GgufError> {
        let name = cursor.text("tensor name")?;
        let impossible = || GgufError::TensorShape { name: quote(name) };
        let dim_count = cursor.u32("tensor dimensions")? as usize;
        if !(1..=DIMS_MAX).contains(&dim_count) {
            return Err(impossible());
        }
        let cols = cursor.u64("tensor dimension")?;
        let mut rows = 1_u64;
        for _ in 1..dim_count {
            rows = rows
                .checked_mul(cursor.u64("tensor dimension")?)
                .ok_or_else(impossible)?;
        }
        let code = cursor.u32("tensor type")?;
        let kind = TensorKind::from_code(code).ok_or_else(|| GgufError::TensorKind {
            name: quote(name),
            code,
        })?;
        let whole_blocks = cols.is_multiple_of(kind.block_elements() as u64);
        if rows == 0 || cols == 0 || !whole_blocks {
            return Err(impossible());
        }
        Ok(Self {
            name,
            cols,
            rows,
            kind,
            offset: cursor.u64("tensor offset")?,
        })
    }

    pub(super) fn view(self, data: &'a [u8], alignment: u64) -> Result<GgufTensor<'a>, GgufError> {
        let bytes = self.range(alignment).and_then(|range| data.get(range));
        let bytes = bytes.ok_or_else(|| GgufError::TensorRange(quote(self.name)))?;
        // A tensor of this shape fits in the file, so its sides fit in memory's own width.
        Ok(GgufTensor {
            name: self.name,
            rows: self.rows as usize,
            cols: self.cols as usize,
            kind: self.kind,
            bytes,
        })
    }

    fn range(&self, alignment: u64) -> Option<Range<usize>> {
        let blocks = self
            .rows
            .checked_mul(self.cols / self.kind.block_elements() as u64)?;
        let end = blocks
            .checked_mul(self.kind.block_len() as u64)?
            .checked_add(self.offset)?;
        let range = usize::try_from(self.offset).ok()?..usize::try_from(end).ok()?;
        self.offset.is_multiple_of(alignment).then_some(range)
    }
}

/// A tensor of the file, in place. `cols` is the fastest dimension, `rows` the product of all others.
#[derive(Clone, Copy, Debug)]
pub struct GgufTensor<'a> {
    name: &'a str,
    rows: usize,
    cols: usize,
    kind: TensorKind,
    bytes: &'a [u8],
}

impl<'a> GgufTensor<'a> {
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }

    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    #[must_use]
    pub const fn cols(&self) -> usize {
        self.cols
    }

    #[must_use]
    pub const fn kind(&self) -> TensorKind {
        self.kind
    }

    /// The raw bytes: blocks of [`TensorKind::block_len`], row by row.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn address_range(&self) -> Range<usize> {
        let start = self.bytes.as_ptr() as usize;
        start..start + self.bytes.len()
    }

    fn blocks(&self) -> std::slice::ChunksExact<'a, u8> {
        self.bytes.chunks_exact(self.kind.block_len())
    }

    /// Writes all values, row-major, to `out` of `rows x cols`.
    ///
    /// # Errors
    /// [`TensorError::Len`].
    pub fn dequantise_into(&self, out: &mut [f32]) -> Result<(), TensorError> {
        self.dequantise_rows(0..self.rows, out)
    }

    /// Writes the values of some rows to `out` of `rows.len() x cols`: the bits that ggml's reference gives.
    ///
    /// # Errors
    /// [`TensorError::Rows`], [`TensorError::Len`].
    pub fn dequantise_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), TensorError> {
        if rows.start > rows.end || rows.end > self.rows {
            return Err(TensorError::Rows {
                start: rows.start,
                end: rows.end,
                rows: self.rows,
            });
        }
        let expected = rows.len() * self.cols;
        if out.len() != expected {
            return Err(TensorError::Len {
                what: "output",
                expected,
                found: out.len(),
            });
        }
        let row_len = self.cols / self.kind.block_elements() * self.kind.block_len();
        let blocks = self.bytes[rows.start * row_len..rows.end * row_len]
            .chunks_exact(self.kind.block_len());
        for (block, out) in blocks.zip(out.chunks_exact_mut(self.kind.block_elements())) {
            self.kind.dequantise_block(block, out);
        }
        Ok(())
    }

    /// The same tensor in a TensorBlock's form, with the same values to the bit: F32 and F16 as they are, Q8_0 as int8
    /// blocks, Q4_1 and Q4_0 as uint4 blocks with a minimum; scales are widened from f16 to fp32.
    ///
    /// # Errors
    /// [`TensorError::Shape`] if it is too large for a TensorBlock.
    pub fn carry_over(&self) -> Result<TensorBuf, TensorError> {
        let (rows, cols) = (self.rows, self.cols);
        match self.kind {
            TensorKind::F32 => {
                TensorBuf::fp32(rows, cols, self.blocks().map(|b| f32_at(b, 0)).collect())
            }
            TensorKind::F16 => {
                TensorBuf::fp16(rows, cols, self.blocks().map(|b| f16_at(b, 0)).collect())
            }
            TensorKind::Q8_0 => {
                let values = self
                    .blocks()
                    .flat_map(|block| &block[2..])
                    .map(|byte| byte.cast_signed())
                    .collect();
                TensorBuf::int8_blocks(rows, cols, values, self.scales())
            }
            TensorKind::Q4_1 => {
                let minimums = self
                    .blocks()
                    .map(|block| f16_at(block, 2).to_f32())
                    .collect();
                TensorBuf::uint4_blocks(rows, cols, self.nibbles(4), self.scales(), minimums)
            }
            TensorKind::Q4_0 => {
                let minimums = self.scales().iter().map(|scale| -8.0 * scale).collect();
                TensorBuf::uint4_blocks(rows, cols, self.nibbles(2), self.scales(), minimums)
            }
        }
    }

    fn scales(&self) -> Vec<f32> {
        self.blocks()
            .map(|block| f16_at(block, 0).to_f32())
            .collect()
    }

    /// The packed halves of every block; GGUF and TensorBlock pack them alike.
    fn nibbles(&self, start: usize) -> Vec<u8> {
        self.blocks()
            .flat_map(|block| &block[start..])
            .copied()
            .collect()
    }
}

impl TensorKind {
    fn dequantise_block(self, block: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => out[0] = f32_at(block, 0),
            Self::F16 => out[0] = f16_at(block, 0).to_f32(),
            Self::Q8_0 => {
                let scale = f16_at(block, 0).to_f32();
                for (out, byte) in out.iter_mut().zip(&block[2..]) {
                    *out = scale * f32::from(byte.cast_signed());
                }
            }
            Self::Q4_0 => {
                let scale = f16_at(block, 0).to_f32();
                each_nibble(&block[2..], out, |q| scale * (q - 8.0));
            }
            Self::Q4_1 => {
                let (scale, minimum) = (f16_at(block, 0).to_f32(), f16_at(block, 2).to_f32());
                each_nibble(&block[4..], out, |q| scale * q + minimum);
            }
        }
    }
}

fn each_nibble(packed: &[u8], out: &mut [f32], value: impl Fn(f32) -> f32) {
    let (low, high) = out.split_at_mut(BLOCK_LEN / 2);
    for (i, byte) in packed.iter().enumerate() {
        low[i] = value(f32::from(byte & 0x0f));
        high[i] = value(f32::from(byte >> 4));
    }
}

fn f16_at(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

fn f32_at(block: &[u8], at: usize) -> f32 {
    f32::from_le_bytes(std::array::from_fn(|i| block[at + i]))
}
