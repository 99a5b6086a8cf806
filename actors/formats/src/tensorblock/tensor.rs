//! A tensor in memory, borrowed: from a map, or from what is about to be written.

use half::f16;
use std::ops::Range;

use super::fault::TensorError;
use super::spec::{DType, Quantisation, TensorSpec};

/// Elements of a block of quantisation 2.
pub const BLOCK_LEN: usize = 32;

/// Elements and what turns them into values; row-major.
#[derive(Clone, Copy, Debug)]
pub enum TensorData<'a> {
    /// `rows x cols` values.
    Fp32(&'a [f32]),
    /// `rows x cols` values.
    Fp16(&'a [f16]),
    /// value = `scales[row]` x element.
    Int8Rows { values: &'a [i8], scales: &'a [f32] },
    /// value = `scales[row x cols / 32 + block]` x element.
    Int8Blocks { values: &'a [i8], scales: &'a [f32] },
    /// value = scale of the block x element + minimum of the block. 16 bytes a block; byte i holds element i in its low
    /// half and element i + 16 in its high half.
    Uint4Blocks {
        packed: &'a [u8],
        scales: &'a [f32],
        minimums: &'a [f32],
    },
}

/// A tensor whose slices have the lengths that its shape asks for.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    rows: usize,
    cols: usize,
    data: TensorData<'a>,
}

impl<'a> Tensor<'a> {
    /// # Errors
    /// [`TensorError::Shape`] for a side of zero or, with blocks, columns that are no multiple of 32;
    /// [`TensorError::Len`] if a slice has another length than the shape asks for.
    pub fn new(rows: usize, cols: usize, data: TensorData<'a>) -> Result<Self, TensorError> {
        let tensor = Self { rows, cols, data };
        tensor.spec().sections()?;
        let elements = rows * cols;
        let blocks = elements / BLOCK_LEN;
        match data {
            TensorData::Fp32(values) => check_len("values", elements, values.len())?,
            TensorData::Fp16(values) => check_len("values", elements, values.len())?,
            TensorData::Int8Rows { values, scales } => {
                check_len("values", elements, values.len())?;
                check_len("scales", rows, scales.len())?;
            }
            TensorData::Int8Blocks { values, scales } => {
                check_len("values", elements, values.len())?;
                check_len("scales", blocks, scales.len())?;
            }
            TensorData::Uint4Blocks {
                packed,
                scales,
                minimums,
            } => {
                check_len("packed values", elements / 2, packed.len())?;
                check_len("scales", blocks, scales.len())?;
                check_len("minimums", blocks, minimums.len())?;
            }
        }
        Ok(tensor)
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
    pub const fn data(&self) -> TensorData<'a> {
        self.data
    }

    /// The values, where they are stored as fp32.
    #[must_use]
    pub const fn as_fp32(&self) -> Option<&'a [f32]> {
        match self.data {
            TensorData::Fp32(values) => Some(values),
            _ => None,
        }
    }

    #[must_use]
    pub const fn spec(&self) -> TensorSpec {
        let (dtype, quantisation) = match self.data {
            TensorData::Fp32(_) => (DType::Fp32, Quantisation::None),
            TensorData::Fp16(_) => (DType::Fp16, Quantisation::None),
            TensorData::Int8Rows { .. } => (DType::Int8, Quantisation::PerRow),
            TensorData::Int8Blocks { .. } => (DType::Int8, Quantisation::Blocks32),
            TensorData::Uint4Blocks { .. } => (DType::Uint4, Quantisation::Blocks32),
        };
        TensorSpec::new(dtype, quantisation, self.rows as u64, self.cols as u64)
    }

    /// Whether every value, scale and minimum is a finite number.
    ///
    /// # Errors
    /// [`TensorError::NotFinite`] with the first that is not.
    pub fn check_finite(&self) -> Result<(), TensorError> {
        match self.data {
            TensorData::Fp32(values) => check_finite("value", values),
            TensorData::Fp16(values) => match values.iter().position(|value| !value.is_finite()) {
                Some(index) => Err(TensorError::NotFinite {
                    what: "value",
                    index,
                }),
                None => Ok(()),
            },
            TensorData::Int8Rows { scales, .. } | TensorData::Int8Blocks { scales, .. } => {
                check_finite("scale", scales)
            }
            TensorData::Uint4Blocks {
                scales, minimums, ..
            } => {
                check_finite("scale", scales)?;
                check_finite("minimum", minimums)
            }
        }
    }

    /// Writes all values, row-major, to `out` of `rows x cols`.
    ///
    /// # Errors
    /// [`TensorError::Len`].
    pub fn dequantise_into(&self, out: &mut [f32]) -> Result<(), TensorError> {
        self.dequantise_rows(0..self.rows, out)
    }

    /// Writes the values of some rows to `out` of `rows.len() x cols`. Products and sums are rounded one by one in fp32,
    /// so that every machine gets the same bits.
    ///
    /// # Errors
    /// [`TensorError::Rows`] and [`TensorError::Len`].
    pub fn dequantise_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), TensorError> {
        if rows.start > rows.end || rows.end > self.rows {
            return Err(TensorError::Rows {
                start: rows.start,
                end: rows.end,
                rows: self.rows,
            });
        }
        check_len("output", rows.len() * self.cols, out.len())?;
        let elements = rows.start * self.cols..rows.end * self.cols;
        let blocks = elements.start / BLOCK_LEN..elements.end / BLOCK_LEN;
        match self.data {
            TensorData::Fp32(values) => out.copy_from_slice(&values[elements]),
            TensorData::Fp16(values) => widen(&values[elements], out),
            TensorData::Int8Rows { values, scales } => {
                scale_runs(&values[elements], &scales[rows], self.cols, out)
            }
            TensorData::Int8Blocks { values, scales } => {
                scale_runs(&values[elements], &scales[blocks], BLOCK_LEN, out);
            }
            TensorData::Uint4Blocks {
                packed,
                scales,
                minimums,
            } => {
                let packed = &packed[elements.start / 2..elements.end / 2];
                widen_uint4(packed, &scales[blocks.clone()], &minimums[blocks], out);
            }
        }
        Ok(())
    }
}

fn check_len(what: &'static str, expected: usize, found: usize) -> Result<(), TensorError> {
    if expected == found {
        Ok(())
    } else {
        Err(TensorError::Len {
            what,
            expected,
            found,
        })
    }
}

pub(super) fn check_finite(what: &'static str, values: &[f32]) -> Result<(), TensorError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(TensorError::NotFinite { what, index }),
        None => Ok(()),
    }
}

fn widen(values: &[f16], out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = value.to_f32();
    }
}

/// Each run of `run_len` elements has one scale.
fn scale_runs(values: &[i8], scales: &[f32], run_len: usize, out: &mut [f32]) {
    let runs = out
        .chunks_exact_mut(run_len)
        .zip(values.chunks_exact(run_len));
    for ((out, values), scale) in runs.zip(scales) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = scale * f32::from(*value);
        }
    }
}

fn widen_uint4(packed: &[u8], scales: &[f32], minimums: &[f32], out: &mut [f32]) {
    let blocks = out
        .chunks_exact_mut(BLOCK_LEN)
        .zip(packed.chunks_exact(BLOCK_LEN / 2));
    for ((out, packed), (scale, minimum)) in blocks.zip(scales.iter().zip(minimums)) {
        let (low, high) = out.split_at_mut(BLOCK_LEN / 2);
        for (i, byte) in packed.iter().enumerate() {
            low[i] = scale * f32::from(byte & 0x0f) + minimum;
            high[i] = scale * f32::from(byte >> 4) + minimum;
        }
    }
}
