//! One admitted request: its tokens, where it runs and what went wrong with it.

use std::time::Duration;

use blyan_protocol::{FinishReason, Sampling, TokenEvent, Usage};

use super::account::{Account, Ended, Ending};
use super::{Moment, Owner};
use crate::tokenizer::{Heard, Transcript};

/// Failed steps after which a sequence runs alone; one more ends it.
const FAILURES_BEFORE_ALONE: u32 = 2;
/// Steps without an expert that could not be had in time, after which a sequence that ran alone ends.
const LEASE_FAULTS_MAX: u32 = 2;

/// A request as the scheduler takes it.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// At least one token.
    pub prompt: Vec<u32>,
    /// At least 1; prompt and this together fit the context.
    pub max_new: u32,
    /// Experts per layer and token.
    pub top_k: u32,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The empty answer.
    pub transcript: Transcript,
    /// The sequence fails when it has not ended by then.
    pub deadline: Moment,
}

/// A sequence's stay with a replica.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) owner: Owner,
    /// Tokens in the owner's key/value memory.
    pub(super) computed: usize,
    /// The owner's step that it was last part of.
    pub(super) last_step: u64,
    /// Since when its reader has had no room for the next token.
    pub(super) paused_since: Option<Moment>,
}

/// What went wrong since the last token.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    steps: u32,
    leases: u32,
    /// Some row of a failed step needs an expert that is not to be had: each must find out for itself.
    isolated: bool,
}

#[derive(Debug)]
pub(super) struct Sequence {
    tokens: Vec<u32>,
    prompt_len: usize,
    max_new: u32,
    pub(super) top_k: u32,
    pub(super) sampling: Sampling,
    transcript: Transcript,
    pub(super) deadline: Moment,
    /// `None` while it waits for a replica.
    pub(super) run: Option<Run>,
    faults: Faults,
    pub(super) account: Account,
}

/// A token was taken.
pub(super) struct Advanced {
    pub(super) event: TokenEvent,
    pub(super) finished: Option<FinishReason>,
}

impl Sequence {
    pub(super) fn new(new: NewSequence, now: Moment) -> Self {
        Self {
            prompt_len: new.prompt.len(),
            tokens: new.prompt,
            max_new: new.max_new,
            top_k: new.top_k,
            sampling: new.sampling,
            transcript: new.transcript,
            deadline: new.deadline,
            run: None,
            faults: Faults::default(),
            account: Account::new(now),
        }
    }

    /// Tokens that its key/value memory must hold at most; the last token drawn is never read.
    pub(super) fn context(&self) -> usize {
        self.prompt_len + self.max_new as usize
    }

    pub(super) fn generated(&self) -> u32 {
        (self.tokens.len() - self.prompt_len) as u32
    }

    pub(super) fn is_with(&self, owner: Owner) -> bool {
        self.run.is_some_and(|run| run.owner == owner)
    }

    /// Tokens that the owner has not computed yet: never empty.
    pub(super) fn pending(&self) -> &[u32] {
        let computed = self.run.map_or(0, |run| run.computed);
        &self.tokens[computed..]
    }

    pub(super) fn runs_alone(&self) -> bool {
        self.faults.isolated || self.faults.steps >= FAILURES_BEFORE_ALONE
    }

    /// Counts a failed step; true when that was one too many.
    pub(super) fn count_failure(&mut self) -> bool {
        self.faults.steps += 1;
        self.faults.steps > FAILURES_BEFORE_ALONE
    }

    /// Counts a step that failed for want of an expert, computed `alone` or with others; `hopeless` if waiting does
    /// not help. True when the sequence cannot go on.
    pub(super) fn count_lease_fault(&mut self, alone: bool, hopeless: bool) -> bool {
        self.faults.leases += 1;
        self.faults.isolated = true;
        alone && (hopeless || self.faults.leases >= LEASE_FAULTS_MAX)
    }

    /// Takes the next token. A sequence that moves on has shown that earlier failures were not its own.
    pub(super) fn advance(&mut self, token: u32, now: Moment) -> Advanced {
        if self.runs_alone() || self.faults.leases > 0 {
            self.faults = Faults::default();
        }
        let index = self.generated();
        self.tokens.push(token);
        let (text, finished) = self.hear(token);
        let tokens_per_second = self.account.token_made(index + 1, now);
        Advanced {
            event: TokenEvent {
                index,
                text,
                tokens_per_second,
            },
            finished,
        }
    }

    fn hear(&mut self, token: u32) -> (String, Option<FinishReason>) {
        match self.transcript.push(token) {
            Heard::End(text) => (text, Some(FinishReason::Stop)),
            Heard::More(text) if self.generated() >= self.max_new => {
                (text + &self.transcript.finish(), Some(FinishReason::Length))
            }
            Heard::More(text) => (text, None),
        }
    }

    pub(super) fn paused_until(&self, limit: Duration) -> Option<Moment> {
        self.run?
            .paused_since
            .map(|since| since.saturating_add(limit))
    }

    pub(super) fn close(self, ending: Ending, now: Moment) -> Ended {
        let completion_tokens = self.generated();
        let prompt_tokens = self.prompt_len as u32;
        let total_tokens = prompt_tokens + completion_tokens;
        let usage = Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens,
        };
        self.account.close(ending, usage, self.top_k, now)
    }
}
