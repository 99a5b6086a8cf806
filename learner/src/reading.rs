//! Lets a recording engine read text.

use blyan_inference::engine::{Engine, LayerRecord, Recorder};
use blyan_inference::step::{Logits, StepEngine as _, StepError, StepRow, Terminate};

use crate::LearnError;

/// Reads `tokens` in windows of `window`, each from an empty memory, with `top_k` experts a layer, and hands the
/// recorded layer of each window to `take`: what is held at one time is one window. The engine reads a window in one step, so
/// its chunk must be as long. `progress` is called with windows done and windows in all.
///
/// # Errors
/// [`LearnError::Step`], [`LearnError::Record`] if the engine has another recorder, or what `take` returns.
pub fn read(
    engine: &Engine,
    recorder: &Recorder,
    tokens: &[u32],
    (window, top_k): (usize, u32),
    take: &mut dyn FnMut(LayerRecord) -> Result<(), LearnError>,
    progress: &dyn Fn(usize, usize),
) -> Result<(), LearnError> {
    let all = tokens.len().div_ceil(window.max(1));
    for (done, tokens) in tokens.chunks(window.max(1)).enumerate() {
        progress(done, all);
        let mut memory = engine.new_slot(tokens.len())?;
        let row = StepRow {
            tokens,
            kv: &mut memory,
            top_k,
            logits: Logits::None,
        };
        match engine.step(&mut [row], &Terminate::default()) {
            Ok(_) | Err(StepError::Terminated) => {}
            Err(fault) => return Err(fault.into()),
        }
        let record = recorder.take();
        take(record.ok_or(LearnError::Record("the engine records no layer"))?)?;
    }
    Ok(())
}
