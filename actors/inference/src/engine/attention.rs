//! Attention of all rows of a step, each over its own key/value memory.

use std::ops::Range;
use std::sync::OnceLock;

use super::ffn::Workers;
use crate::graph::ModelShape;
use crate::kernels::{HeadMemory, Isa, attend, put_key};
use crate::kv::KvSlot;
use crate::step::{StepError, StepRow};

/// Tokens of one row that a worker takes at one time.
const PIECE_TOKENS: usize = 16;
/// Query times position pairs below which other threads would cost more than they take over.
const SHARED_WORK_MIN: usize = 512;

/// Rotates, remembers and attends, for every layer of a model.
pub struct Attention {
    shape: ModelShape,
    isa: Isa,
    /// `[context, head_dim / 2]`
    cos: Vec<f32>,
    /// `[context, head_dim / 2]`
    sin: Vec<f32>,
}

/// One row's memory during one run.
pub struct RowMemory {
    /// The whole slot.
    numbers: &'static mut [f32],
    context: usize,
    past: usize,
    /// Among the run's tokens.
    tokens: Range<usize>,
}

impl RowMemory {
    /// Memories of rows whose tokens stand one row after the other.
    ///
    /// # Safety
    /// They must be gone before the borrow of `rows` ends.
    pub unsafe fn of(rows: &mut [StepRow<'_>]) -> Vec<Self> {
        let mut end = 0;
        let memory = |row: &mut StepRow<'_>| {
            let start = end;
            end += row.tokens.len();
            // SAFETY: the caller sees to it.
            unsafe { Self::new(row.kv, start..end) }
        };
        rows.iter_mut().map(memory).collect()
    }

    /// # Safety
    /// It must be gone before the borrow of `slot` ends.
    unsafe fn new(slot: &mut KvSlot, tokens: Range<usize>) -> Self {
        let (context, past) = (slot.context(), slot.len());
        let numbers = slot.numbers();
        // SAFETY: the caller sees to it that nothing else reaches the slot meanwhile.
        let numbers: &'static mut [f32] =
            unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr(), numbers.len()) };
        Self {
            numbers,
            context,
            past,
            tokens,
        }
    }

    /// Keys and values of one layer, each `[kv_heads, context, head_dim]`.
    fn layer(&mut self, layer: usize, layers: usize) -> (&mut [f32], &mut [f32]) {
        let len = self.numbers.len() / layers;
        self.numbers[layer * len..][..len].split_at_mut(len / 2)
    }
}

/// Some tokens of a row on one key/value head.
struct Piece<'a> {
    memory: HeadMemory<'a>,
    head: usize,
    /// Positions that the first token sees.
    visible: usize,
    tokens: Range<usize>,
}

impl Attention {
    pub fn new(shape: ModelShape, [cos, sin]: [Vec<f32>; 2]) -> Self {
        Self {
            shape,
            isa: Isa::detect(),
            cos,
            sin,
        }
    }

