//! Perplexity, and how sure one may be of it.
//!
//! A text is cut into windows that do not overlap; the model reads each from an empty memory. All figures come from the
//! losses of single tokens, so that two models can be compared window by window on the same text.

use blyan_inference::step::{Logits, StepEngine, StepError, StepRow, Terminate};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// Drawings of a bootstrap.
const DRAWINGS: usize = 2000;

/// Share of the drawings that an interval leaves out on each side: it holds 95 %.
const TAIL: f64 = 0.025;

/// Losses in nats, -ln p, of every token but the first of each window.
#[derive(Clone, Debug, PartialEq)]
pub struct Losses {
    windows: Vec<Vec<f32>>,
}

/// A figure and the interval that holds it with 95 % confidence over other windows of the same kind of text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// From all windows.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Lets a model read `tokens` in windows of `window` tokens, the last of which may be short, and returns its losses.
/// `progress` is called with windows done and windows in all.
///
/// # Errors
/// Whatever a step fails with.
pub fn token_losses(
    engine: &dyn StepEngine,
    tokens: &[u32],
    window: usize,
    top_k: u32,
    progress: &dyn Fn(usize, usize),
) -> Result<Losses, StepError> {
    let windows: Vec<&[u32]> = tokens
        .chunks(window.max(2))
        .filter(|window| window.len() > 1)
        .collect();
    let total = windows.len();
    let mut losses = Vec::with_capacity(total);
    for together in windows.chunks(engine.rows_max()) {
        progress(losses.len(), total);
        losses.extend(read_together(engine, together, top_k)?);
    }
    Ok(Losses { windows: losses })
}

/// Losses of some windows, which the model reads side by side.
fn read_together(
    engine: &dyn StepEngine,
    windows: &[&[u32]],
    top_k: u32,
) -> Result<Vec<Vec<f32>>, StepError> {
    let chunk = engine.chunk_max();
    let mut memories = windows
        .iter()
        .map(|window| engine.new_slot(window.len()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut losses = vec![Vec::new(); windows.len()];
    for start in (0..windows[0].len()).step_by(chunk) {
        let reading = windows
            .iter()
            .zip(&mut memories)
            .filter(|(window, _)| window.len() > start);
        let rows = reading.map(|(window, kv)| {
            let tokens = &window[start..window.len().min(start + chunk)];
            StepRow {
                tokens,
                kv,
                top_k,
                logits: Logits::All,
            }
        });
        let output = engine.step(&mut rows.collect::<Vec<_>>(), &Terminate::default())?;
        let read = windows
            .iter()
            .zip(&mut losses)
            .filter(|(window, _)| window.len() > start);
        for ((window, losses), logits) in read.zip(&output.logits) {
            let positions = logits
                .chunks_exact(engine.vocabulary())
                .zip(&window[start + 1..]);
            losses.extend(positions.map(|(logits, token)| loss(logits, *token)));
        }
    }
    Ok(losses)
}

/// -ln softmax(logits)\[token\], in nats.
fn loss(logits: &[f32], token: u32) -> f32 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - largest).exp())
        .sum();
    (sum.ln() - f64::from(logits[token as usize] - largest)) as f32
}

impl Losses {
    /// Losses that were computed elsewhere, window by window.
    pub fn new(windows: Vec<Vec<f32>>) -> Self {
        Self { windows }
    }

    /// Number of windows.
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Number of predicted tokens.
    pub fn tokens(&self) -> usize {
        self.windows.iter().map(Vec::len).sum()
    }

    /// exp of the mean loss, with a bootstrap interval over windows. The same seed gives the same interval.
    pub fn perplexity(&self, seed: u64) -> Estimate {
        bootstrap(&self.sums(), seed)
    }

