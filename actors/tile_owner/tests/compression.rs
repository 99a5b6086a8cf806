//! Nothing is lost by compressing, and nothing a stranger sends does harm.

use blyan_tile_owner::{
    Compressor, Delta, DeltaId, Round, SUB_TILE_LEN, TileError, UNITS_MAX, decode, encode,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ID: DeltaId = DeltaId {
    learner: [7; 32],
    sequence: 3,
};
const HEADER_LEN: usize = 57;

/// Compresses, sends and receives.
fn send(compressor: &mut Compressor, gradient: &[i64]) -> (Vec<u8>, Delta) {
    let parts = compressor.compress(gradient).unwrap();
    let bytes = encode(ID, 9, gradient.len() as u32, &parts).unwrap();
    let delta = decode(&bytes, gradient.len()).unwrap();
    (bytes, delta)
}

/// Mostly small values, some large, some 0.
fn random_gradient(rng: &mut ChaCha8Rng, len: usize) -> Vec<i64> {
    let magnitude = rng.random_range(0..36);
    let mut draw = || {
        let shift = rng.random_range(0..=magnitude);
        rng.random_range(-(1_i64 << shift)..=1 << shift) * i64::from(rng.random_bool(0.9))
    };
    (0..len).map(|_| draw()).collect()
}

#[test]
fn what_is_sent_and_what_is_owed_are_what_was_given_over_a_hundred_thousand_steps() {
    const LEN: usize = 48;
    let seed = 31;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut compressor = Compressor::new(LEN, 40).unwrap();
    let (mut given, mut sent) = ([0_i128; LEN], [0_i128; LEN]);
    for step in 0..100_000 {
        let gradient = random_gradient(&mut rng, LEN);
        let (_, delta) = send(&mut compressor, &gradient);
        for (sum, value) in given.iter_mut().zip(&gradient) {
            *sum += i128::from(*value);
        }
        for (place, units) in delta.entries {
            sent[place as usize] += i128::from(units);
        }
        for (place, owed) in compressor.residual().iter().enumerate() {
            assert_eq!(
                given[place],
                sent[place] + i128::from(*owed),
                "seed {seed}, step {step}"
            );
        }
    }
    assert!(
        sent.iter().all(|sum| *sum != 0),
        "seed {seed}: a place was never sent"
    );
}

#[test]
fn a_tile_of_several_sub_tiles_comes_back_as_it_was_sent() {
    for seed in 0..20 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let len = rng.random_range(SUB_TILE_LEN..2 * SUB_TILE_LEN + 9);
        let share = rng.random_range(1..=1000);
        let mut gradient = random_gradient(&mut rng, len);
        gradient[..SUB_TILE_LEN].fill(0);
        let mut compressor = Compressor::new(len, share).unwrap();
        let (_, delta) = send(&mut compressor, &gradient);
        let mut owed = gradient;
        for (place, units) in &delta.entries {
            owed[*place as usize] -= units;
        }
        assert_eq!(owed, compressor.residual(), "seed {seed}");
        assert_eq!((delta.id, delta.base, delta.tile_len), (ID, 9, len));
        assert_eq!(Round::new(9, len).accept(&delta), Ok(()), "seed {seed}");
    }
}

#[test]
fn the_largest_values_are_sent_in_127_steps() {
    let mut gradient = vec![0; 100];
    (gradient[10], gradient[20], gradient[30]) = (1270, -634, 635);
    (gradient[40], gradient[50]) = (635, 4);
    let mut compressor = Compressor::new(100, 30).unwrap();
    let (_, delta) = send(&mut compressor, &gradient);
    // A step is 10 units; 63.5 steps are rounded away from 0; of two equal values the first is sent.
    assert_eq!(delta.entries, [(10, 1270), (30, 640), (40, 640)]);
    let (_, delta) = send(&mut compressor, &[0; 100]);
    assert_eq!(delta.entries, [(20, -635), (30, -5), (40, -5)]);
}

#[test]
fn values_that_become_0_are_not_sent_and_an_empty_delta_is_short() {
    let mut compressor = Compressor::new(3, 1000).unwrap();
    let (_, delta) = send(&mut compressor, &[1270, 4, -5]);
    assert_eq!(delta.entries, [(0, 1270), (2, -10)]);
    assert_eq!(compressor.residual(), [0, 4, 5]);
    let (bytes, delta) = send(&mut Compressor::new(3, 1000).unwrap(), &[0; 3]);
    assert_eq!((bytes.len(), delta.entries.len()), (HEADER_LEN + 8, 0));
}

