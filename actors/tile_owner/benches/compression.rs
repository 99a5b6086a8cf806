//! What compressed deltas cost and save: an expert of the served model's size is distilled by two learners, once with plain
//! gradients and once for each way to compress them, the same steps on the same tokens. Under `cargo test`, which does not
//! say `--bench`, a small expert and a few steps.
//!
//! The teacher is a random but fixed SwiGLU layer of `2F` neurons; the student begins as its first `F`. So what is learned is
//! what a sparse answer needs: to stand in for neurons that are off. It cannot reach a loss of 0. Inputs are Gaussian with
//! columns of very different sizes, as hidden states have.

use std::error::Error;
use std::time::{Duration, Instant};

use blyan_tile_owner::{
    AdamW, AdamWConfig, Batch, Compressor, DeltaId, Round, SliceShape, decode, encode, forward,
    gradient, to_units,
};
use ndarray::{Array1, Array2};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const LEARNERS: u8 = 2;

/// The problem's size.
struct Size {
    student: SliceShape,
    tokens: usize,
    held_out: usize,
    steps: u64,
}

const FULL: Size = Size {
    student: SliceShape {
        hidden: 576,
        neurons: 192,
    },
    tokens: 128,
    held_out: 1024,
    steps: 300,
};

const SHORT: Size = Size {
    student: SliceShape {
        hidden: 24,
        neurons: 8,
    },
    tokens: 16,
    held_out: 64,
    steps: 20,
};

/// How deltas travel.
#[derive(Clone, Copy)]
enum Way {
    Plain,
    Compressed {
        kept_per_mille: usize,
        feedback: bool,
    },
}

/// What a way came to.
#[derive(Default)]
struct Outcome {
    loss: f64,
    bytes: usize,
    deltas: usize,
    compressing: Duration,
    reading: Duration,
}

/// Teacher, first weights of the student, and the size of each input column.
struct Problem {
    size: Size,
    teacher: Vec<f32>,
    first: Vec<f32>,
    columns: Array1<f32>,
}

impl Problem {
    fn new(size: Size, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let hidden = size.student.hidden;
        let half = size.student.neurons * hidden;
        let deviation = 1.0 / (hidden as f32).sqrt();
        let teacher: Vec<f32> = (0..6 * half)
            .map(|_| deviation * normal(&mut rng))
            .collect();
        let first = teacher
            .chunks(2 * half)
            .flat_map(|m| &m[..half])
            .copied()
            .collect();
        let columns = Array1::from_shape_simple_fn(hidden, || normal(&mut rng).exp());
        Self {
            size,
            teacher,
            first,
            columns,
        }
    }

    /// Inputs of `tokens` tokens and the teacher's outputs, both `[tokens, H]`.
    fn draw(&self, tokens: usize, seed: u64) -> Result<(Array2<f32>, Array2<f32>), Box<dyn Error>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shape = (tokens, self.size.student.hidden);
        let inputs = Array2::from_shape_simple_fn(shape, || normal(&mut rng)) * &self.columns;
        let teacher = SliceShape {
            neurons: 2 * self.size.student.neurons,
            ..self.size.student
        };
        let outputs = forward(teacher, &self.teacher, inputs.view())?;
        Ok((inputs, outputs))
    }

    /// Loss and gradient of `weights` on tokens drawn by `seed`.
    fn learn(
        &self,
        weights: &[f32],
        tokens: usize,
        seed: u64,
    ) -> Result<(f64, Vec<f32>), Box<dyn Error>> {
        let (inputs, target) = self.draw(tokens, seed)?;
        let routing = Array1::ones(tokens);
        let batch = Batch {
            inputs: inputs.view(),
            routing: routing.view(),
            target: target.view(),
        };
        let step = gradient(self.size.student, weights, &batch)?;
        Ok((step.loss, step.gradient))
    }

    fn held_out(&self, weights: &[f32]) -> Result<f64, Box<dyn Error>> {
        Ok(self.learn(weights, self.size.held_out, u64::MAX)?.0)
    }

    fn train(&self, way: Way) -> Result<Outcome, Box<dyn Error>> {
        let mut weights = self.first.clone();
        let mut optimiser = AdamW::new(weights.len());
        let config = AdamWConfig {
            learning_rate: 5e-4,
            ..AdamWConfig::default()
        };
        let share = match way {
            Way::Plain => 1000,
            Way::Compressed { kept_per_mille, .. } => kept_per_mille,
        };
        let new = || Compressor::new(self.first.len(), share);
        let mut compressors = [new()?, new()?];
        let mut outcome = Outcome::default();
        for step in 0..self.size.steps {
            let mut gradients = Vec::new();
            for learner in 0..LEARNERS {
                let seed = step * u64::from(LEARNERS) + u64::from(learner);
                gradients.push(self.learn(&weights, self.size.tokens, seed)?.1);
            }
            let mean = match way {
                Way::Plain => plain_mean(&gradients),
                Way::Compressed { feedback, .. } => {
                    if !feedback {
                        compressors = [new()?, new()?];
                    }
                    exchange(&gradients, step, &mut compressors, &mut outcome)?
                }
            };
            optimiser.step(&config, &mut weights, &mean)?;
        }
        outcome.loss = self.held_out(&weights)?;
        Ok(outcome)
    }
}

