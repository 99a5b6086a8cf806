//! The rows of a step: whether they can be computed, what they mean as tensors, what comes back for each.

use std::sync::atomic::Ordering;

use blyan_formats::TensorName;

use super::EngineOptions;
use super::ffn::{RowSpan, Tally};
use super::value::Tensor;
use crate::graph::ModelShape;
use crate::step::{Logits, StepError, StepOutput, StepRow};

/// # Errors
/// [`StepError::Invalid`] where a bound is broken.
pub fn check(
    rows: &[StepRow<'_>],
    options: &EngineOptions,
    shape: &ModelShape,
) -> Result<(), StepError> {
    let most = options.rows_max;
    if rows.is_empty() || rows.len() > most {
        return Err(StepError::Invalid(format!(
            "{} rows, 1 to {most} are possible",
            rows.len()
        )));
    }
    let checked = rows.iter().enumerate().map(|(number, row)| {
        let fault = |why| StepError::Invalid(format!("row {number}: {why}"));
        check_row(row, options, shape).map_err(fault)
    });
    checked.collect()
}

fn check_row(row: &StepRow<'_>, options: &EngineOptions, shape: &ModelShape) -> Result<(), String> {
    let (tokens, past, context) = (row.tokens.len(), row.kv.len(), row.kv.context());
    if tokens == 0 || tokens > options.chunk_max {
        return Err(format!(
            "{tokens} tokens, 1 to {} are possible",
            options.chunk_max
        ));
    }
    if row.kv.shape() != shape.kv() || context > options.context_max {
        return Err("its memory was made for another model".to_owned());
    }
    if past + tokens > context {
        return Err(format!("{past} tokens and {tokens} more exceed {context}"));
    }
    if let Some(token) = row
        .tokens
        .iter()
        .find(|token| **token as usize >= shape.vocab)
    {
        return Err(format!("token {token} is not in the vocabulary"));
    }
    let (least, most) = (shape.always_on, shape.experts);
    if !(least..=most).contains(&(row.top_k as usize)) {
        return Err(format!(
            "{} experts, {least} to {most} are possible",
            row.top_k
        ));
    }
    Ok(())
}

/// A step's small inputs.
pub struct StepInputs {
    tokens: Vec<i64>,
    positions: Vec<i64>,
    row_lengths: Vec<i64>,
    last_index: Vec<i32>,
    total_length: Vec<i32>,
}

impl StepInputs {
    pub fn new(rows: &[StepRow<'_>]) -> Self {
        let total = |row: &StepRow<'_>| (row.kv.len() + row.tokens.len()) as i32;
        let total_length: Vec<_> = rows.iter().map(total).collect();
        Self {
            tokens: rows
                .iter()
                .flat_map(|row| row.tokens)
                .map(|token| i64::from(*token))
                .collect(),
            positions: positions(rows),
            row_lengths: rows.iter().map(|row| row.tokens.len() as i64).collect(),
            last_index: total_length.iter().map(|total| total - 1).collect(),
            total_length,
        }
    }

    /// Positions whose logits are wanted.
    pub fn wanted(&self) -> usize {
        self.positions.len()
    }

    /// In the order of the step graph's inputs.
    pub fn tensors<'a>(&'a self, run_id: &'a [i64; 1]) -> ort::Result<Vec<Tensor<'a>>> {
        Ok(vec![
            Tensor::reading(&self.tokens, &[1, self.tokens.len()])?,
            Tensor::reading(&self.positions, &[self.positions.len()])?,
            Tensor::reading(run_id, &[1])?,
        ])
    }

    /// What follows them where the graph itself tells the rows apart.
    pub fn row_tensors(&self) -> ort::Result<Vec<Tensor<'_>>> {
        let mut tensors = Vec::new();
        if self.row_lengths.len() > 1 {
            tensors.push(Tensor::reading(
                &self.row_lengths,
                &[self.row_lengths.len()],
            )?);
        }
        for (last, total) in self.last_index.iter().zip(&self.total_length) {
            tensors.push(Tensor::reading(std::slice::from_ref(last), &[1])?);
            tensors.push(Tensor::reading(std::slice::from_ref(total), &[])?);
        }
        Ok(tensors)
    }
}

/// Where each row stands among the step's tokens.
pub fn spans(rows: &[StepRow<'_>]) -> Vec<RowSpan> {
    let mut end = 0;
    let span = |row: &StepRow<'_>| {
        let start = end;
        end += row.tokens.len();
        RowSpan {
            tokens: start..end,
            top_k: row.top_k as usize,
        }
    };
    rows.iter().map(span).collect()
}

/// Where in `[1, T, H]` logits are wanted.
fn positions(rows: &[StepRow<'_>]) -> Vec<i64> {
    let wanted = |(row, span): (&StepRow<'_>, RowSpan)| match row.logits {
        Logits::None => 0..0,
        Logits::Last => span.tokens.end - 1..span.tokens.end,
        Logits::All => span.tokens,
    };
    rows.iter()
        .zip(spans(rows))
        .flat_map(wanted)
        .map(|position| position as i64)
        .collect()
}

/// Cuts the logits of all rows apart and names what was counted.
pub fn output(
    rows: &[StepRow<'_>],
    mut logits: Vec<f32>,
    vocab: usize,
    tally: &Tally,
) -> StepOutput {
    let mut of_row = |row: &StepRow<'_>| {
        let positions = match row.logits {
            Logits::None => 0,
            Logits::Last => 1,
            Logits::All => row.tokens.len(),
        };
        let rest = logits.split_off(positions * vocab);
        std::mem::replace(&mut logits, rest)
    };
    let counts = |row| {
        let named =
            |(layer, expert, tokens)| (TensorName::expert_of(layer as u16, expert as u16), tokens);
        tally.of_row(row).map(named).collect()
    };
    StepOutput {
        logits: rows.iter().map(&mut of_row).collect(),
        experts: (0..rows.len()).map(counts).collect(),
        loaded: tally.loaded.load(Ordering::Relaxed),
    }
}
