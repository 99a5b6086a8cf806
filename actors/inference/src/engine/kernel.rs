//! How one expert's share of a feed-forward part is computed.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2, Axis, Zip};

use blyan_protocol::{LeasedExpert, WeightForm};

/// Up to so many rows, reading the weights once row by row beats packing them for a matrix product.
const FEW_ROWS: usize = 6;

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
        let wrong = |why: ndarray::ShapeError| format!("wrong size: {why}");
        let weights = ArrayView2::from_shape((3 * neurons, hidden), expert.fp32()).map_err(wrong)?;
        let rows = input.len() / hidden;
        let input = ArrayView2::from_shape((rows, hidden), input).map_err(wrong)?;
        let output = ArrayViewMut2::from_shape((rows, hidden), output).map_err(wrong)?;
        swiglu(weights, input, output);
        Ok(())
    }
}

/// SwiGLU of `input` `[n, H]` with the rows of gate, up and transposed down one after the other, `[3F, H]`.
pub fn swiglu(weights: ArrayView2<'_, f32>, input: ArrayView2<'_, f32>, mut output: ArrayViewMut2<'_, f32>) {
    let neurons = weights.nrows() / 3;
    let (gate, rest) = weights.split_at(Axis(0), neurons);
    let (up, down) = rest.split_at(Axis(0), neurons);
    if input.nrows() > FEW_ROWS {
        let mut activation = input.dot(&gate.t());
        let lifted = input.dot(&up.t());
        Zip::from(&mut activation).and(&lifted).for_each(|gate, up| *gate = silu(*gate) * up);
        return general_mat_mul(1.0, &activation, &down, 0.0, &mut output);
    }
    output.fill(0.0);
    for ((gate, up), down) in gate.outer_iter().zip(up.outer_iter()).zip(down.outer_iter()) {
        for (x, mut y) in input.outer_iter().zip(output.outer_iter_mut()) {
            y.scaled_add(silu(gate.dot(&x)) * up.dot(&x), &down);
        }
    }
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}
