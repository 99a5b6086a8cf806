//! What comes out of steps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use blyan_inference::engine::{Engine, EngineOptions, FfnCall, FfnCompute, swiglu};
use blyan_inference::step::{Logits, StepEngine, StepError, StepRow, Terminate};
use parking_lot::Mutex;

use crate::model::{SHAPE, Weights, World, expert_name, ort_library};
use crate::scalar::ScalarModel;
use crate::{ALL, assert_close, row, slot, step, tokens};

#[test]
fn logits_are_those_of_the_scalar_model() {
    for seed in 0..3 {
        let world = World::new(seed);
        let line = tokens(seed as u32, 20);
        let expected = ScalarModel::new(&world.weights)
            .logits(&line, SHAPE.experts, |_, _| true)
            .concat();
        let ours = step(&world, &mut slot(&world), &line, ALL).unwrap();
        assert_close(&ours.logits[0], &expected, 1e-4);
    }
}

#[test]
fn decoding_continues_what_prefill_left() {
    let world = World::new(7);
    let line = tokens(3, 24);
    let expected = ScalarModel::new(&world.weights).logits(&line, SHAPE.experts, |_, _| true);
    let mut kv = slot(&world);
    step(&world, &mut kv, &line[..9], ALL).unwrap();
    for at in 9..line.len() {
        let output = step(&world, &mut kv, &line[at..=at], ALL).unwrap();
        assert_close(&output.logits[0], &expected[at], 1e-4);
    }
    assert_eq!(kv.len(), line.len());
}

#[test]
fn prefill_in_chunks_equals_prefill_as_a_whole() {
    let world = World::new(1);
    let line = tokens(11, 60);
    let whole = step(&world, &mut slot(&world), &line, ALL)
        .unwrap()
        .logits
        .concat();
    for chunk in [1, 7, 16, 59] {
        let mut kv = slot(&world);
        let chunks = line
            .chunks(chunk)
            .map(|part| step(&world, &mut kv, part, ALL).unwrap().logits.concat());
        assert_close(&chunks.collect::<Vec<_>>().concat(), &whole, 1e-4);
    }
}

#[test]
fn rows_of_a_ragged_batch_equal_rows_alone() {
    let world = World::new(2);
    let lines = [tokens(0, 1), tokens(5, 30), tokens(9, 2), tokens(50, 13)];
    let past = [tokens(70, 12), vec![], tokens(60, 3), vec![]];
    let top_k = [ALL, 4, 2, ALL];
    let prefilled = |row: usize| {
        let mut kv = slot(&world);
        if !past[row].is_empty() {
            step(&world, &mut kv, &past[row], top_k[row]).unwrap();
        }
        kv
    };
    for count in 2..=lines.len() {
        let mut slots: Vec<_> = (0..count).map(prefilled).collect();
        let rows = slots
            .iter_mut()
            .enumerate()
            .map(|(at, kv)| row(&lines[at], kv, top_k[at]));
        let batch = world
            .engine
            .step(&mut rows.collect::<Vec<_>>(), &Terminate::default())
            .unwrap();
        for at in 0..count {
            let alone = step(&world, &mut prefilled(at), &lines[at], top_k[at]).unwrap();
            assert_close(&batch.logits[at], &alone.logits[0], 1e-4);
            assert_eq!(batch.experts[at], alone.experts[0]);
            assert_eq!(slots[at].len(), past[at].len() + lines[at].len());
        }
    }
}

#[test]
fn logits_come_only_from_wanted_positions() {
    let world = World::new(3);
    let line = tokens(1, 5);
    let all = step(&world, &mut slot(&world), &line, ALL)
        .unwrap()
        .logits
        .concat();
    let mut slots = [slot(&world), slot(&world), slot(&world)];
    let wanted = [Logits::Last, Logits::None, Logits::All];
    let rows = slots.iter_mut().zip(wanted).map(|(kv, logits)| StepRow {
        tokens: &line,
        kv,
        top_k: ALL,
        logits,
    });
    let output = world
        .engine
        .step(&mut rows.collect::<Vec<_>>(), &Terminate::default())
        .unwrap();
    assert_close(&output.logits[0], &all[4 * SHAPE.vocab..], 1e-5);
    assert!(output.logits[1].is_empty());
    assert_close(&output.logits[2], &all, 1e-5);

    let mut kv = slot(&world);
    let none = StepRow {
        tokens: &line,
        kv: &mut kv,
        top_k: ALL,
        logits: Logits::None,
    };
    let output = world
        .engine
        .step(&mut [none], &Terminate::default())
        .unwrap();
    assert_eq!((output.logits, kv.len()), (vec![vec![]], 5));
}

