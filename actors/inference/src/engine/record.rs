//! Writes down what goes through one layer's feed-forward part, for a learner.

use blyan_protocol::WeightForm;
use parking_lot::Mutex;

use super::experts::ExpertFfn;
use super::ffn::{FfnCall, FfnCompute, RowSpan, RunState, Tally};
use crate::step::StepError;

/// One layer's feed-forward part in one step: all rows of the step, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRecord {
    /// Width H of all matrices.
    pub hidden: usize,
    /// What the experts got: the normed hidden state, `[T, H]`.
    pub input: Vec<f32>,
    /// What the chosen experts added, `[T, H]`.
    pub output: Vec<f32>,
    /// What all experts of the teacher would have added, `[T, H]`.
    pub dense: Vec<f32>,
    /// For each expert the tokens it computed, ascending.
    pub tokens_of: Vec<Vec<u32>>,
}

/// Computes like its experts up to one layer, keeps that layer's [`LayerRecord`] until it is taken, and then ends the step
/// as [`StepError::Terminated`]: the layers behind it are of no use to a learner. It holds one step at a time, so it is for an
/// engine that one thread steps.
pub struct Recorder {
    experts: ExpertFfn,
    teacher: ExpertFfn,
    layer: usize,
    last: Mutex<Option<LayerRecord>>,
}

impl Recorder {
    /// Records `layer`. `experts` compute every layer; those of `teacher`, of the same shape and form, say what the
    /// recorded layer should have added.
    #[must_use]
    pub fn new(experts: ExpertFfn, teacher: ExpertFfn, layer: usize) -> Self {
        Self {
            experts,
            teacher,
            layer,
            last: Mutex::default(),
        }
    }

    /// The record of the last step, once.
    pub fn take(&self) -> Option<LayerRecord> {
        self.last.lock().take()
    }

    pub(super) fn form(&self) -> WeightForm {
        self.experts.form()
    }

    fn record(&self, call: &FfnCall<'_>) -> Result<LayerRecord, StepError> {
        Ok(LayerRecord {
            hidden: call.hidden,
            input: call.input.to_vec(),
            output: call.output.to_vec(),
            dense: self.dense(call)?,
            tokens_of: self.experts.chosen(call)?,
        })
    }

    /// The teacher's output for the same call; what it uses is not counted.
    fn dense(&self, call: &FfnCall<'_>) -> Result<Vec<f32>, StepError> {
        let (layers, experts) = self.teacher.extent();
        let all = |row: &RowSpan| RowSpan {
            tokens: row.tokens.clone(),
            top_k: experts,
        };
        let rows: Vec<_> = call.run.rows.iter().map(all).collect();
        let run = RunState {
            deadline: call.run.deadline,
            terminate: call.run.terminate.clone(),
            tally: Tally::new(rows.len(), layers, experts),
            rows,
        };
        let mut output = vec![0.0; call.output.len()];
        self.teacher.compute(&mut FfnCall {
            layer: call.layer,
            hidden: call.hidden,
            input: call.input,
            scores: call.scores,
            output: &mut output,
            run: &run,
            workers: call.workers,
        })?;
        Ok(output)
    }
}

impl FfnCompute for Recorder {
    fn compute(&self, call: &mut FfnCall<'_>) -> Result<(), StepError> {
        self.experts.compute(call)?;
        if call.layer == self.layer {
            let record = self.record(call)?;
            *self.last.lock() = Some(record);
            return Err(StepError::Terminated);
        }
        Ok(())
    }
}
