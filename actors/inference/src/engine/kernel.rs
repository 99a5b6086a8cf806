//! How one expert's share of a feed-forward part is computed.

use blyan_protocol::{LeasedExpert, WeightForm};

use super::swiglu::swiglu;

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
        let ExpertSize { hidden, neurons } = size;
        let weights = expert.fp32();
        if weights.len() != 3 * neurons * hidden {
            return Err(format!(
                "{} numbers instead of 3 x {neurons} x {hidden}",
                weights.len()
            ));
        }
        swiglu(weights, hidden, input, output);
        Ok(())
    }
}