#[test]
fn fewer_experts_are_the_best_scored() {
    let world = World::new(4);
    let line = tokens(2, 20);
    for top_k in SHAPE.always_on..=SHAPE.experts {
        let expected = ScalarModel::new(&world.weights)
            .logits(&line, top_k, |_, _| true)
            .concat();
        let output = step(&world, &mut slot(&world), &line, top_k as u32).unwrap();
        assert_close(&output.logits[0], &expected, 1e-4);
        let counted = |layer: usize, expert: usize| {
            output.experts[0].get(&expert_name(layer, expert)).copied()
        };
        for layer in 0..SHAPE.layers {
            let total: u64 = (0..SHAPE.experts)
                .filter_map(|expert| counted(layer, expert))
                .sum();
            assert_eq!(total, (top_k * line.len()) as u64);
            assert_eq!([counted(layer, 0), counted(layer, 1)], [Some(20); 2]);
        }
    }
}

#[test]
fn the_result_does_not_depend_on_threads() {
    let line = tokens(8, 80);
    let logits = [1, 2, 3].map(|threads| {
        let world = World::with_options(5, |options| options.threads = threads);
        let mut kv = slot(&world);
        let prefill = step(&world, &mut kv, &line, 4).unwrap().logits.concat();
        let decode = step(&world, &mut kv, &[1], ALL).unwrap().logits.concat();
        [prefill, decode].concat()
    });
    assert_close(&logits[1], &logits[0], 1e-6);
    assert_close(&logits[2], &logits[0], 1e-6);
}

#[test]
fn loads_are_counted() {
    let world = World::new(6);
    let mut kv = slot(&world);
    assert_eq!(step(&world, &mut kv, &[1], ALL).unwrap().loaded, 0);
    world.table.waits.store(true, Ordering::SeqCst);
    assert_eq!(
        step(&world, &mut kv, &[1], 3).unwrap().loaded,
        (SHAPE.layers * 3) as u32
    );
}

#[test]
fn steps_at_one_time_do_not_mix() {
    let world = World::new(9);
    let lines = [tokens(4, 40), tokens(33, 40)];
    let alone = lines.each_ref().map(|line| {
        step(&world, &mut slot(&world), line, 4)
            .unwrap()
            .logits
            .concat()
    });
    std::thread::scope(|scope| {
        for (line, alone) in lines.iter().zip(&alone) {
            let world = &world;
            scope.spawn(move || {
                for _ in 0..20 {
                    let output = step(world, &mut slot(world), line, 4).unwrap();
                    assert_close(&output.logits[0], alone, 1e-6);
                }
            });
        }
    });
}

#[test]
fn leases_are_held_one_at_a_time() {
    for threads in [1, 2] {
        let world = World::with_options(12, |options| options.threads = threads);
        step(&world, &mut slot(&world), &tokens(0, 80), ALL).unwrap();
        assert!(world.table.leased.load(Ordering::SeqCst) >= (SHAPE.layers * SHAPE.experts) as u64);
        assert!(world.table.held_max.load(Ordering::SeqCst) <= threads as u64);
    }
}

/// Dense weights behind the same graph, and a look at what goes in.
struct Dense {
    weights: Arc<Weights>,
    seen: Mutex<Vec<(usize, usize)>>,
}

impl FfnCompute for Dense {
    fn compute(&self, call: &mut FfnCall<'_>) -> Result<(), StepError> {
        self.seen.lock().push((call.layer, call.tokens()));
        let mut share = vec![0.0; call.output.len()];
        call.output.fill(0.0);
        for expert in 0..SHAPE.experts {
            let weights = self.weights.get(expert_name(call.layer, expert));
            swiglu(weights, call.hidden, call.input, &mut share);
            call.output
                .iter_mut()
                .zip(&share)
                .for_each(|(sum, share)| *sum += share);
        }
        Ok(())
    }
}

#[test]
fn the_graph_runs_on_any_feed_forward_part() {
    let weights = Arc::new(Weights::random(13));
    let dense = Arc::new(Dense {
        weights: Arc::clone(&weights),
        seen: Mutex::default(),
    });
    let mut options = EngineOptions::new(ort_library());
    options.context_max = SHAPE.context;
    let engine = Engine::with_ffn(
        options,
        SHAPE,
        Arc::clone(&weights) as _,
        Arc::clone(&dense) as _,
    )
    .unwrap();
    let line = tokens(4, 17);
    let mut kv = engine.new_slot(SHAPE.context).unwrap();
    let output = engine
        .step(&mut [row(&line, &mut kv, ALL)], &Terminate::default())
        .unwrap();
    let expected = ScalarModel::new(&weights)
        .logits(&line, SHAPE.experts, |_, _| true)
        .concat();
    assert_close(&output.logits[0], &expected, 1e-4);
    assert_eq!(*dense.seen.lock(), [(0, 17), (1, 17)]);
    assert!(output.experts[0].is_empty());
}
