//! Backward against finite differences, forward against plain loops in f64, and AdamW against the paper's formula.

use blyan_tile_owner::{AdamW, AdamWConfig, Batch, SliceShape, TileError, forward, gradient};
use ndarray::{Array1, Array2, ArrayView2};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One random problem, as f32 and readable in f64.
struct Problem {
    shape: SliceShape,
    weights: Vec<f32>,
    inputs: Array2<f32>,
    routing: Array1<f32>,
    target: Array2<f32>,
}

impl Problem {
    fn random(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let shape = SliceShape {
            hidden: rng.random_range(1..12),
            neurons: rng.random_range(1..9),
        };
        let tokens = rng.random_range(1..10);
        let mut draw = |scale: f32| scale * rng.random_range(-1.0..1.0);
        Self {
            shape,
            weights: (0..shape.parameters()).map(|_| draw(1.5)).collect(),
            inputs: Array2::from_shape_simple_fn((tokens, shape.hidden), || draw(2.0)),
            routing: Array1::from_shape_simple_fn(tokens, || draw(1.0)),
            target: Array2::from_shape_simple_fn((tokens, shape.hidden), || draw(2.0)),
        }
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            inputs: self.inputs.view(),
            routing: self.routing.view(),
            target: self.target.view(),
        }
    }

    /// The loss in f64, by the definition alone.
    fn loss(&self, weights: &[f64]) -> f64 {
        let mut squares = 0.0;
        for token in 0..self.inputs.nrows() {
            let output = expert(self.shape, weights, self.inputs.view(), token);
            for (column, y) in output.iter().enumerate() {
                let error =
                    f64::from(self.routing[token]) * y - f64::from(self.target[[token, column]]);
                squares += error * error;
            }
        }
        squares / self.target.len() as f64
    }

    fn slope(&self, index: usize) -> f64 {
        const STEP: f64 = 1e-5;
        let mut weights: Vec<f64> = self.weights.iter().map(|w| f64::from(*w)).collect();
        weights[index] += STEP;
        let above = self.loss(&weights);
        weights[index] -= 2.0 * STEP;
        (above - self.loss(&weights)) / (2.0 * STEP)
    }
}

/// One row of the expert's output, in f64, neuron by neuron.
fn expert(
    shape: SliceShape,
    weights: &[f64],
    inputs: ArrayView2<'_, f32>,
    token: usize,
) -> Vec<f64> {
    let row = |matrix: usize, neuron: usize| {
        &weights[(matrix * shape.neurons + neuron) * shape.hidden..][..shape.hidden]
    };
    let mut output = vec![0.0; shape.hidden];
    for neuron in 0..shape.neurons {
        let dot = |matrix| -> f64 {
            let pairs = row(matrix, neuron).iter().zip(inputs.row(token));
            pairs.map(|(w, x)| w * f64::from(*x)).sum()
        };
        let gate = dot(0);
        let activation = gate / (1.0 + (-gate).exp()) * dot(1);
        for (y, down) in output.iter_mut().zip(row(2, neuron)) {
            *y += activation * down;
        }
    }
    output
}

#[test]
fn gradients_are_finite_differences_within_a_thousandth() {
    for seed in 0..300 {
        let problem = Problem::random(seed);
        let step = gradient(problem.shape, &problem.weights, &problem.batch()).unwrap();
        let slopes: Vec<f64> = (0..problem.weights.len())
            .map(|i| problem.slope(i))
            .collect();
        let rms = (slopes.iter().map(|s| s * s).sum::<f64>() / slopes.len() as f64).sqrt();
        for (index, (found, slope)) in step.gradient.iter().zip(&slopes).enumerate() {
            // A weight whose slope is nearly zero is held to the thousandth of a hundredth of the usual one.
            let bound = 1e-3 * slope.abs().max(1e-2 * rms) + 1e-9;
            assert!(
                (f64::from(*found) - slope).abs() <= bound,
                "seed {seed}, {:?}, weight {index}: {found} is not {slope}",
                problem.shape
            );
        }
    }
}