    /// This perplexity over another model's on the same windows, with a paired bootstrap interval: both are drawn with
    /// the same windows, so that what is hard for both does not count.
    ///
    /// # Panics
    /// If the windows have other lengths than the other's.
    pub fn ratio_to(&self, other: &Self, seed: u64) -> Estimate {
        let pairs = self.windows.iter().zip(&other.windows);
        assert!(
            self.windows.len() == other.windows.len()
                && pairs.clone().all(|(a, b)| a.len() == b.len()),
            "losses of the same windows"
        );
        let sums: Vec<Sum> = pairs
            .map(|(a, b)| Sum {
                losses: total(a) - total(b),
                tokens: a.len() as f64,
            })
            .collect();
        bootstrap(&sums, seed)
    }

    fn sums(&self) -> Vec<Sum> {
        self.windows
            .iter()
            .map(|window| Sum {
                losses: total(window),
                tokens: window.len() as f64,
            })
            .collect()
    }
}

#[derive(Clone, Copy, Default)]
struct Sum {
    losses: f64,
    tokens: f64,
}

fn total(losses: &[f32]) -> f64 {
    losses.iter().map(|loss| f64::from(*loss)).sum()
}

fn exp_mean(sums: impl Iterator<Item = Sum>) -> f64 {
    let all = sums.fold(Sum::default(), |all, one| Sum {
        losses: all.losses + one.losses,
        tokens: all.tokens + one.tokens,
    });
    (all.losses / all.tokens).exp()
}

/// Percentile bootstrap of exp(mean) over windows.
fn bootstrap(windows: &[Sum], seed: u64) -> Estimate {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw =
        |_| exp_mean((0..windows.len()).map(|_| windows[random.random_range(0..windows.len())]));
    let mut drawn: Vec<f64> = (0..DRAWINGS).map(&mut draw).collect();
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn[((DRAWINGS - 1) as f64 * share).round() as usize];
    Estimate {
        value: exp_mean(windows.iter().copied()),
        low: at(TAIL),
        high: at(1.0 - TAIL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noisy(windows: usize, mean: f32, spread: f32, seed: u64) -> Losses {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut window = |_| {
            let level = mean + spread * random.random_range(-1.0f32..1.0);
            (0..50)
                .map(|_| level + random.random_range(-0.1f32..0.1))
                .collect()
        };
        Losses::new((0..windows).map(&mut window).collect())
    }

    #[test]
    fn a_uniform_guess_over_n_has_perplexity_n() {
        let logits = [0.5f32; 40];
        let losses = Losses::new(vec![vec![loss(&logits, 3); 9], vec![loss(&logits, 39); 4]]);
        let perplexity = losses.perplexity(1);
        assert!(
            (perplexity.value - 40.0).abs() < 1e-4
                && (perplexity.high - perplexity.low).abs() < 1e-9
        );
        assert_eq!((losses.windows(), losses.tokens()), (2, 13));
    }

    #[test]
    fn great_logits_do_not_overflow() {
        assert!((loss(&[1e4, -1e4, 0.0], 0)).abs() < 1e-6);
        assert!((loss(&[1e4, -1e4, 0.0], 1) - 2e4).abs() < 1.0);
    }

    #[test]
    fn the_interval_holds_the_value_and_shrinks_with_more_windows() {
        let width = |windows| {
            let estimate = noisy(windows, 3.0, 1.0, 5).perplexity(1);
            assert!(estimate.low < estimate.value && estimate.value < estimate.high);
            estimate.high - estimate.low
        };
        assert!(width(400) < width(25) / 2.0);
    }

    #[test]
    fn pairing_sees_a_difference_that_the_windows_hide() {
        let good = noisy(60, 3.0, 1.0, 5);
        let worse = Losses::new(
            good.windows
                .iter()
                .map(|w| w.iter().map(|loss| loss + 0.05).collect())
                .collect(),
        );
        let (alone, paired) = (worse.perplexity(1), worse.ratio_to(&good, 1));
        assert!(alone.low < good.perplexity(1).value);
        assert!(
            paired.low > 1.0 && (paired.value - 0.05f64.exp()).abs() < 1e-3,
            "{paired:?}"
        );
    }

    #[test]
    fn the_seed_decides_the_interval() {
        let losses = noisy(30, 2.0, 0.5, 7);
        assert_eq!(losses.perplexity(3), losses.perplexity(3));
        assert_ne!(losses.perplexity(3), losses.perplexity(4));
    }
}
