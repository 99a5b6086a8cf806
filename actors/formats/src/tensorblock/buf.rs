//! A tensor that owns its elements: quantising, packing, joining.

use half::f16;

use super::fault::TensorError;
use super::tensor::{BLOCK_LEN, Tensor, TensorData, check_finite};

/// Largest quantised magnitude; the range is symmetric, -128 is not used.
const INT8_MAX: f32 = 127.0;

#[derive(Clone, Debug, PartialEq)]
enum Owned {
    Fp32(Vec<f32>),
    Fp16(Vec<f16>),
    Int8Rows {
        values: Vec<i8>,
        scales: Vec<f32>,
    },
    Int8Blocks {
        values: Vec<i8>,
        scales: Vec<f32>,
    },
    Uint4Blocks {
        packed: Vec<u8>,
        scales: Vec<f32>,
        minimums: Vec<f32>,
    },
}

impl Owned {
    fn borrow(&self) -> TensorData<'_> {
        match self {
            Self::Fp32(values) => TensorData::Fp32(values),
            Self::Fp16(values) => TensorData::Fp16(values),
            Self::Int8Rows { values, scales } => TensorData::Int8Rows { values, scales },
            Self::Int8Blocks { values, scales } => TensorData::Int8Blocks { values, scales },
            Self::Uint4Blocks {
                packed,
                scales,
                minimums,
            } => TensorData::Uint4Blocks {
                packed,
                scales,
                minimums,
            },
        }
    }
}

/// An owned [`Tensor`]. Every constructor fails with [`TensorError::Shape`] or [`TensorError::Len`] where
/// [`Tensor::new`] would.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorBuf {
    rows: usize,
    cols: usize,
    data: Owned,
}

impl TensorBuf {
    fn new(rows: usize, cols: usize, data: Owned) -> Result<Self, TensorError> {
        Tensor::new(rows, cols, data.borrow())?;
        Ok(Self { rows, cols, data })
    }

    /// # Errors
    /// See [`TensorBuf`].
    pub fn fp32(rows: usize, cols: usize, values: Vec<f32>) -> Result<Self, TensorError> {
        Self::new(rows, cols, Owned::Fp32(values))
    }

    /// # Errors
    /// See [`TensorBuf`].
    pub fn fp16(rows: usize, cols: usize, values: Vec<f16>) -> Result<Self, TensorError> {
        Self::new(rows, cols, Owned::Fp16(values))
    }

    /// # Errors
    /// See [`TensorBuf`].
    pub fn int8_rows(
        rows: usize,
        cols: usize,
        values: Vec<i8>,
        scales: Vec<f32>,
    ) -> Result<Self, TensorError> {
        Self::new(rows, cols, Owned::Int8Rows { values, scales })
    }

    /// # Errors
    /// See [`TensorBuf`].
    pub fn int8_blocks(
        rows: usize,
        cols: usize,
        values: Vec<i8>,
        scales: Vec<f32>,
    ) -> Result<Self, TensorError> {
        Self::new(rows, cols, Owned::Int8Blocks { values, scales })
    }

    /// `packed` as [`TensorData::Uint4Blocks`] has it.
    ///
    /// # Errors
    /// See [`TensorBuf`].
    pub fn uint4_blocks(
        rows: usize,
        cols: usize,
        packed: Vec<u8>,
        scales: Vec<f32>,
        minimums: Vec<f32>,
    ) -> Result<Self, TensorError> {
        Self::new(
            rows,
            cols,
            Owned::Uint4Blocks {
                packed,
                scales,
                minimums,
            },
        )
    }

    /// Packs `rows x cols` values of 0 to 15, one a byte, in row-major order.
    ///
    /// # Errors
    /// [`TensorError::Uint4Range`]; else see [`TensorBuf`].
    pub fn pack_uint4_blocks(
        rows: usize,
        cols: usize,
        values: &[u8],
        scales: Vec<f32>,
        minimums: Vec<f32>,
    ) -> Result<Self, TensorError> {
        if let Some(index) = values.iter().position(|value| *value > 15) {
            return Err(TensorError::Uint4Range { index });
        }
        let packed = values
            .chunks_exact(BLOCK_LEN)
            .flat_map(pack_block)
            .collect();
        Self::uint4_blocks(rows, cols, packed, scales, minimums)
    }

