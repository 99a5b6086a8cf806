//! Whether a candidate is worth adopting.

use blyan_model::eval::{Estimate, Losses};

/// Losses of a candidate over those without it, on the same windows of a text that it did not learn from. Values below 1
/// speak for the candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Ratio of perplexities with few experts a layer.
    pub sparse: Estimate,
    /// Ratio of perplexities with all experts.
    pub dense: Estimate,
}

impl Comparison {
    /// `sparse` and `dense` are losses before and after; `seed` is that of the bootstrap.
    ///
    /// # Panics
    /// If before and after are not of the same windows.
    #[must_use]
    pub fn new(sparse: [&Losses; 2], dense: [&Losses; 2], seed: u64) -> Self {
        let ratio = |[before, after]: [&Losses; 2]| after.ratio_to(before, seed);
        Self {
            sparse: ratio(sparse),
            dense: ratio(dense),
        }
    }
}

/// What a comparison must show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// The least share by which sparse perplexity must fall, even at the interval's near end; not below 0.
    pub gain_min: f64,
    /// The largest share by which perplexity with all experts may rise, by its best estimate.
    pub harm_max: f64,
    /// Windows below which nothing is said: a percentile bootstrap of few is too narrow.
    pub windows_min: usize,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            gain_min: 0.0,
            harm_max: 0.005,
            windows_min: 20,
        }
    }
}

/// Why a candidate is not adopted. In this order, the first that holds.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A figure is not a number, so a loss was not.
    #[error("a loss is not a number")]
    NotANumber,
    /// Too few windows.
    #[error("{found} windows of text, at least {least} are needed")]
    TooFewWindows {
        /// How many there were.
        found: usize,
        /// How many are needed.
        least: usize,
    },
    /// No better on the whole.
    #[error("sparse perplexity does not fall")]
    NoGain,
    /// Better, but by less than the threshold, or than is beyond chance.
    #[error("the gain is below the threshold or within the noise")]
    WithinNoise,
    /// With all experts it is worse than allowed.
    #[error("perplexity with all experts rises too much")]
    Harm,
}

impl Rule {
    /// Whether a candidate with this comparison over `windows` windows is adopted.
    ///
    /// # Errors
    /// The [`Refusal`].
    pub fn judge(&self, comparison: &Comparison, windows: usize) -> Result<(), Refusal> {
        let Comparison { sparse, dense } = comparison;
        if ![sparse.value, sparse.high, dense.value]
            .into_iter()
            .all(f64::is_finite)
        {
            return Err(Refusal::NotANumber);
        }
        if windows < self.windows_min {
            return Err(Refusal::TooFewWindows {
                found: windows,
                least: self.windows_min,
            });
        }
        if sparse.value >= 1.0 {
            return Err(Refusal::NoGain);
        }
        if sparse.high >= 1.0 - self.gain_min {
            return Err(Refusal::WithinNoise);
        }
        if dense.value > 1.0 + self.harm_max {
            return Err(Refusal::Harm);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule {
        gain_min: 0.001,
        harm_max: 0.005,
        windows_min: 20,
    };

    fn estimate([low, value, high]: [f64; 3]) -> Estimate {
        Estimate { value, low, high }
    }

    fn judged(sparse: [f64; 3], dense: f64, windows: usize) -> Result<(), Refusal> {
        let comparison = Comparison {
            sparse: estimate(sparse),
            dense: estimate([dense - 0.001, dense, dense + 0.001]),
        };
        RULE.judge(&comparison, windows)
    }

    #[test]
    fn a_gain_beyond_threshold_and_noise_without_harm_is_adopted() {
        assert_eq!(judged([0.98, 0.99, 0.9989], 1.005, 20), Ok(()));
    }

    #[test]
    fn each_refusal_has_its_own_case() {
        use Refusal::*;
        let few = TooFewWindows {
            found: 19,
            least: 20,
        };
        let nan = f64::NAN;
        for (sparse, dense, windows, refusal) in [
            ([0.98, 0.99, nan], 1.0, 40, NotANumber),
            ([0.98, nan, 0.995], 1.0, 40, NotANumber),
            ([0.98, 0.99, 0.995], f64::INFINITY, 40, NotANumber),
            ([0.98, 0.99, 0.995], 1.0, 19, few),
            ([0.98, 1.0, 1.02], 1.0, 40, NoGain),
            ([1.01, 1.02, 1.03], 1.0, 40, NoGain),
            ([0.97, 0.99, 1.01], 1.0, 40, WithinNoise),
            ([0.97, 0.99, 0.999], 1.0, 40, WithinNoise),
            ([0.98, 0.99, 0.995], 1.0051, 40, Harm),
        ] {
            assert_eq!(judged(sparse, dense, windows), Err(refusal), "{sparse:?}");
        }
    }

    #[test]
    fn windows_that_are_better_by_chance_are_within_the_noise() {
        let before = Losses::new((0..40).map(|_| vec![3.0; 10]).collect());
        let shift = |window: usize| if window.is_multiple_of(2) { -0.2 } else { 0.19 };
        let after = (0..40)
            .map(|window| vec![3.0 + shift(window); 10])
            .collect();
        let after = Losses::new(after);
        let comparison = Comparison::new([&before, &after], [&before, &before], 1);
        assert!(comparison.sparse.value < 1.0);
        assert_eq!(RULE.judge(&comparison, 40), Err(Refusal::WithinNoise));
        let better = Losses::new((0..40).map(|_| vec![2.99; 10]).collect());
        let comparison = Comparison::new([&before, &better], [&before, &before], 1);
        assert_eq!(RULE.judge(&comparison, 40), Ok(()));
    }
}
