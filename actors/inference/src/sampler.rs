//! Draws the next token: a pure function of the logits, the request's [`Sampling`] and the position.

use std::cmp::Ordering;

use blyan_protocol::Sampling;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Candidates looked at first when a nucleus is wanted; grows eightfold until the nucleus is inside.
const NUCLEUS_FIRST: usize = 64;

/// The next token, or `None` when no logit is a number (or there are none).
///
/// `position` is the number of tokens generated before. NaN counts as impossible, +inf as the largest finite logit.
/// Temperature 0 takes the highest logit, of equals the lowest id. The same arguments give the same token on any
/// machine with the same `exp`.
#[must_use]
pub fn sample(logits: &[f32], sampling: &Sampling, position: u64) -> Option<u32> {
    let best = argmax(logits)?;
    if sampling.temperature <= 0.0 || sampling.top_k == Some(1) {
        return Some(best);
    }
    let candidates = Candidates::new(logits, best, sampling.temperature);
    let draw = uniform(sampling.seed, position);
    let kept = candidates.keep(sampling.top_k, sampling.top_p);
    Some(pick(&kept, draw).unwrap_or(best))
}

/// A token with its logit.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
    /// Relative to the best, which has 1.
    weight: f64,
}

impl Candidate {
    /// Best first, of equals the lowest id first: a total order.
    fn rank(&self, other: &Self) -> Ordering {
        other
            .logit
            .total_cmp(&self.logit)
            .then(self.id.cmp(&other.id))
    }
}

struct Candidates(Vec<Candidate>);

impl Candidates {
    /// In the order of their ids; tokens of no weight at this temperature are left out.
    fn new(logits: &[f32], best: u32, temperature: f32) -> Self {
        let top = f64::from(usable(logits[best as usize]));
        let weigh = |(id, logit): (usize, &f32)| {
            let logit = usable(*logit);
            let weight = ((f64::from(logit) - top) / f64::from(temperature)).exp();
            (weight > 0.0).then_some(Candidate {
                id: id as u32,
                logit,
                weight,
            })
        };
        Self(logits.iter().enumerate().filter_map(weigh).collect())
    }

    /// The `top_k` best of them, and of those the fewest best that hold the share `top_p`.
    fn keep(mut self, top_k: Option<u32>, top_p: f32) -> Vec<Candidate> {
        if let Some(k) = top_k {
            self.best_first(k as usize);
            self.0.truncate(k as usize);
        }
        if top_p < 1.0 {
            self.keep_nucleus(top_p);
        }
        self.0
    }

    fn keep_nucleus(&mut self, top_p: f32) {
        let goal = f64::from(top_p) * self.0.iter().map(|one| one.weight).sum::<f64>();
        let mut sorted = NUCLEUS_FIRST;
        loop {
            self.best_first(sorted);
            let mut sum = 0.0;
            let last = self.0.iter().take(sorted).position(|one| {
                sum += one.weight;
                sum >= goal
            });
            match last {
                Some(last) => return self.0.truncate(last + 1),
                None if sorted >= self.0.len() => return,
                None => sorted = sorted.saturating_mul(8),
            }
        }
    }

    /// Brings the `count` best to the front, in order.
    fn best_first(&mut self, count: usize) {
        let count = count.min(self.0.len());
        if count < self.0.len() {
            self.0.select_nth_unstable_by(count, Candidate::rank);
        }
        self.0[..count].sort_unstable_by(Candidate::rank);
    }
}

fn pick(candidates: &[Candidate], draw: f64) -> Option<u32> {
    let goal = draw * candidates.iter().map(|one| one.weight).sum::<f64>();
    let mut sum = 0.0;
    let chosen = candidates.iter().find(|one| {
        sum += one.weight;
        sum > goal
    });
    chosen.or(candidates.last()).map(|one| one.id)
}

/// A number in [0, 1): the `position`-th stream of the seed's generator.
fn uniform(seed: u64, position: u64) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(position);
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(usize, f32)> = None;
    for (id, logit) in logits.iter().map(|logit| usable(*logit)).enumerate() {
        if logit > best.map_or(f32::NEG_INFINITY, |(_, best)| best) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id as u32)
}

