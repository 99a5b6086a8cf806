//! One sequence on an engine, without actors: for the command line and for measurements.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use blyan_formats::TensorName;
use blyan_protocol::{ExpertsUsed, FinishReason, Sampling};

use crate::error::InferenceError;
use crate::kv::KvSlot;
use crate::sampler;
use crate::step::{Logits, StepEngine, StepRow, Terminate};
use crate::tokenizer::{Heard, Transcript};

/// A sequence that its caller drives: tokens in, logits out.
pub struct LocalSequence<'e> {
    engine: &'e dyn StepEngine,
    kv: KvSlot,
    top_k: u32,
    used: BTreeSet<TensorName>,
    loaded: u32,
}

/// What to answer, for [`generate`].
pub struct LocalRequest<'a> {
    /// At least one token.
    pub prompt: &'a [u32],
    /// At most this many tokens are generated; at least 1.
    pub max_tokens: u32,
    /// Experts per layer and token.
    pub top_k: u32,
    /// How tokens are drawn.
    pub sampling: &'a Sampling,
    /// The empty answer.
    pub transcript: Transcript,
}

/// What [`generate`] made beside the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAnswer {
    /// The tokens generated, the end token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What the experts did.
    pub experts: ExpertsUsed,
}

/// How well a model foresees a text; see [`perplexity`].
#[derive(Clone, Debug, PartialEq)]
pub struct Perplexity {
    /// Of each window: the sum of -ln p over the tokens scored in it, and how many these are.
    pub windows: Vec<(f64, usize)>,
}

impl<'e> LocalSequence<'e> {
    /// An empty sequence of at most `context` tokens.
    ///
    /// # Errors
    /// [`InferenceError::Step`] when there is no memory for it.
    pub fn new(
        engine: &'e dyn StepEngine,
        context: usize,
        top_k: u32,
    ) -> Result<Self, InferenceError> {
        let kv = engine.new_slot(context)?;
        Ok(Self {
            engine,
            kv,
            top_k,
            used: BTreeSet::new(),
            loaded: 0,
        })
    }

    /// Tokens read so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kv.len()
    }

    /// Whether nothing was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kv.is_empty()
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.kv.truncate(len);
    }

    /// What the experts have done so far.
    #[must_use]
    pub fn experts(&self) -> ExpertsUsed {
        ExpertsUsed {
            top_k: self.top_k,
            used: self.used.len() as u32,
            loaded: self.loaded,
        }
    }

    /// Reads `tokens` in chunks and gives the logits of the last one; nothing for no tokens.
    ///
    /// # Errors
    /// [`InferenceError::Step`]; chunks before the failed one stay read.
    pub fn read(&mut self, tokens: &[u32]) -> Result<Vec<f32>, InferenceError> {
        let chunk_max = self.engine.chunk_max();
        let chunks = tokens.len().div_ceil(chunk_max);
        let mut last = Vec::new();
        for (index, chunk) in tokens.chunks(chunk_max).enumerate() {
            let wanted = if index + 1 == chunks {
                Logits::Last
            } else {
                Logits::None
            };
            last = self.step(chunk, wanted)?;
        }
        Ok(last)
    }

    /// Reads `tokens` in chunks and hands each position's logits to `each`, with its place in `tokens`.
    ///
    /// # Errors
    /// [`InferenceError::Step`]; chunks before the failed one stay read.
    pub fn read_each(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(usize, &[f32]),
    ) -> Result<(), InferenceError> {
        let chunk_max = self.engine.chunk_max();
        for (index, chunk) in tokens.chunks(chunk_max).enumerate() {
            let logits = self.step(chunk, Logits::All)?;
            for (position, logits) in logits.chunks_exact(self.engine.vocabulary()).enumerate() {
                each(index * chunk_max + position, logits);
            }
        }
        Ok(())
    }

    fn step(&mut self, tokens: &[u32], logits: Logits) -> Result<Vec<f32>, InferenceError> {
        let row = StepRow {
            tokens,
            kv: &mut self.kv,
            top_k: self.top_k,
            logits,
        };
        let output = self.engine.step(&mut [row], &Terminate::default())?;
        self.used
            .extend(output.experts.iter().flat_map(|experts| experts.keys()));
        self.loaded = self.loaded.saturating_add(output.loaded);
        Ok(output.logits.into_iter().next().unwrap_or_default())
    }
}