#[test]
fn loss_and_output_are_those_of_plain_loops() {
    for seed in 0..300 {
        let problem = Problem::random(seed);
        let weights: Vec<f64> = problem.weights.iter().map(|w| f64::from(*w)).collect();
        let expected = problem.loss(&weights);
        let step = gradient(problem.shape, &problem.weights, &problem.batch()).unwrap();
        assert!(
            (step.loss - expected).abs() <= 1e-5 * expected,
            "seed {seed}"
        );
        let output = forward(problem.shape, &problem.weights, problem.inputs.view()).unwrap();
        for (token, row) in output.outer_iter().enumerate() {
            let expected = expert(problem.shape, &weights, problem.inputs.view(), token);
            for (y, e) in row.iter().zip(expected) {
                assert!(
                    (f64::from(*y) - e).abs() <= 1e-4 * (1.0 + e.abs()),
                    "seed {seed}"
                );
            }
        }
    }
}

#[test]
fn arrays_that_do_not_fit_are_refused() {
    let problem = Problem::random(7);
    let (shape, batch) = (problem.shape, problem.batch());
    let short = &problem.weights[1..];
    assert!(matches!(
        gradient(shape, short, &batch),
        Err(TileError::WrongLength {
            what: "the expert",
            ..
        })
    ));
    let none = Array1::zeros(0);
    assert!(matches!(
        gradient(
            shape,
            &problem.weights,
            &Batch {
                routing: none.view(),
                ..batch
            }
        ),
        Err(TileError::WrongLength {
            what: "routing",
            ..
        })
    ));
    let wide = Array2::zeros((problem.inputs.nrows(), shape.hidden + 1));
    for (batch, expected) in [
        (
            Batch {
                inputs: wide.view(),
                ..batch
            },
            "a row of inputs",
        ),
        (
            Batch {
                target: wide.view(),
                ..batch
            },
            "a row of the target",
        ),
    ] {
        let found = gradient(shape, &problem.weights, &batch);
        assert!(matches!(found, Err(TileError::WrongLength { what, .. }) if what == expected));
    }
    let empty = Array2::zeros((0, shape.hidden));
    let nothing = Batch {
        inputs: empty.view(),
        routing: none.view(),
        target: empty.view(),
    };
    assert_eq!(
        gradient(shape, &problem.weights, &nothing),
        Err(TileError::Empty("the batch"))
    );
}

#[test]
fn adamw_follows_the_formula_of_the_paper() {
    let config = AdamWConfig {
        learning_rate: 0.01,
        weight_decay: 0.1,
        ..AdamWConfig::default()
    };
    let (mut state, mut weights) = (AdamW::new(1), [0.7_f32]);
    let (mut weight, mut mean, mut square) = (0.7_f64, 0.0, 0.0);
    for step in 1..=200 {
        let g = (f64::from(step) * 0.37).sin() as f32;
        state.step(&config, &mut weights, &[g]).unwrap();
        let g = f64::from(g);
        mean = 0.9 * mean + 0.1 * g;
        square = 0.999 * square + 0.001 * g * g;
        let unbiased = mean / (1.0 - 0.9_f64.powi(step));
        let root = (square / (1.0 - 0.999_f64.powi(step))).sqrt() + 1e-8;
        weight -= 0.01 * (unbiased / root + 0.1 * weight);
        assert!((f64::from(weights[0]) - weight).abs() < 1e-4, "step {step}");
    }
}

#[test]
fn adamw_refuses_by_name_and_changes_nothing() {
    let config = AdamWConfig::default();
    let (mut state, mut weights) = (AdamW::new(2), [1.0, 2.0]);
    let refused = [
        (config, [0.0, f32::NAN], TileError::NotANumber { index: 1 }),
        (
            config,
            [f32::NEG_INFINITY, 0.0],
            TileError::Infinite { index: 0 },
        ),
    ];
    for (config, gradient, expected) in refused {
        assert_eq!(state.step(&config, &mut weights, &gradient), Err(expected));
    }
    for (config, expected) in [
        (
            AdamWConfig {
                learning_rate: -1.0,
                ..config
            },
            "learning_rate",
        ),
        (
            AdamWConfig {
                beta1: 1.0,
                ..config
            },
            "beta1",
        ),
        (
            AdamWConfig {
                beta2: f32::NAN,
                ..config
            },
            "beta2",
        ),
        (
            AdamWConfig {
                epsilon: 0.0,
                ..config
            },
            "epsilon",
        ),
        (
            AdamWConfig {
                weight_decay: f32::INFINITY,
                ..config
            },
            "weight_decay",
        ),
    ] {
        let found = state.step(&config, &mut weights, &[0.0, 0.0]);
        assert!(matches!(found, Err(TileError::Setting { name, .. }) if name == expected));
    }
    assert!(state.step(&config, &mut weights, &[0.0]).is_err());
    assert_eq!((state, weights), (AdamW::new(2), [1.0, 2.0]));
}
