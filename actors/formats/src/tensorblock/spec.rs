//! The header: what it says, and the sections that follow from it.

use std::ops::Range;

use super::fault::{Section, TensorError, TensorFault};
use super::tensor::BLOCK_LEN;
use crate::merkle;

/// First bytes of every TensorBlock, and of no other file beside it.
pub const MAGIC: [u8; 8] = *b"TBLOCK01";

/// The only version of this format.
pub const VERSION: u32 = 1;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 128;

/// The data section starts at a multiple of this, so that it can be bound from a memory map.
pub const DATA_ALIGNMENT: u64 = 4096;

const RESERVED: Range<usize> = 64..HEADER_LEN;

/// Type of an element. The discriminant is the code in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DType {
    Fp16 = 1,
    Int8 = 2,
    /// Named by the specification, which does not say which of the two 8-bit floats it means; no file holds it.
    Fp8 = 3,
    Fp32 = 4,
    Uint4 = 5,
}

/// How elements become values. The discriminant is the code in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Quantisation {
    /// The element is the value.
    None = 0,
    /// value = scale of the row x element.
    PerRow = 1,
    /// value = scale of the block x element, for uint4 + minimum of the block; blocks are 32 elements along the row.
    Blocks32 = 2,
}

/// Order of the elements. The discriminant is the code in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Layout {
    RowMajor = 0,
    /// Named by the specification; no file of this version holds it.
    ColMajor = 1,
}

impl DType {
    fn from_code(code: u32) -> Option<Self> {
        [Self::Fp16, Self::Int8, Self::Fp8, Self::Fp32, Self::Uint4]
            .into_iter()
            .find(|dtype| *dtype as u32 == code)
    }

    const fn bits(self) -> u64 {
        match self {
            Self::Uint4 => 4,
            Self::Int8 | Self::Fp8 => 8,
            Self::Fp16 => 16,
            Self::Fp32 => 32,
        }
    }
}

impl Quantisation {
    fn from_code(code: u32) -> Option<Self> {
        [Self::None, Self::PerRow, Self::Blocks32]
            .into_iter()
            .find(|method| *method as u32 == code)
    }
}

impl Layout {
    fn from_code(code: u32) -> Option<Self> {
        [Self::RowMajor, Self::ColMajor]
            .into_iter()
            .find(|layout| *layout as u32 == code)
    }
}

/// Everything that a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorSpec {
    pub dtype: DType,
    pub quantisation: Quantisation,
    pub layout: Layout,
    pub rows: u64,
    pub cols: u64,
}

/// Byte ranges of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sections {
    pub scales: Range<u64>,
    pub padding: Range<u64>,
    pub data: Range<u64>,
    pub tree: Range<u64>,
}

impl Sections {
    /// Length of the whole file.
    #[must_use]
    pub const fn file_len(&self) -> u64 {
        self.tree.end
    }

    /// The section that holds a byte of the file.
    #[must_use]
    pub const fn section_at(&self, offset: u64) -> Section {
        if offset < self.scales.start {
            Section::Header
        } else if offset < self.scales.end {
            Section::Scales
        } else if offset < self.padding.end {
            Section::Padding
        } else if offset < self.data.end {
            Section::Data
        } else {
            Section::Tree
        }
    }
}

impl TensorSpec {
    /// A row-major tensor.
    #[must_use]
    pub const fn new(dtype: DType, quantisation: Quantisation, rows: u64, cols: u64) -> Self {
        Self {
            dtype,
            quantisation,
            layout: Layout::RowMajor,
            rows,
            cols,
        }
    }

    /// Where each section lies, by arithmetic that cannot overflow.
    ///
    /// # Errors
    /// [`TensorError::Unsupported`] and [`TensorError::Shape`].
    pub fn sections(&self) -> Result<Sections, TensorError> {
        self.check_kind()?;
        let refuse = |rule| TensorError::Shape {
            rows: self.rows,
            cols: self.cols,
            rule,
        };
        if self.rows == 0 || self.cols == 0 {
            return Err(refuse("no side may be zero"));
        }
        if self.quantisation == Quantisation::Blocks32
            && !self.cols.is_multiple_of(BLOCK_LEN as u64)
        {
            return Err(refuse("blocks of 32 need a multiple of 32 columns"));
        }
        self.checked_sections()
            .ok_or(refuse("the file would be too long"))
    }