#[test]
fn the_range_is_kept_and_a_refused_gradient_is_not_taken() {
    for largest in [UNITS_MAX - 127, 127 - UNITS_MAX] {
        let mut compressor = Compressor::new(2, 1000).unwrap();
        let (_, delta) = send(&mut compressor, &[largest, 1]);
        assert_eq!(Round::new(9, 2).accept(&delta), Ok(()));
    }
    for share in [0, 1001] {
        assert!(matches!(
            Compressor::new(2, share),
            Err(TileError::Setting { .. })
        ));
    }
    let mut compressor = Compressor::resume(vec![5, i64::MAX], 1000).unwrap();
    let before = compressor.clone();
    let too_large = |index| Err(TileError::TooLarge { index });
    assert_eq!(compressor.compress(&[0, 1]), too_large(1));
    assert_eq!(compressor.compress(&[UNITS_MAX - 131, 0]), too_large(0));
    assert_eq!(compressor.compress(&[i64::MIN, 0]), too_large(0));
    assert!(matches!(
        compressor.compress(&[0]),
        Err(TileError::WrongLength { .. })
    ));
    assert_eq!(compressor, before);
}

/// Bytes of a delta with two sub-tiles, one of them with many kept values.
fn valid(seed: u64) -> (Vec<u8>, usize) {
    let len = SUB_TILE_LEN + 300;
    let mut gradient = vec![0; SUB_TILE_LEN];
    gradient.extend(random_gradient(&mut ChaCha8Rng::seed_from_u64(seed), 300));
    (
        send(&mut Compressor::new(len, 300).unwrap(), &gradient).0,
        len,
    )
}

#[test]
fn cut_long_and_changed_bytes_are_refused_or_are_another_valid_delta() {
    let (bytes, len) = valid(1);
    for end in 0..bytes.len() {
        assert!(decode(&bytes[..end], len).is_err(), "cut at {end}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(
        decode(&longer, len),
        Err(TileError::Malformed("bytes follow its end"))
    );
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << bit;
            if let Ok(delta) = decode(&changed, len) {
                assert_eq!(
                    Round::new(delta.base, len).accept(&delta),
                    Ok(()),
                    "{place}, bit {bit}"
                );
            }
        }
    }
}

#[test]
fn random_bytes_behind_a_good_head_never_make_a_delta_that_a_round_refuses() {
    let (head, len) = valid(2);
    let mut accepted = 0;
    for seed in 0..50_000 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = head[..HEADER_LEN + 8 + 15].to_vec();
        let count = rng.random_range(1..6_u32);
        bytes[HEADER_LEN + 16..][..4].copy_from_slice(&count.to_le_bytes());
        bytes.extend((0..rng.random_range(0..12)).map(|_| rng.random::<u8>()));
        if let Ok(delta) = decode(&bytes, len) {
            accepted += 1;
            assert_eq!(Round::new(9, len).accept(&delta), Ok(()), "seed {seed}");
            assert_eq!(delta.entries.len(), count as usize, "seed {seed}");
        }
    }
    assert!(accepted > 0, "no input got past the reader");
}

#[test]
fn each_field_out_of_range_is_named() {
    let (bytes, len) = valid(3);
    let part = HEADER_LEN + 8;
    let changed = |place: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[place..][..new.len()].copy_from_slice(new);
        decode(&bytes, len)
    };
    let malformed = |why| Err(TileError::Malformed(why));
    assert_eq!(changed(0, b"b"), malformed("it does not begin as a delta"));
    assert_eq!(changed(4, &[2]), Err(TileError::Version { found: 2 }));
    assert!(matches!(
        changed(53, &[0; 4]),
        Err(TileError::WrongLength { .. })
    ));
    for scale in [-1, i64::MIN, UNITS_MAX / 127 + 1] {
        assert_eq!(
            changed(part, &scale.to_le_bytes()),
            malformed("a scale is out of range")
        );
    }
    for count in [0, 301, u32::MAX] {
        assert_eq!(
            changed(part + 8, &count.to_le_bytes()),
            malformed("a count is out of range")
        );
    }
    assert_eq!(
        changed(part + 12, &[0]),
        malformed("a count is out of range")
    );
    assert_eq!(
        changed(part + 12, &[128]),
        malformed("a value is out of range")
    );
    for place in [part + 13, part + 14] {
        assert_eq!(
            changed(place, &[17]),
            malformed("a Rice parameter is out of range")
        );
    }
}
