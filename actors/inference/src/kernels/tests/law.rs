//! Equal bits.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::draw::{self, Range};
use super::{Stored, bits, model};
use crate::kernels::lanes::BLOCK;
use crate::kernels::{Isa, QuantisedRows, ShapeError};

/// Block products of the long test where nothing else is said.
const CASES: u64 = 300_000;

fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().expect("a number"),
        Err(_) => default,
    }
}

fn matrix(random: &mut ChaCha8Rng) -> Stored {
    let range = if random.random() {
        Range::Usual
    } else {
        Range::Extreme
    };
    let (rows, cols) = (
        random.random_range(1..50),
        BLOCK * random.random_range(1..20),
    );
    match random.random_range(0..5) {
        0..2 => draw::int8_matrix(random, range, rows, cols),
        2..4 => draw::uint4_matrix(random, range, rows, cols),
        _ => draw::fp32_matrix(random, range, rows, cols),
    }
}

#[test]
fn every_isa_gives_the_bits_of_the_scalar_model() {
    let seed = from_environment("BLYAN_KERNEL_SEED", rand::random());
    let cases = from_environment("BLYAN_KERNEL_CASES", CASES);
    eprintln!("BLYAN_KERNEL_SEED={seed} BLYAN_KERNEL_CASES={cases}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut done = 0;
    while done < cases {
        let tokens = match random.random_range(0..3) {
            0 => 1,
            _ => random.random_range(1..30),
        };
        done += if random.random_ratio(1, 4) {
            compare_expert(&mut random, tokens)
        } else {
            compare_product(&mut random, tokens)
        };
    }
}

/// Returns the number of block products.
fn compare_product(random: &mut ChaCha8Rng, tokens: usize) -> u64 {
    let matrix = matrix(random);
    let input = draw::activations(random, Range::Extreme, tokens, matrix.cols);
    let expected = bits(&model::product(&matrix, &input));
    for isa in Isa::all_supported() {
        let found = bits(&matrix.product(isa, &input));
        assert!(found == expected, "{isa:?}: {matrix:?} {input:?}");
    }
    (matrix.rows * matrix.cols / BLOCK * tokens) as u64
}

fn compare_expert(random: &mut ChaCha8Rng, tokens: usize) -> u64 {
    let (hidden, neurons) = (
        BLOCK * random.random_range(1..6),
        random.random_range(1..50),
    );
    let neurons = if random.random_ratio(1, 20) {
        neurons + 500
    } else {
        neurons
    };
    let range = if random.random() {
        Range::Usual
    } else {
        Range::Extreme
    };
    let expert = draw::expert(random, range, hidden, neurons);
    let input = draw::activations(random, Range::Extreme, tokens, hidden);
    let expected = bits(&model::expert(&expert, &input));
    for isa in Isa::all_supported() {
        let found = bits(&expert.compute(isa, &input));
        assert!(found == expected, "{isa:?}: {expert:?} {input:?}");
    }
    (3 * neurons * hidden / BLOCK * tokens) as u64
}

#[test]
fn a_token_does_not_depend_on_those_beside_it() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for tokens in (1..40).chain([64, 129]) {
        let matrix = matrix(&mut random);
        let expert = draw::expert(&mut random, Range::Extreme, matrix.cols, 33);
        let input = draw::activations(&mut random, Range::Extreme, tokens, matrix.cols);
        let mut order: Vec<usize> = (0..tokens).collect();
        order.shuffle(&mut random);
        let row = |token: usize| &input[token * matrix.cols..][..matrix.cols];
        let shuffled: Vec<f32> = order
            .iter()
            .flat_map(|token| row(*token))
            .copied()
            .collect();
        for isa in Isa::all_supported() {
            let products = matrix.product(isa, &shuffled);
            let shares = expert.compute(isa, &shuffled);
            for (at, token) in order.iter().enumerate() {
                let alone = bits(&matrix.product(isa, row(*token)));
                let beside = bits(&products[at * matrix.rows..][..matrix.rows]);
                assert_eq!(alone, beside, "{isa:?}, token {token} of {tokens}");
                let alone = bits(&expert.compute(isa, row(*token)));
                let beside = bits(&shares[at * matrix.cols..][..matrix.cols]);
                assert_eq!(alone, beside, "{isa:?}, token {token} of {tokens}");
            }
        }
    }
}