    fn check_kind(&self) -> Result<(), TensorError> {
        let Self {
            dtype,
            quantisation,
            ..
        } = *self;
        let supported = matches!(
            (dtype, quantisation),
            (DType::Fp32 | DType::Fp16, Quantisation::None)
                | (DType::Int8, Quantisation::PerRow | Quantisation::Blocks32)
                | (DType::Uint4, Quantisation::Blocks32)
        );
        if supported {
            Ok(())
        } else {
            Err(TensorError::Unsupported {
                dtype,
                quantisation,
            })
        }
    }

    fn checked_sections(&self) -> Option<Sections> {
        let elements = self.rows.checked_mul(self.cols)?;
        let data_len = elements.checked_mul(self.dtype.bits())? / 8;
        let scales_end = self
            .scale_count(elements)?
            .checked_mul(4)?
            .checked_add(HEADER_LEN as u64)?;
        let data_start = scales_end.checked_next_multiple_of(DATA_ALIGNMENT)?;
        let data_end = data_start.checked_add(data_len)?;
        let tree_end = data_end.checked_add(merkle::tree_len(merkle::leaf_count(data_end))?)?;
        Some(Sections {
            scales: HEADER_LEN as u64..scales_end,
            padding: scales_end..data_start,
            data: data_start..data_end,
            tree: data_end..tree_end,
        })
    }

    /// Number of fp32 in the scales section, minimums included.
    fn scale_count(&self, elements: u64) -> Option<u64> {
        let blocks = elements / BLOCK_LEN as u64;
        match (self.quantisation, self.dtype) {
            (Quantisation::None, _) => Some(0),
            (Quantisation::PerRow, _) => Some(self.rows),
            (Quantisation::Blocks32, DType::Uint4) => blocks.checked_mul(2),
            (Quantisation::Blocks32, _) => Some(blocks),
        }
    }

    pub(super) fn encode(&self, sections: &Sections) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[0..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&(self.dtype as u32).to_le_bytes());
        header[16..24].copy_from_slice(&self.rows.to_le_bytes());
        header[24..32].copy_from_slice(&self.cols.to_le_bytes());
        header[32..36].copy_from_slice(&(self.layout as u32).to_le_bytes());
        header[36..40].copy_from_slice(&(self.quantisation as u32).to_le_bytes());
        header[40..48].copy_from_slice(&sections.scales.start.to_le_bytes());
        header[48..56].copy_from_slice(&sections.data.start.to_le_bytes());
        header[56..64].copy_from_slice(&sections.tree.start.to_le_bytes());
        header
    }

    /// Reads a header and refuses all but the one that belongs to its dtype, quantisation and shape.
    pub(super) fn decode(header: &[u8; HEADER_LEN]) -> Result<(Self, Sections), TensorFault> {
        if header[0..8] != MAGIC {
            return Err(TensorFault::Header("it does not start with TBLOCK01"));
        }
        if u32_at(header, 8) != VERSION {
            return Err(TensorFault::Header("unknown version"));
        }
        let spec = Self::decode_spec(header)?;
        let sections = spec.sections().map_err(|_| spec.shape_fault())?;
        if header[RESERVED].iter().any(|byte| *byte != 0) {
            return Err(TensorFault::Header("reserved bytes are not zero"));
        }
        if *header != spec.encode(&sections) {
            return Err(TensorFault::Header(
                "an offset is not where the section must start",
            ));
        }
        Ok((spec, sections))
    }

    fn decode_spec(header: &[u8; HEADER_LEN]) -> Result<Self, TensorFault> {
        let dtype =
            DType::from_code(u32_at(header, 12)).ok_or(TensorFault::Header("unknown dtype"))?;
        let layout =
            Layout::from_code(u32_at(header, 32)).ok_or(TensorFault::Header("unknown layout"))?;
        let quantisation = Quantisation::from_code(u32_at(header, 36))
            .ok_or(TensorFault::Header("unknown quantisation"))?;
        let spec = Self {
            dtype,
            quantisation,
            layout,
            rows: u64_at(header, 16),
            cols: u64_at(header, 24),
        };
        if layout != Layout::RowMajor {
            return Err(TensorFault::Header(
                "column-major tensors are not supported",
            ));
        }
        spec.check_kind()
            .map_err(|_| TensorFault::Header("dtype and quantisation do not go together"))?;
        Ok(spec)
    }

    const fn shape_fault(&self) -> TensorFault {
        TensorFault::Shape {
            rows: self.rows,
            cols: self.cols,
        }
    }
}

fn u32_at(header: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| header[at + i]))
}

fn u64_at(header: &[u8; HEADER_LEN], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| header[at + i]))
}