fn usable(logit: f32) -> f32 {
    if logit.is_nan() {
        f32::NEG_INFINITY
    } else {
        logit.min(f32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampling(temperature: f32, top_p: f32, top_k: Option<u32>, seed: u64) -> Sampling {
        Sampling {
            temperature,
            top_p,
            top_k,
            seed,
        }
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        let greedy = sampling(0.0, 1.0, None, 7);
        assert_eq!(sample(&[1.0, 3.0, 3.0, 2.0], &greedy, 0), Some(1));
        assert_eq!(sample(&[f32::NAN, -5.0, f32::NAN], &greedy, 0), Some(1));
        assert_eq!(sample(&[1.0, f32::INFINITY, f32::MAX], &greedy, 0), Some(1));
    }

    #[test]
    fn nothing_can_be_drawn_from_nothing() {
        for temperature in [0.0, 1.0] {
            let sampling = sampling(temperature, 0.9, Some(5), 1);
            assert_eq!(sample(&[], &sampling, 0), None);
            assert_eq!(sample(&[f32::NAN, f32::NEG_INFINITY], &sampling, 0), None);
        }
    }

    #[test]
    fn frequencies_follow_the_weights() {
        let logits = [0.0, 2.0_f32.ln(), 4.0_f32.ln(), f32::NAN];
        let mut counts = [0_u32; 4];
        for position in 0..7000 {
            let token = sample(&logits, &sampling(1.0, 1.0, None, 42), position).unwrap();
            counts[token as usize] += 1;
        }
        for (count, expected) in counts.iter().zip([1000_u32, 2000, 4000, 0]) {
            assert!(count.abs_diff(expected) < 200, "{counts:?}");
        }
    }

    #[test]
    fn a_wide_nucleus_is_found_beyond_the_first_guess() {
        let logits = vec![0.0; 5000];
        let kept = Candidates::new(&logits, 0, 1.0).keep(None, 0.5);
        let ids: Vec<u32> = kept.iter().map(|one| one.id).collect();
        assert_eq!(ids, (0..2500).collect::<Vec<_>>());
    }

    /// The nucleus by definition, with a full sort.
    fn plain_nucleus(logits: &[f32], temperature: f32, top_k: Option<u32>, top_p: f32) -> Vec<u32> {
        let best = argmax(logits).unwrap();
        let mut all = Candidates::new(logits, best, temperature).0;
        all.sort_by(Candidate::rank);
        all.truncate(top_k.map_or(usize::MAX, |k| k as usize));
        let total: f64 = all.iter().map(|one| one.weight).sum();
        let mut sum = 0.0;
        let mut kept = Vec::new();
        for one in all {
            if top_p < 1.0 && sum >= f64::from(top_p) * total {
                break;
            }
            sum += one.weight;
            kept.push(one.id);
        }
        kept.sort_unstable();
        kept
    }

    fn logit() -> impl Strategy<Value = f32> {
        prop_oneof![
            8 => -20.0_f32..20.0,
            2 => (-3_i8..3).prop_map(f32::from),
            1 => prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
        ]
    }

    proptest! {
        #[test]
        fn a_draw_is_a_kept_token_and_repeats(
            logits in prop::collection::vec(logit(), 1..300),
            temperature in 0.01_f32..2.0,
            top_p in 0.01_f32..=1.0,
            top_k in prop::option::of(1_u32..40),
            seed: u64,
            position in 0_u64..1000,
        ) {
            let sampling = sampling(temperature, top_p, top_k, seed);
            let drawn = sample(&logits, &sampling, position);
            prop_assert_eq!(drawn, sample(&logits, &sampling, position));
            match drawn {
                None => prop_assert!(logits.iter().all(|l| l.is_nan() || *l == f32::NEG_INFINITY)),
                Some(token) => {
                    prop_assert!(!logits[token as usize].is_nan());
                    let kept = plain_nucleus(&logits, temperature, top_k, top_p);
                    prop_assert!(kept.contains(&token), "{token} not in {kept:?}");
                }
            }
        }

        #[test]
        fn what_is_kept_is_the_nucleus(
            logits in prop::collection::vec(-8.0_f32..8.0, 1..900),
            temperature in 0.1_f32..2.0,
            top_p in 0.05_f32..0.999,
            top_k in prop::option::of(1_u32..700),
        ) {
            let best = argmax(&logits).unwrap();
            let kept = Candidates::new(&logits, best, temperature).keep(top_k, top_p);
            let kept_len = kept.len();
            let plain_len = plain_nucleus(&logits, temperature, top_k, top_p).len();
            // The two sums are taken in different orders.
            prop_assert!(kept_len.abs_diff(plain_len) <= 1, "{kept_len} {plain_len}");
        }

        #[test]
        fn a_cold_draw_is_greedy(logits in prop::collection::vec(-8_i16..8, 1..50), seed: u64) {
            let mut logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            logits.push(9.0);
            let cold = sampling(1e-3, 1.0, None, seed);
            prop_assert_eq!(sample(&logits, &cold, 0), Some(logits.len() as u32 - 1));
        }
    }
}