#[test]
fn selected_tokens_are_as_if_they_alone_had_been_quantised() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..20 {
        let matrix = matrix(&mut random);
        let tokens = random.random_range(1..20);
        let input = draw::activations(&mut random, Range::Extreme, tokens, matrix.cols);
        let chosen: Vec<u32> = (0..tokens as u32).filter(|_| random.random()).collect();
        let row = |token: &u32| &input[*token as usize * matrix.cols..][..matrix.cols];
        let alone: Vec<f32> = chosen.iter().flat_map(row).copied().collect();
        for isa in Isa::all_supported() {
            let all = QuantisedRows::with(isa, &input, matrix.cols).unwrap();
            let mut out = vec![0.0; chosen.len() * matrix.rows];
            let x = all.select(&chosen);
            matrix
                .matrix()
                .product(0..matrix.rows, &x, &mut out)
                .unwrap();
            assert_eq!(bits(&out), bits(&matrix.product(isa, &alone)), "{isa:?}");
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_range() {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..60 {
        let matrix = matrix(&mut random);
        let tokens = random.random_range(1..6);
        let input = draw::activations(&mut random, Range::Extreme, tokens, matrix.cols);
        let start = random.random_range(0..=matrix.rows);
        let range = start..random.random_range(start..=matrix.rows);
        for isa in Isa::all_supported() {
            let whole = matrix.product(isa, &input);
            let x = QuantisedRows::with(isa, &input, matrix.cols).unwrap();
            let mut part = vec![0.0; tokens * range.len()];
            let (view, rows) = (matrix.matrix(), range.clone());
            view.product(rows, &x, &mut part).unwrap();
            let expected: Vec<f32> = whole
                .chunks(matrix.rows)
                .flat_map(|row| &row[range.clone()])
                .copied()
                .collect();
            assert_eq!(bits(&part), bits(&expected), "{isa:?} {range:?}");
        }
    }
}

#[test]
fn what_is_not_finite_stays_so_and_stays_in_its_token() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let matrix = draw::int8_matrix(&mut random, Range::Usual, 20, 64);
    let expert = draw::expert(&mut random, Range::Usual, 64, 40);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut input = draw::activations(&mut random, Range::Usual, 3, 64);
        input[64 + 17] = bad;
        for isa in Isa::all_supported() {
            for (out, width) in [
                (matrix.product(isa, &input), 20),
                (expert.compute(isa, &input), 64),
            ] {
                let finite: Vec<bool> = out.iter().map(|y| y.is_finite()).collect();
                assert!(
                    finite[..width].iter().all(|finite| *finite),
                    "{isa:?} {bad}"
                );
                assert!(
                    finite[width..2 * width].iter().all(|finite| !finite),
                    "{isa:?} {bad}"
                );
                assert!(
                    finite[2 * width..].iter().all(|finite| *finite),
                    "{isa:?} {bad}"
                );
            }
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let matrix = draw::int8_matrix(&mut random, Range::Usual, 4, 64);
    let x = QuantisedRows::new(&[1.0; 128], 64).unwrap();
    let refusal = |rows, x: &QuantisedRows, len: usize| {
        let result = matrix.matrix().product(rows, x, &mut vec![0.0; len]);
        result.map_err(|ShapeError { what, .. }| what)
    };
    assert_eq!(refusal(0..4, &x, 8), Ok(()));
    assert_eq!(refusal(2..2, &x, 0), Ok(()));
    assert_eq!(refusal(0..5, &x, 10), Err("end of rows"));
    assert_eq!(refusal(0..4, &x, 9), Err("output"));
    let narrow = QuantisedRows::new(&[1.0; 32], 32).unwrap();
    assert_eq!(refusal(0..4, &narrow, 4), Err("width of activations"));
    assert!(QuantisedRows::new(&[1.0; 40], 40).is_err());
    assert!(QuantisedRows::new(&[1.0; 40], 32).is_err());
    let none = QuantisedRows::new(&[], 64).unwrap();
    assert_eq!(refusal(0..4, &none, 0), Ok(()));
    let expert = draw::expert(&mut random, Range::Usual, 64, 3);
    assert!(expert.compute(Isa::detect(), &[]).is_empty());
}
