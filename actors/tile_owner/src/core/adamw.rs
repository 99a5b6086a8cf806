//! AdamW (Loshchilov and Hutter, "Decoupled Weight Decay Regularization"), one weight after the other: the same bits on
//! every machine, because only +, -, *, / and sqrt are used and IEEE 754 rounds each of them in one way.

use super::slice::check_len;
use crate::error::TileError;

/// The optimiser's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Step size, in weights.
    pub learning_rate: f32,
    /// Decay of the mean of gradients, from 0 to below 1.
    pub beta1: f32,
    /// Decay of the mean of their squares, from 0 to below 1.
    pub beta2: f32,
    /// Added to the root of the mean square, above 0.
    pub epsilon: f32,
    /// Share of the weight that `learning_rate` 1 takes away in a step.
    pub weight_decay: f32,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

impl AdamWConfig {
    /// # Errors
    ///
    /// [`TileError::Setting`] names the first setting outside its range.
    pub fn validate(&self) -> Result<(), TileError> {
        let finite_from_zero = |x: f32| x.is_finite() && x >= 0.0;
        let decay = |x: f32| (0.0..1.0).contains(&x);
        let rules = [
            (
                finite_from_zero(self.learning_rate),
                "learning_rate",
                "finite and not below 0",
            ),
            (decay(self.beta1), "beta1", "from 0 to below 1"),
            (decay(self.beta2), "beta2", "from 0 to below 1"),
            (
                self.epsilon.is_finite() && self.epsilon > 0.0,
                "epsilon",
                "finite and above 0",
            ),
            (
                finite_from_zero(self.weight_decay),
                "weight_decay",
                "finite and not below 0",
            ),
        ];
        match rules.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, name, range)) => Err(TileError::Setting { name, range }),
        }
    }
}

/// The optimiser's memory of one tile: plain data, so that an owner can write it down and go on from it.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// Decaying mean of the gradients.
    pub mean: Vec<f32>,
    /// Decaying mean of their squares.
    pub square: Vec<f32>,
    /// `beta1` to the power of the steps done: a product, as `powi` may round otherwise elsewhere.
    pub beta1_power: f64,
    /// `beta2` to the power of the steps done.
    pub beta2_power: f64,
}

impl AdamW {
    /// The state before the first step of a tile of `weights` weights.
    #[must_use]
    pub fn new(weights: usize) -> Self {
        Self {
            mean: vec![0.0; weights],
            square: vec![0.0; weights],
            beta1_power: 1.0,
            beta2_power: 1.0,
        }
    }

    /// Moves `weights` one step against `gradient`; all three are of one length.
    ///
    /// # Errors
    ///
    /// [`TileError::Setting`], [`TileError::WrongLength`], or [`TileError::NotANumber`] and [`TileError::Infinite`] of
    /// the gradient: nothing was changed.
    pub fn step(
        &mut self,
        config: &AdamWConfig,
        weights: &mut [f32],
        gradient: &[f32],
    ) -> Result<(), TileError> {
        config.validate()?;
        check_len("the tile", self.mean.len(), weights.len())?;
        check_len("the gradient", self.mean.len(), gradient.len())?;
        check_finite(gradient)?;
        self.beta1_power *= f64::from(config.beta1);
        self.beta2_power *= f64::from(config.beta2);
        let mean_unbiased = (1.0 / (1.0 - self.beta1_power)) as f32;
        let square_unbiased = (1.0 / (1.0 - self.beta2_power)) as f32;
        let shrink = 1.0 - config.learning_rate * config.weight_decay;
        let moments = self.mean.iter_mut().zip(&mut self.square);
        for ((weight, g), (mean, square)) in weights.iter_mut().zip(gradient).zip(moments) {
            *mean = config.beta1 * *mean + (1.0 - config.beta1) * g;
            *square = config.beta2 * *square + (1.0 - config.beta2) * g * g;
            let root = (*square * square_unbiased).sqrt() + config.epsilon;
            *weight = *weight * shrink - config.learning_rate * (*mean * mean_unbiased) / root;
        }
        Ok(())
    }
}

/// Refuses the first value that is not finite.
pub(crate) fn check_finite(values: &[f32]) -> Result<(), TileError> {
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(index) if values[index].is_nan() => Err(TileError::NotANumber { index }),
        Some(index) => Err(TileError::Infinite { index }),
    }
}
