use std::sync::Arc;

use blyan_inference::engine::{
    Engine, EngineOptions, ExpertFfn, LayerRecord, Recorder, ReferenceKernel, swiglu,
};
use blyan_inference::step::{Logits, StepEngine, StepError, StepRow, Terminate};

use super::model::{SHAPE, Table, Weights, entries, expert_name, ort_library};
use super::{ALL, assert_close, tokens};

const LAST: usize = SHAPE.layers - 1;
const SPARSE: u32 = 4;

/// An engine that records the last layer, and its weights.
fn recording() -> (Engine, Arc<Recorder>, Arc<Weights>) {
    let weights = Arc::new(Weights::random(11));
    let table = Arc::new(Table::new(Arc::clone(&weights)));
    let experts = || {
        let table = Arc::clone(&table) as _;
        ExpertFfn::new(SHAPE, &entries(), table, Arc::new(ReferenceKernel)).unwrap()
    };
    let recorder = Arc::new(Recorder::new(experts(), experts(), LAST));
    let mut options = EngineOptions::new(ort_library());
    options.context_max = SHAPE.context;
    let engine = Engine::recording(
        options,
        SHAPE,
        Arc::clone(&weights) as _,
        Arc::clone(&recorder),
    );
    (engine.unwrap(), recorder, weights)
}

/// The record of two rows of 9 and 5 tokens.
fn read(engine: &Engine, recorder: &Recorder, top_k: u32) -> LayerRecord {
    let mut memories = [(); 2].map(|()| engine.new_slot(SHAPE.context).unwrap());
    let lines = [tokens(3, 9), tokens(40, 5)];
    let mut rows: Vec<_> = lines
        .iter()
        .zip(&mut memories)
        .map(|(tokens, kv)| StepRow {
            tokens,
            kv,
            top_k,
            logits: Logits::None,
        })
        .collect();
    let ended = engine.step(&mut rows, &Terminate::default());
    assert!(matches!(ended, Err(StepError::Terminated)), "{ended:?}");
    assert_eq!(memories[0].len(), 0);
    recorder.take().unwrap()
}

/// The sum of the experts' shares, each for the tokens that `computes` says.
fn sum_of_shares(
    record: &LayerRecord,
    weights: &Weights,
    computes: impl Fn(usize, u32) -> bool,
) -> Vec<f32> {
    let hidden = SHAPE.hidden;
    let mut sum = vec![0.0; record.input.len()];
    for expert in 0..SHAPE.experts {
        let mut share = vec![0.0; record.input.len()];
        let weights = weights.get(expert_name(LAST, expert));
        swiglu(weights, hidden, &record.input, &mut share);
        for (token, (sum, share)) in sum.chunks_mut(hidden).zip(share.chunks(hidden)).enumerate() {
            if computes(expert, token as u32) {
                sum.iter_mut()
                    .zip(share)
                    .for_each(|(sum, more)| *sum += more);
            }
        }
    }
    sum
}

#[test]
fn outputs_computed_again_from_a_record_are_those_of_the_engine() {
    let (engine, recorder, weights) = recording();
    let record = read(&engine, &recorder, SPARSE);
    let chosen = |expert: usize, token| record.tokens_of[expert].contains(&token);
    for token in 0..14 {
        let experts = (0..SHAPE.experts).filter(|expert| chosen(*expert, token));
        assert_eq!(experts.count(), SPARSE as usize);
    }
    assert_close(
        &record.output,
        &sum_of_shares(&record, &weights, chosen),
        1e-6,
    );
    assert_close(
        &record.dense,
        &sum_of_shares(&record, &weights, |_, _| true),
        1e-6,
    );
    assert!(recorder.take().is_none());
}

#[test]
fn with_all_experts_the_output_is_the_dense_one() {
    let (engine, recorder, _) = recording();
    let record = read(&engine, &recorder, ALL);
    assert_eq!(record.output, record.dense);
}
