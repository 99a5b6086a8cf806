//! What the next step of a replica computes.

use std::collections::BTreeMap;

use blyan_formats::TensorName;
use blyan_protocol::Sampling;

use super::SequenceId;
use super::sequence::Sequence;

/// Bounds of one step.
#[derive(Clone, Copy, Debug)]
pub struct StepShape {
    /// Sequences in one step, at least 1.
    pub rows_max: usize,
    /// Tokens of one sequence in one step, at least 1.
    pub chunk_max: usize,
}

/// What a step may do with a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Compute it.
    Now,
    /// Read more of its prompt; its reader has no room for a token, so where the prompt ends it pauses.
    ReaderFull,
    /// Leave it to another step: this one computes with another model.
    Later,
}

/// One sequence's share of the next step.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedRow {
    /// The sequence.
    pub id: SequenceId,
    /// Tokens that its memory must hold before the step.
    pub start: usize,
    /// What follows them: 1 token in decode, at most a chunk in prefill.
    pub tokens: Vec<u32>,
    /// Experts per layer and token.
    pub top_k: u32,
    /// How to draw the token after the last one, if it is wanted: the rule, and how many were drawn before.
    pub draw: Option<(Sampling, u64)>,
}

/// What a step drew for a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// Nothing was wanted.
    Nothing,
    /// The next token.
    Token(u32),
    /// No logit was a number.
    Impossible,
}

/// A row of a step that succeeded.
#[derive(Clone, Debug)]
pub struct RowDone {
    /// The sequence.
    pub id: SequenceId,
    /// Its next token.
    pub drawn: Drawn,
    /// How many of its tokens each expert computed.
    pub experts: BTreeMap<TensorName, u64>,
    /// Experts that the step waited for.
    pub loaded: u32,
}

/// A sequence that could be part of the next step.
pub(super) struct Candidate {
    pub(super) id: SequenceId,
    pub(super) last_step: u64,
    pub(super) prefill: bool,
    pub(super) alone: bool,
}

/// Picks the rows: the one that was left out longest decides. If it must run alone it does; else all that need not
/// run alone go with it, longest left out first, but at most one of them with a chunk of its prompt, so that a long
/// prompt slows a decode down by at most that chunk. In the order of their ids.
pub(super) fn pick(mut candidates: Vec<Candidate>, rows_max: usize) -> Vec<SequenceId> {
    candidates.sort_unstable_by_key(|one| (one.last_step, one.id));
    if let Some(first) = candidates.first().filter(|first| first.alone) {
        return vec![first.id];
    }
    let mut prefill_taken = false;
    candidates.retain(|one| {
        let fits = !(one.alone || one.prefill && prefill_taken);
        prefill_taken |= fits && one.prefill;
        fits
    });
    candidates.truncate(rows_max);
    let mut ids: Vec<_> = candidates.into_iter().map(|one| one.id).collect();
    ids.sort_unstable();
    ids
}

impl PlannedRow {
    pub(super) fn new(id: SequenceId, sequence: &Sequence, chunk_max: usize) -> Self {
        let pending = sequence.pending();
        let chunk = &pending[..pending.len().min(chunk_max)];
        let last = chunk.len() == pending.len();
        let draw = || (sequence.sampling.clone(), u64::from(sequence.generated()));
        Self {
            id,
            start: sequence.run.map_or(0, |run| run.computed),
            tokens: chunk.to_vec(),
            top_k: sequence.top_k,
            draw: last.then(draw),
        }
    }
}
