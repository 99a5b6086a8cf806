//! Ridge regression in closed form over a stream of rows.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};

use crate::linalg::{Singular, solve_positive};

/// Sums of a linear regression of K targets on W inputs; rows come in any number of portions.
pub struct RidgeSums {
    rows: f64,
    /// `[W, W]`
    gram: Array2<f64>,
    /// `[W, K]`
    moments: Array2<f64>,
    /// `[W]`
    input_sums: Array1<f64>,
    /// `[K]`
    target_sums: Array1<f64>,
}

impl RidgeSums {
    /// No rows yet.
    pub fn new(inputs: usize, targets: usize) -> Self {
        Self {
            rows: 0.0,
            gram: Array2::zeros((inputs, inputs)),
            moments: Array2::zeros((inputs, targets)),
            input_sums: Array1::zeros(inputs),
            target_sums: Array1::zeros(targets),
        }
    }

    /// Adds rows: inputs `[T, W]` and what they should give `[T, K]`. Products are summed in fp32 within a call, in
    /// fp64 over calls.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn add(&mut self, inputs: ArrayView2<'_, f32>, targets: ArrayView2<'_, f32>) {
        self.rows += inputs.nrows() as f64;
        self.gram += &inputs.t().dot(&inputs).mapv(f64::from);
        self.moments += &inputs.t().dot(&targets).mapv(f64::from);
        self.input_sums += &inputs.sum_axis(Axis(0)).mapv(f64::from);
        self.target_sums += &targets.sum_axis(Axis(0)).mapv(f64::from);
    }

    /// Weights `[K, W + 1]` with the bias in the last column, least squares plus `penalty` times the
    /// mean variance of an input on every squared weight; the bias is free.
    ///
    /// # Errors
    /// [`Singular`] if there are too few rows for the penalty, or a row was not finite.
    pub fn solve(&self, penalty: f64) -> Result<Array2<f32>, Singular> {
        let (inputs, targets) = self.moments.dim();
        let weights = solve_positive(
            self.covariance(penalty).view(),
            self.cross_covariance().view(),
        )?;
        let mut solved = Array2::zeros((targets, inputs + 1));
        solved
            .slice_mut(s![.., ..inputs])
            .assign(&weights.t().mapv(|w| w as f32));
        let bias = &self.target_sums / self.rows - weights.t().dot(&(&self.input_sums / self.rows));
        solved.column_mut(inputs).assign(&bias.mapv(|b| b as f32));
        Ok(solved)
    }

    /// `[W, W]`, with the penalty on its diagonal.
    fn covariance(&self, penalty: f64) -> Array2<f64> {
        let means = &self.input_sums / self.rows;
        let mut covariance = &self.gram / self.rows - outer(&means, &means);
        let mean_variance = covariance.diag().sum() / means.len() as f64;
        covariance
            .diag_mut()
            .map_inplace(|variance| *variance += penalty * mean_variance);
        covariance
    }

    /// `[W, K]`
    fn cross_covariance(&self) -> Array2<f64> {
        &self.moments / self.rows
            - outer(
                &(&self.input_sums / self.rows),
                &(&self.target_sums / self.rows),
            )
    }
}

fn outer(a: &Array1<f64>, b: &Array1<f64>) -> Array2<f64> {
    a.view()
        .insert_axis(Axis(1))
        .dot(&b.view().insert_axis(Axis(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const TRUE_WEIGHTS: [[f32; 4]; 2] = [[0.5, -2.0, 1.0, 3.0], [0.0, 0.25, -0.75, -1.0]];

    fn sums(rows: usize) -> RidgeSums {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let inputs =
            Array2::from_shape_simple_fn((rows, 3), || random.random_range(-1.0f32..1.0) + 0.3);
        let truth = ndarray::arr2(&TRUE_WEIGHTS);
        let targets = inputs.dot(&truth.slice(s![.., ..3]).t()) + truth.column(3);
        let mut sums = RidgeSums::new(3, 2);
        for (inputs, targets) in inputs
            .axis_chunks_iter(Axis(0), 37)
            .zip(targets.axis_chunks_iter(Axis(0), 37))
        {
            sums.add(inputs, targets);
        }
        sums
    }

    #[test]
    fn finds_the_line_that_made_the_data() {
        let solved = sums(500).solve(1e-9).unwrap();
        let difference = solved - ndarray::arr2(&TRUE_WEIGHTS);
        assert!(difference.iter().all(|d| d.abs() < 1e-4), "{difference}");
    }

    #[test]
    fn a_great_penalty_leaves_only_the_mean() {
        let sums = sums(500);
        let solved = sums.solve(1e9).unwrap();
        assert!(solved.slice(s![.., ..3]).iter().all(|w| w.abs() < 1e-6));
        let means = &sums.target_sums / sums.rows;
        assert!((f64::from(solved[[0, 3]]) - means[0]).abs() < 1e-4);
    }

    #[test]
    fn one_row_without_penalty_is_refused() {
        assert!(sums(1).solve(0.0).is_err());
    }
}