    /// Quantises each row to int8 with one scale: scale = largest magnitude / 127, element = value / scale rounded
    /// half away from zero. A row of zeros, or one so small that its scale is no normal number, has scale 0 and elements
    /// 0. A pure function of the bits of `values`.
    ///
    /// # Errors
    /// [`TensorError::NotFinite`]; else see [`TensorBuf`].
    pub fn quantise_int8_rows(
        rows: usize,
        cols: usize,
        values: &[f32],
    ) -> Result<Self, TensorError> {
        Tensor::new(rows, cols, TensorData::Fp32(values))?;
        let (quantised, scales) = quantise_runs(values, cols)?;
        Self::int8_rows(rows, cols, quantised, scales)
    }

    /// As [`Self::quantise_int8_rows`], with one scale for each 32 elements of a row.
    ///
    /// # Errors
    /// See [`Self::quantise_int8_rows`].
    pub fn quantise_int8_blocks(
        rows: usize,
        cols: usize,
        values: &[f32],
    ) -> Result<Self, TensorError> {
        Tensor::new(rows, cols, TensorData::Fp32(values))?;
        let (quantised, scales) = quantise_runs(values, BLOCK_LEN)?;
        Self::int8_blocks(rows, cols, quantised, scales)
    }

    #[must_use]
    pub fn as_tensor(&self) -> Tensor<'_> {
        Tensor::new(self.rows, self.cols, self.data.borrow())
            .expect("lengths were checked when it was made")
    }

    /// Appends the rows of `below`, without touching any element or scale.
    ///
    /// # Errors
    /// [`TensorError::Join`], leaving the tensor as it was, if width or kind differ.
    pub fn append_rows(&mut self, below: Self) -> Result<(), TensorError> {
        if self.cols != below.cols {
            return Err(TensorError::Join);
        }
        match (&mut self.data, below.data) {
            (Owned::Fp32(values), Owned::Fp32(more)) => values.extend(more),
            (Owned::Fp16(values), Owned::Fp16(more)) => values.extend(more),
            (
                Owned::Int8Rows { values, scales },
                Owned::Int8Rows {
                    values: v,
                    scales: s,
                },
            )
            | (
                Owned::Int8Blocks { values, scales },
                Owned::Int8Blocks {
                    values: v,
                    scales: s,
                },
            ) => {
                values.extend(v);
                scales.extend(s);
            }
            (
                Owned::Uint4Blocks {
                    packed,
                    scales,
                    minimums,
                },
                Owned::Uint4Blocks {
                    packed: p,
                    scales: s,
                    minimums: m,
                },
            ) => {
                packed.extend(p);
                scales.extend(s);
                minimums.extend(m);
            }
            _ => return Err(TensorError::Join),
        }
        self.rows += below.rows;
        Ok(())
    }
}

fn pack_block(values: &[u8]) -> impl Iterator<Item = u8> {
    let (low, high) = values.split_at(BLOCK_LEN / 2);
    low.iter().zip(high).map(|(low, high)| low | high << 4)
}

/// Elements and scales; each run of `run_len` elements has one scale.
fn quantise_runs(values: &[f32], run_len: usize) -> Result<(Vec<i8>, Vec<f32>), TensorError> {
    check_finite("value", values)?;
    let runs = values.chunks(run_len);
    let scales: Vec<f32> = runs.clone().map(run_scale).collect();
    let quantised = runs
        .zip(&scales)
        .flat_map(|(run, scale)| quantise_run(run, *scale));
    Ok((quantised.collect(), scales.clone()))
}

fn run_scale(run: &[f32]) -> f32 {
    let largest = run
        .iter()
        .fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / INT8_MAX;
    if scale.is_normal() { scale } else { 0.0 }
}

fn quantise_run(run: &[f32], scale: f32) -> impl Iterator<Item = i8> {
    run.iter().map(move |value| match scale {
        0.0 => 0,
        _ => (value / scale).round().clamp(-INT8_MAX, INT8_MAX) as i8,
    })
}
