//! The matrices that operators of ours read as they are stored.

use std::sync::Arc;

use blyan_formats::{Tensor, TensorData, TensorName};
use blyan_protocol::WeightForm;

use super::EngineError;
use super::weights::{WeightSource, find, is_router, split_bias};
use crate::graph::ModelShape;
use crate::kernels::{Matrix, Weights};

/// In the order of [`ModelShape::matrices`], over a source's memory; none for fp32, which the graph reads itself.
pub struct Matrices {
    // Before the memory that they point to, so that they go first.
    matrices: Vec<StoredMatrix<'static>>,
    _routers: Vec<Vec<f32>>,
    _source: Arc<dyn WeightSource>,
}

/// One of them, to look rows up and to multiply with.
#[derive(Clone, Copy)]
pub struct StoredMatrix<'a> {
    pub tensor: Tensor<'a>,
    pub matrix: Matrix<'a>,
}

impl Matrices {
    /// # Errors
    /// [`EngineError::Weight`] for one that is missing, of another size, or stored in a way that no kernel reads.
    pub fn new(
        shape: &ModelShape,
        source: &Arc<dyn WeightSource>,
        form: WeightForm,
    ) -> Result<Self, EngineError> {
        let mut all = Self {
            matrices: Vec::new(),
            _routers: Vec::new(),
            _source: Arc::clone(source),
        };
        if form == WeightForm::Stored {
            for (name, dims) in shape.matrices() {
                all.add(name, dims)
                    .map_err(|why| EngineError::Weight { name, why })?;
            }
        }
        Ok(all)
    }

    pub fn get(&self, index: usize) -> Option<StoredMatrix<'_>> {
        self.matrices.get(index).copied()
    }

    fn add(&mut self, name: TensorName, dims: [usize; 2]) -> Result<(), String> {
        let tensor = find(self._source.as_ref(), name, dims)?;
        // SAFETY: the source is kept as long as the matrices, and gives the same memory as long as it lives.
        let mut tensor = unsafe { std::mem::transmute::<Tensor<'_>, Tensor<'static>>(tensor) };
        if is_router(&name) {
            tensor = self.without_bias(tensor)?;
        }
        let matrix = Matrix::new(tensor.rows(), tensor.cols(), weights(&tensor)?);
        let matrix = matrix.map_err(|why| why.to_string())?;
        self.matrices.push(StoredMatrix { tensor, matrix });
        Ok(())
    }

    fn without_bias(&mut self, router: Tensor<'_>) -> Result<Tensor<'static>, String> {
        let values = router.as_fp32().ok_or("it is not in fp32")?;
        let (values, _) = split_bias(values, router.cols());
        // SAFETY: the router is kept as long as the matrices and never changed; moving a `Vec` moves no element.
        let elements: &'static [f32] =
            unsafe { std::slice::from_raw_parts(values.as_ptr(), values.len()) };
        self._routers.push(values);
        Tensor::new(router.rows(), router.cols() - 1, TensorData::Fp32(elements))
            .map_err(|why| why.to_string())
    }
}

fn weights<'a>(tensor: &Tensor<'a>) -> Result<Weights<'a>, String> {
    match tensor.data() {
        TensorData::Fp32(values) => Ok(Weights::Fp32(values)),
        TensorData::Int8Blocks { values, scales } => Ok(Weights::Int8Blocks { values, scales }),
        TensorData::Uint4Blocks {
            packed,
            scales,
            minimums,
        } => Ok(Weights::Uint4Blocks {
            packed,
            scales,
            minimums,
        }),
        TensorData::Fp16(_) | TensorData::Int8Rows { .. } => {
            let spec = tensor.spec();
            Err(format!(
                "the fast backend has no kernel for {:?} {:?}; inference.backend = \"reference\" computes it",
                spec.dtype, spec.quantisation
            ))
        }
    }
}
