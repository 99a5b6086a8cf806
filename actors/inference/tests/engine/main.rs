//! The engine on a small random model. Needs the ONNX Runtime library alone.

#![allow(clippy::disallowed_methods, reason = "a test's own threads may sleep")]

mod compute;
mod fast;
mod faults;
mod model;
mod record;
mod scalar;

use blyan_inference::kv::KvSlot;
use blyan_inference::step::{Logits, StepEngine, StepError, StepOutput, StepRow, Terminate};

use model::{SHAPE, World};

const ALL: u32 = SHAPE.experts as u32;

fn slot(world: &World) -> KvSlot {
    world.engine.new_slot(SHAPE.context).unwrap()
}

fn row<'a>(tokens: &'a [u32], kv: &'a mut KvSlot, top_k: u32) -> StepRow<'a> {
    StepRow {
        tokens,
        kv,
        top_k,
        logits: Logits::All,
    }
}

/// One row's step with logits at every token.
fn step(
    world: &World,
    kv: &mut KvSlot,
    tokens: &[u32],
    top_k: u32,
) -> Result<StepOutput, StepError> {
    world
        .engine
        .step(&mut [row(tokens, kv, top_k)], &Terminate::default())
}

fn tokens(from: u32, count: u32) -> Vec<u32> {
    (from..from + count)
        .map(|number| number * 31 % SHAPE.vocab as u32)
        .collect()
}

/// Fails where two lists of logits differ by more than `tolerance` of the largest.
fn assert_close<A: Copy + Into<f64>, B: Copy + Into<f64>>(
    ours: &[A],
    theirs: &[B],
    tolerance: f64,
) {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs
        .iter()
        .map(|logit| (*logit).into().abs())
        .fold(0.0, f64::max);
    let difference = ours
        .iter()
        .zip(theirs)
        .map(|(a, b)| ((*a).into() - (*b).into()).abs())
        .fold(0.0, f64::max);
    assert!(
        difference <= tolerance * largest,
        "difference {difference:e} of {largest}"
    );
}
