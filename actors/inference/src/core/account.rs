//! What one sequence has cost so far, and how it ended.

use std::collections::BTreeMap;
use std::time::Duration;

use blyan_formats::TensorName;
use blyan_protocol::{ExpertsUsed, FinishReason, PublicError, Timing, Usage};

use super::Moment;

/// How a sequence ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// The answer is complete, or the client did not want more.
    Finished(FinishReason),
    /// An error ended it.
    Failed(PublicError),
}

/// How far a sequence came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No step of it began.
    Queue,
    /// It has no token of its own yet.
    Prefill,
    /// It has.
    Decode,
}

impl Phase {
    /// As in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

/// The last word about a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// How.
    pub ending: Ending,
    /// When in its life.
    pub phase: Phase,
    /// Tokens in and out.
    pub usage: Usage,
    /// Where the time went.
    pub timing: Timing,
    /// Experts asked for, used, loaded.
    pub experts: ExpertsUsed,
    /// How many tokens each expert computed.
    pub expert_tokens: BTreeMap<TensorName, u64>,
    /// When it was admitted.
    pub admitted: Moment,
    /// When it ended.
    pub ended: Moment,
}

/// Counts and times of one sequence.
#[derive(Clone, Debug)]
pub(super) struct Account {
    admitted: Moment,
    first_step: Option<Moment>,
    first_token: Option<Moment>,
    prefill: Duration,
    decode: Duration,
    expert_tokens: BTreeMap<TensorName, u64>,
    loaded: u32,
}

impl Account {
    pub(super) fn new(admitted: Moment) -> Self {
        Self {
            admitted,
            first_step: None,
            first_token: None,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
            expert_tokens: BTreeMap::new(),
            loaded: 0,
        }
    }

    pub(super) fn step_began(&mut self, now: Moment) {
        self.first_step.get_or_insert(now);
    }

    /// A step of this sequence succeeded.
    pub(super) fn step_done(
        &mut self,
        experts: BTreeMap<TensorName, u64>,
        loaded: u32,
        took: Duration,
    ) {
        for (name, tokens) in experts {
            *self.expert_tokens.entry(name).or_default() += tokens;
        }
        self.loaded = self.loaded.saturating_add(loaded);
        match self.first_token {
            None => self.prefill += took,
            Some(_) => self.decode += took,
        }
    }

    /// Tokens a second since the first token, of which there have been `generated` with this one.
    pub(super) fn token_made(&mut self, generated: u32, now: Moment) -> f64 {
        let since = now.saturating_sub(*self.first_token.get_or_insert(now));
        rate(generated, since)
    }

    fn phase(&self) -> Phase {
        match (self.first_step, self.first_token) {
            (None, _) => Phase::Queue,
            (Some(_), None) => Phase::Prefill,
            (Some(_), Some(_)) => Phase::Decode,
        }
    }

    pub(super) fn close(self, ending: Ending, usage: Usage, top_k: u32, now: Moment) -> Ended {
        let queued = self.first_step.unwrap_or(now).saturating_sub(self.admitted);
        Ended {
            ending,
            phase: self.phase(),
            usage,
            timing: Timing {
                queue_ms: millis(queued),
                prefill_ms: millis(self.prefill),
                decode_ms: millis(self.decode),
                tokens_per_second: rate(usage.completion_tokens, self.decode),
            },
            experts: ExpertsUsed {
                top_k,
                used: self.expert_tokens.len() as u32,
                loaded: self.loaded,
            },
            expert_tokens: self.expert_tokens,
            admitted: self.admitted,
            ended: now,
        }
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The first token marks the beginning and does not count.
fn rate(generated: u32, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if generated < 2 || seconds <= 0.0 {
        0.0
    } else {
        f64::from(generated - 1) / seconds
    }
}
