use blyan_formats::gguf::GgufTensor;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::ExpertError;

/// A matrix in a mapped file, read row by row as fp32.
pub(super) struct Matrix<'a> {
    name: String,
    rows: usize,
    cols: usize,
    elements: Elements<'a>,
}

enum Elements<'a> {
    Gguf(GgufTensor<'a>),
    F32(&'a [[u8; 4]]),
    F16(&'a [[u8; 2]]),
    Bf16(&'a [[u8; 2]]),
}

impl<'a> Matrix<'a> {
    pub(super) fn of_gguf(tensor: GgufTensor<'a>) -> Self {
        Self {
            name: tensor.name().to_owned(),
            rows: tensor.rows(),
            cols: tensor.cols(),
            elements: Elements::Gguf(tensor),
        }
    }

    /// # Errors
    /// [`ExpertError::Shape`] for other than two dimensions, [`ExpertError::ElementType`].
    pub(super) fn of_safetensors(name: &str, view: &TensorView<'a>) -> Result<Self, ExpertError> {
        let [rows, cols] = *view.shape() else {
            return Err(ExpertError::Shape {
                tensor: name.to_owned(),
                found: format!("{:?}", view.shape()),
                expected: "a matrix".to_owned(),
            });
        };
        let data = view.data();
        let elements = match view.dtype() {
            Dtype::F32 => Elements::F32(data.as_chunks().0),
            Dtype::F16 => Elements::F16(data.as_chunks().0),
            Dtype::BF16 => Elements::Bf16(data.as_chunks().0),
            other => {
                return Err(ExpertError::ElementType {
                    tensor: name.to_owned(),
                    dtype: format!("{other:?}"),
                });
            }
        };
        Ok(Self {
            name: name.to_owned(),
            rows,
            cols,
            elements,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) const fn rows(&self) -> usize {
        self.rows
    }

    pub(super) const fn cols(&self) -> usize {
        self.cols
    }

    /// # Errors
    /// [`ExpertError::Shape`].
    pub(super) fn require_shape(&self, rows: usize, cols: usize) -> Result<(), ExpertError> {
        if (self.rows, self.cols) == (rows, cols) {
            Ok(())
        } else {
            Err(self.other_shape(format!("{rows} x {cols}")))
        }
    }

    pub(super) fn other_shape(&self, expected: String) -> ExpertError {
        ExpertError::Shape {
            tensor: self.name.clone(),
            found: format!("{} x {}", self.rows, self.cols),
            expected,
        }
    }

    /// Writes a row to `out`, which has one place a column.
    ///
    /// # Errors
    /// [`ExpertError::Shape`] if there is no such row.
    pub(super) fn read_row(&self, row: usize, out: &mut [f32]) -> Result<(), ExpertError> {
        let none = || self.other_shape(format!("at least {} rows", row + 1));
        let range = row * self.cols..(row + 1) * self.cols;
        match self.elements {
            Elements::Gguf(tensor) => {
                tensor
                    .dequantise_rows(row..row + 1, out)
                    .map_err(|_| none())?;
            }
            Elements::F32(all) => {
                widen(all.get(range).ok_or_else(none)?, out, |b| {
                    f32::from_le_bytes(b)
                });
            }
            Elements::F16(all) => {
                widen(all.get(range).ok_or_else(none)?, out, |b| {
                    f16::from_le_bytes(b).to_f32()
                });
            }
            Elements::Bf16(all) => {
                widen(all.get(range).ok_or_else(none)?, out, |b| {
                    bf16::from_le_bytes(b).to_f32()
                });
            }
        }
        Ok(())
    }
}

fn widen<const N: usize>(row: &[[u8; N]], out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    for (out, bytes) in out.iter_mut().zip(row) {
        *out = value(*bytes);
    }
}
