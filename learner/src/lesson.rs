//! What one expert is to learn: its inputs, and what it should have added.

use blyan_formats::TensorName;
use blyan_inference::engine::LayerRecord;
use blyan_tile_owner::{Batch, SliceShape, forward};
use ndarray::{Array1, Array2, ArrayView2};

use crate::LearnError;

/// Tokens that the router sent to one expert, with the target of each: `dense - output + expert(x)`, which is the
/// teacher's output less what the other chosen experts add. The expert's own share stands in for a sum over the others.
#[derive(Clone, Debug)]
pub struct Lesson {
    shape: SliceShape,
    expert: TensorName,
    number: usize,
    /// The expert's weights when the lesson was recorded, `[3F, H]`.
    weights: Vec<f32>,
    /// `[n, H]`
    inputs: Vec<f32>,
    /// `[n, H]`
    targets: Vec<f32>,
    /// Sum of squares of what is missing, `dense - output`.
    missing: f64,
}

impl Lesson {
    /// An empty lesson for `expert`, whose weights are `[3F, H]`.
    ///
    /// # Errors
    /// [`LearnError::Record`] if it is no expert's name, [`LearnError::Tile`] if the weights do not fit the shape.
    pub fn new(
        expert: TensorName,
        shape: SliceShape,
        weights: Vec<f32>,
    ) -> Result<Self, LearnError> {
        let number = expert.expert();
        let number = number.ok_or(LearnError::Record("it is no expert's name"))?;
        forward(shape, &weights, matrix(&[], shape.hidden)?)?;
        Ok(Self {
            shape,
            expert,
            number: number.into(),
            weights,
            inputs: Vec::new(),
            targets: Vec::new(),
            missing: 0.0,
        })
    }

    /// Appends the tokens of a record that the expert computed.
    ///
    /// # Errors
    /// [`LearnError::Record`] if the widths differ.
    pub fn add(&mut self, record: &LayerRecord) -> Result<(), LearnError> {
        let hidden = self.shape.hidden;
        let tokens = record.tokens_of.get(self.number);
        let tokens = tokens.filter(|_| record.hidden == hidden);
        let tokens = tokens.ok_or(LearnError::Record("its widths differ"))?;
        let first = self.inputs.len();
        let row = |token: u32| token as usize * hidden..(token as usize + 1) * hidden;
        for token in tokens {
            self.inputs.extend_from_slice(&record.input[row(*token)]);
        }
        let inputs = matrix(&self.inputs[first..], hidden)?;
        let own = forward(self.shape, &self.weights, inputs)?;
        for (token, own) in tokens.iter().zip(own.rows()) {
            let (dense, output) = (&record.dense[row(*token)], &record.output[row(*token)]);
            for ((dense, output), own) in dense.iter().zip(output).zip(own) {
                let missing = dense - output;
                self.missing += f64::from(missing) * f64::from(missing);
                self.targets.push(missing + own);
            }
        }
        Ok(())
    }

    /// Which expert it is for.
    #[must_use]
    pub fn expert(&self) -> TensorName {
        self.expert
    }

    /// The size of its expert.
    #[must_use]
    pub fn shape(&self) -> SliceShape {
        self.shape
    }

    /// The expert's weights when the lesson was recorded, `[3F, H]`.
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// Tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.inputs.len() / self.shape.hidden
    }

    /// The squared error of `weights` over all tokens, as a share of what is missing while the expert is as it was: 1 for
    /// its own weights, 0 where a sparse layer gives the teacher's output, no number where nothing is missing.
    ///
    /// # Errors
    /// [`LearnError::Tile`] if the weights do not fit.
    pub fn error_of(&self, weights: &[f32]) -> Result<f64, LearnError> {
        /// Tokens at one time, so that the activations stay small.
        const TOGETHER: usize = 512;
        let part = TOGETHER * self.shape.hidden;
        let mut squares = 0.0;
        for (inputs, targets) in self.inputs.chunks(part).zip(self.targets.chunks(part)) {
            let outputs = forward(self.shape, weights, matrix(inputs, self.shape.hidden)?)?;
            let errors = outputs.iter().zip(targets).map(|(y, t)| f64::from(y - t));
            squares += errors.map(|error| error * error).sum::<f64>();
        }
        Ok(squares / self.missing)
    }

    /// The tokens with these numbers.
    pub(crate) fn pick(&self, numbers: &[usize]) -> Picked {
        let hidden = self.shape.hidden;
        let of = |values: &[f32]| {
            Array2::from_shape_fn((numbers.len(), hidden), |(row, column)| {
                values[numbers[row] * hidden + column]
            })
        };
        Picked {
            inputs: of(&self.inputs),
            targets: of(&self.targets),
            routing: Array1::ones(numbers.len()),
        }
    }
}

/// A minibatch. The router adds every chosen expert with weight 1.
pub(crate) struct Picked {
    inputs: Array2<f32>,
    targets: Array2<f32>,
    routing: Array1<f32>,
}

impl Picked {
    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch {
            inputs: self.inputs.view(),
            routing: self.routing.view(),
            target: self.targets.view(),
        }
    }
}

fn matrix(values: &[f32], hidden: usize) -> Result<ArrayView2<'_, f32>, LearnError> {
    ArrayView2::from_shape((values.len() / hidden, hidden), values)
        .map_err(|_| LearnError::Record("a row is not whole"))
}