/// Answers one prompt; `show` gets the text as it comes and may end it early, which counts as cancelled.
///
/// # Errors
/// [`InferenceError::Step`]; [`InferenceError::NoLogits`] when no token can be drawn.
pub fn generate(
    engine: &dyn StepEngine,
    request: LocalRequest<'_>,
    mut show: impl FnMut(&str) -> ControlFlow<()>,
) -> Result<LocalAnswer, InferenceError> {
    let LocalRequest {
        prompt,
        max_tokens,
        top_k,
        sampling,
        mut transcript,
    } = request;
    let mut sequence = LocalSequence::new(engine, prompt.len() + max_tokens as usize, top_k)?;
    let mut logits = sequence.read(prompt)?;
    let mut tokens = Vec::new();
    let finish_reason = loop {
        let drawn = sampler::sample(&logits, sampling, tokens.len() as u64);
        let token = drawn.ok_or(InferenceError::NoLogits)?;
        tokens.push(token);
        let last = tokens.len() >= max_tokens as usize;
        let (text, finished) = match transcript.push(token) {
            Heard::End(text) => (text, Some(FinishReason::Stop)),
            Heard::More(text) if last => (text + &transcript.finish(), Some(FinishReason::Length)),
            Heard::More(text) => (text, None),
        };
        let wanted = show(&text).is_continue();
        if let Some(reason) = finished.or((!wanted).then_some(FinishReason::Cancelled)) {
            break reason;
        }
        logits = sequence.read(&[token])?;
    };
    Ok(LocalAnswer {
        tokens,
        finish_reason,
        experts: sequence.experts(),
    })
}

/// Scores every token of a text but the first, in windows of `window` tokens that begin `stride` apart: of each window
/// the tokens that no window before has scored, so that all but those of the first have at least `window - stride`
/// tokens of context. `each` is told after every window and may end the measurement early.
///
/// # Errors
/// [`InferenceError::Config`] unless 1 <= `stride` < `window` (a window of its own length would score no first token);
/// [`InferenceError::Step`].
pub fn perplexity(
    engine: &dyn StepEngine,
    tokens: &[u32],
    (window, stride): (usize, usize),
    top_k: u32,
    mut each: impl FnMut(&Perplexity) -> ControlFlow<()>,
) -> Result<Perplexity, InferenceError> {
    if stride == 0 || stride >= window {
        let must = "must be at least 1 and below the window".to_owned();
        return Err(InferenceError::Config {
            key: "perplexity.stride",
            must,
        });
    }
    let mut result = Perplexity {
        windows: Vec::new(),
    };
    let mut sequence = LocalSequence::new(engine, window, top_k)?;
    let mut scored = 1;
    for start in (0..tokens.len()).step_by(stride) {
        let end = tokens.len().min(start + window);
        if scored >= end {
            break;
        }
        sequence.truncate(0);
        result.windows.push(score(
            &mut sequence,
            &tokens[start..end],
            scored - start..end - start,
        )?);
        scored = end;
        if each(&result).is_break() {
            break;
        }
    }
    Ok(result)
}

/// The sum of -ln p of the tokens of a window at `places`, each at least 1, and their number.
fn score(
    sequence: &mut LocalSequence<'_>,
    window: &[u32],
    places: Range<usize>,
) -> Result<(f64, usize), InferenceError> {
    let mut sum = 0.0;
    // What is read without being scored needs no logits.
    let (context, rest) = window.split_at(places.start - 1);
    sequence.read(context)?;
    let inputs = &rest[..rest.len() - 1];
    sequence.read_each(inputs, |place, logits| {
        sum += surprise(logits, rest[place + 1])
    })?;
    Ok((sum, places.len()))
}

/// -ln of the probability that the logits give to `token`.
fn surprise(logits: &[f32], token: u32) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - top).exp())
        .sum();
    let own = logits
        .get(token as usize)
        .copied()
        .unwrap_or(f32::NEG_INFINITY);
    sum.ln() - f64::from(own - top)
}

impl Perplexity {
    /// Tokens scored.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.windows.iter().map(|(_, tokens)| tokens).sum()
    }

    /// e to the mean of -ln p; infinite when nothing was scored.
    #[must_use]
    pub fn value(&self) -> f64 {
        let sum: f64 = self.windows.iter().map(|(sum, _)| sum).sum();
        if self.tokens() == 0 {
            f64::INFINITY
        } else {
            (sum / self.tokens() as f64).exp()
        }
    }
}
