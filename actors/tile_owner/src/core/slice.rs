//! Forward and backward of one expert: the SwiGLU slice `down(silu(gate(x)) * up(x))`.
//!
//! Weights and gradients are flat, `[3F, H]`: the rows of gate, of up and of transposed down one after the other, as a
//! TensorBlock of an expert and the engine's kernel have them.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Zip};

use crate::error::TileError;

/// The size of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceShape {
    /// Width `H` of the hidden state.
    pub hidden: usize,
    /// Neurons `F` of this expert.
    pub neurons: usize,
}

impl SliceShape {
    /// Weights of the three matrices together, `3 * F * H`.
    #[must_use]
    pub const fn parameters(self) -> usize {
        3 * self.neurons * self.hidden
    }

    fn matrices<'a>(self, weights: &'a [f32]) -> Result<[ArrayView2<'a, f32>; 3], TileError> {
        check_len("the expert", self.parameters(), weights.len())?;
        if weights.is_empty() {
            return Err(TileError::Empty("the expert"));
        }
        let (gate, rest) = weights.split_at(weights.len() / 3);
        let (up, down) = rest.split_at(gate.len());
        let view = |rows: &'a [f32]| {
            ArrayView2::from_shape((self.neurons, self.hidden), rows).map_err(|_| {
                TileError::WrongLength {
                    what: "a matrix",
                    expected: self.neurons * self.hidden,
                    found: rows.len(),
                }
            })
        };
        Ok([view(gate)?, view(up)?, view(down)?])
    }
}

/// The tokens of one step that the router sent to the expert.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The layer's true inputs after its norm, `[n, H]`.
    pub inputs: ArrayView2<'a, f32>,
    /// The weight with which the router adds this expert's output, `[n]`.
    pub routing: ArrayView1<'a, f32>,
    /// What this expert is to add, `[n, H]`: the teacher's output, with all experts on, less what the other chosen
    /// experts add.
    pub target: ArrayView2<'a, f32>,
}

impl Batch<'_> {
    fn check(&self, hidden: usize) -> Result<(), TileError> {
        let tokens = self.inputs.nrows();
        if tokens == 0 {
            return Err(TileError::Empty("the batch"));
        }
        check_len("a row of inputs", hidden, self.inputs.ncols())?;
        check_len("routing", tokens, self.routing.len())?;
        check_len("a row of the target", hidden, self.target.ncols())?;
        check_len("the target's column", tokens, self.target.nrows())
    }
}

/// What one batch says about the weights.
#[derive(Clone, Debug, PartialEq)]
pub struct StepGradient {
    /// Mean over tokens and columns of `(routing * expert(x) - target)^2`.
    pub loss: f64,
    /// The loss's derivative by each weight, flat `[3F, H]`.
    pub gradient: Vec<f32>,
}

/// The expert's output `[n, H]` for `inputs` `[n, H]`, before the router's weight.
///
/// # Errors
///
/// [`TileError::WrongLength`] or [`TileError::Empty`] where an array does not fit the shape.
pub fn forward(
    shape: SliceShape,
    weights: &[f32],
    inputs: ArrayView2<'_, f32>,
) -> Result<Array2<f32>, TileError> {
    let [gate, up, down] = shape.matrices(weights)?;
    check_len("a row of inputs", shape.hidden, inputs.ncols())?;
    Ok(activate(&inputs.dot(&gate.t()), &inputs.dot(&up.t())).dot(&down))
}

/// Loss and gradient of one batch.
///
/// # Errors
///
/// [`TileError::WrongLength`] or [`TileError::Empty`] where an array does not fit the shape.
pub fn gradient(
    shape: SliceShape,
    weights: &[f32],
    batch: &Batch<'_>,
) -> Result<StepGradient, TileError> {
    let [gate, up, down] = shape.matrices(weights)?;
    batch.check(shape.hidden)?;
    let gates = batch.inputs.dot(&gate.t());
    let ups = batch.inputs.dot(&up.t());
    let activations = activate(&gates, &ups);
    let (loss, by_output) = squared_error(batch, activations.dot(&down));

    let by_activation = by_output.dot(&down.t());
    let by_gate = Zip::from(&by_activation)
        .and(&gates)
        .and(&ups)
        .map_collect(|d, g, u| d * u * silu_slope(*g));
    let by_up = Zip::from(&by_activation)
        .and(&gates)
        .map_collect(|d, g| d * silu(*g));

    let mut gradient = vec![0.0; weights.len()];
    let factors = [
        (by_gate.view(), batch.inputs),
        (by_up.view(), batch.inputs),
        (activations.view(), by_output.view()),
    ];
    for (rows, (left, right)) in gradient.chunks_mut(weights.len() / 3).zip(factors) {
        transposed_product(shape, left, right, rows)?;
    }
    Ok(StepGradient { loss, gradient })
}

/// The loss, and its derivative by the expert's output `[n, H]`.
fn squared_error(batch: &Batch<'_>, mut output: Array2<f32>) -> (f64, Array2<f32>) {
    let mut squares = 0.0;
    let slope = 2.0 / output.len() as f32;
    for ((mut row, target), routing) in output
        .axis_iter_mut(Axis(0))
        .zip(batch.target.axis_iter(Axis(0)))
        .zip(batch.routing)
    {
        Zip::from(&mut row).and(target).for_each(|y, t| {
            let error = routing * *y - t;
            squares += f64::from(error) * f64::from(error);
            *y = slope * routing * error;
        });
    }
    (squares / output.len() as f64, output)
}

/// Writes `left` transposed times `right` to `rows` `[F, H]`.
fn transposed_product(
    shape: SliceShape,
    left: ArrayView2<'_, f32>,
    right: ArrayView2<'_, f32>,
    rows: &mut [f32],
) -> Result<(), TileError> {
    let found = rows.len();
    let mut view =
        ArrayViewMut2::from_shape((shape.neurons, shape.hidden), rows).map_err(|_| {
            TileError::WrongLength {
                what: "a matrix",
                expected: shape.neurons * shape.hidden,
                found,
            }
        })?;
    general_mat_mul(1.0, &left.t(), &right, 0.0, &mut view);
    Ok(())
}

fn activate(gates: &Array2<f32>, ups: &Array2<f32>) -> Array2<f32> {
    Zip::from(gates).and(ups).map_collect(|g, u| silu(*g) * u)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

fn silu_slope(x: f32) -> f32 {
    let s = sigmoid(x);
    s * (1.0 + x * (1.0 - s))
}

pub(crate) fn check_len(
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), TileError> {
    if expected == found {
        return Ok(());
    }
    Err(TileError::WrongLength {
        what,
        expected,
        found,
    })
}
