//! Which experts compute which tokens.

use super::ffn::RowSpan;

/// Chooses experts of one layer: always-on ones for every token, and per token the routed ones with the highest
/// scores, the lower index first where scores are equal. `scores` is `[T, routed]`. Experts marked in `corrupt` are
/// passed over.
///
/// Returns for each expert the tokens it computes, ascending.
///
/// # Errors
/// The number of a corrupt expert without which there are too few.
pub fn choose(
    rows: &[RowSpan],
    scores: &[f32],
    always_on: usize,
    corrupt: &[bool],
) -> Result<Vec<Vec<u32>>, usize> {
    let routed = corrupt.len() - always_on;
    let healthy: Vec<usize> = (always_on..corrupt.len())
        .filter(|expert| !corrupt[*expert])
        .collect();
    let needed = rows
        .iter()
        .map(|row| row.top_k - always_on)
        .max()
        .unwrap_or(0);
    if let Some(missing) = missing(always_on, corrupt, healthy.len() < needed) {
        return Err(missing);
    }
    let mut tokens_of = vec![Vec::new(); corrupt.len()];
    for row in rows {
        for token in row.tokens.clone() {
            let scores = &scores[token * routed..][..routed];
            let best = best(&healthy, row.top_k - always_on, |expert| {
                scores[expert - always_on]
            });
            (0..always_on)
                .chain(best)
                .for_each(|expert| tokens_of[expert].push(token as u32));
        }
    }
    Ok(tokens_of)
}

/// A corrupt expert that cannot be passed over.
fn missing(always_on: usize, corrupt: &[bool], routed_too: bool) -> Option<usize> {
    let needed = if routed_too { corrupt.len() } else { always_on };
    corrupt[..needed].iter().position(|corrupt| *corrupt)
}

fn best(candidates: &[usize], count: usize, score: impl Fn(usize) -> f32) -> Vec<usize> {
    let mut order = candidates.to_vec();
    if count < order.len() {
        order.sort_unstable_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
        order.truncate(count);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_token(top_k: usize) -> [RowSpan; 1] {
        [RowSpan {
            tokens: 0..1,
            top_k,
        }]
    }

    fn chosen(tokens_of: &[Vec<u32>]) -> Vec<usize> {
        (0..tokens_of.len())
            .filter(|expert| !tokens_of[*expert].is_empty())
            .collect()
    }

    #[test]
    fn best_scores_join_the_always_on() {
        let scores = [0.1, 0.9, -3.0, 0.9];
        let pick = |top_k| chosen(&choose(&one_token(top_k), &scores, 2, &[false; 6]).unwrap());
        assert_eq!(pick(2), [0, 1]);
        assert_eq!(pick(3), [0, 1, 3]);
        assert_eq!(pick(4), [0, 1, 3, 5]);
        assert_eq!(pick(5), [0, 1, 2, 3, 5]);
        assert_eq!(pick(6), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn equal_scores_go_to_the_lower_index() {
        let pick = |top_k| chosen(&choose(&one_token(top_k), &[1.0; 4], 1, &[false; 5]).unwrap());
        assert_eq!(pick(3), [0, 1, 2]);
    }

    #[test]
    fn every_row_has_its_own_count() {
        let rows = [
            RowSpan {
                tokens: 0..2,
                top_k: 1,
            },
            RowSpan {
                tokens: 2..3,
                top_k: 2,
            },
        ];
        let scores = [5.0, 6.0, 5.0, 6.0, 6.0, 5.0];
        assert_eq!(
            choose(&rows, &scores, 1, &[false; 3]),
            Ok(vec![vec![0, 1, 2], vec![2], vec![]])
        );
    }

    #[test]
    fn corrupt_routed_experts_are_passed_over_while_others_suffice() {
        let corrupt = [false, false, true, false];
        let scores = [1.0, 9.0, 2.0];
        let pick = |top_k| {
            choose(&one_token(top_k), &scores, 1, &corrupt).map(|tokens_of| chosen(&tokens_of))
        };
        assert_eq!(pick(2), Ok(vec![0, 3]));
        assert_eq!(pick(3), Ok(vec![0, 1, 3]));
        assert_eq!(pick(4), Err(2));
    }

    #[test]
    fn a_corrupt_always_on_expert_is_never_passed_over() {
        assert_eq!(
            choose(&one_token(2), &[1.0, 1.0], 2, &[false, true, false, false]),
            Err(1)
        );
    }
}
