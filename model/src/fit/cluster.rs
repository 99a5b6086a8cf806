//! Groups of equal size whose members are alike: greedy growth, then swaps for as long as one helps.

use ndarray::{Array2, ArrayView2};
use rand::Rng;
use rand::seq::SliceRandom;

/// Sweeps over all pairs at most; in practice a few tens are enough.
const SWEEPS_MAX: usize = 200;

/// Cuts `0..n` into n / `size` groups of `size`, each sorted, so that the similarity summed over all
/// pairs within groups is as high as swaps of two members can make it. `similarity` `[n, n]` is
/// symmetric. The best of `restarts` random starts is taken; the same seed gives the same groups.
///
/// # Panics
/// If `similarity` is not square, or `size` is zero or does not divide n.
pub fn balanced_groups(
    similarity: ArrayView2<'_, f32>,
    size: usize,
    restarts: usize,
    random: &mut impl Rng,
) -> Vec<Vec<usize>> {
    let n = similarity.nrows();
    assert!(
        similarity.is_square() && size > 0 && n.is_multiple_of(size),
        "[n, n] and size | n"
    );
    let mut best: Option<Grouping<'_>> = None;
    for _ in 0..restarts.max(1) {
        let mut grouping = Grouping::random(similarity, size, random);
        grouping.improve();
        if best
            .as_ref()
            .is_none_or(|best| grouping.within() > best.within())
        {
            best = Some(grouping);
        }
    }
    best.map(Grouping::into_groups).unwrap_or_default()
}

struct Grouping<'a> {
    similarity: ArrayView2<'a, f32>,
    group_of: Vec<usize>,
    groups: usize,
    /// `[n, groups]`: similarity of each item to the members of each group, itself left out.
    pull: Array2<f64>,
}

impl<'a> Grouping<'a> {
    fn random(similarity: ArrayView2<'a, f32>, size: usize, random: &mut impl Rng) -> Self {
        let n = similarity.nrows();
        let mut group_of: Vec<usize> = (0..n).map(|item| item / size).collect();
        group_of.shuffle(random);
        let mut grouping = Self {
            similarity,
            group_of,
            groups: n / size,
            pull: Array2::zeros((n, n / size)),
        };
        for item in 0..n {
            grouping.shift(item, grouping.group_of[item], 1.0);
        }
        grouping
    }

    /// Adds (or with -1 takes away) the similarity of everything else to `item` in group `group`.
    fn shift(&mut self, item: usize, group: usize, sign: f64) {
        for (other, mut pulls) in self.pull.rows_mut().into_iter().enumerate() {
            if other != item {
                pulls[group] += sign * f64::from(self.similarity[[item, other]]);
            }
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        let (from, to) = (self.group_of[a], self.group_of[b]);
        self.shift(a, from, -1.0);
        self.shift(b, to, -1.0);
        self.shift(a, to, 1.0);
        self.shift(b, from, 1.0);
        self.group_of.swap(a, b);
    }

    /// What the sum within groups gains if `a` and `b` change places.
    fn gain(&self, a: usize, b: usize) -> f64 {
        let (from, to) = (self.group_of[a], self.group_of[b]);
        let gained = self.pull[[a, to]] + self.pull[[b, from]];
        let lost = self.pull[[a, from]] + self.pull[[b, to]];
        gained - lost - 2.0 * f64::from(self.similarity[[a, b]])
    }

    /// Per item the best partner, swap after swap, until a whole sweep finds none.
    fn improve(&mut self) {
        let least = 1e-9
            * self
                .similarity
                .diag()
                .iter()
                .map(|s| f64::from(s.abs()))
                .sum::<f64>();
        for _ in 0..SWEEPS_MAX {
            let mut swapped = false;
            for a in 0..self.group_of.len() {
                if let Some((b, gain)) = self.best_partner(a)
                    && gain > least
                {
                    self.swap(a, b);
                    swapped = true;
                }
            }
            if !swapped {
                return;
            }
        }
    }

    fn best_partner(&self, a: usize) -> Option<(usize, f64)> {
        let others = (0..self.group_of.len()).filter(|b| self.group_of[*b] != self.group_of[a]);
        others
            .map(|b| (b, self.gain(a, b)))
            .max_by(|x, y| x.1.total_cmp(&y.1))
    }

    /// Similarity summed over ordered pairs within groups.
    fn within(&self) -> f64 {
        self.group_of
            .iter()
            .enumerate()
            .map(|(item, group)| self.pull[[item, *group]])
            .sum()
    }

    fn into_groups(self) -> Vec<Vec<usize>> {
        let mut groups = vec![Vec::new(); self.groups];
        for (item, group) in self.group_of.into_iter().enumerate() {
            groups[group].push(item);
        }
        groups.sort();
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// Items that are alike if they leave the same remainder, with some noise.
    fn planted(n: usize, groups: usize, noise: f32, seed: u64) -> Array2<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut similarity = Array2::eye(n);
        for a in 0..n {
            for b in 0..a {
                let alike = if a % groups == b % groups { 1.0 } else { 0.0 };
                let value = alike + noise * random.random_range(-1.0f32..1.0);
                similarity[[a, b]] = value;
                similarity[[b, a]] = value;
            }
        }
        similarity
    }

    #[test]
    fn planted_groups_are_found() {
        let similarity = planted(60, 5, 0.4, 1);
        let groups = balanced_groups(similarity.view(), 12, 2, &mut ChaCha8Rng::seed_from_u64(2));
        for (remainder, group) in groups.iter().enumerate() {
            assert!(group.iter().all(|item| item % 5 == remainder), "{groups:?}");
        }
    }

    #[test]
    fn the_seed_decides() {
        let similarity = planted(24, 3, 2.0, 3);
        let groups = |seed| {
            balanced_groups(
                similarity.view(),
                8,
                1,
                &mut ChaCha8Rng::seed_from_u64(seed),
            )
        };
        assert_eq!(groups(5), groups(5));
    }

    proptest! {
        #[test]
        fn groups_are_balanced_cover_all_and_no_swap_helps(seed in any::<u64>(), groups in 2usize..5, size in 1usize..6) {
            let similarity = planted(groups * size, groups, 3.0, seed);
            let found = balanced_groups(similarity.view(), size, 1, &mut ChaCha8Rng::seed_from_u64(seed));
            prop_assert!(found.iter().all(|group| group.len() == size));
            let mut items: Vec<usize> = found.iter().flatten().copied().collect();
            items.sort_unstable();
            prop_assert_eq!(items, (0..groups * size).collect::<Vec<_>>());

            let within = |groups: &[Vec<usize>]| -> f64 {
                groups.iter().flat_map(|g| g.iter().flat_map(move |a| g.iter().map(move |b| (*a, *b))))
                    .map(|pair| f64::from(similarity[pair])).sum()
            };
            let reached = within(&found);
            for i in 0..size {
                for j in 0..size {
                    let mut other = found.clone();
                    let kept = other[0][i];
                    other[0][i] = other[1][j];
                    other[1][j] = kept;
                    prop_assert!(within(&other) <= reached + 1e-3);
                }
            }
        }
    }
}