fn plain_mean(gradients: &[Vec<f32>]) -> Vec<f32> {
    let mean = |place| gradients.iter().map(|g| g[place]).sum::<f32>() / gradients.len() as f32;
    (0..gradients[0].len()).map(mean).collect()
}

/// Sends each learner's gradient as bytes to a round, and gives the round's mean.
fn exchange(
    gradients: &[Vec<f32>],
    base: u64,
    compressors: &mut [Compressor],
    outcome: &mut Outcome,
) -> Result<Vec<f32>, Box<dyn Error>> {
    let len = gradients[0].len();
    let mut round = Round::new(base, len);
    for ((learner, gradient), compressor) in (0..LEARNERS).zip(gradients).zip(compressors) {
        let id = DeltaId {
            learner: [learner; 32],
            sequence: base,
        };
        let began = Instant::now();
        let parts = compressor.compress(&to_units(gradient)?)?;
        let bytes = encode(id, base, u32::try_from(len)?, &parts)?;
        outcome.compressing += began.elapsed();
        let began = Instant::now();
        let delta = decode(&bytes, len)?;
        outcome.reading += began.elapsed();
        round.accept(&delta)?;
        outcome.bytes += bytes.len();
        outcome.deltas += 1;
    }
    Ok(round.mean()?)
}

/// Box and Muller's way.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (std::f32::consts::TAU * rng.random::<f32>()).cos()
}

fn report(name: &str, outcome: &Outcome, plain: &Outcome, dense_bytes: usize) {
    let change = 100.0 * (outcome.loss / plain.loss - 1.0);
    let dense = (outcome.deltas * dense_bytes) as f64;
    let speed = |time: Duration| dense / 1e6 / time.as_secs_f64();
    println!(
        "{name}: loss {:.6} ({change:+.2} %), {:.1}x smaller than f32, {:.0} MB/s of f32 sent, {:.0} MB/s read",
        outcome.loss,
        dense / outcome.bytes as f64,
        speed(outcome.compressing),
        speed(outcome.reading),
    );
}

fn main() -> Result<(), Box<dyn Error>> {
    let full = std::env::args().any(|argument| argument == "--bench");
    let problem = Problem::new(if full { FULL } else { SHORT }, 6);
    println!(
        "{:?}, {} steps of {LEARNERS} learners with {} tokens, AdamW",
        problem.size.student, problem.size.steps, problem.size.tokens
    );
    println!("before: loss {:.6}", problem.held_out(&problem.first)?);
    let plain = problem.train(Way::Plain)?;
    println!("uncompressed: loss {:.6}", plain.loss);
    let ways = [
        ("top 4 % with feedback", 40, true),
        ("top 4 % without feedback", 40, false),
        ("top 20 % with feedback", 200, true),
    ];
    for (name, kept_per_mille, feedback) in ways {
        let way = Way::Compressed {
            kept_per_mille,
            feedback,
        };
        let dense_bytes = 4 * problem.first.len();
        report(name, &problem.train(way)?, &plain, dense_bytes);
    }
    Ok(())
}
