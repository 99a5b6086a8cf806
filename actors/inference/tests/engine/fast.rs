//! Stored weights: the same numbers as the scalar model up to rounding, and bits that nothing beside a row can change.

use blyan_inference::step::{StepEngine, StepRow, Terminate};

use crate::model::{SHAPE, World};
use crate::scalar::ScalarModel;
use crate::{ALL, assert_close, row, slot, step, tokens};

#[test]
fn logits_are_those_of_the_scalar_model_on_the_rounded_weights() {
    for seed in 0..3 {
        let world = World::fast(seed, |_| {});
        let line = tokens(seed as u32, 20);
        for top_k in [ALL, 4] {
            let expected = ScalarModel::new(&world.weights)
                .logits(&line, top_k as usize, |_, _| true)
                .concat();
            let ours = step(&world, &mut slot(&world), &line, top_k).unwrap();
            assert_close(&ours.logits[0], &expected, 1e-3);
        }
    }
}

/// Prefill in chunks, then decode one by one; the logits of all positions.
fn alone(world: &World, line: &[u32], top_k: u32, prompt: usize) -> Vec<f32> {
    let mut kv = slot(world);
    let mut logits = Vec::new();
    for chunk in line[..prompt].chunks(16).chain(line[prompt..].chunks(1)) {
        logits.extend(step(world, &mut kv, chunk, top_k).unwrap().logits.concat());
    }
    logits
}

#[test]
fn threads_change_no_bit() {
    let line = tokens(8, 70);
    let of = |threads| {
        let world = World::fast(5, |options| options.threads = threads);
        alone(&world, &line, 4, 50)
    };
    let one = of(1);
    assert_eq!(of(2), one);
    assert_eq!(of(3), one);
}

#[test]
fn the_cut_between_prefill_and_decode_changes_no_bit() {
    let world = World::fast(6, |_| {});
    let line = tokens(9, 60);
    let whole = alone(&world, &line, 4, 60);
    for prompt in [0, 1, 17, 40] {
        assert_eq!(
            alone(&world, &line, 4, prompt),
            whole,
            "a prompt of {prompt}"
        );
    }
}

#[test]
fn rows_beside_a_row_change_none_of_its_bits() {
    let world = World::fast(7, |_| {});
    let lines = [
        tokens(1, 48),
        tokens(30, 48),
        tokens(77, 48),
        tokens(60, 48),
    ];
    let top_k = [ALL, 3, 4, ALL];
    let prompts = [40, 3, 16, 25];
    let expected: Vec<_> = (0..4)
        .map(|at| alone(&world, &lines[at], top_k[at], prompts[at]))
        .collect();
    let mut slots: Vec<_> = (0..4).map(|_| slot(&world)).collect();
    let mut logits = vec![Vec::new(); 4];
    for round in 0.. {
        let next = |at: usize, done: usize| match prompts[at].saturating_sub(done) {
            // Rows join late and one after the other, so that every step has other company.
            _ if round < at => 0,
            0 => 1.min(48 - done),
            prompt => prompt.min(16),
        };
        let lens: Vec<_> = slots
            .iter()
            .enumerate()
            .map(|(at, kv)| (kv.len(), next(at, kv.len())))
            .collect();
        if round > 4 && lens.iter().all(|(_, len)| *len == 0) {
            break;
        }
        let taking: Vec<_> = (0..4).filter(|at| lens[*at].1 > 0).collect();
        let mut rows: Vec<StepRow<'_>> = slots
            .iter_mut()
            .enumerate()
            .filter(|(at, _)| lens[*at].1 > 0)
            .map(|(at, kv)| row(&lines[at][lens[at].0..][..lens[at].1], kv, top_k[at]))
            .collect();
        let output = world.engine.step(&mut rows, &Terminate::default()).unwrap();
        for (at, part) in taking.into_iter().zip(output.logits) {
            logits[at].extend(part);
        }
    }
    assert_eq!(logits, expected);
    assert_eq!(logits[0].len(), 48 * SHAPE.vocab);
}
