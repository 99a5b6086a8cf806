//! How an expert learns a lesson.

use std::f32::consts::PI;

use blyan_tile_owner::{AdamW, AdamWConfig, gradient};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{LearnError, Lesson};

/// Steps and their sizes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// Steps, at least 1.
    pub steps: u32,
    /// Tokens of a step, at least 1, drawn with replacement.
    pub batch: usize,
    /// Learning rate at its highest.
    pub learning_rate: f32,
    /// Seed of the drawings.
    pub seed: u64,
}

impl Default for Course {
    /// What did best on the layers that were tried, see `docs/measurements.md`.
    fn default() -> Self {
        Self {
            steps: 3000,
            batch: 512,
            learning_rate: 5e-4,
            seed: 1,
        }
    }
}

/// Steps in which the learning rate grows.
const WARM_UP: u32 = 50;

impl Course {
    fn validate(&self) -> Result<(), LearnError> {
        if self.steps == 0 || self.batch == 0 {
            return Err(LearnError::Setting("steps and batch must be at least 1"));
        }
        Ok(())
    }

    /// Linear growth, then half a cosine down to 0 after the last step. `step` counts from 0.
    fn optimiser(&self, step: u32) -> AdamWConfig {
        let warm = ((step + 1) as f32 / WARM_UP as f32).min(1.0);
        let cooled = 0.5 * (1.0 + (PI * step as f32 / self.steps as f32).cos());
        AdamWConfig {
            learning_rate: self.learning_rate * warm * cooled,
            // Short, as gradients of few tokens with large outputs are far greater than the usual ones.
            beta2: 0.99,
            ..AdamWConfig::default()
        }
    }
}

/// The lesson's expert after the course, `[3F, H]`. `progress` is called after each step with its number, from 1, and its
/// loss. The same lesson and course give the same weights on one kind of processor.
///
/// # Errors
/// [`LearnError::Setting`], [`LearnError::Unreached`] if the lesson is empty, [`LearnError::Tile`].
pub fn learn(
    lesson: &Lesson,
    course: &Course,
    progress: &dyn Fn(u32, f64),
) -> Result<Vec<f32>, LearnError> {
    course.validate()?;
    let tokens = lesson.tokens();
    if tokens == 0 {
        return Err(LearnError::Unreached(lesson.expert()));
    }
    let mut random = ChaCha8Rng::seed_from_u64(course.seed);
    let mut weights = lesson.weights().to_vec();
    let mut optimiser = AdamW::new(weights.len());
    let mut numbers = vec![0; course.batch];
    for step in 0..course.steps {
        numbers.fill_with(|| random.random_range(0..tokens));
        let picked = lesson.pick(&numbers);
        let found = gradient(lesson.shape(), &weights, &picked.batch())?;
        optimiser.step(&course.optimiser(step), &mut weights, &found.gradient)?;
        progress(step + 1, found.loss);
    }
    Ok(weights)
}
