//! How one expert's share of a feed-forward part is computed.

use std::borrow::Cow;
use std::sync::OnceLock;

use blyan_formats::{Tensor, TensorData};
use blyan_protocol::{LeasedExpert, WeightForm};

use super::swiglu::swiglu;
use crate::kernels::{Expert, QuantisedRows, ShapeError};

/// The numbers of one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertSize {
    /// H.
    pub hidden: usize,
    /// F.
    pub neurons: usize,
}

/// What all experts of a layer get; whatever a kernel makes of it is made once.
pub struct LayerInput<'a> {
    /// `[T, H]`
    rows: &'a [f32],
    hidden: usize,
    quantised: OnceLock<Result<QuantisedRows, ShapeError>>,
}

impl<'a> LayerInput<'a> {
    /// `rows` are `[T, hidden]`.
    #[must_use]
    pub fn new(rows: &'a [f32], hidden: usize) -> Self {
        Self {
            rows,
            hidden,
            quantised: OnceLock::new(),
        }
    }

    /// Whether `tokens`, ascending, are all.
    fn is_all(&self, tokens: &[u32]) -> bool {
        tokens.len() * self.hidden == self.rows.len()
    }

    fn fp32(&self, tokens: &[u32]) -> Cow<'a, [f32]> {
        if self.is_all(tokens) {
            return Cow::Borrowed(self.rows);
        }
        let row = |token: &u32| &self.rows[*token as usize * self.hidden..][..self.hidden];
        Cow::Owned(tokens.iter().flat_map(row).copied().collect())
    }

    fn quantised(&self, tokens: &[u32]) -> Result<Cow<'_, QuantisedRows>, ShapeError> {
        let all = self
            .quantised
            .get_or_init(|| QuantisedRows::new(self.rows, self.hidden))
            .as_ref()
            .map_err(|why| *why)?;
        Ok(match self.is_all(tokens) {
            true => Cow::Borrowed(all),
            false => Cow::Owned(all.select(tokens)),
        })
    }
}

/// Computes `down(silu(gate(x)) * up(x))` of one expert.
pub trait ExpertKernel: Send + Sync {
    /// The form in which it reads weights.
    fn form(&self) -> WeightForm;

    /// Overwrites `output` `[n, H]` with the expert's share for `n` tokens of `input`, which stand in ascending order.
    ///
    /// # Errors
    /// What is wrong with the expert's weights, for the operator.
    fn compute(
        &self,
        expert: &dyn LeasedExpert,
        size: ExpertSize,
        input: &LayerInput<'_>,
        tokens: &[u32],
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
        input: &LayerInput<'_>,
        tokens: &[u32],
        output: &mut [f32],
    ) -> Result<(), String> {
        let tensor = expert.weights();
        let weights = tensor.as_fp32().filter(|_| fits(&tensor, size));
        let weights = weights.ok_or_else(|| misfit(&tensor, size))?;
        swiglu(weights, size.hidden, &input.fp32(tokens), output);
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
        input: &LayerInput<'_>,
        tokens: &[u32],
        output: &mut [f32],
    ) -> Result<(), String> {
        let tensor = expert.weights();
        let TensorData::Int8Blocks { values, scales } = tensor.data() else {
            return Err(misfit(&tensor, size));
        };
        let ExpertSize { hidden, neurons } = size;
        let computed = Expert::new(hidden, neurons, values, scales)
            .and_then(|expert| expert.compute(&*input.quantised(tokens)?, output));
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
