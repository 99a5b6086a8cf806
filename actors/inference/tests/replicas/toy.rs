//! A made-up language model that reads its context out of the key/value memory, as a real one does: what is not
//! computed, or computed twice, changes the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blyan_formats::TensorName;
use blyan_inference::kv::{KvPool, KvShape, KvSlot};
use blyan_inference::step::{Logits, StepEngine, StepError, StepOutput, StepRow, Terminate};
use blyan_protocol::FinishReason;
use parking_lot::Mutex;

pub const START: u32 = 256;
pub const END: u32 = 257;
pub const VOCABULARY: usize = 258;

const SHAPE: KvShape = KvShape {
    layers: 1,
    heads: 1,
    head_dim: 1,
};
const WORDS: [char; 12] = [
    'a', 'b', 'c', 'd', 'e', ' ', 'ß', 'é', '→', '雪', '😀', '🦀',
];

/// What a step is about to compute.
pub struct Step<'a> {
    /// Each row's tokens, those in memory included.
    pub contexts: &'a [Vec<u32>],
    /// Each row's experts per layer.
    pub top_k: &'a [u32],
    pub terminate: &'a Terminate,
}

pub type Fault = Arc<dyn Fn(&Step<'_>) -> Result<(), StepError> + Send + Sync>;

pub struct ToyEngine {
    pub pool: KvPool,
    model: u64,
    pub steps: AtomicU64,
    fault: Mutex<Fault>,
}

impl ToyEngine {
    pub fn new(tokens_max: usize) -> Arc<Self> {
        let pool = KvPool::new(SHAPE, SHAPE.slot_bytes(tokens_max).unwrap() as u64);
        Self::of_model(0, pool)
    }

    /// Another model says other things; 0 is the usual one.
    pub fn of_model(model: u64, pool: KvPool) -> Arc<Self> {
        Arc::new(Self {
            pool,
            model,
            steps: AtomicU64::new(0),
            fault: Mutex::new(Arc::new(|_| Ok(()))),
        })
    }

    /// Bytes that a slot for `tokens` takes.
    pub fn pool_bytes(&self, tokens: usize) -> u64 {
        SHAPE.slot_bytes(tokens).unwrap() as u64
    }

    /// Called before each step from now on; may panic, block or fail.
    pub fn before_each_step(
        &self,
        fault: impl Fn(&Step<'_>) -> Result<(), StepError> + Send + Sync + 'static,
    ) {
        *self.fault.lock() = Arc::new(fault);
    }
}

fn read(kv: &mut KvSlot) -> Vec<u32> {
    let len = kv.len();
    let keys = kv.tensors().next().unwrap();
    keys[..len].iter().map(|number| *number as u32).collect()
}

fn write(kv: &mut KvSlot, tokens: &[u32]) {
    let len = kv.len();
    let keys = kv.tensors().next().unwrap();
    for (place, token) in keys[len..].iter_mut().zip(tokens) {
        *place = *token as f32;
    }
    kv.advance(tokens.len());
}

impl StepEngine for ToyEngine {
    fn rows_max(&self) -> usize {
        4
    }

    fn chunk_max(&self) -> usize {
        16
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn new_slot(&self, context: usize) -> Result<KvSlot, StepError> {
        self.pool.slot(context)
    }

    fn step(
        &self,
        rows: &mut [StepRow<'_>],
        terminate: &Terminate,
    ) -> Result<StepOutput, StepError> {
        let contexts: Vec<_> = rows
            .iter_mut()
            .map(|row| [read(row.kv), row.tokens.to_vec()].concat())
            .collect();
        let top_k: Vec<_> = rows.iter().map(|row| row.top_k).collect();
        let fault = Arc::clone(&*self.fault.lock());
        fault(&Step {
            contexts: &contexts,
            top_k: &top_k,
            terminate,
        })?;
        self.steps.fetch_add(1, Ordering::Relaxed);
        let mut output = StepOutput::default();
        for (row, context) in rows.iter_mut().zip(&contexts) {
            write(row.kv, row.tokens);
            output.logits.push(logits(context, row, self.model));
            let name = TensorName::expert_of(0, (context.len() % 4) as u16);
            output
                .experts
                .push(BTreeMap::from([(name, row.tokens.len() as u64)]));
        }
        Ok(output)
    }
}

fn logits(context: &[u32], row: &StepRow<'_>, model: u64) -> Vec<f32> {
    match row.logits {
        Logits::None => Vec::new(),
        Logits::Last => logits_of(model, context),
        Logits::All => {
            let first = context.len() - row.tokens.len();
            (first..context.len())
                .flat_map(|last| logits_of(model, &context[..=last]))
                .collect()
        }
    }
}

/// One clear favourite, and a second choice that a warm sampler takes now and then.
pub fn logits_after(context: &[u32]) -> Vec<f32> {
    logits_of(0, context)
}

fn logits_of(model: u64, context: &[u32]) -> Vec<f32> {
    let mut logits = vec![-30.0; VOCABULARY];
    let choice = |salt: u64| next_token(context, salt + 2 * model) as usize;
    logits[choice(1)] = 4.0;
    logits[choice(0)] = 5.0;
    logits
}

/// Goes on with a character that is not complete; else a character, or the end, by a hash of the whole context.
pub fn next_token(context: &[u32], salt: u64) -> u32 {
    let begun = context
        .iter()
        .rev()
        .take(3)
        .position(|token| (0xc2..=0xf4).contains(token));
    if let Some(back) = begun {
        let bytes: Vec<u8> = context[context.len() - 1 - back..]
            .iter()
            .map(|token| *token as u8)
            .collect();
        let whole = WORDS
            .iter()
            .map(char::to_string)
            .find(|word| word.len() > bytes.len() && word.as_bytes().starts_with(&bytes));
        if let Some(word) = whole {
            return u32::from(word.as_bytes()[bytes.len()]);
        }
    }
    let hash = context.iter().fold(salt + 7, |sum, token| {
        (sum ^ u64::from(*token))
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(7)
    });
    if hash.is_multiple_of(61) {
        return END;
    }
    u32::from(
        WORDS[(hash % WORDS.len() as u64) as usize]
            .to_string()
            .as_bytes()[0],
    )
}

/// What the model answers greedily: its tokens, their text (an unfinished character left out) and why it ends.
pub fn answer(prompt: &[u32], max_tokens: u32) -> (Vec<u32>, String, FinishReason) {
    answer_of(0, prompt, max_tokens)
}

/// As [`answer`], of any model.
pub fn answer_of(model: u64, prompt: &[u32], max_tokens: u32) -> (Vec<u32>, String, FinishReason) {
    let mut context = prompt.to_vec();
    let mut reason = FinishReason::Length;
    for _ in 0..max_tokens {
        let token = next_token(&context, 2 * model);
        context.push(token);
        if token == END {
            reason = FinishReason::Stop;
            break;
        }
    }
    let tokens = context.split_off(prompt.len());
    let bytes: Vec<u8> = tokens
        .iter()
        .filter(|token| **token != END)
        .map(|token| *token as u8)
        .collect();
    let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    (tokens, valid.to_owned(), reason)
}