    /// Width of what comes out.
    pub fn width(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    /// Overwrites `output` `[T, heads * head_dim]` from `qkv` `[T, (heads + 2 kv_heads) * head_dim]`, and writes the
    /// tokens' keys and values to `memory`.
    ///
    /// # Errors
    /// [`StepError::Runtime`] if the rows are not those of the tensor.
    pub fn compute(
        &self,
        layer: usize,
        memory: &mut [RowMemory],
        qkv: &[f32],
        output: &mut [f32],
        workers: &dyn Workers,
    ) -> Result<(), StepError> {
        let tokens = qkv.len() / self.shape.qkv_width();
        if memory.last().map(|row| row.tokens.end) != Some(tokens) {
            return Err(StepError::Runtime("a run over other rows".to_owned()));
        }
        let mut queries = vec![0.0; output.len()];
        for row in &mut *memory {
            self.remember(layer, row, qkv, &mut queries);
        }
        let pieces = self.pieces(layer, memory);
        let done: Vec<OnceLock<Vec<f32>>> = pieces.iter().map(|_| OnceLock::new()).collect();
        let work = |index: usize| {
            done[index].get_or_init(|| self.attend(&pieces[index], &queries));
        };
        let seen: usize = pieces.iter().map(|p| p.tokens.len() * p.visible).sum();
        match workers.count() {
            1 => (0..pieces.len()).for_each(work),
            _ if seen < SHARED_WORK_MIN => (0..pieces.len()).for_each(work),
            _ => workers.run(pieces.len(), &work),
        }
        for (piece, done) in pieces.iter().zip(done) {
            let done = done.into_inner().unwrap_or_default();
            self.put(piece, &done, output);
        }
        Ok(())
    }

    /// Rotates the row's queries and keys; keys and values go to its memory, queries, scaled, to `queries`.
    fn remember(&self, layer: usize, row: &mut RowMemory, qkv: &[f32], queries: &mut [f32]) {
        let ModelShape {
            head_dim,
            kv_heads,
            layers,
            ..
        } = self.shape;
        let (context, past, tokens) = (row.context, row.past, row.tokens.clone());
        let (keys, values) = row.layer(layer, layers);
        let scale = 1.0 / (head_dim as f32).sqrt();
        for (position, token) in (past..).zip(tokens) {
            let qkv = &qkv[token * self.shape.qkv_width()..][..self.shape.qkv_width()];
            let (query, key_value) = qkv.split_at(self.width());
            let (key, value) = key_value.split_at(kv_heads * head_dim);
            let rotated = &mut queries[token * self.width()..][..self.width()];
            rotated.copy_from_slice(query);
            for head in rotated.chunks_exact_mut(head_dim) {
                self.rotate(head, position);
                head.iter_mut().for_each(|number| *number *= scale);
            }
            let heads = key.chunks_exact(head_dim).zip(value.chunks_exact(head_dim));
            for (head, (key, value)) in heads.enumerate() {
                let len = context * head_dim;
                let mut key = key.to_vec();
                self.rotate(&mut key, position);
                put_key(&mut keys[head * len..][..len], context, position, &key);
                values[head * len + position * head_dim..][..head_dim].copy_from_slice(value);
            }
        }
    }

    fn rotate(&self, head: &mut [f32], position: usize) {
        let half = head.len() / 2;
        let angles = position * half..(position + 1) * half;
        let angles = self.cos[angles.clone()].iter().zip(&self.sin[angles]);
        for (i, (cos, sin)) in angles.enumerate() {
            let (first, second) = match self.shape.rope_interleaved {
                true => (2 * i, 2 * i + 1),
                false => (i, i + half),
            };
            let (a, b) = (head[first], head[second]);
            head[first] = a * cos - b * sin;
            head[second] = b * cos + a * sin;
        }
    }

    fn pieces<'m>(&self, layer: usize, memory: &'m mut [RowMemory]) -> Vec<Piece<'m>> {
        let ModelShape {
            head_dim,
            kv_heads,
            layers,
            ..
        } = self.shape;
        let mut pieces = Vec::new();
        for row in memory {
            let (context, past, tokens) = (row.context, row.past, row.tokens.clone());
            let (keys, values) = row.layer(layer, layers);
            let len = context * head_dim;
            for head in 0..kv_heads {
                let memory = HeadMemory {
                    keys: &keys[head * len..][..len],
                    values: &values[head * len..][..len],
                    context,
                    width: head_dim,
                };
                let starts = tokens.clone().step_by(PIECE_TOKENS);
                pieces.extend(starts.map(|start| Piece {
                    memory,
                    head,
                    visible: past + start - tokens.start + 1,
                    tokens: start..tokens.end.min(start + PIECE_TOKENS),
                }));
            }
        }
        pieces
    }

    /// Width of the queries that share one key/value head.
    fn group_width(&self) -> usize {
        self.width() / self.shape.kv_heads
    }

    /// What a piece gives, token by token.
    fn attend(&self, piece: &Piece<'_>, queries: &[f32]) -> Vec<f32> {
        let group = self.group_width();
        let mut output = vec![0.0; piece.tokens.len() * group];
        let mut scratch = Vec::new();
        let outputs = output.chunks_exact_mut(group);
        for ((token, visible), output) in piece.tokens.clone().zip(piece.visible..).zip(outputs) {
            let queries = &queries[token * self.width() + piece.head * group..][..group];
            attend(
                self.isa,
                piece.memory,
                visible,
                queries,
                output,
                &mut scratch,
            );
        }
        output
    }

    fn put(&self, piece: &Piece<'_>, done: &[f32], output: &mut [f32]) {
        let group = self.group_width();
        for (token, done) in piece.tokens.clone().zip(done.chunks_exact(group)) {
            output[token * self.width() + piece.head * group..][..group].copy_from_slice(done);
        }
    }
}
