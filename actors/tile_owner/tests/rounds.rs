//! Sums that no order changes, and what a round refuses.

use blyan_tile_owner::{
    DELTAS_MAX, Delta, DeltaId, Round, TileError, UNITS_MAX, UNITS_PER_ONE, to_units,
};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const TILE_LEN: usize = 64;
const BASE: u64 = 5;

fn delta(sequence: u64, entries: Vec<(u32, i64)>) -> Delta {
    let id = DeltaId {
        learner: [1; 32],
        sequence,
    };
    Delta {
        id,
        base: BASE,
        tile_len: TILE_LEN,
        entries,
    }
}

/// Gradients whose sizes differ so much that a sum of floats depends on its order.
fn random_deltas(rng: &mut ChaCha8Rng, count: u64) -> Vec<Delta> {
    (0..count)
        .map(|sequence| {
            let values: Vec<f32> = (0..TILE_LEN)
                .map(|_| rng.random_range(-1.0_f32..1.0) * 10.0_f32.powi(rng.random_range(-9..3)))
                .collect();
            let units = to_units(&values).unwrap();
            delta(sequence, (0..).zip(units).collect())
        })
        .collect()
}

fn sum(deltas: &[Delta]) -> Round {
    let mut round = Round::new(BASE, TILE_LEN);
    deltas.iter().for_each(|d| round.accept(d).unwrap());
    round
}

fn sum_on_two_threads(deltas: &[Delta]) -> Round {
    let (left, right) = deltas.split_at(deltas.len() / 3);
    std::thread::scope(|threads| {
        let left = threads.spawn(|| sum(left));
        let mut round = sum(right);
        round.merge(&left.join().unwrap()).unwrap();
        round
    })
}

fn bits(round: &Round) -> Vec<u32> {
    round.mean().unwrap().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_thousand_orders_on_one_and_two_threads_have_equal_bits() {
    let seed = 20;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut deltas = random_deltas(&mut rng, 24);
    let expected = bits(&sum(&deltas));
    for order in 0..1000 {
        deltas.shuffle(&mut rng);
        assert_eq!(bits(&sum(&deltas)), expected, "seed {seed}, order {order}");
        let threads = sum_on_two_threads(&deltas);
        assert_eq!(
            bits(&threads),
            expected,
            "seed {seed}, order {order}, two threads"
        );
    }
}

#[test]
fn the_mean_is_that_of_the_values() {
    let one = UNITS_PER_ONE;
    let round = sum(&[
        delta(0, vec![(0, one), (3, -one)]),
        delta(1, vec![(0, 2 * one), (9, 3)]),
    ]);
    let mean = round.mean().unwrap();
    assert_eq!((mean[0], mean[3], mean[1]), (1.5, -0.5, 0.0));
    assert_eq!(f64::from(mean[9]) * one as f64, 1.5);
    assert_eq!(
        Round::new(BASE, 1).mean(),
        Err(TileError::Empty("the round"))
    );
}

#[test]
fn values_become_the_nearest_unit_or_are_refused_by_name() {
    let unit = 1.0 / UNITS_PER_ONE as f32;
    let values = [
        1.0,
        -0.5,
        unit,
        0.5 * unit,
        1.5 * unit,
        0.4 * unit,
        -0.0,
        1024.0,
        -1024.0,
    ];
    let half = UNITS_PER_ONE / 2;
    let units = [UNITS_PER_ONE, -half, 1, 0, 2, 0, 0, UNITS_MAX, -UNITS_MAX];
    assert_eq!(to_units(&values).unwrap(), units);
    for (value, refusal) in [
        (f32::NAN, TileError::NotANumber { index: 1 }),
        (f32::INFINITY, TileError::Infinite { index: 1 }),
        (f32::NEG_INFINITY, TileError::Infinite { index: 1 }),
        (1024.0001, TileError::TooLarge { index: 1 }),
        (-1024.0001, TileError::TooLarge { index: 1 }),
        (f32::MAX, TileError::TooLarge { index: 1 }),
    ] {
        assert_eq!(to_units(&[0.0, value]), Err(refusal));
    }
}

#[test]
fn what_must_not_count_is_refused_by_name() {
    let good = delta(0, vec![(1, 7)]);
    let mut round = sum(std::slice::from_ref(&good));
    let before = round.clone();
    let wrong_base = |found| TileError::WrongBase {
        expected: BASE,
        found,
    };
    let wrong_length = TileError::WrongLength {
        what: "the delta's tile",
        expected: TILE_LEN,
        found: TILE_LEN + 1,
    };
    let fresh = |entries| delta(1, entries);
    for (delta, refusal) in [
        (good.clone(), TileError::Replayed),
        (
            Delta {
                base: BASE - 1,
                ..fresh(vec![])
            },
            wrong_base(BASE - 1),
        ),
        (
            Delta {
                base: BASE + 1,
                ..good.clone()
            },
            wrong_base(BASE + 1),
        ),
        (
            Delta {
                tile_len: TILE_LEN + 1,
                ..fresh(vec![])
            },
            wrong_length,
        ),
        (
            fresh(vec![(TILE_LEN as u32, 1)]),
            TileError::Misplaced { index: TILE_LEN },
        ),
        (
            fresh(vec![(3, 1), (3, 1)]),
            TileError::Misplaced { index: 3 },
        ),
        (
            fresh(vec![(3, 1), (2, 1)]),
            TileError::Misplaced { index: 2 },
        ),
        (
            fresh(vec![(0, 1), (2, UNITS_MAX + 1)]),
            TileError::TooLarge { index: 2 },
        ),
        (fresh(vec![(4, i64::MIN)]), TileError::TooLarge { index: 4 }),
    ] {
        assert_eq!(round.accept(&delta), Err(refusal));
        assert_eq!(round, before, "{refusal} changed the sum");
    }
    assert_eq!(round.merge(&before), Err(TileError::Replayed));
    assert_eq!(round.merge(&Round::new(9, TILE_LEN)), Err(wrong_base(9)));
    assert!(round.merge(&Round::new(BASE, 1)).is_err());
    assert_eq!(round, before);
}

#[test]
fn the_fullest_round_of_the_largest_values_does_not_overflow() {
    for value in [UNITS_MAX, -UNITS_MAX] {
        let deltas = |from: u64, to: u64| -> Vec<Delta> {
            (from..to).map(|n| delta(n, vec![(0, value)])).collect()
        };
        let full = DELTAS_MAX as u64;
        let mut round = sum(&deltas(1, full));
        round.merge(&sum(&deltas(0, 1))).unwrap();
        assert_eq!(round.mean().unwrap()[0], value.signum() as f32 * 1024.0);
        assert_eq!(round.accepted().len(), DELTAS_MAX);
        assert_eq!(
            round.accept(&delta(full, vec![])),
            Err(TileError::RoundFull)
        );
        assert_eq!(
            round.merge(&sum(&deltas(full, full + 1))),
            Err(TileError::RoundFull)
        );
    }
}
