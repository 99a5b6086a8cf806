//! The operators that read a matrix of ours.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType;

use super::{Pool, Shared, panic_text};
use crate::engine::matrices::StoredMatrix;
use crate::engine::product::product;
use crate::graph::{EMBED, MATRIX, PRODUCT};

pub struct ProductOperator(pub Arc<Shared>);

pub struct EmbedOperator(pub Arc<Shared>);

impl Operator for ProductOperator {
    type Kernel<'attr> = MatrixKernel;

    fn name(&self) -> &str {
        PRODUCT
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Float32)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<Self::Kernel<'attr>> {
        MatrixKernel::new(&self.0, context, MatrixKernel::product)
    }
}

impl Operator for EmbedOperator {
    type Kernel<'attr> = MatrixKernel;

    fn name(&self) -> &str {
        EMBED
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::required(TensorElementType::Int64)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<Self::Kernel<'attr>> {
        MatrixKernel::new(&self.0, context, MatrixKernel::embed)
    }
}

type Call = fn(&MatrixKernel, &ComputeContext) -> ort::Result<()>;

/// One node of one session. Concurrent runs of the session share it, though `compute` takes `&mut self`: nothing in it
/// may ever be written.
pub struct MatrixKernel {
    shared: Arc<Shared>,
    index: usize,
    call: Call,
}

impl Kernel for MatrixKernel {
    /// Never unwinds: the frames above are C++.
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let this = &*self;
        catch_unwind(AssertUnwindSafe(|| (this.call)(this, context)))
            .unwrap_or_else(|payload| Err(ort::Error::new(panic_text(payload))))
    }
}

impl MatrixKernel {
    fn new(shared: &Arc<Shared>, context: &KernelContext<'_>, call: Call) -> ort::Result<Self> {
        let index = context.get::<i64>(MATRIX);
        let index = index.and_then(|index| usize::try_from(index).ok());
        let index = index.filter(|index| shared.matrices.get(*index).is_some());
        Ok(Self {
            shared: Arc::clone(shared),
            index: index.ok_or_else(|| ort::Error::new("the operator needs a matrix"))?,
            call,
        })
    }

    fn matrix(&self) -> ort::Result<StoredMatrix<'_>> {
        let matrix = self.shared.matrices.get(self.index);
        matrix.ok_or_else(|| ort::Error::new("the matrix is not there"))
    }

    fn product(&self, context: &ComputeContext) -> ort::Result<()> {
        let matrix = self.matrix()?.matrix;
        let input = context.input(0)?.ok_or_else(no_input)?;
        let (shape, input) = input.try_extract_tensor::<f32>()?;
        let tokens = input.len() / matrix.cols();
        if shape.last().copied() != Some(matrix.cols() as i64) {
            return Err(ort::Error::new("the input is not as wide as the matrix"));
        }
        let output = context.output(0, [1, tokens as i64, matrix.rows() as i64])?;
        let mut output = output.ok_or_else(no_input)?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        let workers = Pool {
            context,
            threads: self.shared.threads,
        };
        product(&matrix, input, output, &workers).map_err(|why| ort::Error::new(why.to_string()))
    }

    fn embed(&self, context: &ComputeContext) -> ort::Result<()> {
        let matrix = self.matrix()?.tensor;
        let tokens = context.input(0)?.ok_or_else(no_input)?;
        let (_, tokens) = tokens.try_extract_tensor::<i64>()?;
        let width = matrix.cols();
        let output = context.output(0, [1, tokens.len() as i64, width as i64])?;
        let mut output = output.ok_or_else(no_input)?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        for (token, row) in tokens.iter().zip(output.chunks_exact_mut(width)) {
            let token = usize::try_from(*token).ok().filter(|t| *t < matrix.rows());
            let token = token.ok_or_else(|| ort::Error::new("a token beyond the vocabulary"))?;
            let done = matrix.dequantise_rows(token..token + 1, row);
            done.map_err(|why| ort::Error::new(why.to_string()))?;
        }
        Ok(())
    }
}

fn no_input() -> ort::Error {
    ort::Error::new("the operator lacks an input or output")
}
