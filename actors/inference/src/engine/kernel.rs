//! How one expert's share of a feed-forward part is computed.

use blyan_formats::{Tensor, TensorData};
use blyan_protocol::{LeasedExpert, WeightForm};

use super::swiglu::swiglu;
use crate::kernels::{Expert, QuantisedRows};

/// The numbers of one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertSize {
    /// H.
    pub hidden: usize,
    /// F.
    pub neurons: usize,
}

/// Computes `down(silu(gate(x)) * up(x))` of one expert.
pub trait ExpertKernel: Send + Sync {
    /// The form in which it reads weights.
    fn form(&self) -> WeightForm;

    /// Overwrites `output` `[n, H]` with the expert's share for `input` `[n, H]`.
    ///
    /// # Errors
    /// What is wrong with the expert's weights, for the operator.
    fn compute(
        &self,
        expert: &dyn LeasedExpert,
        size: ExpertSize,
        input: &[f32],
        output: &mut [f32],
    ) -> Result<(), String>;
}

/// fp32 throughout, from the expert's fp32 rows: the definition of what other kernels approximate.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReferenceKernel;

impl ExpertKernel for ReferenceKernel {
    fn form(&self) -> WeightForm {
        WeightForm::Fp32
    }

    fn compute(
        &self,
        expert: &dyn LeasedExpert,
        size: ExpertSize,
        input: &[f32],
        output: &mut [f32],
    ) -> Result<(), String> {
        let tensor = expert.weights();
        let weights = tensor.as_fp32().filter(|_| fits(&tensor, size));
        let weights = weights.ok_or_else(|| misfit(&tensor, size))?;
        swiglu(weights, size.hidden, input, output);
        Ok(())
    }
}

/// Computes from the stored int8 blocks in place, see [`crate::kernels`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FastKernel;

impl ExpertKernel for FastKernel {
    fn form(&self) -> WeightForm {
        WeightForm::Stored
    }

    fn compute(
        &self,
        expert: &dyn LeasedExpert,
        size: ExpertSize,
        input: &[f32],
        output: &mut [f32],
    ) -> Result<(), String> {
        let tensor = expert.weights();
        let TensorData::Int8Blocks { values, scales } = tensor.data() else {
            return Err(misfit(&tensor, size));
        };
        let ExpertSize { hidden, neurons } = size;
        let computed = Expert::new(hidden, neurons, values, scales).and_then(|expert| {
            let input = QuantisedRows::new(input, hidden)?;
            expert.compute(&input, output)
        });
        computed.map_err(|why| why.to_string())
    }
}

/// Whether an expert's tensor has `[3F, H]` elements.
fn fits(tensor: &Tensor<'_>, size: ExpertSize) -> bool {
    (tensor.rows(), tensor.cols()) == (3 * size.neurons, size.hidden)
}

fn misfit(tensor: &Tensor<'_>, ExpertSize { hidden, neurons }: ExpertSize) -> String {
    let spec = tensor.spec();
    format!(
        "{:?} {:?} [{}, {}] where [3 x {neurons}, {hidden}] is asked for, which this kernel cannot read",
        spec.dtype,
        spec.quantisation,
        tensor.rows(),
        tensor.cols()
    )
}
