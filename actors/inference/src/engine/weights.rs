//! The weights that the graph reads itself, bound once for all sessions.

use std::sync::Arc;

use blyan_formats::{LayerPart, Tensor as Matrix, TensorName};
use blyan_protocol::{LeaseError, WeightForm};

use super::EngineError;
use super::value::Tensor;
use crate::graph::ModelShape;

/// Gives the weights outside of experts, usually over maps.
pub trait WeightSource: Send + Sync {
    /// In the shape of `ArchitectureBody::tensor_shape` and the form that the engine was made for; the same memory at
    /// every call.
    fn weight(&self, name: &TensorName) -> Option<Matrix<'_>>;

    /// A weight whose file was damaged from outside since it was mapped. Asked after each step.
    fn damage(&self) -> Option<LeaseError> {
        None
    }
}

/// Tensors over a source's memory and over tables of our own, in the order of the step graph's inputs.
pub struct BoundWeights {
    // Before the memory that it points to, so that it goes first.
    tensors: Vec<Tensor<'static>>,
    _tables: Vec<Vec<f32>>,
    source: Arc<dyn WeightSource>,
    form: WeightForm,
}

impl BoundWeights {
    /// # Errors
    /// [`EngineError::Weight`] for one that is missing or of another size.
    pub fn new(
        shape: &ModelShape,
        context: usize,
        source: Arc<dyn WeightSource>,
        form: WeightForm,
    ) -> Result<Self, EngineError> {
        let mut bound = Self {
            tensors: Vec::new(),
            _tables: Vec::new(),
            source,
            form,
        };
        if form == WeightForm::Fp32 {
            for table in rope_tables(shape, context) {
                bound.own(table, &[context, shape.head_dim / 2])?;
            }
        }
        for (name, dims) in shape.shared_weights() {
            bound.bind(name, dims)?;
        }
        Ok(bound)
    }

    pub fn tensors(&self) -> impl Iterator<Item = &Tensor<'_>> {
        self.tensors.iter()
    }

    pub fn damage(&self) -> Option<LeaseError> {
        self.source.damage()
    }

    fn bind(&mut self, name: TensorName, [rows, columns]: [usize; 2]) -> Result<(), EngineError> {
        if is_router(&name) {
            let (matrix, bias) = split_bias(self.fp32(name, [rows, columns])?, columns);
            if self.form == WeightForm::Fp32 {
                self.own(matrix, &[rows, columns - 1])?;
            }
            return self.own(bias, &[rows]);
        }
        if rows > 1 && self.form == WeightForm::Stored {
            return Ok(());
        }
        let weight = self.fp32(name, [rows, columns])?;
        // SAFETY: the source is kept as long as the tensors, and gives the same memory as long as it lives.
        let weight: &'static [f32] =
            unsafe { std::slice::from_raw_parts(weight.as_ptr(), weight.len()) };
        let dims: &[usize] = if rows == 1 {
            &[columns]
        } else {
            &[rows, columns]
        };
        self.tensors.push(Tensor::reading(weight, dims)?);
        Ok(())
    }

    fn fp32(&self, name: TensorName, dims: [usize; 2]) -> Result<&[f32], EngineError> {
        let fp32 = find(self.source.as_ref(), name, dims)
            .and_then(|matrix| matrix.as_fp32().ok_or("it is not in fp32".to_owned()));
        fp32.map_err(|why| EngineError::Weight { name, why })
    }

    fn own(&mut self, table: Vec<f32>, dims: &[usize]) -> Result<(), EngineError> {
        // SAFETY: the table is kept as long as the tensors and never changed; moving a `Vec` moves no element.
        let elements: &'static [f32] =
            unsafe { std::slice::from_raw_parts(table.as_ptr(), table.len()) };
        self.tensors.push(Tensor::reading(elements, dims)?);
        self._tables.push(table);
        Ok(())
    }
}

/// The weight called `name`, or what is wrong with it.
pub fn find(
    source: &dyn WeightSource,
    name: TensorName,
    [rows, columns]: [usize; 2],
) -> Result<Matrix<'_>, String> {
    let matrix = source.weight(&name).ok_or("it is missing")?;
    if (matrix.rows(), matrix.cols()) == (rows, columns) {
        return Ok(matrix);
    }
    Err(format!(
        "{} x {} instead of {rows} x {columns}",
        matrix.rows(),
        matrix.cols()
    ))
}

pub fn is_router(name: &TensorName) -> bool {
    matches!(
        name,
        TensorName::Layer {
            part: LayerPart::Router,
            ..
        }
    )
}

/// The last column of each row on its own.
pub fn split_bias(router: &[f32], columns: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = router.chunks_exact(columns);
    let bias = rows.clone().map(|row| row[columns - 1]).collect();
    (
        rows.flat_map(|row| &row[..columns - 1]).copied().collect(),
        bias,
    )
}

/// Cosines and sines of `position * base^(-2i / head_dim)`, each `[context, head_dim / 2]`.
pub fn rope_tables(shape: &ModelShape, context: usize) -> [Vec<f32>; 2] {
    let half = shape.head_dim / 2;
    let frequency = |i: usize| f64::from(shape.rope_base).powf(-(i as f64) / half as f64);
    let frequencies: Vec<f64> = (0..half).map(frequency).collect();
    let angles = |of: fn(f64) -> f64| {
        let positions =
            (0..context).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
        positions.map(|angle| of(angle) as f32).collect()
    };
    [angles(f64::cos), angles(f64::sin)]
}
